"""The benchmarks' commands run, and report their measurements. No figure is asserted: machines differ."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pandas import read_csv

from benchmarks import bulk, data, evaluation, manifests, memory
from data_prep.corpora.wham import prepare_wham
from mossformer_sb import InputError
from mossformer_sb.evaluation.metrics import separation_scores
from tests.forked import run
from tests.unit.fresh import in_fresh_process

ROOT = Path(__file__).parents[2]
QUICK = ["--sizes", "mini", "--seconds", "0.1", "--batches", "1", "--steps", "1", "--device", "cpu", "--threads", "1"]


def test_memory_measures_each_case_in_its_own_process(tmp_path, capsys):
    memory.main([*QUICK, "--json", str(tmp_path / "memory.json")])
    (row,) = json.loads((tmp_path / "memory.json").read_text())
    assert row["size"] == "mini" and row["step_seconds"] > 0 and 0.1 < row["peak_gb"] < 3
    printed = capsys.readouterr().out
    assert "| mini, 0.63 M | 0.1 | 1 |" in printed and "cpu, 1 threads, fp32" in printed


def test_memory_of_an_unknown_size():
    with pytest.raises(InputError, match="model_size 'XXL' is not known"):
        memory.main(["--sizes", "XXL"])


def test_out_of_memory_is_a_row_too(monkeypatch, capsys):
    monkeypatch.setattr(memory, "measure_apart", lambda **case: None)
    memory.main(QUICK)
    assert "| mini | 0.1 | 1 | out of memory | out of memory |" in capsys.readouterr().out


def test_other_errors_of_a_case_are_not_reported_as_out_of_memory():
    with pytest.raises(RuntimeError, match="unexpected keyword argument"):
        memory.measure_apart(colour="blue")


QUICK_DATA = ["--items", "1", "--rounds", "1", "--mixtures", "10", "--segment", "0.5"]


def test_data_benchmarks_report_each_implementation(tmp_path):
    # In a process of its own, as for `in_fresh_process`.
    done = run(["-m", "benchmarks.data", *QUICK_DATA, "--json", tmp_path / "data.json"], ROOT)
    assert done.returncode == 0, done.stdout
    tables = json.loads((tmp_path / "data.json").read_text())
    assert {name: len(rows) for name, rows in tables.items()} == {"mixing": 5, "manifests": 2, "evaluation": 2}
    assert all(row["items_per_second"] > 0 and row["ratio"] > 0 for rows in tables.values() for row in rows)
    assert "SpeechBrain's, literally" in done.stdout and "ours, with all checks" in done.stdout


def test_data_benchmarks_of_a_missing_folder(tmp_path, capsys):
    assert data.main([*QUICK_DATA, "--parts", "mixing", "--folder", str(tmp_path / "absent")]) == 2
    assert str(tmp_path / "absent") in capsys.readouterr().err


def test_scores_put_together_from_torchmetrics_are_ours():
    signals = evaluation.draw(seconds=0.5)
    found, _ = separation_scores(*signals)
    assert in_fresh_process(evaluation.by_torchmetrics, *signals) == pytest.approx(found, abs=1e-5)


def test_the_corpus_for_manifests_passes_its_checks(tmp_path):
    paths = prepare_wham(manifests.write_corpus(tmp_path, 20), tmp_path / "manifests")
    assert {split: len(read_csv(path)) for split, path in paths.items()} == {"tr": 16, "cv": 2, "tt": 2}


def test_many_recordings_in_each_way(monkeypatch, tmp_path, capsys):
    bulk.main(["batches", "--sizes", "mini", "--seconds", "0.1", "--batches", "1", "2", "--rounds", "1"])
    assert "| mini | 0.1 | 2 | " in capsys.readouterr().out
    monkeypatch.setattr(bulk, "_apart", bulk.separate_archive)
    words = ["--calls", "3", "--seconds", "0.2", "--size", "mini", "--ways", "single", "bulk:2", "--folder"]
    bulk.main(["archive", *words, str(tmp_path), "--json", str(tmp_path / "rows.json")])
    single, batched = json.loads((tmp_path / "rows.json").read_text())
    assert (single["way"], batched["way"]) == ("single", "bulk:2") and batched["cpu_seconds"] > 0
    assert single["difference"] == 0 <= batched["difference"] < 1e-5
    with pytest.raises(InputError, match="holds no FLAC file"):
        bulk.make_archive(tmp_path, 1, 0.2, tmp_path)


def test_difference_of_what_two_ways_have_written(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    for folder, samples in (("one", [0.5, 0.25]), ("other", [0.5, 0.2])):
        soundfile.write(tmp_path / folder / "a.wav", np.array(samples), 8000, subtype="FLOAT")
    assert bulk.greatest_difference(tmp_path / "one", tmp_path / "other") == pytest.approx(0.1)
    soundfile.write(tmp_path / "one" / "b.wav", np.zeros(2), 8000)
    with pytest.raises(InputError, match="a way has lost some"):
        bulk.greatest_difference(tmp_path / "one", tmp_path / "other")
