"""A packed part of the corpus: unpacking restores it, verified by checksums."""

import gzip
import json

import numpy as np
import pytest
import soundfile

from benchmarks import gpu_corpus
from benchmarks.gpu_corpus import main
from tests.unit.mixing_pools import stationary

RATE = 8000


def write_pack(folder, source, speakers, files=2):
    """Ogg files of clips of 1 s, with silence between them, and their index."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(files):
        signal = np.concatenate([np.append(stationary(rng, 1.0), np.zeros(100)) for _ in speakers])
        soundfile.write(folder / f"{source}-{number:03d}.ogg", signal, RATE, format="OGG", subtype="VORBIS")
        lines += [
            {"f": f"{source}-{number:03d}.ogg", "s": 8100 * place, "n": 8000, "spk": speaker, "src": "x"}
            for place, speaker in enumerate(speakers)
        ]
    with gzip.open(folder / f"{source}.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def packed(tmp_path, monkeypatch):
    write_pack(tmp_path / "speech", "a", ["s1", "s2"])
    write_pack(tmp_path / "noise", "rain", ["rain", "rain"], files=1)
    header = "clip,speaker,split,source,file\n"
    rows = [f"a-{number:05d},s{number % 2 + 1},tr,a,x" for number in range(4)] + ["t-1-2,9,tt,librispeech,t/t-1-2.flac"]
    (tmp_path / "list.csv.gz").write_bytes(gzip.compress((header + "\n".join(rows) + "\n").encode()))
    monkeypatch.setattr(gpu_corpus, "LIST_FILE", tmp_path / "list.csv.gz")
    monkeypatch.setattr(gpu_corpus, "SOURCES", {"a": 1})
    (tmp_path / "t").mkdir()
    soundfile.write(tmp_path / "t" / "t-1-2.flac", stationary(np.random.default_rng(1), 1.0, 16000), 16000)
    words = ["--speech", "speech", "--noise", "noise", "--librispeech_folder", "."]
    words = [str(tmp_path / word) if not word.startswith("--") else word for word in words]
    assert main(["pack", *words, str(tmp_path / "packed")]) == 0
    return tmp_path


def test_what_is_packed_is_unpacked(packed, capsys):
    assert main(["unpack", str(packed / "packed"), str(packed / "out")]) == 0
    assert "4 recordings" in capsys.readouterr().out
    found = sorted(path.relative_to(packed / "out").as_posix() for path in (packed / "out").rglob("*.wav"))
    assert found == [
        "clips/s1/a-00000.wav",
        "clips/s2/a-00001.wav",
        "corpus/speech/tt/t-1-2.wav",
        "noise/rain/rain-0000.wav",
    ]
    original = soundfile.read(packed / "speech" / "a-000.ogg")[0][8100:16100]
    clip, rate = soundfile.read(packed / "out" / "clips/s2/a-00001.wav")
    assert rate == RATE
    np.testing.assert_allclose(clip, original, atol=1e-6)
    listed = (packed / "out" / "list.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in listed] == ["clip", "a-00000", "a-00001", "t-1-2"]


def test_a_file_that_was_damaged_in_transfer(packed, capsys):
    path = packed / "packed" / "a-000.ogg"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["unpack", str(packed / "packed"), str(packed / "out")]) == 2
    assert "a-000.ogg differ from the packed files: copy them again" in capsys.readouterr().err
    assert not (packed / "out").exists()


def test_more_than_can_be_carried(packed, monkeypatch, capsys):
    monkeypatch.setattr(gpu_corpus, "MOST_MB", 0.001)
    words = ["--speech", str(packed / "speech"), "--noise", str(packed / "noise")]
    assert main(["pack", *words, "--librispeech_folder", str(packed), str(packed / "more")]) == 2
    assert "MB are more than the limit of 0.001 MB: choose fewer files" in capsys.readouterr().err


def test_folders_that_hold_something_else(packed, capsys):
    assert main(["unpack", str(packed), str(packed / "out")]) == 2
    assert "sums.json: can't be read" in capsys.readouterr().err
