"""The benchmark of speech activity: its counts, and its output."""

import json

import numpy as np
import pytest
import soundfile

from benchmarks import activity
from benchmarks.activity import leaking, main, measure, passes

pytest.importorskip("silero_vad")
RATE = 8000


@pytest.fixture
def corpus(tmp_path):
    """A manifest of two mixtures, of noise in the place of voices."""
    lines = ["ID,duration,sample_rate,mix_wav,s1_wav,s2_wav"]
    for name in "ab":
        sources = 0.1 * np.random.default_rng(ord(name)).standard_normal((2, 8000))
        for key, samples in {"mix": sources.sum(0), "s1": sources[0], "s2": sources[1]}.items():
            soundfile.write(tmp_path / f"{key}_{name}.wav", samples, RATE)
        lines.append(f"{name},1.0,{RATE}," + ",".join(f"$data_root/{key}_{name}.wav" for key in ("mix", "s1", "s2")))
    (tmp_path / "tt.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_command(corpus, capsys, monkeypatch):
    monkeypatch.setattr(activity, "CONVERSATION_SECONDS", 1.0)
    options = ["--manifest", str(corpus / "tt.csv"), "--data_folder", str(corpus), "--number", "2"]
    assert main([*options, "--json", str(corpus / "found.json")]) in (0, 1)
    out = capsys.readouterr().out
    assert "| mixtures | 100 % | clean sources | " in out and "| one speaker | 50 % | leak of -8 dB | 0.0 % |" in out
    found = json.loads((corpus / "found.json").read_text())
    assert [row["talk"] for row in found[::4]] == ["mixtures", "conversations", "one speaker"]


def test_another_rate(corpus, capsys):
    for path in corpus.glob("*.wav"):
        soundfile.write(path, soundfile.read(path)[0], 16000)
    table = corpus / "tt.csv"
    table.write_text(table.read_text().replace(f",{RATE},", ",16000,"))
    assert main(["--manifest", str(table), "--data_folder", str(corpus)]) == 2
    assert "has 16000 Hz; needed 8000 Hz" in capsys.readouterr().err


def test_no_manifest(corpus, capsys):
    assert main(["--manifest", str(corpus / "none.csv"), "--data_folder", str(corpus)]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_errors_are_those_of_the_detector(monkeypatch):
    """One that finds the first speaker all the time, and the second one never."""
    monkeypatch.setattr(activity.activity, "speech_activity", lambda x, rate, **_: [[(0.0, 1.0)], []][: x.shape[1]])
    sources = np.ones((8000, 2)) * [0.1, 0.2]
    rows = {row["separation"]: row["error"] for row in measure({"mixtures": [sources]}, RATE)}
    assert rows["leak of -8 dB"] == 0.5 and rows["clean sources"] == 0  # of single sources it finds each
    (row, *_) = [
        row for row in measure({"one speaker": [sources * [1, 0]]}, RATE) if row["separation"] != "clean sources"
    ]
    assert row["error"] == 0  # the silent speaker's frames alone count
    (row, *_) = [
        row for row in measure({"one speaker": [sources * [0, 1]]}, RATE) if row["separation"] != "clean sources"
    ]
    assert row["error"] == 1


def test_leakage_has_the_stated_level():
    voice = np.random.default_rng(0).standard_normal(8000)
    alone = leaking(np.stack((voice, np.zeros(8000)), 1), -12)
    assert np.allclose(alone[:, 0], voice) and np.allclose(alone[:, 1], 10 ** (-12 / 20) * voice)


def test_five_percent_for_one_speaker():
    rows = [
        {"talk": "one speaker", "separation": name, "error": error}
        for name, error in (("clean sources", 0.0), ("a", 0.05), ("b", 0.06))
    ]
    assert passes(rows) == [True, True, False]
