"""The command line of an experiment: a YAML file, SpeechBrain's run options, and new values for the YAML's keys.

`parse_arguments` replaces ``speechbrain.parse_arguments``, which accepts mistyped keys, abbreviated options, and paths
cut at a space. Here unknown names are errors, and values are kept as written.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import io
import json
import sys
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode
from speechbrain.utils.run_opts import RunOptions

from mossformer_sb.errors import InputError
from mossformer_sb.training.data_loading import LOADER_OPTIONS
from mossformer_sb.training.experiment_file import (
    RENAMED,
    TEXT_ENDINGS,
    check_keys,
    check_overrides,
    check_placeholders,
    check_values,
    expand_home,
    read_yaml,
    yaml_problem,
    yaml_tag,
)
from mossformer_sb.utils.devices import choose_device
from mossformer_sb.utils.files import expanded

USAGE = "python train.py hparams/EXPERIMENT.yaml [--key VALUE] [--key=VALUE] [--flag] ..."
WIDE = 40  # longest value, in characters, whose comment is aligned in --help


def parse_arguments(argv: list[str] | None = None) -> tuple[str, RunOptions, dict]:
    """Read the command line of an experiment.

    An option is the exact name of a top-level key of the YAML file or of one of SpeechBrain's run options; others are
    errors. A name that is both (``precision`` in many recipes) is set in both, so that the command line takes
    precedence and the saved hyperparameters show it.

    Values are read as YAML: numbers, booleans, null, and lists and mappings in brackets (in shell quotes, as one word).
    Any other text is kept unchanged. ``--key`` alone is True, ``--key=`` is the empty string. Text that looks like
    another type needs a second pair of quotes: ``--name "'007'"``. To change one value of a mapping or of an object's
    arguments, give only this one: ``--masknet '{dropout: 0.2}'``.

    Arguments
    ---------
    argv : list of str, optional
        Command-line arguments without the program's name. Default: those of this program.

    Returns
    -------
    hparams_file : str
        The YAML file.
    run_opts : speechbrain.utils.run_opts.RunOptions
        For the Brain. Parsed by SpeechBrain, with its types and defaults.
    overrides : dict
        For ``load_hyperpyyaml`` and ``create_experiment_directory``.

    Raises
    ------
    InputError
        When the file can't be read, a name is unknown or given twice, a value is invalid, or a ``!PLACEHOLDER`` has no
        value.

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
    check_keys(tree, hparams_file)

    overrides, for_speechbrain, in_both = {}, [], []
    for name, values in _group(words).items():
        if name in options:
            flag = _flag_value(name, values) if options[name].nargs == 0 else None
            if flag is False:  # SpeechBrain's flags can only be set; False only affects the YAML's key
                if name in tree:
                    overrides[name] = False
                continue
            for_speechbrain += _speechbrain_words(name, values, options[name])
            if name in tree:
                in_both.append(name)
        elif name in tree:
            overrides[name] = _override_value(name, values, _is_text(name, tree[name]))
        else:
            raise InputError(_unknown_name(name, hparams_file, tree, options))

    run_opts = _speechbrain_run_opts([hparams_file, *for_speechbrain])
    overrides.update({name: run_opts[name] for name in in_both})
    if overrides.get("ckpt_interval_steps") and "ckpt_interval_minutes" in tree:
        overrides.setdefault("ckpt_interval_minutes", 0)  # one excludes the other
    overrides = {**expand_home(tree), **expanded(overrides)}
    check_overrides(tree, overrides, hparams_file)
    check_placeholders(tree, overrides, hparams_file)
    check_values(tree, hparams_file)
    return hparams_file, run_opts, overrides


def run_option(name: str, run_opts: RunOptions, hparams: Mapping) -> Any:
    """The value of one of SpeechBrain's run options: of the command line, else of the YAML, else its default.

    Arguments
    ---------
    name : str
    run_opts : speechbrain.utils.run_opts.RunOptions
        Run options from `parse_arguments`.
    hparams : mapping
        Hyperparameters of the YAML.

    Returns
    -------
    object

    Example
    -------
    >>> run_option("debug", RunOptions(), {"debug": True}), run_option("debug", RunOptions(), {})
    (True, False)
    """
    return hparams[name] if name in hparams and name not in run_opts.overridden_args else run_opts[name]


def check_run_options(run_opts: RunOptions, hparams: Mapping) -> None:
    """Raise InputError for run options that exclude each other, or that can't work here.

    Arguments
    ---------
    run_opts, hparams
        As for `run_option`.

    Example
    -------
    >>> check_run_options(RunOptions(), {"debug": True, "test_only": True})
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: debug and test_only exclude each other: ...
    """
    found = {name: run_option(name, run_opts, hparams) for name in ("debug", "debug_persistently", "test_only", "jit")}
    if found["debug"] and not found["debug_persistently"] and found["test_only"]:
        raise InputError(
            "debug and test_only exclude each other: a debug run has no checkpoint that could be tested. Leave one out."
        )
    if found["jit"] or run_option("jit_module_keys", run_opts, hparams):
        raise InputError("jit is not supported: the networks can't be scripted by torch.jit. Leave it out.")
    if run_option("max_grad_norm", run_opts, hparams) == 0:
        raise InputError("max_grad_norm is 0, so that all gradients would be zero: give more, or -1 for no limit.")
    intervals = ("ckpt_interval_minutes", "ckpt_interval_steps")
    if all(run_option(name, run_opts, hparams) > 0 for name in intervals):
        raise InputError(f"{' and '.join(intervals)} exclude each other: set one of them to 0.")


def check_device(run_opts: RunOptions) -> None:
    """Raise InputError if the requested device is not available.

    Arguments
    ---------
    run_opts : speechbrain.utils.run_opts.RunOptions
        Run options from `parse_arguments`.

    Example
    -------
    >>> check_device({"device": "tpu"})
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: device 'tpu' is not known: choose cpu, mps, cuda, or one of several as in cuda:1.
    """
    if run_opts["device"] is not None:  # None: SpeechBrain chooses the best one
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


def _is_text(name, default):
    """Whether the value of a key is text, though it may look like a number, such as the name of a folder."""
    return isinstance(default, str) or name.endswith(TEXT_ENDINGS)


def _override_value(name, values, is_text=False):
    if is_text and not values:
        raise InputError(f"--{name} takes one value, found none: give it.")
    if len(values) > 1:
        raise InputError(
            f"--{name} takes one value, found {len(values)}: {' '.join(values)}. "
            "Put a value with spaces, a list or a mapping in quotes."
        )
    value = _yaml_value(name, values[0]) if values else True
    return values[0] if is_text and isinstance(value, (bool, int, float)) else value


def _yaml_value(name, text):
    """Read a value as YAML if it is a number, a boolean, null, in quotes or in brackets; else keep the text."""
    yaml = YAML(typ="safe", pure=True)
    try:
        if text.startswith(("[", "{")):
            return yaml.load(text)
        node = yaml.compose(text)
        if isinstance(node, ScalarNode) and node.style in ("'", '"'):
            return yaml.load(text)
        # The value of a node differs from the text if YAML has removed a part, such as a comment.
        if isinstance(node, ScalarNode) and node.value == text:
            value = yaml.load(text)
            return value if value is None or isinstance(value, (bool, int, float)) else text
    except YAMLError as error:
        if text.startswith(("[", "{")):
            raise InputError(
                f"--{name}: {text!r} starts as a list or a mapping and is not valid YAML ({yaml_problem(error)}). "
                f"""If it is plain text, give it a second pair of quotes: --{name} "'{text}'"."""
            ) from error
    return text


# ---- SpeechBrain's run options


def _speechbrain_options():
    """SpeechBrain's options, from name to argparse action."""
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
    except SystemExit as error:  # argparse exits at an invalid value
        raise InputError("SpeechBrain's options: " + messages.getvalue().partition("error: ")[2].strip()) from error
    # SpeechBrain parses this one as text, since its default is None, and later compares it with a number.
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
    # SpeechBrain creates them from a set, in an arbitrary order.
    parser._optionals._group_actions.sort(key=lambda action: action.option_strings)
    if not argv[0].startswith("-"):
        tree = read_yaml(argv[0])
        values = {key: _shown(value) for key, value in tree.items() if not _is_built(value) and key != "modules"}
        width = max((len(f"{key} {value}") for key, value in values.items() if len(value) < WIDE), default=0)
        keys = (f"  --{f'{key} {value}':{width}}  {_comment(tree, key)}".rstrip() for key, value in values.items())
        parser.epilog = "\n".join([f"keys of {argv[0]}, with their values there:", *keys])
    parser.parse_args(["--help"])


def _is_built(node):
    """Whether a node is an object or the result of a call, whose settings are separate keys."""
    return yaml_tag(node).startswith(("!new:", "!name:", "!apply:", "!applyref:"))


def _shown(value):
    if yaml_tag(value) == "!PLACEHOLDER":
        return "(required)"
    if isinstance(value, (Mapping, list)):
        return json.dumps(value, default=str)
    return "null" if value is None else str(getattr(value, "value", value))


def _comment(tree, key):
    """The comment in the line of a key."""
    tokens = getattr(tree, "ca", None) and tree.ca.items.get(key)
    comments = [token.value for token in tokens or [] if hasattr(token, "value")]
    return comments[0].partition("\n")[0].lstrip("# ") if comments else ""
