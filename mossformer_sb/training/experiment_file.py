"""Reading an experiment's YAML file, and checks of its keys and of the values given for them."""

from __future__ import annotations

import difflib
import inspect
import logging
import os
import pydoc
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hyperpyyaml.core import recursive_update
from ruamel.yaml import YAML
from ruamel.yaml.comments import TaggedScalar
from ruamel.yaml.error import YAMLError

from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

logger = logging.getLogger(__name__)

# HyperPyYAML resolves <key> in any text that a !ref refers to, and may read (1, 2) as a tuple, in overrides too.
REFERENCE = re.compile(r"<[^>]*>")
REFERENCED = re.compile(r"<([^>\[.]+)")  # the key of a reference, as in <key>, <key[name]> and <key.name>
TUPLE = re.compile(r"\(.*\)")
# Integers whose values are used when objects are built, and the least value of each.
LEAST = {"seed": 0, "number_of_epochs": 1, "grad_accumulation_factor": 1, "num_to_keep": 1}
# Keys that must not be null.
REQUIRED = {
    **dict.fromkeys(("output_folder", "save_folder", "manifest_folder", "export_folder"), "a path"),
    **dict.fromkeys(("corpus", "task", "model_size"), "a name"),
    **dict.fromkeys(
        ("seed", "num_spks", "number_of_epochs", "batch_size", "valid_batch_size", "n_audio_to_save", "lr"), "a number"
    ),
    **dict.fromkeys(("random_shift", "level_imbalance", "single_speaker_rate"), "a number"),
    **dict.fromkeys(("room_rate", "noise_rate", "turn_rate", "similar_pitch_rate", "max_pause"), "a number"),
    **dict.fromkeys(("min_seconds", "num_rooms"), "a number"),
    **dict.fromkeys(("sample_rate", "corpus_seed", "corpus_rooms", "channels", "encoder_kernel_size"), "a number"),
    **dict.fromkeys(("weight_decay", "final_lr", "warmup_share", "max_grad_norm", "nonfinite_patience"), "a number"),
    **dict.fromkeys(
        ("grad_accumulation_factor", "num_to_keep", "ckpt_interval_minutes", "ckpt_interval_steps"), "a number"
    ),
}
# Keys of augmentation, and optional ones of dynamic mixing, all arguments of classes in `mossformer_sb.data`.
AUGMENTATION = (
    "speed_perturb",
    "speed_range",
    "perturb_noise",
    "random_shift",
    "level_imbalance",
    "single_speaker_rate",
)
DYNAMIC_MIXING = (
    "rir_folder",
    "target",
    "level_distribution",
    "min_seconds",
    "room_rate",
    "noise_rate",
    "turn_rate",
    "max_pause",
    "turn_segment",
    "similar_pitch_rate",
    "mixtures_per_epoch",
)
# Keys that every experiment has, since the code reads them without a default.
NEEDED = (
    "seed",
    "data_folder",
    "output_folder",
    "save_folder",
    "manifest_folder",
    "export_folder",
    "corpus",
    "task",
    "num_spks",
    "sample_rate",
    "skip_prep",
    "init_from",
    "freeze",
    "dynamic_mixing",
    *AUGMENTATION,
    "segment",
    "batch_size",
    "valid_batch_size",
    "num_workers",
    "number_of_epochs",
    "lr",
    "lr_scheduler",
    "opt_class",
    "threshold",
    "modules",
    "n_audio_to_save",
    "report",
)
# Keys that the code reads if they are there: a mistyped one would have no effect.
OPTIONAL = (
    "max_batch_grad_norm",
    *("inactive_threshold", "ema_decay", "train_minutes", "epoch_minutes", "batches_per_epoch", "num_to_keep"),
    *("tensorboard", "deterministic", "test_only", "dataloader_opts", "trim", "mode", "target", "noise", "csv_file"),
    *("train_split", "mixture_is_sum", "clips_folder", "recorded_noise_folder", "librispeech_folder", "list_file"),
    *("num_train", "num_valid", "num_test", "num_noises", "check_samples", "on_invalid", "corpus_seed", "num_rooms"),
    *("corpus_rooms", "speech_folder", "speech_layout", "speaker_pattern", "noise_folder", "rooms_csv"),
    *DYNAMIC_MIXING,
)
# Keys that end in these are text, also where their default is null.
TEXT_ENDINGS = ("folder", "_file", "_csv", "init_from")
# Keys with other names in earlier versions.
RENAMED = {
    "deep": "check_samples",
    "on_bad": "on_invalid",
    "levels": "level_distribution",
    "rooms_folder": "rir_folder",
    "silence_snr": "inactive_threshold",
}
# Keys of earlier versions whose objects train.py now builds, most of them with `mossformer_sb.training.experiment`.
BUILT_IN_CODE = (
    "prepare",
    "prepare_mixing",
    "augmentation",
    "train_data",
    "valid_data",
    "test_data",
    "train_loader",
    "valid_loader",
    "test_loader",
    "epoch_counter",
    "train_logger",
    "checkpointer",
)


def read_yaml(path: str | Path) -> Mapping:
    """Load the tree of a YAML file with its tags; no object is built."""
    try:
        with open(path, encoding="utf-8") as file:
            tree = YAML().load(file)
    except OSError as error:
        raise InputError(f"{path}: can't read the YAML file ({error.strerror}). Give the path of one.") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {yaml_problem(error)}.") from error
    if not isinstance(tree, Mapping):
        raise InputError(f"{path} has to hold keys and values, as `seed: 1234`; found {type(tree).__name__}.")
    return tree


def expand_home(tree: Mapping) -> dict:
    """The top-level values of a YAML file that begin with ``~``, with the home folder expanded."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, str) and expanded(value) != value:
            found[key] = expanded(str(value))
        elif yaml_tag(value) == "!ref" and str(value.value).startswith("~"):
            found[key] = TaggedScalar(expanded(str(value.value)), tag=value.tag)
    return found


def check_keys(tree: Mapping, hparams_file: str) -> None:
    """Refuse keys of earlier versions, which would have no effect."""
    renamed = [f"{key} is now called {RENAMED[key]}" for key in tree if key in RENAMED]
    built = [key for key in tree if key in BUILT_IN_CODE]
    if renamed:
        raise InputError(f"{hparams_file}: {', '.join(renamed)}. Rename these keys in the file.")
    if built:
        raise InputError(
            f"{hparams_file}: {', '.join(built)} would have no effect: train.py builds these objects itself. "
            "Remove them; the files in hparams/ show the possible keys."
        )


def check_complete(tree: Mapping, hparams_file: str, run_options: Collection[str] = ()) -> None:
    """Refuse a file without a needed key, and warn of keys that look like mistyped ones.

    Arguments
    ---------
    tree : mapping
        Content of the file.
    hparams_file : str
        Its name, for messages.
    run_options : collection of str
        Names of SpeechBrain's run options, which the file may have too.

    Raises
    ------
    InputError
        If a key of `NEEDED` is missing.

    Example
    -------
    >>> check_complete(dict.fromkeys(NEEDED[1:]), "x.yaml")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: x.yaml has no seed. Add it, as in the files in hparams/.
    """
    missing = [key for key in NEEDED if key not in tree]
    known = {*NEEDED, *OPTIONAL, *run_options}
    others = [str(key) for key in tree if key not in known]
    similar = {key: close for key in others if (close := difflib.get_close_matches(key, known - {*tree}, 1, 0.85))}
    if missing:
        hints = [f" Its {key} may be meant as {close}." for key, (close,) in similar.items() if close in missing]
        raise InputError(
            f"{hparams_file} has no {', '.join(missing)}. Add {'them' if len(missing) > 1 else 'it'}, as in the files "
            f"in hparams/.{''.join(hints)}"
        )
    used = {name for value in _leaves(tree) for name in REFERENCED.findall(value)}
    for key, (close,) in similar.items():
        if key not in used:
            logger.warning("%s: nothing reads the key %s. Did you mean %s?", hparams_file, key, close)


def _leaves(node):
    """The text of all values."""
    if isinstance(node, Mapping):
        for value in node.values():
            yield from _leaves(value)
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value)
    else:
        yield str(getattr(node, "value", node))


def yaml_problem(error: Exception) -> str:
    """The problem of a YAML file and its line, in one line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def yaml_tag(node: object) -> str:
    """The tag of a node, such as ``!new:torch.nn.Linear``, or ""."""
    return (node.tag.value or "") if hasattr(node, "tag") else ""


def check_overrides(tree: Mapping, overrides: Mapping, hparams_file: str, path: str = "") -> None:
    """Refuse overrides that HyperPyYAML would accept silently, or fail on with an unclear message."""
    for key, value in overrides.items():
        here = f"{path}.{key}" if path else str(key)
        open_mapping = path and not tree and not yaml_tag(tree)  # `{}`: the code that reads it checks its keys
        if path and not open_mapping and key not in tree and not _accepts(tree, key, hparams_file):
            close = difflib.get_close_matches(str(key), [*map(str, tree)], n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InputError(
                f"{here} is not in {hparams_file}: {path} has {', '.join(map(str, tree)) or 'no keys'}.{hint}"
            )
        if isinstance(value, Mapping) and key in tree:
            if not isinstance(tree[key], Mapping):
                raise InputError(f"{here} in {hparams_file} is not a mapping; found {dict(value)} for it.")
            check_overrides(tree[key], value, hparams_file, here)
        else:
            _check_text(here, value)
            if key in tree:
                _check_kind(here, tree[key], value, hparams_file)


def _check_kind(path, default, value, hparams_file):
    """Refuse text for a number or an object, and anything but True or False for a boolean."""
    tag = yaml_tag(default)
    is_object = tag.startswith(("!new:", "!name:"))
    if is_object or (isinstance(default, Mapping) and value is not None):
        raise InputError(
            f"{path} in {hparams_file} is {tag or 'a mapping'}, which no value can replace; found {value!r}. Give the "
            f"keys that it is made from, as in --{path} '{{KEY: VALUE}}', or edit the file."
        )
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise InputError(f"{path} must be true or false, as in {hparams_file}; found {value!r}. Give one of them.")
    elif isinstance(default, (int, float)) and (
        isinstance(value, bool) or not (value is None or isinstance(value, (int, float)))
    ):
        raise InputError(
            f"{path} must be a number, as {default} in {hparams_file}; found {value!r}. Give one, such as --{path} "
            f"{default}, or null where the file's comment allows it."
        )


def _check_text(path, value):
    """Refuse text that HyperPyYAML would interpret."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_text(path, item)
    elif isinstance(value, str) and REFERENCE.search(value):
        raise InputError(f"{path}: {value!r} contains <...>, which HyperPyYAML reads as a reference. Rename it.")
    elif isinstance(value, str) and TUPLE.fullmatch(value):
        raise InputError(f"{path}: {value!r} may be read as a tuple. Write a list, [...], or rename it.")


def _accepts(node, key, hparams_file):
    """Whether the class, the function or the file that a node names accepts this key."""
    kind, _, name = yaml_tag(node).partition(":")
    if kind == "!include":
        return key in read_yaml(os.path.join(os.path.dirname(os.path.realpath(hparams_file)), name))
    if kind not in ("!new", "!name", "!apply", "!applyref"):
        return False
    try:
        parameters = inspect.signature(pydoc.locate(name)).parameters
    except (TypeError, ValueError):  # does not exist, or has no signature
        return False
    return key in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def check_placeholders(tree: Mapping, overrides: dict, hparams_file: str) -> None:
    """Refuse a ``!PLACEHOLDER`` without a value, or with null."""
    missing = [key for key, value in overrides.items() if value is None and yaml_tag(tree.get(key)) == "!PLACEHOLDER"]
    recursive_update(tree, overrides)
    missing += _placeholders(tree)
    if missing:
        given = " ".join(dict.fromkeys(_how_to_give(path) for path in missing))
        raise InputError(f"{hparams_file} needs a value for {', '.join(missing)}. Add: {given}")


def check_values(tree: Mapping, hparams_file: str) -> None:
    """Refuse values with which Python, PyTorch or SpeechBrain would fail with an unclear error."""
    for key, value in tree.items():
        needed = REQUIRED.get(key)
        if needed and value is None:
            raise InputError(f"{key} in {hparams_file} is null: give {needed}, as in --{key} VALUE.")
        is_text = needed in ("a path", "a name") or str(key).endswith(TEXT_ENDINGS)
        if is_text and not (value is None or isinstance(value, str) or yaml_tag(value)):
            raise InputError(f"{key} in {hparams_file} must be text; found {value!r}.")
    for key, least in LEAST.items():
        value = tree.get(key)
        # 2.0 is refused too: it can neither be a seed nor count checkpoints.
        if isinstance(value, (bool, float)) or (isinstance(value, int) and value < least):
            raise InputError(f"{key} in {hparams_file} must be a whole number from {least}; found {value}.")


def _how_to_give(path):
    """Write the option that sets a path: ``--a VALUE``, ``--a '{b: VALUE}'``; a list is replaced entirely."""
    key, *inner = path.partition("[")[0].split(".")
    if not inner:
        return f"--{key} VALUE"
    return f"--{key} '{''.join(f'{{{part}: ' for part in inner)}VALUE{'}' * len(inner)}'"


def _placeholders(node, path=""):
    if yaml_tag(node) == "!PLACEHOLDER":
        yield path
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _placeholders(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _placeholders(value, f"{path}[{index}]")
