"""The comparison at equal CPU time: its data, its choice of a learning rate, and its table."""

import pandas as pd
import pytest

from benchmarks import comparison
from data_prep.corpora.custom import prepare_custom
from data_prep.corpora.many_speakers import prepare_many_speakers
from mossformer_sb.errors import InputError
from tests.unit.small_corpus import NUMBERS, write_source

SCORES = {3e-4: 1.0, 1e-3: 2.0, 3e-3: 2.5}  # of a few minutes; in an hour the highest rate is worse


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """Trainings that take no time: their folders hold what a training leaves."""
    trained = []

    def train(arguments):
        options = {word: arguments[place + 1] for place, word in enumerate(arguments[:-1]) if word.startswith("--")}
        folder = tmp_path / options["--output_folder"]
        folder.mkdir()
        is_long, rate = float(options["--train_minutes"]) == 60, float(options["--lr"])
        score = SCORES[rate] + (3 if rate == 1e-3 else 1) * is_long
        (folder / "epochs.csv").write_text(f"epoch,valid_si-snr\n1,{score}\n2,{score - 0.5}\n")
        scores = ["a,1,2,3,4", "b,1,4,3,6"] if score == 5 else ["a,0,0,0,0"]
        rows = ["snt_id,sdr,sdr_i,si-snr,si-snr_i", *scores, "avg,9,9,9,9"]
        (folder / "test_results.csv").write_text("\n".join(rows) + "\n")
        trained.append((arguments[0], options))

    monkeypatch.setattr(comparison.train, "main", train)
    monkeypatch.setattr(comparison, "write_mixtures", lambda *_: None)
    return trained


def test_the_two_best_rates_train_longest(tmp_path, finished):
    rows = comparison.compare(tmp_path / "results", "corpus", 60, 10, ["SepFormer"])
    assert [options["--train_minutes"] for _, options in finished] == ["10", "10", "10", "60", "60"]
    assert [options["--lr"] for _, options in finished[3:]] == ["0.001", "0.003"]
    assert finished[-1][0].endswith("baselines/sepformer.yaml")
    assert rows == [
        {
            "network": "SepFormer",
            "trials": SCORES,
            "finals": {1e-3: 5.0, 3e-3: 3.5},
            "lr": 1e-3,
            "si_snr_i": 5.0,
            "standard_error": pytest.approx(1.0),
            "sdr_i": 3.0,
            "number": 2,
        }
    ]
    trials = "0.0003: 1.00, 0.001: 2.00, 0.003: 2.50 dB | 0.001: 5.00, 0.003: 3.50 dB"
    assert f"| SepFormer | {trials} | 0.001 | 5.00 ± 1.00 dB | 3.00 dB |" in comparison.table(rows)
    comparison.compare(tmp_path / "results", "corpus", 60, 10, ["SepFormer"])
    assert len(finished) == 5  # what is there is not trained again
    with pytest.raises(InputError, match="settings.json: runs here have .*60, .*, not .*5, .*Give another"):
        comparison.compare(tmp_path / "results", "corpus", 5, 10, ["SepFormer"])


def test_its_mixtures_are_the_clean_ones(tmp_path):
    prepare_many_speakers(tmp_path / "data", tmp_path / "manifests", **write_source(tmp_path), **NUMBERS)
    comparison.write_mixtures(tmp_path / "data", tmp_path / "clean.csv")
    manifests = prepare_custom(str(tmp_path / "data"), str(tmp_path / "custom"), csv_file=str(tmp_path / "clean.csv"))
    assert {split: len(pd.read_csv(path)) for split, path in manifests.items()} == {"tr": 1, "cv": 1, "tt": 2}
    assert all("/clean/" in path for path in pd.read_csv(manifests["tt"])["mix_wav"])
