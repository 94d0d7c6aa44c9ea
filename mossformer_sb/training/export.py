"""Exporting a training's output folder as a model folder: its best checkpoint, a named one, or an average."""

from __future__ import annotations

import dataclasses
import glob
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mossformer_sb.data.corpora import corpus_name
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.examples import AUDIO_FOLDER
from mossformer_sb.network.hub import CONFIG_FILE
from mossformer_sb.sharing.earlier_exports import convert_export, is_earlier_export
from mossformer_sb.sharing.folder import HPARAMS_FILE, check_replaceable, describes_model, export
from mossformer_sb.sharing.record import TrainingRecord, conditions_of
from mossformer_sb.sharing.settings import Unbuilt, briefly, build_networks, check_own_training, read_settings
from mossformer_sb.training.checkpoints import BEST_KEY, Checkpointer, scored_weights
from mossformer_sb.utils.files import locate
from mossformer_sb.utils.weights import check_state

if TYPE_CHECKING:
    from typing import Any


def export_training(
    training_folder: str | Path,
    folder: str | Path,
    checkpoint: str | None = None,
    average: int = 1,
    licence: str = "",
    num_examples: int = 0,
    shifts: int = 1,
    **options: Any,
) -> Path:
    """Export a model from a training's output folder, without its data and its code.

    Arguments
    ---------
    training_folder : str or Path
        The experiment's ``output_folder``; or an export of an earlier version, which is converted with its model card,
        and allows only the options ``half`` and ``speechbrain``.
    folder : str or Path
        The model folder to write.
    checkpoint : str, optional
        Name of a checkpoint, ``CKPT+...``. Default: the best by validation SI-SNR.
    average : int
        Number of the best checkpoints to average; 1 for the best one.
    licence : str
        Licence for the model card, by its identifier on model hubs, such as ``cc-by-4.0``.
    num_examples : int
        Number of audio examples to add, of the test mixtures that training saved.
    shifts : int
        Number of shifts that the exported model uses by default, see `mossformer_sb.inference.shifts`.
    **options
        ``half``, ``speechbrain`` and ``notes`` of `mossformer_sb.sharing.folder.export`.

    Returns
    -------
    Path
        The model folder.

    Raises
    ------
    InputError
        If the training folder holds no such checkpoint, or its settings describe other networks than its weights.
    """
    training_folder = Path(training_folder)
    if is_earlier_export(training_folder):
        chosen = {"checkpoint": checkpoint, "average": average > 1, "license": licence, "examples": num_examples}
        chosen |= {"notes": options.pop("notes", ""), "shifts": shifts > 1}
        if any(chosen.values()):
            given = ", ".join(key for key, value in chosen.items() if value)
            raise InputError(
                f"{training_folder}: is an export of an earlier version, which is converted with its model card and "
                f"weights: remove {given}, or give the output folder of its training."
            )
        return convert_export(training_folder, folder, options.pop("half", False) or None, **options)
    settings, path = _read_settings(training_folder)
    modules = build_networks(settings, path)
    output_folder = settings.get("output_folder")
    save_folder = locate(training_folder, settings["save_folder"], output_folder)
    chosen = _choose(save_folder, modules, checkpoint, average)
    for name, module in modules.items():
        states = [scored_weights(item, name) for item in chosen]
        for item, state in zip(chosen, states, strict=True):
            check_state(module, state, item.paramfiles[name], name, path)
        module.load_state_dict(_average(states))
    record = _record(training_folder, settings, chosen, checkpoint, licence)
    examples = _examples(training_folder, num_examples)
    own = {} if shifts == 1 else {"shifts": shifts}
    return export(folder, modules, settings["sample_rate"], record, examples, settings=own, **options)


def check_export_folder(export_folder: str | Path, output_folder: str | Path) -> None:
    """Raise unless a training can write its export into a folder.

    Arguments
    ---------
    export_folder, output_folder : str or Path
        Folders of the experiment.

    Raises
    ------
    InputError
        If the export would replace the output folder, or anything else than an export.

    Example
    -------
    >>> check_export_folder("results", "results/one")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: export_folder results: is replaced by each export, ...
    """
    export_path, output_path = (Path(folder).resolve() for folder in (export_folder, output_folder))
    if export_path in (output_path, *output_path.parents):
        raise InputError(
            f"export_folder {export_folder}: is replaced by each export, and holds output_folder {output_folder}. Give "
            f"a folder of its own, such as {Path(output_folder) / 'export'}."
        )
    check_replaceable(export_folder)


def _read_settings(training_folder):
    path = training_folder / HPARAMS_FILE
    if describes_model(training_folder / CONFIG_FILE):
        raise InputError(
            f"{training_folder}: is not the output folder of a training, but an exported model: give the output_folder "
            f"of its training."
        )
    if not path.is_file():
        raise InputError(f"{training_folder}: holds no {HPARAMS_FILE}, so it is not the output folder of a training.")
    settings = read_settings(path)
    check_own_training(settings, training_folder)
    if not isinstance(settings.get("save_folder"), str):
        raise InputError(
            f"{training_folder}: is not the output folder of a training: its {HPARAMS_FILE} has no key save_folder, "
            f"and an export of an earlier version would have the key pretrainer. Give one of these two."
        )
    if not isinstance(settings.get("sample_rate"), int):
        raise InputError(
            f"{path}: sample_rate has to be a whole number in Hz; found {briefly(settings.get('sample_rate'))}."
        )
    return settings, path


def _choose(save_folder, modules, name, average):
    """The checkpoints to export, the best first."""
    if average < 1 or (name is not None and average > 1):
        raise InputError(
            f"average is how many of the best checkpoints to take, at least 1, and goes without a named checkpoint; "
            f"found {average}."
        )
    if not save_folder.is_dir():
        raise InputError(f"{save_folder}: holds no checkpoints. Train at least one epoch.")
    checkpointer = Checkpointer(save_folder, recoverables=modules)
    if name is not None:
        found = [item for item in checkpointer.list_checkpoints() if item.path.name == name]
        if not found:
            there = ", ".join(sorted(item.path.name for item in checkpointer.list_checkpoints())) or "none"
            raise InputError(f"{save_folder}: has no checkpoint {name!r}; there are {there}.")
        return found
    found = checkpointer.find_checkpoints(max_key=BEST_KEY, max_num_checkpoints=average)
    if len(found) < average:
        raise InputError(
            f"{save_folder}: has {len(found)} checkpoints with a validation score, and {average} are to be exported. "
            f"Train at least one epoch, or average fewer."
        )
    return found


def _average(states):
    """Mean of each parameter, in double precision."""
    if len(states) == 1:
        return states[0]
    return {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(first.dtype)
        for key, first in states[0].items()
    }


def _record(training_folder, settings, chosen, name, licence):
    """The training's record. Its scores are those of the best checkpoint; another one has none."""
    record = TrainingRecord.read(training_folder)
    record = dataclasses.replace(record, **_facts(settings), licence=licence)
    epochs = [item.meta.get("epoch") for item in chosen]
    if name is None and len(chosen) == 1 and epochs[0] == record.best_epoch:
        return record
    if len(chosen) > 1:
        what, epoch = f"average of the {len(chosen)} best, epochs {', '.join(map(str, epochs))}", None
    else:
        what, epoch = name or chosen[0].path.name, epochs[0]
    return dataclasses.replace(record, scores={}, num_test=None, best_epoch=epoch, checkpoint=what)


def _facts(settings):
    """Facts from the settings for the model card."""
    keys = ("task", "corpus", "corpus_name", "num_spks", "target", "noise", "mixture_is_sum")
    found = {key: settings[key] for key in keys if key in settings and not isinstance(settings[key], Unbuilt)}
    facts = {"task": found["task"]} if "task" in found else {}
    facts |= {"corpus": corpus_name(found)} if "corpus" in found else {}
    return facts | ({"conditions": conditions_of(found)} if "task" in found else {})


def _examples(training_folder, number):
    if not number:
        return []
    folder = training_folder / AUDIO_FOLDER
    mixtures = sorted(folder.glob("*_mix.wav"))
    if len(mixtures) < number:
        raise InputError(
            f"{folder}: holds {len(mixtures)} examples; {number} are needed. Evaluate with n_audio_to_save: "
            f"{number} or more."
        )
    stems = [path.name.removesuffix("_mix.wav") for path in mixtures[:number]]
    return [
        path
        for stem in stems
        for kind in ("mix", "source*", "estimate*")
        for path in sorted(folder.glob(f"{glob.escape(stem)}_{kind}.wav"))
    ]
