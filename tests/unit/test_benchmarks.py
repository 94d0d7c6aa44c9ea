"""The benchmarks' commands run, and say what they measured. No figure is asserted: machines differ."""

import json

import pytest

from benchmarks import memory
from mossformer_sb import InputError

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


def test_memory_that_does_not_suffice_is_a_row_too(monkeypatch, capsys):
    monkeypatch.setattr(memory, "measure_apart", lambda **case: None)
    memory.main(QUICK)
    assert "| mini | 0.1 | 1 | out of memory | out of memory |" in capsys.readouterr().out


def test_a_case_that_fails_for_another_reason_is_no_lack_of_memory():
    with pytest.raises(RuntimeError, match="unexpected keyword argument"):
        memory.measure_apart(colour="blue")
