"""Random options of the programs: each run ends with a result or an `InputError`.

Seeds are fixed. It stops after 10 seconds, or before that at `MOST` of a program, so that a fast machine tries nothing
that no other one has tried. MOSSFORMER_SB_FUZZ_SECONDS sets another time, without `MOST`.
"""

import argparse
import contextlib
import io
import logging
import os
import random
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from data_prep import __main__ as data_prep
from mossformer_sb import MossFormerSeparator, cli
from mossformer_sb.errors import InputError
from mossformer_sb.sharing.folder import export
from mossformer_sb.training.command_line import _speechbrain_options
from mossformer_sb.training.experiment_file import read_yaml
from tests.integration.programs import WHAM
from tests.unit.trees import write_custom, write_wham
from train import main as train

SECONDS = float(os.environ.get("MOSSFORMER_SB_FUZZ_SECONDS", 10))
LEAST = 5  # command lines of each program, however slow the machine
MOST = {"train": 20, "data_prep": 400, "separate": 200, "score": 200, "export": 100}
if "MOSSFORMER_SB_FUZZ_SECONDS" in os.environ:
    MOST = dict.fromkeys(MOST, 10**9)
ODD = [
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1",
    "2",
    "3",
    "0.5",
    "1e-3",
    "1e3",
    "1_0",
    "0x10",
    "007",
    "1,5",
    "12:30",
]
ODD += [
    "true",
    "False",
    "yes",
    "null",
    "None",
    "~x",
    "[]",
    "{}",
    "[1, 2]",
    "[a",
    "{a: 1}",
    "{a",
    "'",
    '"',
    "'0'",
    "#",
    "%s",
]
ODD += [
    "*",
    "**",
    "?",
    "[",
    "{",
    "{stem}",
    "{n}",
    "{stem}{n}",
    "{0}",
    "{n!r}",
    "{n:x>9}",
    "<seed>",
    "!ref <seed>",
    "(1, 2)",
]
ODD += [
    "\\",
    "a\nb",
    "\x00",
    "é絆",
    "x" * 300,
    "mini",
    "S",
    "cpu",
    "cuda",
    "cuda:9",
    "fp16",
    "bf16",
    "wham",
    "custom",
    "tr",
]
ODD += [
    "nowhere",
    "no/where",
    "x.wav",
    "a b",
    "-x",
    "--x",
    "=",
    "a=b",
    "$HOME",
    "2020-01-01",
    "9" * 30,
    "1e999",
    "\ud800",
]
# Options that would run for hours, start thousands of processes, or go to another machine, with the values they get.
TAMED = {
    "number_of_epochs": ["0", "1", "-1", "1.5", "x", "null", "true", "[1]"],
    "num_workers": ["0", "-1", "0.5", "x", "null", "true"],
    "workers": ["0", "1", "-1", "x", "0.5"],
    "num_rooms": ["0", "1", "-1", "x"],
    "mixtures_per_epoch": ["0", "1", "3", "-1", "0.5", "x", "null", "[]"],
    "train_minutes": ["0", "0.001", "-1", "nan", "x", "null"],
    "epoch_minutes": ["0", "0.001", "-1", "nan", "x", "null"],
    "device": ["cpu", "auto", "", "tpu", "cuda:9", "cpu:3", "cuda:x", "CPU", "null"],
    "local_rank": ["0", "x"],
}
LEFT_OUT = {
    "train": {"noprogressbar", "log_config", "distributed_backend", "local_rank", "find_unused_parameters", "compile"},
    "data_prep": set(),
    "separate": {"help", "trust"},
    "score": {"help"},
    "export": {"help", "onnx", "int8"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data, a model and a training, and in which folder programs run: one that nothing leaves by two dots."""
    root = tmp_path_factory.mktemp("options") / "a" / "b"
    root.mkdir(parents=True)
    model = export(root / "model", dict(MossFormerSeparator.from_size("mini").named_children()), sample_rate=8000)
    wham, custom = write_wham(root / "wham"), write_custom(root / "own")
    experiment = WHAM
    home = os.getcwd()
    os.chdir(root)
    place = SimpleNamespace(root=root, model=model, wham=wham, custom=custom, experiment=experiment)
    place.files = [str(path) for path in (model, wham, custom, experiment, custom / "tr" / "mix" / "a.wav")]
    before = os.environ.get("HF_HUB_OFFLINE"), os.environ.get("HOME")
    os.environ.update(HF_HUB_OFFLINE="1", HOME=str(root))
    trained = [*base("train", place), "--output_folder", "trained"]
    train(trained)
    place.files += [str(root / "trained"), str(root / "trained" / "manifests" / "test.csv")]
    yield place
    os.chdir(home)
    for name, value in zip(("HF_HUB_OFFLINE", "HOME"), before, strict=True):
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(autouse=True)
def logging_as_before():
    """The programs set up logging, and torch's ways to compute, for their whole process."""
    root = logging.getLogger()
    before, handlers, hook = root.level, root.handlers[:], sys.excepthook
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    root.level, root.handlers[:], sys.excepthook = before, handlers, hook
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def base(program, place, rng=None):
    """Words with which a program does what it is for."""
    tree = place.custom
    return {
        "train": [str(place.experiment), "--data_folder", str(place.wham), "--number_of_epochs", "1", "--device", "cpu"]
        + [
            "--segment",
            "0.1",
            "--num_workers",
            "0",
            "--noprogressbar",
            "--n_audio_to_save",
            "0",
            "--model_size",
            "mini",
        ],
        "data_prep": ["custom", "--data_folder", str(tree), "--output_folder", "manifests"],
        "separate": [str(tree / "tr" / "mix"), "--model", str(place.model), "--device", "cpu"],
        "score": [
            "--estimates",
            str(tree / "tr"),
            "--references",
            str(tree / "tr"),
            "--mixtures",
            str(tree / "tr/mix"),
        ],
        "export": ["trained", "--output_folder", "exported"],
    }[program]


def options(program, place, words):
    """From name to the values that it may have, and whether it has one."""
    if program == "train":
        known = {**dict.fromkeys(read_yaml(place.experiment)), **_speechbrain_options()}
        return {name: getattr(action, "choices", None) or [] for name, action in known.items()}
    parser = data_prep._parser() if program == "data_prep" else cli._parser([program])
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    chosen = commands.choices[words[0] if program == "data_prep" else program]
    actions = {action.option_strings[0][2:]: action for action in chosen._actions if action.option_strings[:1] != []}
    return {name: None if action.nargs == 0 else action.choices or [] for name, action in actions.items() if name}


def random_words(rng, program, place):
    """A command line: what works, with a few options more, or with other values."""
    words = base(program, place)
    if program == "data_prep" and rng.random() < 0.5:
        corpus = rng.choice(["wham", "whamr", "wsj0mix", "librimix", "minilibrimix", "librimix_rooms"])
        words = [corpus, "--data_folder", rng.choice(place.files), "--output_folder", "manifests"]
    known = options(program, place, words)
    names = sorted(name for name in known if name not in LEFT_OUT[program])
    for name in rng.sample(names, rng.choice([1, 1, 1, 2, 3])):
        words = without(words, name)
        if known[name] is None:
            words.append(f"--{name}")
            continue
        pool = TAMED.get(name) or [*ODD, *place.files, *list(known[name]) * 10]
        given = [str(rng.choice(pool)) for _ in range(rng.choice([0, 1, 1, 1, 1, 1, 1, 1, 2]))]
        words += [f"--{name}={given[0]}"] if given and rng.random() < 0.7 else [f"--{name}", *given]
    return words


def without(words, name):
    """The words without an option and its values."""
    if f"--{name}" not in words:
        return list(words)
    start = words.index(f"--{name}")
    end = next((at for at in range(start + 1, len(words)) if words[at].startswith("--")), len(words))
    return words[:start] + words[end:]


def outcome(program, words):
    """Exit code of a program: 0 where all went well, 1 and 2 where it said what is wrong."""
    try:
        if program == "train":
            train(words)
            return 0
        return data_prep.main(words) if program == "data_prep" else cli.main([program, *words])
    except InputError as error:
        assert len(str(error)) > 10
        return 2
    except SystemExit as error:  # of argparse
        return error.code


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", LEFT_OUT)
def test_results_or_input_errors(program, place, monkeypatch):
    logging.disable(logging.CRITICAL)
    end = time.monotonic() + SECONDS / len(LEFT_OUT)
    codes, number = [], 0
    faults = []
    monkeypatch.setattr(
        "mossformer_sb.cli.separate_jobs.logger.exception", lambda *words: faults.append(sys.exc_info())
    )
    while number < LEAST or (time.monotonic() < end and number < MOST[program]):
        words = random_words(random.Random(f"{program} {number}"), program, place)
        quiet = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        try:
            with contextlib.redirect_stdout(quiet[0]), contextlib.redirect_stderr(quiet[1]):
                codes.append(outcome(program, words))
            assert not faults, repr(faults[0][1])
        except Exception as error:
            raise AssertionError(f"{program} {number}: {type(error).__name__} {error}\n{words}") from error
        assert codes[-1] in (0, 1, 2), words
        number += 1
    assert 2 in codes
    if "MOSSFORMER_SB_FUZZ_SECONDS" in os.environ:
        counts = {code: codes.count(code) for code in sorted(set(codes))}
        sys.__stderr__.write(f"\n{program}: {number} command lines, by exit code {counts}\n")
