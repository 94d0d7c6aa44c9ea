"""The command line of an experiment: a YAML file, SpeechBrain's run options, and new values for the YAML's keys.

`parse_arguments` replaces ``speechbrain.parse_arguments``, which accepts anything: a mistyped key, the first letters of
one of its own options, half of a path. Here unknown names are errors, and values are kept as written.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import inspect
import io
import json
import os
import pydoc
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hyperpyyaml.core import recursive_update
from ruamel.yaml import YAML
from ruamel.yaml.comments import TaggedScalar
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode
from speechbrain.utils.run_opts import RunOptions

from mossformer_sb.errors import InputError
from mossformer_sb.training.data_loading import LOADER_OPTIONS
from mossformer_sb.utils.devices import choose_device
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

USAGE = "python train.py hparams/EXPERIMENT.yaml [--key VALUE] [--key=VALUE] [--flag] ..."

# HyperPyYAML resolves <key> in any text that a !ref leads to, and may read (1, 2) as a tuple, in overrides too.
REFERENCE = re.compile(r"<[^>]*>")
TUPLE = re.compile(r"\(.*\)")

# Integers whose values are used when objects are built, and the least value of each.
LEAST = {"seed": 0, "number_of_epochs": 1, "grad_accumulation_factor": 1}
WIDE = 40  # characters of a value, beyond which its comment in --help isn't lined up

# Keys that had other names in earlier versions.
RENAMED = {
    "deep": "check_samples",
    "on_bad": "on_invalid",
    "levels": "level_distribution",
    "rooms_folder": "rir_folder",
    "silence_snr": "inactive_threshold",
}
# Keys of earlier versions whose objects train.py makes now, most of them with `mossformer_sb.training.experiment`.
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


def parse_arguments(argv: list[str] | None = None) -> tuple[str, RunOptions, dict]:
    """Read the command line of an experiment.

    A name is, exactly, a top-level key of the YAML file, or one of SpeechBrain's run options, or an error. What is both
    (``precision`` in many recipes) is set in both places, so that the command line wins and the saved hyperparameters
    show it.

    Values are read as YAML: numbers, booleans, null, and lists and mappings in brackets (in shell quotes, as one word).
    Any other text arrives as it is, whatever it contains. ``--key`` alone is True, ``--key=`` is the empty string.
    Text that looks like something else takes a second pair of quotes: ``--name "'007'"``. To put one value in a
    mapping or in an object's arguments, name it alone: ``--masknet '{dropout: 0.2}'``.

    Arguments
    ---------
    argv : list of str, optional
        The words after the program's name. Default: those of this program.

    Returns
    -------
    hparams_file : str
        The YAML file.
    run_opts : speechbrain.utils.run_opts.RunOptions
        For the Brain. Read by SpeechBrain, so that its types and defaults hold.
    overrides : dict
        For ``load_hyperpyyaml`` and ``create_experiment_directory``.

    Raises
    ------
    InputError
        When the file can't be read, a name is unknown or given twice, a value doesn't fit, or a ``!PLACEHOLDER`` is
        left without a value.

    Example
    -------
    >>> path = getfixture("tmp_path") / "x.yaml"
    >>> _ = path.write_text("data_folder: !PLACEHOLDER\\nlr: 0.1\\nreport: False\\n")
    >>> _, run_opts, overrides = parse_arguments(
    ...     [str(path), "--data_folder", "/d/b=c", "--lr=1e-3", "--report", "--device", "cpu"]
    ... )
    >>> overrides
    {'data_folder': '/d/b=c', 'lr': 0.001, 'report': True}
    >>> run_opts["device"]
    'cpu'
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    options = _speechbrain_options()
    if "-h" in argv or "--help" in argv:
        _show_help(argv)
    if not argv or argv[0].startswith("-"):
        raise InputError(f"The first argument has to be the experiment's YAML file. Usage: {USAGE}")
    hparams_file, *words = argv
    hparams_file = expanded(hparams_file)
    tree = read_yaml(hparams_file)
    _check_keys(tree, hparams_file)

    overrides, for_speechbrain, in_both = {}, [], []
    for name, values in _group(words).items():
        if name in options:
            flag = _flag_value(name, values) if options[name].nargs == 0 else None
            if flag is False:  # SpeechBrain's flags can only be raised; lowered, they are the YAML's matter
                if name in tree:
                    overrides[name] = False
                continue
            for_speechbrain += _speechbrain_words(name, values, options[name])
            if name in tree:
                in_both.append(name)
        elif name in tree:
            overrides[name] = _override_value(name, values)
        else:
            raise InputError(_unknown_name(name, hparams_file, tree, options))

    run_opts = _speechbrain_run_opts([hparams_file, *for_speechbrain])
    overrides.update({name: run_opts[name] for name in in_both})
    overrides = {**_paths_of_home(tree), **expanded(overrides)}
    _check_overrides(tree, overrides, hparams_file)
    _check_placeholders(tree, overrides, hparams_file)
    _check_numbers(tree, hparams_file)
    return hparams_file, run_opts, overrides


def check_device(run_opts: RunOptions) -> None:
    """Raise InputError if the device that was asked for is not available.

    Arguments
    ---------
    run_opts : speechbrain.utils.run_opts.RunOptions
        From `parse_arguments`.

    Example
    -------
    >>> check_device({"device": "tpu"})
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: device 'tpu' is not known: choose cpu, mps, cuda, or one of several as in cuda:1.
    """
    if run_opts["device"] is not None:  # None: SpeechBrain takes the best there is
        choose_device(run_opts["device"], auto=False)


# ---- splitting the command line


def _group(words):
    """Group the words by name: ``["--a", "1", "--b=2", "--c"]`` becomes ``{"a": ["1"], "b": ["2"], "c": []}``."""
    groups, values = {}, None
    for word in words:
        if not word.startswith("--") and values is not None:
            values.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--") or not name:
            raise InputError(f"{word!r} is not an option: an option starts with -- and a name. Usage: {USAGE}")
        if name in groups:
            raise InputError(f"--{name} is given more than once: give it once.")
        groups[name] = [value] if equals else []
        values = None if equals else groups[name]
    return groups


def _override_value(name, values):
    if len(values) > 1:
        raise InputError(
            f"--{name} takes one value, found {len(values)}: {' '.join(values)}. "
            "Put a value with spaces, a list or a mapping in quotes."
        )
    return _yaml_value(name, values[0]) if values else True


def _yaml_value(name, text):
    """Read a value as YAML if it is a number, a boolean, null, in quotes or in brackets; else keep the text."""
    yaml = YAML(typ="safe", pure=True)
    try:
        if text.startswith(("[", "{")):
            return yaml.load(text)
        node = yaml.compose(text)
        if isinstance(node, ScalarNode) and node.style in ("'", '"'):
            return yaml.load(text)
        # The value of a node differs from the text when YAML has removed something, such as a comment.
        if isinstance(node, ScalarNode) and node.value == text:
            value = yaml.load(text)
            return value if value is None or isinstance(value, (bool, int, float)) else text
    except YAMLError as error:
        if text.startswith(("[", "{")):
            raise InputError(
                f"--{name}: {text!r} starts as a list or a mapping and is not valid YAML ({_problem(error)}). "
                f"""If it is plain text, give it a second pair of quotes: --{name} "'{text}'"."""
            ) from error
    return text


# ---- SpeechBrain's run options


def _speechbrain_options():
    """Find SpeechBrain's options, from name to argparse action, in the parser that will read them."""
    actions = RunOptions._create_parser()._actions
    return {flag[2:]: action for action in actions for flag in action.option_strings if action.dest != "help"}


def _flag_value(name, values):
    value = _override_value(name, values)
    if not isinstance(value, bool):
        raise InputError(f"--{name} is a flag, found the value {values[0]!r}: give it alone, or with True or False.")
    return value


def _speechbrain_words(name, values, action):
    if action.nargs == 0:
        return [f"--{name}"]
    if action.nargs == "*":
        return [f"--{name}", *values]
    if len(values) != 1:
        raise InputError(f"--{name}, an option of SpeechBrain, takes one value, found {len(values)}.")
    return [f"--{name}={expanded(values[0])}"]


def _speechbrain_run_opts(argv):
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            _, run_opts, _ = RunOptions.from_command_line_args(argv)
    except SystemExit as error:  # how argparse refuses a value
        raise InputError("SpeechBrain's options: " + messages.getvalue().partition("error: ")[2].strip()) from error
    # SpeechBrain parses this one as text, since its default, None, has no type, and later compares it with a number.
    if isinstance(run_opts.optimizer_step_limit, str):
        try:
            run_opts = dataclasses.replace(run_opts, optimizer_step_limit=int(run_opts.optimizer_step_limit))
        except ValueError as error:
            raise InputError(
                f"--optimizer_step_limit takes a whole number, found {run_opts.optimizer_step_limit!r}."
            ) from error
    return run_opts


def _unknown_name(name, hparams_file, tree, options):
    if name in RENAMED:
        return f"--{name} is now called --{RENAMED[name]}: give it under this name."
    message = f"--{name} is neither a key of {hparams_file} nor an option of SpeechBrain."
    if name in LOADER_OPTIONS and "dataloader_opts" in tree:
        return f"{message} As an option of the data loaders: --dataloader_opts '{{{name}: VALUE}}'."
    begun = sorted(option for option in options if option.startswith(name))
    if begun:
        return f"{message} Options are written in full: did you mean {_listed(begun)}?"
    close = difflib.get_close_matches(name, [*map(str, tree), *options], n=3)
    if close:
        return f"{message} Did you mean {_listed(close)}?"
    return f"{message} --help lists both."


def _listed(names):
    return " or ".join(f"--{name}" for name in names)


def _show_help(argv):
    """Print SpeechBrain's options and, where a YAML file is given, its keys; then exit."""
    parser = RunOptions._create_parser()
    parser.usage = USAGE
    parser.description = "Run an experiment. Every top-level key of its YAML file is an option too."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    # SpeechBrain makes them of a set, so they come in another order each time.
    parser._optionals._group_actions.sort(key=lambda action: action.option_strings)
    if not argv[0].startswith("-"):
        tree = read_yaml(argv[0])
        values = {key: _shown(value) for key, value in tree.items() if not _is_built(value) and key != "modules"}
        width = max((len(f"{key} {value}") for key, value in values.items() if len(value) < WIDE), default=0)
        keys = (f"  --{f'{key} {value}':{width}}  {_comment(tree, key)}".rstrip() for key, value in values.items())
        parser.epilog = "\n".join([f"keys of {argv[0]}, with their values there:", *keys])
    parser.parse_args(["--help"])


def _is_built(node):
    """Whether it is an object or the result of a call, whose settings are keys of their own."""
    return _tag(node).startswith(("!new:", "!name:", "!apply:", "!applyref:"))


def _shown(value):
    if _tag(value) == "!PLACEHOLDER":
        return "(has to be given)"
    if isinstance(value, (Mapping, list)):
        return json.dumps(value, default=str)
    return "null" if value is None else str(getattr(value, "value", value))


def _comment(tree, key):
    """The comment in the line of a key."""
    tokens = getattr(tree, "ca", None) and tree.ca.items.get(key)
    comments = [token.value for token in tokens or [] if hasattr(token, "value")]
    return comments[0].partition("\n")[0].lstrip("# ") if comments else ""


# ---- the YAML file


def read_yaml(path: str | Path) -> Any:
    """Load the tree of a YAML file, its tags kept, nothing built."""
    try:
        with open(path, encoding="utf-8") as file:
            tree = YAML().load(file)
    except OSError as error:
        raise InputError(f"{path}: can't read the YAML file ({error.strerror}). Give the path of one.") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {_problem(error)}.") from error
    if not isinstance(tree, Mapping):
        raise InputError(f"{path} has to hold keys and values, as `seed: 1234`; found {type(tree).__name__}.")
    return tree


def _paths_of_home(tree):
    """The top-level values of a YAML file that begin with ``~``, with the home folder in its place."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, str) and expanded(value) != value:
            found[key] = expanded(str(value))
        elif _tag(value) == "!ref" and str(value.value).startswith("~"):
            found[key] = TaggedScalar(expanded(str(value.value)), tag=value.tag)
    return found


def _check_keys(tree, hparams_file):
    """Refuse keys of earlier versions, which would have no effect."""
    renamed = [f"{key} is now called {RENAMED[key]}" for key in tree if key in RENAMED]
    built = [key for key in tree if key in BUILT_IN_CODE]
    if renamed:
        raise InputError(f"{hparams_file}: {', '.join(renamed)}. Rename what has another name in the file.")
    if built:
        raise InputError(
            f"{hparams_file}: {', '.join(built)} would have no effect: train.py makes what such keys described. "
            "Remove them; the files in hparams/ show which keys there are."
        )


def _problem(error):
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def _tag(node):
    return (node.tag.value or "") if hasattr(node, "tag") else ""


def _check_overrides(tree, overrides, hparams_file, path=""):
    """Refuse overrides that HyperPyYAML would accept silently, or fail on with an unclear message."""
    for key, value in overrides.items():
        here = f"{path}.{key}" if path else str(key)
        open_mapping = path and not tree and not _tag(tree)  # `{}`: the code that reads it checks its keys
        if path and not open_mapping and key not in tree and not _accepts(tree, key, hparams_file):
            close = difflib.get_close_matches(str(key), [*map(str, tree)], n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InputError(
                f"{here} is not in {hparams_file}: {path} has {', '.join(map(str, tree)) or 'no keys'}.{hint}"
            )
        if isinstance(value, Mapping) and key in tree:
            if not isinstance(tree[key], Mapping):
                raise InputError(f"{here} in {hparams_file} is not a mapping; found {dict(value)} for it.")
            _check_overrides(tree[key], value, hparams_file, here)
        else:
            _check_text(here, value)
            if key in tree:
                _check_kind(here, tree[key], value, hparams_file)


def _check_kind(path, default, value, hparams_file):
    """Refuse text for a number, and anything but True or False for a boolean."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise InputError(f"{path} is true or false, as in {hparams_file}; found {value!r}. Give one of the two.")
    elif isinstance(default, (int, float)) and (
        isinstance(value, bool) or not (value is None or isinstance(value, (int, float)))
    ):
        raise InputError(
            f"{path} takes a number, as {default} in {hparams_file}; found {value!r}. Give one, such as --{path} "
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
    kind, _, name = _tag(node).partition(":")
    if kind == "!include":
        return key in read_yaml(os.path.join(os.path.dirname(os.path.realpath(hparams_file)), name))
    if kind not in ("!new", "!name", "!apply", "!applyref"):
        return False
    try:
        parameters = inspect.signature(pydoc.locate(name)).parameters
    except (TypeError, ValueError):  # not there, or without a signature
        return False
    return key in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _check_placeholders(tree, overrides, hparams_file):
    recursive_update(tree, overrides)
    missing = list(_placeholders(tree))
    if missing:
        given = " ".join(dict.fromkeys(_how_to_give(path) for path in missing))
        raise InputError(f"{hparams_file} needs a value for {', '.join(missing)}. Add: {given}")


def _check_numbers(tree, hparams_file):
    """Refuse numbers with which PyTorch or SpeechBrain would fail with an unclear error."""
    for key, least in LEAST.items():
        value = tree.get(key)
        if isinstance(value, (int, float)) and (isinstance(value, bool) or int(value) != value or value < least):
            raise InputError(f"{key} in {hparams_file} must be a whole number from {least}; found {value}.")


def _how_to_give(path):
    """Write the option that sets a path: ``--a VALUE``, ``--a '{b: VALUE}'``; a list is given as a whole."""
    key, *inner = path.partition("[")[0].split(".")
    if not inner:
        return f"--{key} VALUE"
    return f"--{key} '{''.join(f'{{{part}: ' for part in inner)}VALUE{'}' * len(inner)}'"


def _placeholders(node, path=""):
    if _tag(node) == "!PLACEHOLDER":
        yield path
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _placeholders(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _placeholders(value, f"{path}[{index}]")
