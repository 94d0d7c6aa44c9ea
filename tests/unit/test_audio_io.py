"""Reading and writing audio files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mossformer_sb.data.audio_io import HIGHEST_RATE, LOWEST_RATE, Recording, read_audio
from mossformer_sb.data.audio_writing import write_audio, write_recordings
from mossformer_sb.errors import InputError
from mossformer_sb.inference.activity_files import activity_texts

RATE = 8000
ROOT = Path(__file__).parents[2]


def test_absent(tmp_path):
    with pytest.raises(InputError, match=r"none.wav: there is no such audio file"):
        read_audio(tmp_path / "none.wav")


def test_not_audio(tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(InputError, match=r"text.wav: can't be read as audio"):
        read_audio(tmp_path / "text.wav")


def test_written_without_clipping_and_without_leftovers(tmp_path):
    write_audio(tmp_path / "loud.wav", np.array([2.0, -3.0]), RATE)
    assert read_audio(tmp_path / "loud.wav")[0].tolist() == [2.0, -3.0]
    assert soundfile.info(tmp_path / "loud.wav").subtype == "FLOAT"
    assert [path.name for path in tmp_path.iterdir()] == ["loud.wav"]


def test_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="could not convert"):
        write_audio(tmp_path / "a.wav", ["not a number"], RATE)
    assert list(tmp_path.iterdir()) == []


def test_texts_with_a_name_that_is_not_utf_8(tmp_path):
    """As that of a file b"caf\\xe9.wav", made where Latin-1 was usual."""
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    paths = {ending: tmp_path / f"talk.{ending}" for ending in ("rttm", "json", "txt")}
    texts = activity_texts([[(0.5, 1.0)]], name, paths, {1: f"{name}.wav"})
    write_recordings([tmp_path / "talk.wav"], [np.zeros((10, 1))], RATE, texts=texts)
    assert paths["rttm"].read_bytes() == b"SPEAKER caf\xe9 1 0.500 0.500 <NA> <NA> spk1 <NA> <NA>\n"
    assert json.loads(paths["json"].read_text(encoding="utf-8"))["recording"] == name


def test_a_long_recording_as_vorbis(tmp_path):
    """libsndfile needs so much of the stack for one long write that the process would end."""
    code = """if True:
        import sys, threading
        import numpy as np
        from mossformer_sb.data.audio_writing import write_recordings

        def write():
            write_recordings([sys.argv[1]], [np.zeros((2**19, 1), np.float32)], 8000, "ogg")

        threading.stack_size(2**18)  # about as small as in macOS
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.ogg")], cwd=ROOT)
    assert done.returncode == 0 and soundfile.info(tmp_path / "a.ogg").frames == 2**19


@pytest.mark.parametrize("rate", [1, LOWEST_RATE - 1, HIGHEST_RATE + 1, 100_000_007])
def test_rates_that_are_not_supported(tmp_path, rate):
    """The filter of such a rate would take gigabytes, however short the file is."""
    soundfile.write(tmp_path / "a.wav", np.zeros(100), rate)
    with pytest.raises(InputError, match=f"a.wav: has a sample rate of {rate} Hz; from 1000 to 1000000 Hz are"):
        Recording(tmp_path / "a.wav")
    with pytest.raises(InputError, match=f"the given samples: has a sample rate of {rate} Hz"):
        Recording(np.zeros(100), rate)


def test_the_limits_of_the_rates():
    assert [Recording(np.zeros(1), rate).sample_rate for rate in (LOWEST_RATE, HIGHEST_RATE)] == [1000, 1_000_000]
