"""What train.py makes of an experiment's keys: datasets, loaders, and what counts, logs and saves."""

from pathlib import Path

import pytest
import torch

from data_prep.corpora.prepare import prepare_experiment
from mossformer_sb.data.corpora import CORPUS_NAMES, corpus_name
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.data.training_data import AugmentedMixtureDataset
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.published import PUBLISHED, comparable_corpus
from mossformer_sb.training.experiment import MANIFESTS, build_dataset, complete
from tests.unit.trees import write_wham

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
        ({"random_shift": 0.1}, AugmentedMixtureDataset),
        ({"dynamic_mixing": True}, DynamicMixtureDataset),
    ],
)
def test_training_data_is_of_the_kind_that_the_keys_say(hparams, options, kind):
    data = build_dataset({**hparams, **options}, "train")
    assert type(data) is kind and len(data[0].mixture) == 800


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
