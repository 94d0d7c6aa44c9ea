"""The scripts of `examples/`, as `make demo` starts them."""

import runpy
import sys
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[2]


def test_two_people_become_two_files_and_a_picture(tmp_path, monkeypatch, capsys):
    mixture = ROOT / "examples" / "two_speakers.flac"
    monkeypatch.setattr(sys, "argv", ["spectrogram.py", str(mixture), str(tmp_path)])
    runpy.run_path(str(ROOT / "examples" / "spectrogram.py"), run_name="__main__")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["two_speakers.png", "two_speakers_spk1.wav", "two_speakers_spk2.wav"]
    frames = soundfile.info(mixture).frames
    assert [soundfile.info(tmp_path / name).frames for name in names[1:]] == [frames, frames]
    assert str(tmp_path / "two_speakers.png") in capsys.readouterr().out


def test_a_missing_recording_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["spectrogram.py", "nowhere.wav", str(tmp_path)])
    with pytest.raises(SystemExit, match="^spectrogram.py: nowhere.wav"):
        runpy.run_path(str(ROOT / "examples" / "spectrogram.py"), run_name="__main__")
