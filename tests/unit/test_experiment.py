"""The objects that train.py builds from an experiment's keys: datasets, loaders, counter, log and checkpointer."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from speechbrain import Stage

from data_prep.corpora.prepare import prepare_experiment
from mossformer_sb.data.corpora import CORPUS_NAMES, corpus_name
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.data.training_data import AugmentedMixtureDataset
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.published import PUBLISHED, comparable_corpus
from mossformer_sb.training.experiment import (
    MANIFESTS,
    build_dataset,
    check_training_settings,
    complete,
    hint_at_long_mixtures,
    hint_at_settings,
    loader_options,
)
from mossformer_sb.training.optimizers import choose_optimizer
from tests.unit.brains import make_brain
from tests.unit.trees import write_wham

ROOT = Path(__file__).parents[2]
KEYS = {"corpus": "wham", "task": "separate_noisy", "mode": "min", "num_spks": 2, "sample_rate": 8000, "seed": 3}
KEYS |= {"dynamic_mixing": False, "segment": 0.1, "speed_perturb": "none", "speed_range": [0.95, 1.05]}
KEYS |= {"perturb_noise": False, "random_shift": 0.0, "level_imbalance": 0.0, "single_speaker_rate": 0.0}
KEYS |= {"speech_folder": None, "noise_folder": None, "rir_folder": None, "min_seconds": 0.0}


@pytest.fixture(scope="module")
def hparams(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    hparams = {
        **KEYS,
        "data_folder": str(write_wham(folder / "wham", frames=8000)),
        "manifest_folder": str(folder / "manifests"),
    }
    prepare_experiment({**hparams, "dynamic_mixing": True})
    return hparams


def test_prepares_all_that_training_reads(hparams):
    names = {path.name for path in Path(hparams["manifest_folder"]).glob("*.csv")}
    assert names == {*MANIFESTS.values(), "mixing_speech.csv", "mixing_noise.csv"}


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, MixtureDataset),
        ({"random_shift": 0.05}, AugmentedMixtureDataset),
        ({"dynamic_mixing": True}, DynamicMixtureDataset),
    ],
)
def test_training_data_is_of_the_kind_that_the_keys_say(hparams, options, kind):
    data = build_dataset({**hparams, **options}, "train")
    assert type(data) is kind and len(data[0].mixture) == 800


def test_options_of_dynamic_mixing_without_it(hparams, caplog):
    build_dataset({**hparams, "turn_rate": 0.5, "similar_pitch_rate": 0.1, "room_rate": 0.5}, "train")
    assert "turn_rate, similar_pitch_rate: no effect without dynamic_mixing" in caplog.text
    caplog.clear()
    build_dataset({**hparams, "turn_rate": 0.0, "mixtures_per_epoch": None}, "train")
    assert not caplog.text


def test_validation_and_test_are_whole_and_as_they_are(hparams):
    for name in ("valid", "test"):
        data = build_dataset({**hparams, "dynamic_mixing": True, "random_shift": 0.1}, name)
        assert type(data) is MixtureDataset and data.segment is None and len(data[0].mixture) > 800


def test_short_utterances_are_not_drawn(hparams):
    with pytest.raises(InputError, match="100"):
        build_dataset({**hparams, "dynamic_mixing": True, "min_seconds": 100.0}, "train")


def test_checkpoints_hold_the_networks_and_the_epoch(tmp_path):
    modules = {"masknet": torch.nn.Linear(1, 1)}
    hparams = {"modules": modules, "number_of_epochs": 2, "output_folder": str(tmp_path)}
    hparams = complete({**hparams, "save_folder": str(tmp_path / "save")})
    next(hparams["epoch_counter"])
    hparams["checkpointer"].save_checkpoint()
    hparams["train_logger"].log_stats({"epoch": 1}, {"loss": 0.123456})
    assert "1.2346e-01" in (tmp_path / "train_log.txt").read_text()
    again = complete({**hparams, "modules": {"masknet": torch.nn.Linear(1, 1)}})
    again["checkpointer"].recover_if_possible()
    assert torch.equal(again["modules"]["masknet"].weight, modules["masknet"].weight)
    assert again["epoch_counter"].current == 1


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            {"decoder": "a.wav"},
            "decoder, one of modules, must be a network .*; found 'a.wav'. Remove the option --decoder",
        ),
        ({"decoder": None}, "decoder, one of modules, must be a network .*; found None"),
        (None, "modules must be a mapping of names to networks; found None"),
    ],
)
def test_modules_are_networks(tmp_path, modules, message):
    with pytest.raises(InputError, match=message):
        complete({"modules": modules, "number_of_epochs": 2, "output_folder": tmp_path, "save_folder": tmp_path})


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"corpus": "wham"}, "WHAM!"),
        ({"corpus": "librimix", "num_spks": 3}, "Libri3Mix"),
        ({"corpus": "custom", "corpus_name": None}, "custom data"),
        ({"corpus": "custom", "corpus_name": "my data"}, "my data"),
        ({"corpus": "WHAM!"}, "WHAM!"),  # as experiments of earlier versions have it
    ],
)
def test_names_of_corpora(settings, name):
    assert corpus_name(settings) == name


def test_published_corpora_are_among_those_with_a_name():
    names = {corpus_name({"corpus": corpus, "num_spks": number}) for corpus in CORPUS_NAMES for number in (2, 3)}
    assert {*PUBLISHED} <= names


def test_a_baseline_is_compared_with_the_published_results_too():
    """Its null is the corpus's default."""
    settings = {"corpus": "whamr", "task": "separate_noisy_reverb", "sample_rate": 8000, "mode": None, "target": None}
    assert comparable_corpus(settings) == "WHAMR!"
    assert comparable_corpus({**settings, "target": "reverb"}) == comparable_corpus({**settings, "mode": "max"}) == ""


class TestLoaderOptions:
    KEYS = {"batch_size": 3, "valid_batch_size": 2, "num_workers": 2, "dataloader_opts": {}}

    @pytest.mark.parametrize(
        ("cores", "processes", "workers"), [(1, "1", 1), (2, "1", 2), (64, "1", 4), (8, "4", 2), (2, "4", 1)]
    )
    def test_workers_fit_the_cores(self, monkeypatch, cores, processes, workers):
        """And so PyTorch doesn't warn that they are too many."""
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)  # as torchrun sets it
        assert loader_options({**self.KEYS, "num_workers": None}, "train")["num_workers"] == workers
        assert loader_options({**self.KEYS, "num_workers": 7}, "train")["num_workers"] == 7

    @pytest.mark.parametrize("name", MANIFESTS)
    @pytest.mark.parametrize("context", ["spawn", "forkserver", "fork"])
    def test_arrive_in_the_loader(self, tmp_path, name, context):
        options = {"persistent_workers": True, "prefetch_factor": 3, "timeout": 100, "pin_memory": False}
        options["multiprocessing_context"] = context
        found = loader_options({**self.KEYS, "dataloader_opts": options}, name)
        stage = {"train": Stage.TRAIN, "valid": Stage.VALID, "test": Stage.TEST}[name]
        loader = make_brain(tmp_path).make_dataloader(range(6), stage, **found)
        assert loader.multiprocessing_context.get_start_method() == context
        assert {key: getattr(loader, key) for key in [*options][:-1]} == {key: options[key] for key in [*options][:-1]}

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"num_workers": -1}, "num_workers must be a whole number of processes, or null; found -1"),
            ({"num_workers": 1.5}, "num_workers must be a whole number of processes, or null; found 1.5"),
            ({"dataloader_opts": [1]}, r"dataloader_opts must be a mapping, as \{prefetch_factor: 4\}; found \[1\]"),
            (
                {"dataloader_opts": {"drop_last": True}},
                "drop_last can't be set there. Possible keys: persistent_workers",
            ),
            ({"dataloader_opts": {"batch_size": 3}}, "batch_size can't be set there; batch_size is a key of its own"),
            ({"dataloader_opts": {"prefetch_factor": 0}}, "prefetch_factor must be a whole number from 1; found 0"),
            ({"dataloader_opts": {"multiprocessing_context": "thread"}}, "DataLoader refuses them .*thread"),
            (
                {"num_workers": 0, "dataloader_opts": {"persistent_workers": True}},
                "dataloader_opts: persistent_workers is for workers, and num_workers is 0",
            ),
        ],
    )
    def test_impossible(self, keys, message):
        with pytest.raises(InputError, match=message):
            loader_options({**self.KEYS, **keys}, "train")


@pytest.mark.parametrize(
    ("size", "lr", "hinted"),
    [
        ("mini", 0.00015, True),
        ("2mini", 0.00015, True),
        ("small", 0.0001, True),
        ("L", 0.00015, False),
        ("mini", 0.002, False),
    ],
)
def test_a_small_network_with_the_rate_of_large_ones(caplog, size, lr, hinted):
    hint_at_settings({"model_size": size, "lr": lr, "init_from": None})
    assert bool(caplog.messages) is hinted
    if hinted:
        assert f"model_size {size} learns slowly with it" in caplog.text and "--lr 0.002" in caplog.text


def test_importing_the_loop_is_quiet():
    """SpeechBrain's module of loggers would tell that torchvision is missing."""
    code = "import logging; logging.basicConfig(); import mossformer_sb.training.brain"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_long_mixtures_of_validation_are_named(caplog):
    tables = {
        "train": pd.DataFrame({"ID": ["t"], "duration": [900.0]}),
        "valid": pd.DataFrame({"ID": ["short", "talk", "call"], "duration": [9.0, 600.0, 130.0]}),
        "test": pd.DataFrame({"ID": ["short"], "duration": [119.0]}),
    }
    with caplog.at_level("WARNING"):
        hint_at_long_mixtures({name: SimpleNamespace(table=table) for name, table in tables.items()})
    (record,) = caplog.records
    assert "valid.csv is talk with 600 s" in record.getMessage()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("opt_class", functools.partial(torch.optim.Adam, lr=-1.0), "opt_class can't be built: Invalid learning rate"),
        ("opt_class", functools.partial(choose_optimizer, name="ada"), "opt_class can't be built: optimizer 'ada' is "),
        ("opt_class", functools.partial(torch.optim.Adam, rate=1), "opt_class can't be built: .*rate"),
        ("lr_scheduler", object(), "lr_scheduler: unsupported scheduler object"),
        ("lr_scheduler", functools.partial(torch.optim.lr_scheduler.StepLR, size=3), "StepLR can't be built"),
        ("train_minutes", -1, "train_minutes must be a number of minutes greater than 0, or null; found -1"),
        ("epoch_minutes", "long", "epoch_minutes must be a number"),
        ("max_batch_grad_norm", 0, "max_batch_grad_norm must be a number greater than 0, such as 10, or null; found 0"),
        ("ema_decay", 2, "ema_decay must be a number between 0 and 1"),
    ],
)
def test_settings_are_checked_before_data_is_prepared(key, value, message):
    right = {"opt_class": functools.partial(choose_optimizer, name="muon"), "lr_scheduler": None, "ema_decay": 0.999}
    check_training_settings(right)
    with pytest.raises(InputError, match=message) as found:
        check_training_settings({**right, key: value})
    assert ".." not in str(found.value)
