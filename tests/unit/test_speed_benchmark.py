"""`python -m benchmarks.speed` runs, and what it says of agreement and operations is right. No time is asserted."""

import json
import sys

import pytest
import torch

from benchmarks import separators, speed
from mossformer_sb import InputError, MossFormerSeparator

QUICK = ["--sizes", "mini", "--seconds", "0.1", "--rounds", "1", "--device", "cpu", "--networks"]


def test_table_json_and_plot(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    speed.main([*QUICK, "ours", "convtasnet", "--json", str(tmp_path / "a.json"), "--png", str(tmp_path / "a.png")])
    rows = json.loads((tmp_path / "a.json").read_text())
    assert [(row["task"], row["network"]) for row in rows] == [
        ("inference", "ours"), ("inference", "convtasnet"), ("training", "ours"), ("training", "convtasnet")
    ]  # fmt: skip
    assert all(row["seconds_per_call"] > 0 and row["ratio"] > 0 for row in rows)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "a.png"}
    printed = capsys.readouterr().out
    assert "| mini | training | 0.1 s | convtasnet, fp32 |" in printed and "GFLOP/s in fp32" in printed


def test_half_precision_is_compared_with_the_network_itself():
    exact, rounded = speed.measure("mini", 0.2, "inference", ["ours"], ["bf16", "fp32"], rounds=1)
    assert (exact["precision"], exact["si_snr"], exact["error"]) == ("fp32", None, 0)
    assert 10 < rounded["si_snr"] < 80 and rounded["error"] > 0


@pytest.mark.parity
def test_outputs_of_the_authors_network_are_compared(monkeypatch):
    pytest.importorskip("modelscope.models.audio.separation.mossformer", reason="needs the extra 'parity'")
    _, ours = speed.measure("mini", 0.2, "inference", ["reference", "ours"], rounds=1)
    assert 0 <= ours["error"] < 1e-4
    others = MossFormerSeparator.from_size("mini").masknet.state_dict()
    monkeypatch.setattr(separators, "masknet_from_modelscope", lambda state: others)
    _, ours = speed.measure("mini", 0.2, "inference", ["reference", "ours"], rounds=1)
    assert ours["error"] > 1e-2


def test_operations_are_those_of_the_paper():
    """Multiply-adds of a frame in a block, in the order linears, filters, local and global attention; then the ends."""
    d = k = 128
    block = (4 * d * d + d * k + 2 * d * d) + 17 * (4 * d + k + d) + 64 * (k + 4 * d) + 2 * k * 4 * d
    ends = d * d + 2 * d * d + 2 * 3 * d * d
    assert speed.operations_of("mini", 32 + 255 * 16) == 2 * 256 * (4 * block + ends)


def test_si_snr_of_a_known_error():
    source = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 4, 1)
    noise = torch.tensor([0.1, 0.1, -0.1, -0.1]).view(1, 4, 1)
    assert speed._si_snr(3 * (source + noise), source) == pytest.approx(20.0, abs=1e-4)


def test_memory_is_measured_in_a_process_of_its_own():
    taken = speed.memory_apart(network="ours", size="mini", seconds=2.0, task="inference", precision="fp32")
    assert taken != taken or 1e5 < taken < 1e9  # not a number where the system doesn't tell


def test_other_errors_of_a_case_are_not_reported_as_out_of_memory():
    with pytest.raises(RuntimeError, match="unexpected keyword argument"):
        speed.memory_apart(colour="blue")


def test_unknown_network_and_size():
    with pytest.raises(InputError, match="network 'tasnet' is not known: choose some of ours, reference, sepformer"):
        separators.build(["tasnet"], "mini")
    with pytest.raises(InputError, match="model_size 'XXL' is not known"):
        separators.build(["ours"], "XXL")


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "modelscope.models.audio.separation", None)
    with pytest.raises(InputError, match=r'modelscope, which is not installed: pip install "mossformer_sb\[parity\]"'):
        separators.build(["reference"], "mini")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        InputError, match=r'matplotlib, which draws --png, is not installed: pip install "mossformer_sb\[report\]"'
    ):
        speed.draw([{"network": "ours"}], tmp_path / "a.png")
