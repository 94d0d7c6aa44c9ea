"""Reading and writing audio files."""

import numpy as np
import pytest
import soundfile

from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.audio_writing import write_audio
from mossformer_sb.errors import InputError

RATE = 8000


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
