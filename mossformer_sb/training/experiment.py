"""The common parts of all experiments: datasets, loaders, epoch counter, log and checkpointer.

An experiment's YAML holds the values that a user may change. This module builds the common parts from them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import FileTrainLogger
from torch.utils.data import DataLoader

from mossformer_sb.data.augmentation import Augmentation
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.data.source_pools import NOISE_TABLE, SPEECH_TABLE
from mossformer_sb.data.training_data import training_data
from mossformer_sb.errors import InputError
from mossformer_sb.network.checks import check_count
from mossformer_sb.training.batch_clipping import BatchClipping
from mossformer_sb.training.budget import TimeBudget
from mossformer_sb.training.checkpoints import Checkpointer
from mossformer_sb.training.data_loading import LOADER_OPTIONS
from mossformer_sb.training.ema import AveragedWeights
from mossformer_sb.training.experiment_file import AUGMENTATION, DYNAMIC_MIXING
from mossformer_sb.training.optimizers import naming_opt_class
from mossformer_sb.training.schedules import Schedule

if TYPE_CHECKING:
    from mossformer_sb.data.datasets import AugmentedMixtureDataset
    from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset

logger = logging.getLogger(__name__)

# Sizes for a CPU, and the least learning rate for them.
SMALL_SIZES, SMALL_LR = ("small", "mini", "2mini"), 0.0005
LONG_SECONDS = 120  # length of a mixture for a hint; the published corpora have shorter ones
# Manifests of the three datasets, in the manifest_folder.
MANIFESTS = {"train": "train.csv", "valid": "valid.csv", "test": "test.csv"}
TRAIN_LOG = "train_log.txt"
LOG_DIGITS = 4
MOST_WORKERS = 4


def complete(hparams: dict) -> dict:
    """Add the epoch counter, the log of epochs and the checkpointer to the hyperparameters of a YAML file.

    Arguments
    ---------
    hparams : dict
        Hyperparameters of the experiment. ``modules``, ``number_of_epochs``, ``output_folder`` and ``save_folder`` are
        read.

    Returns
    -------
    hparams : dict
        The same, with ``epoch_counter``, ``train_logger`` and ``checkpointer``.

    Raises
    ------
    InputError
        If one of ``modules`` is not a network.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> hparams = {"modules": {}, "number_of_epochs": 3, "output_folder": folder, "save_folder": folder / "save"}
    >>> complete(hparams)["epoch_counter"].limit
    3
    """
    if not isinstance(hparams["modules"], Mapping):
        raise InputError(f"modules must be a mapping of names to networks; found {hparams['modules']!r}.")
    for name, module in hparams["modules"].items():
        if not isinstance(module, torch.nn.Module):
            raise InputError(
                f"{name}, one of modules, must be a network (torch.nn.Module); found {module!r}. Remove the option "
                f"--{name}, or edit the file: networks are set by keys such as model_size."
            )
    counter = EpochCounter(limit=hparams["number_of_epochs"])
    recoverables = {**hparams["modules"], "epoch_counter": counter}
    hparams["epoch_counter"] = counter
    hparams["train_logger"] = FileTrainLogger(
        save_file=str(Path(hparams["output_folder"]) / TRAIN_LOG), precision=LOG_DIGITS
    )
    hparams["checkpointer"] = Checkpointer(checkpoints_dir=hparams["save_folder"], recoverables=recoverables)
    return hparams


def manifest_path(hparams: Mapping, name: str) -> Path:
    """The manifest of one of an experiment's datasets.

    Example
    -------
    >>> manifest_path({"manifest_folder": "manifests"}, "valid").as_posix()
    'manifests/valid.csv'
    """
    return Path(hparams["manifest_folder"]) / MANIFESTS[name]


def build_dataset(hparams: dict, name: str) -> MixtureDataset | AugmentedMixtureDataset | DynamicMixtureDataset:
    """Build one of an experiment's datasets.

    Arguments
    ---------
    hparams : dict
        Hyperparameters of the experiment.
    name : str
        "train", whose mixtures are cropped, augmented, and drawn on the fly with ``dynamic_mixing``; "valid" or "test",
        whose mixtures are uncropped and unchanged.

    Returns
    -------
    MixtureDataset, AugmentedMixtureDataset or DynamicMixtureDataset

    Raises
    ------
    InputError
        As these do.
    """
    common = {
        "manifest": manifest_path(hparams, name),
        "data_root": hparams["data_folder"],
        "num_spks": hparams["num_spks"],
        "sample_rate": hparams["sample_rate"],
    }
    common["trim"] = hparams.get("trim") or 0
    if name != "train":
        return MixtureDataset(**common)
    folder = Path(hparams["manifest_folder"])
    return training_data(
        **common,
        segment=hparams["segment"],
        seed=hparams["seed"],
        augmentation=Augmentation(**{key: hparams[key] for key in AUGMENTATION}),
        dynamic_mixing=hparams["dynamic_mixing"],
        speech_table=folder / SPEECH_TABLE,
        noise_table=folder / NOISE_TABLE,
        **{key: hparams[key] for key in DYNAMIC_MIXING if key in hparams},
    )


def check_training_settings(hparams: Mapping) -> None:
    """Build the optimizer, the schedule, the time budget and the average, for errors before data is prepared.

    Arguments
    ---------
    hparams : mapping
        Hyperparameters of the experiment.

    Raises
    ------
    InputError
        If one of them refuses its settings.
    """
    parameter = torch.nn.Parameter(torch.zeros(1))
    with naming_opt_class():
        optimizer = hparams["opt_class"]([parameter])
    Schedule(hparams["lr_scheduler"], optimizer)
    TimeBudget(hparams.get("train_minutes"), hparams.get("epoch_minutes"))
    if (decay := hparams.get("ema_decay")) is not None:
        AveragedWeights({}, decay)
    if (limit := hparams.get("max_batch_grad_norm")) is not None:
        BatchClipping([], limit)


def hint_at_settings(hparams: dict) -> None:
    """Log a hint if a small network would train with the settings of the published sizes."""
    size, lr = hparams.get("model_size"), hparams["lr"]
    if size in SMALL_SIZES and hparams["init_from"] is None and lr < SMALL_LR:
        logger.warning(
            "lr %g is for networks of the published sizes: model_size %s learns slowly with it. "
            "hparams/mossformer_mini.yaml has --lr 0.002 --dropout 0 --batch_size 4 --segment 2",
            lr,
            size,
        )


def hint_at_long_mixtures(datasets: dict) -> None:
    """Log a hint if validation or test, which do not crop, has a mixture that may be too long for the memory.

    Arguments
    ---------
    datasets : dict
        Name to dataset.
    """
    for name in ("valid", "test"):
        table = getattr(datasets.get(name), "table", None)
        if table is None or not (table["duration"] > LONG_SECONDS).any():
            continue
        longest = table.loc[table["duration"].idxmax()]
        logger.warning(
            "The longest mixture of %s is %s with %.0f s. Mixtures are not cropped there, so memory is proportional to "
            "their length: for ten minutes at 8 kHz, some 2.5 GB with size mini and 7 GB with S, on a CPU.",
            f"{name}.csv",
            longest["ID"],
            longest["duration"],
        )


def loader_options(hparams: dict, name: str) -> dict:
    """Options of the data loader for one of an experiment's datasets.

    Arguments
    ---------
    hparams : dict
        Hyperparameters of the experiment: ``batch_size`` or ``valid_batch_size``, ``num_workers``, ``dataloader_opts``.
    name : str
        "train", "valid" or "test".

    Returns
    -------
    dict
        For ``Brain.make_dataloader``.

    Raises
    ------
    InputError
        If the batch size is none, or one of ``dataloader_opts`` is not known or not possible.

    Example
    -------
    >>> hparams = {"batch_size": 4, "valid_batch_size": 1, "num_workers": 2, "dataloader_opts": {"prefetch_factor": 4}}
    >>> loader_options(hparams, "valid")
    {'batch_size': 1, 'num_workers': 2, 'prefetch_factor': 4}
    """
    num_workers = hparams["num_workers"]
    num_workers = fitting_workers() if num_workers is None else num_workers
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 0:
        raise InputError(f"num_workers must be a whole number of processes, or null; found {num_workers!r}.")
    options = hparams.get("dataloader_opts") or {}
    _check_loader_options(options, num_workers)
    key = "batch_size" if name == "train" else "valid_batch_size"
    check_count(key, batch_size := hparams[key])
    order = {"shuffle": True} if name == "train" else {}
    return {"batch_size": batch_size, "num_workers": num_workers, **order, **options}


def fitting_workers() -> int:
    """Default number of data loader workers per training process: one for each further core, at most four."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def _check_loader_options(options, num_workers):
    if not isinstance(options, dict):
        raise InputError(f"dataloader_opts must be a mapping, as {{prefetch_factor: 4}}; found {options!r}.")
    for key, value in options.items():
        if key not in LOADER_OPTIONS:
            hint = f"; {key} is a key of its own" if key in ("batch_size", "valid_batch_size", "num_workers") else ""
            raise InputError(
                f"dataloader_opts: {key} can't be set there{hint}. Possible keys: {', '.join(LOADER_OPTIONS)}."
            )
        if key != "pin_memory" and value and num_workers == 0:
            raise InputError(
                f"dataloader_opts: {key} is for workers, and num_workers is 0: remove it, or set num_workers to 1 or "
                f"more."
            )
    prefetch = options.get("prefetch_factor")
    if prefetch is not None and (not isinstance(prefetch, int) or isinstance(prefetch, bool) or prefetch < 1):
        raise InputError(f"dataloader_opts: prefetch_factor must be a whole number from 1; found {prefetch!r}.")
    try:
        DataLoader([0], num_workers=num_workers, **options)  # starts no process before it is iterated
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"dataloader_opts {options}: PyTorch's DataLoader refuses them ({reason}).") from error
