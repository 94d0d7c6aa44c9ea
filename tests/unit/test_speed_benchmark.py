"""`python -m benchmarks.speed` runs, and what it says of agreement and operations is right. No time is asserted."""

import json
import sys

import pytest
import torch

from benchmarks import breakdown, ceiling, machine, rivals, separators, speed, speed_tables
from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.network.fast import is_enabled

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
    assert "| mini | training | 0.1 s | convtasnet, fp32 |" in printed and f"{machine.processor_name()}, " in printed


def test_half_precision_is_compared_with_the_network_itself():
    exact, rounded = speed.measure("mini", 0.2, "inference", ["ours"], ["bf16", "fp32"], rounds=1)
    assert (exact["precision"], exact["si_snr"], exact["error"]) == ("fp32", None, 0)
    assert 10 < rounded["si_snr"] < 80 and rounded["error"] > 0


def test_each_number_of_threads_has_a_column(tmp_path, capsys):
    before = torch.get_num_threads()
    words = ["--tasks", "inference", "--threads", "1", "2", "--output", str(tmp_path / "speed.md")]
    speed.main([*QUICK, "ours", *words])
    assert torch.get_num_threads() == before
    text = (tmp_path / "speed.md").read_text()
    assert text == capsys.readouterr().out
    one, two = (machine.describe("cpu", threads) for threads in (1, 2))
    assert f"| | {one} | {two} |" in text and "% |" in text


def test_a_way_that_can_not_run_is_left_out_and_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(rivals.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(rivals.shutil, "which", lambda name: None)
    monkeypatch.setattr(rivals, "exported", lambda *_: tmp_path / "x.onnx")
    networks, left_out = ["ours", "ours+compile", "ours+onnx", "ours+openvino"], []
    rows = speed.measure("mini", 0.1, "inference", networks, rounds=1, left_out=left_out)
    assert [row["network"] for row in rows] == ["ours"] and len(left_out) == 3
    assert "ours+compile, fp32: torch.compile needs a C++ compiler" in left_out[0]
    assert 'onnxruntime is missing: pip install "mossformer_sb[onnx]"' in left_out[1]
    assert "- ours+openvino, fp32: openvino is missing: pip install openvino\n" in speed_tables.report(
        [{**rows[0], "machine": "x"}], left_out
    )


def test_plain_is_without_what_makes_it_fast():
    left_out = []
    fast, plain = speed.measure(
        "mini", 0.1, "training", ["ours", "ours+plain"], ["fp32", "tf32"], rounds=1, left_out=left_out
    )
    assert plain["error"] < 1e-5 and fast["precision"] == plain["precision"] == "fp32"
    assert left_out == ["ours, tf32: TF32 is of NVIDIA's GPUs", "ours+plain, tf32: TF32 is of NVIDIA's GPUs"]

    class Switch(torch.nn.Module):
        def forward(self, mixture):
            return is_enabled()

    assert Switch()(None) and not rivals.Plain(Switch())(None)


def test_engines_do_not_train():
    left_out = []
    speed.measure("mini", 0.1, "training", ["ours", "ours+onnx-int8"], rounds=1, left_out=left_out)
    assert left_out == ["ours+onnx-int8, int8: runs inference only"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_onnx_and_eight_bits_are_compared_with_the_network(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    build = speed.build

    def shallow(*arguments):
        """Networks of one block: the export takes a time for each."""
        separators = build(*arguments)
        for separator in separators.values():
            del separator.masknet.blocks[1:]
        return separators

    monkeypatch.setattr(speed, "build", shallow)
    networks = ["ours", "ours+onnx", "ours+onnx-int8"]
    for _ in range(2):  # the second time from what was kept
        _, exact, small = speed.measure("mini", 0.5, "inference", networks, rounds=1, models=tmp_path)
        assert exact["error"] < 1e-4 and exact["deviation"] > 80 and exact["precision"] == "fp32"
        assert 15 < small["deviation"] < 80 and small["precision"] == "int8" and small["si_snr"] > 15
        assert len(list(tmp_path.iterdir())) == 2


def test_products_are_those_of_the_network():
    """Twice their multiply-adds are all operations but the filters' and the encoder's."""
    products = ceiling.products_of("mini", 32 + 255 * 16)
    linears, frames, d = sum(2 * c * m * k * n * times for (c, m, k, n), times in products.items()), 256, 128
    filters = 2 * frames * 4 * 17 * (4 * d + d + d)
    # Local attention is over whole groups, of which there is one more than there are frames for.
    spare = 4 * 2 * (64 * 64 * d + 64 * 64 * 4 * d)
    assert linears + filters - speed.operations_of("mini", 32 + 255 * 16) in (0, spare)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_time_of_products_adds_up(precision, monkeypatch):
    products = ceiling.Counter({(1, 64, 32, 16): 2, (3, 16, 8, 16): 1})
    assert ceiling.seconds_of(products, precision, at_least=0.0) > 0  # a product of each can be computed
    monkeypatch.setattr(ceiling, "_fastest", lambda shape, *_: {1: 1.0, 3: 10.0}[shape[0]])
    assert ceiling.seconds_of(products, precision, at_least=0.0) == 2 * 1.0 + 1 * 10.0


def test_unknown_way():
    with pytest.raises(InputError, match=r"network 'ours\+jax': jax is no way to run it; choose one of eager, compile"):
        speed.measure("mini", 0.1, "inference", ["ours+jax"])


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
    with pytest.raises(InputError, match=r'matplotlib, which is missing: pip install "mossformer_sb\[report\]"'):
        speed_tables.draw([{"network": "ours"}], tmp_path / "a.png")


def test_breakdown_finds_the_matmuls_of_all_cases(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(breakdown, "seconds_of", lambda *_, **__: 0.5)
    words = ["--sizes", "mini", "--seconds", "0.2", "--rounds", "1", "--output", str(tmp_path / "a.md")]
    breakdown.main([*words, "--precisions", "fp32", "bf16"])
    text = (tmp_path / "a.md").read_text()
    assert text == capsys.readouterr().out
    table = {cells[1].strip(): cells[2:-1] for cells in (line.split("|") for line in text.splitlines() if "|" in line)}
    shares = [float(cell.strip(" %")) for cell in table["matmuls"]]
    assert len(shares) == 4 and min(shares) > 5  # fast matmuls have another operator than PyTorch's
    assert float(table["dropout masks"][0].strip(" %")) == 0 < float(table["dropout masks"][2].strip(" %"))
