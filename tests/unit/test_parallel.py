"""The process pool of data_prep."""

import signal

import numpy as np
import pytest
import soundfile

from data_prep.parallel import process_map
from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.audio_reader import DamagedAudio


def blocked(_):
    """Whether this process never gets SIGINT, from its start on."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no masks of signals")
@pytest.mark.parametrize("ordered", [True, False])
def test_workers_start_with_sigint_blocked(ordered):
    """Ctrl-C goes to all processes of a terminal: a worker that is still importing would print a traceback, too."""
    with process_map(blocked, workers=2, ordered=ordered) as mapped:
        assert list(mapped(range(4))) == [True] * 4
        assert not blocked(None)
    assert not blocked(None)


def test_a_truncated_recording_is_named(tmp_path):
    """An error that can't be unpickled would break the pool, which would look like a killed worker."""
    path = tmp_path / "short.wav"
    soundfile.write(path, np.zeros(800), 8000)
    path.write_bytes(path.read_bytes()[:-100])
    with (
        pytest.raises(DamagedAudio, match=r"short.wav: is truncated: its last 100 bytes of audio are missing") as error,
        process_map(read_audio, workers=2) as mapped,
    ):
        list(mapped([str(path)]))
    assert error.value.damage.truncated
