"""The ``hyperparams.yaml`` of a training, or of an export of an earlier version: its plain values and three networks.

This package writes both for HyperPyYAML, which would build all objects in them. Here only ``encoder``, ``masknet`` and
``decoder`` of a few allowed classes are built, whose constructors only create layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml
from speechbrain.lobes.models.dual_path import Decoder, Encoder

from mossformer_sb.errors import InputError
from mossformer_sb.network import baselines, masknet, mossformer2, sizes
from mossformer_sb.sharing.folder import MODULES
from mossformer_sb.utils.weights import check_no_pointer

_NETWORKS = {
    f"mossformer_sb.{item.__name__}": item
    for item in (
        baselines.ConvTasNetMaskNet,
        baselines.DPRNNMaskNet,
        baselines.SepFormerMaskNet,
        masknet.MossFormerMaskNet,
        mossformer2.MossFormer2MaskNet,
        sizes.build_decoder,
        sizes.build_encoder,
        sizes.build_masknet,
    )
}
_EARLIER = {  # as in exports before version 0.1
    f"mossformer_sb.{place}.{item.__name__}": item
    for place, items in (
        ("baselines", (baselines.ConvTasNetMaskNet, baselines.DPRNNMaskNet, baselines.SepFormerMaskNet)),
        ("masknet", (masknet.MossFormerMaskNet,)),
    )
    for item in items
}
_SPEECHBRAIN = {f"speechbrain.lobes.models.dual_path.{item.__name__}": item for item in (Decoder, Encoder)}
KNOWN = {**_NETWORKS, **_EARLIER, **_SPEECHBRAIN}


@dataclass(frozen=True)
class Unbuilt:
    """A value with a tag, such as ``!new:a.B``, and its content, as plain values."""

    tag: str
    content: object


class _Reader(yaml.SafeLoader):
    """Reader of HyperPyYAML's dialect that keeps tags."""


def _keep(loader, suffix, node):
    if isinstance(node, yaml.MappingNode):
        return Unbuilt(node.tag, loader.construct_mapping(node, deep=True))
    if isinstance(node, yaml.SequenceNode):
        return Unbuilt(node.tag, loader.construct_sequence(node, deep=True))
    return Unbuilt(node.tag, node.value)


_Reader.add_multi_constructor("!", _keep)
_Reader.add_multi_constructor("tag:yaml.org,2002:python/", _keep)


def read_settings(path: str | Path) -> dict:
    """Read the file without building anything.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    dict
        Key to plain value or `Unbuilt`.

    Raises
    ------
    InputError
        If the file can't be read.

    Example
    -------
    >>> path = getfixture("tmp_path") / "hyperparams.yaml"
    >>> _ = path.write_text("rate: 8000\\nhalf: !apply:os.system [ls]")
    >>> read_settings(path)
    {'rate': 8000, 'half': Unbuilt(tag='!apply:os.system', content=['ls'])}
    """
    check_no_pointer(path)
    try:
        settings = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Reader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: can't be read as YAML ({reason}). Restore a backup.") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: must hold keys and values; found {type(settings).__name__}.")
    return settings


def check_own_training(settings: dict, folder: str | Path) -> None:
    """Check that the settings are not those of one of SpeechBrain's own recipes, whose networks have other keys.

    Arguments
    ---------
    settings : dict
        Settings from `read_settings`.
    folder : str or Path
        The output folder of the run, for the message.

    Raises
    ------
    InputError
        If they are those of a recipe.

    Example
    -------
    >>> check_own_training({"encoder": Unbuilt("", {})}, "results/mine")
    >>> check_own_training({"Encoder": Unbuilt("", {})}, "results/sepformer")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: results/sepformer: is from one of SpeechBrain's own recipes, which ...
    """
    if "Encoder" in settings and "encoder" not in settings:
        raise InputError(
            f"{folder}: is from one of SpeechBrain's own recipes, which this command can't export. Section 5 of "
            f"docs/stock_recipes.md has the Python code for it: the recipe's own YAML builds the networks, and "
            f"mossformer_sb.sharing.export writes the folder. A training can start from it, with --init_from."
        )


def build_networks(settings: dict, path: str | Path) -> dict:
    """Build the encoder, mask net and decoder that settings describe.

    Arguments
    ---------
    settings : dict
        Settings from `read_settings`.
    path : str or Path
        The file, for messages.

    Returns
    -------
    dict
        ``encoder``, ``masknet`` and ``decoder``, with random weights.

    Raises
    ------
    InputError
        If one is missing, not of a known class, or can't be built.

    Example
    -------
    >>> encoder = Unbuilt("!apply:mossformer_sb.build_encoder", {"size": "mini"})
    >>> build_networks({"encoder": encoder, "masknet": Unbuilt("!new:my.MaskNet", {})}, "x.yaml")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: x.yaml: masknet is !new:my.MaskNet, which is not one of the classes that are \
built from an untrusted file. A network of your own class is exported by its training.
    """
    return {name: _build(name, settings.get(name), path) for name in MODULES}


def briefly(value: object) -> str:
    """A value of a YAML file for a message. The text of nested ones, by aliases many times the same, has no limit.

    Example
    -------
    >>> briefly([[0]]), briefly("fast")
    ('a list', "'fast'")
    """
    return f"a {type(value).__name__}" if isinstance(value, (dict, list)) else f"{value!r:.40}"


def _build(name, node, path):
    kind, _, called = node.tag.partition(":") if isinstance(node, Unbuilt) else ("", "", "")
    if kind not in ("!new", "!apply") or called not in KNOWN:
        found = node.tag if isinstance(node, Unbuilt) else briefly(node)
        raise InputError(
            f"{path}: {name} is {found}, which is not one of the classes that are built from an untrusted file. "
            f"A network of your own class is exported by its training."
        )
    try:
        if isinstance(node.content, dict):
            return KNOWN[called](**node.content)
        return KNOWN[called](*(node.content or ()))
    except InputError as error:
        raise InputError(f"{path}: {name}: {error}") from error
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, MemoryError) as error:
        raise InputError(f"{path}: {name}: {called} can't be built: {error}") from error
