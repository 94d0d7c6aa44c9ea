"""Every experiment file: it loads, its header says what it is, and no key in it is without use."""

import inspect
import re
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.run_opts import RunOptions

from mossformer_sb.training.command_line import parse_arguments

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "hparams").rglob("*.yaml"))
# What train.py and the Brain read by name; everything else must be referred to within the file.
PROGRAM = "".join(
    (ROOT / name).read_text()
    for name in (
        "train.py",
        *(f"mossformer_sb/{part}.py" for part in ("training/brain", "training/step", "sharing/record")),
    )
)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request):
    return request.param


def small_options(path):
    """Options that make the network small: those that the header gives, or the size that there is for that."""
    small = re.search(r"^# Small: +(.*?)gives", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return small[1].replace("#", "").split() if small else ["--model_size", "mini"]


@pytest.fixture
def hparams(path, tmp_path):
    given = ["--data_folder", str(tmp_path / "data"), "--output_folder", str(tmp_path), *small_options(path)]
    _, _, overrides = parse_arguments([str(path), *given])
    with open(path, encoding="utf-8") as file:
        return load_hyperpyyaml(file, overrides)


def test_there_are_experiments():
    assert {"mossformer_mini", "mossformer_wham", "mossformer_wsj0mix", "dprnn"} <= {path.stem for path in FILES}


def test_header_has_paper_command_and_result(path):
    header = path.read_text().split("\n\n")[0]
    assert header.startswith("# ") and "Paper:" in header and re.search("Published:|Reached:", header)
    command = re.search(r"Command: +python train.py (\S+)", header)
    assert (ROOT / command[1]) == path


def test_every_key_is_used(path):
    text = path.read_text()
    options = RunOptions().as_dict()
    for key in re.findall(r"^(\w+):", text, flags=re.MULTILINE):
        used = f"<{key}>" in text or re.search(rf'hparams(\.|\[")(key_)?{key}\b', PROGRAM) or f'"{key}"' in PROGRAM
        assert used or key in options or key.startswith("__"), f"{key} in {path.name} has no use"


def test_small_version_is_as_small_as_the_header_says(hparams, path):
    said = re.search(r"gives (\S+) M parameters", path.read_text())
    count = sum(p.numel() for module in hparams["modules"].values() for p in module.parameters()) / 1e6
    assert 0.5 < count < 1 and (said is None or round(count, 1) == float(said[1]))


def test_builds_its_networks_and_knows_how_to_prepare(hparams):
    assert set(hparams["modules"]) == {"encoder", "masknet", "decoder"}
    for key in ("prepare", "train_data", "valid_data", "test_data"):
        inspect.signature(hparams[key].func).bind(**hparams[key].keywords)  # names that exist, none missing
    recovered = hparams["checkpointer"].recoverables
    assert {*hparams["modules"], "epoch_counter"} <= set(recovered)


def test_training_shuffles_and_crops_by_default(hparams):
    assert hparams["train_loader"]["shuffle"] is True
    assert hparams["train_data"].keywords["segment"] > 0
    assert "segment" not in hparams["test_data"].keywords
