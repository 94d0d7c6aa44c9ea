"""Errors cross processes: pickle and PyTorch's data loaders build them again from their message alone."""

import builtins
import importlib
import pickle
import re
from pathlib import Path

import pytest

from mossformer_sb.data.audio_reader import DamagedAudio
from mossformer_sb.data.containers.pieces import Damage

ROOT = Path(__file__).parents[2]
CLASS = re.compile(r"^ *class (\w+)\((.*)\):", re.MULTILINE)


def exception_classes():
    """(module, class) of each exception class of the packages, found in the text: few modules must be imported."""
    found, names = set(), {name for name in dir(builtins) if name.endswith(("Error", "Exception"))}
    classes = [
        (".".join(path.relative_to(ROOT).with_suffix("").parts), name, re.findall(r"\w+", bases))
        for package in ("mossformer_sb", "data_prep")
        for path in sorted((ROOT / package).rglob("*.py"))
        for name, bases in CLASS.findall(path.read_text(encoding="utf-8"))
    ]
    while new := {(module, name) for module, name, bases in classes if names & set(bases)} - found:
        found |= new
        names |= {name for _, name in new}
    return sorted(found)


def test_the_classes_are_found():
    names = {name for _, name in exception_classes()}
    assert {"InputError", "SharedError", "DamagedAudio", "DamagedMedia", "NoSuchFile", "MissingSplits"} <= names


@pytest.mark.parametrize(("module", "name"), exception_classes())
def test_from_the_message_alone(module, name):
    try:
        kind = getattr(importlib.import_module(module), name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("mossformer_sb", "data_prep"):
            raise
        pytest.skip(f"needs {error.name}")
    error = kind("a.wav: is empty. Copy it again.")
    assert str(error) == "a.wav: is empty. Copy it again."
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error) and vars(again) == vars(error)


def test_damage_survives():
    error = DamagedAudio.of("a.wav", Damage("is broken", "Copy it again.", truncated=False))
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == "a.wav: is broken. Copy it again."
    assert again.damage == error.damage
