"""Two processes train as one with the global batch would: the same weights, items, figures and decisions."""

import os
import shutil
import socket
from pathlib import Path

import pandas as pd
import pytest
import torch

from mossformer_sb import InputError
from mossformer_sb.training import distributed
from tests.forked import Program
from tests.unit import two_ranks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What one process says, and what each of two says."""
    folder = tmp_path_factory.mktemp("two")
    begun, *others = two_ranks.RESUMED
    seen_before = two_ranks.kill(folder / begun)
    for other in others:
        shutil.copytree(folder / begun, folder / other)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        Program(["-m", "tests.unit.two_ranks", folder], ROOT, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        single = two_ranks.results(tmp_path_factory.mktemp("one")) | {"seen before": seen_before}
        for process in processes:
            done = process.wait(300)
            assert done.returncode == 0, done.stdout
    finally:
        for process in processes:
            process.kill()
    return single, [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)], folder


def test_separating_processes_end_together(tmp_path):
    """torchrun ends all when one of them ends with an error, as one whose only recording is damaged would at once."""
    code = """if True:
        import os, sys, time
        from pathlib import Path
        from mossformer_sb.cli.separate import _worst

        rank = int(os.environ["RANK"])
        if rank == 1:
            time.sleep(1)
            Path("separated").touch()
        code = _worst(1 - rank)
        sys.exit(code if Path("separated").exists() else 3)
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"TORCHELASTIC_RUN_ID": "none", "PYTHONPATH": str(ROOT)}
    programs = [Program(["-c", code], tmp_path, {**common, "RANK": str(rank)}) for rank in range(2)]
    assert [program.wait(120).returncode for program in programs] == [1, 1]


@pytest.mark.parametrize("scenario", two_ranks.SCENARIOS)
class TestScenario:
    def test_weights_equal_those_of_one_process(self, runs, scenario):
        single, both, _ = runs
        for result in both:
            assert result[scenario]["steps"] == single[scenario]["steps"] > 0
            for name, weight in single[scenario]["weights"].items():
                torch.testing.assert_close(result[scenario]["weights"][name], weight, rtol=0, atol=1e-10)

    def test_log_is_the_same_on_all(self, runs, scenario):
        single, both, _ = runs
        (expected, *_), *others = (run[scenario]["log"] for run in (single, *both))
        for entry, *_ in others:
            assert entry["valid_stats"] == pytest.approx(expected["valid_stats"], abs=1e-9)
            for name in ("si-snr", "dropped", "nonfinite", "skipped-steps", "grad-norm", "grad-norm-max"):
                assert entry["train_stats"][name] == pytest.approx(expected["train_stats"][name], abs=1e-9), name

    def test_items_are_disjoint_and_cover_the_epoch(self, runs, scenario):
        single, both, _ = runs
        seen = [result[scenario]["seen"] for result in both]
        assert sorted(seen[0] + seen[1]) == sorted(single[scenario]["seen"]) == list(range(two_ranks.NUM_ITEMS))


def test_test_table_has_every_row_once_in_order(runs):
    single, both, folder = runs
    for result in both:
        assert result["plain"]["scores"]["snt_id"] == ["0", "1", "2", "3", "4", "avg"]
        for column in ("sdr", "sdr_i", "si-snr", "si-snr_i"):
            expected = pytest.approx(single["plain"]["scores"][column], abs=1e-4)
            assert result["plain"]["scores"][column] == expected
    assert len(pd.read_csv(folder / "plain" / "test_results.csv")) == 6
    names = {path.name.split("_")[0] for path in (folder / "plain" / "audio").iterdir()}
    assert names == {"0", "1"}


def test_skipped_examples_are_counted(runs):
    single = {name: runs[0][name]["log"][0]["train_stats"] for name in two_ranks.SCENARIOS}
    assert (single["plain"]["dropped"], single["plain"]["nonfinite"]) == (0, 0)
    assert (single["nonfinite"]["dropped"], single["nonfinite"]["nonfinite"]) == (0, 1)
    assert (single["nothing left on one rank"]["dropped"], single["nothing left on one rank"]["nonfinite"]) == (1, 2)
    assert single["good enough"]["dropped"] > 0


def test_there_is_no_step_where_nothing_counts(runs):
    assert runs[0]["plain"]["steps"] == 4 and runs[0]["nothing left at all"]["steps"] == 3


def test_an_incomplete_window_steps_at_the_end_of_the_epoch(runs):
    assert runs[0]["accumulation"]["steps"] == 2  # after three batches, and after the fourth


@pytest.mark.parametrize(("name", "batches"), [("same", 3), ("other", 2)])
def test_two_resume_in_mid_epoch_with_the_examples_left_by_one(runs, name, batches):
    single, both, _ = runs
    for result in both:
        assert result["resumed"][name]["steps"] == 1 + batches
        assert result["resumed"][name]["items"] == two_ranks.NUM_ITEMS
    seen = [item for result in both for item in result["resumed"][name]["seen"]]
    assert sorted(single["seen before"] + seen) == list(range(two_ranks.NUM_ITEMS)) and len(single["seen before"]) == 4


def test_two_that_resume_with_the_same_global_batch_end_as_one(runs):
    single, both, _ = runs
    for result in both:
        for name, weight in single["shuffled"]["weights"].items():
            torch.testing.assert_close(result["resumed"]["same"]["weights"][name], weight, rtol=0, atol=1e-10)


def test_ranks_draw_different_random_numbers(runs):
    assert runs[1][0]["plain"]["random"] != runs[1][1]["plain"]["random"]


def test_patience_ends_all_ranks_with_the_same_message(runs):
    single, both, _ = runs
    assert both[0]["patience"] == both[1]["patience"]
    for message in (single["patience"], both[0]["patience"]):
        assert message.startswith("Training stopped: 1 consecutive steps")
        assert "nonfinite_patience: 0" in message and "2 examples without a finite loss (4, 5)" in message
        assert "a lower lr" in message and "--check_samples True" in message


@pytest.mark.parametrize(("where", "name"), [("unreadable", "1.wav"), ("unreadable in validation", "3.wav")])
def test_a_reading_error_of_one_rank_ends_all(runs, where, name):
    """Instead of leaving the others waiting for it."""
    single, both, _ = runs
    assert single[where] == both[0][where] == both[1][where] == f"{name}: can't be read"


def test_gpus_that_are_not_there(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="'nccl' can't be used .* has 0 GPUs.*--distributed_backend gloo --device cpu"):
        distributed.start({"distributed_backend": "nccl"})


def test_alone_every_function_is_what_it_calls():
    assert distributed.rank() == 0 and distributed.world_size() == 1
    with pytest.raises(InputError, match="bad") as caught:
        distributed.run_on_all_ranks(raise_bad)
    assert distributed.should_report(caught.value)


def raise_bad():
    raise InputError("bad")


def test_a_compiled_network_is_unwrapped_too():
    layer = torch.nn.Linear(2, 3)
    compiled = torch.compile(layer)
    assert compiled.state_dict().keys() != layer.state_dict().keys()
    assert distributed.unwrapped({"masknet": compiled})["masknet"] is layer
