"""Loading a model folder without running code that is written in it.

SpeechBrain's way to load a model, HyperPyYAML, calls whatever a YAML file names, and a pickle can do the same. Here a
YAML file is read into a tree in which nothing has been built, everything in it that is not known is refused by name,
and what is left is built by this module: a few classes, named exactly, whose constructors do nothing but make layers.
Weights are read from safetensors, or from checkpoints with PyTorch's ``weights_only``.

It keeps code from running. It doesn't keep a file from describing a network larger than the memory.
"""

import logging
import pydoc
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from mossformer_sb.errors import InputError
from mossformer_sb.sharing.fetching import ModelSource
from mossformer_sb.sharing.folder import HPARAMS_FILE, MODULES
from mossformer_sb.sharing.record import RECORD_FILE
from mossformer_sb.sharing.released_cache import resolve_source
from mossformer_sb.sharing.weights import check_no_pointer, load_weights
from mossformer_sb.utils.files import locate

logger = logging.getLogger(__name__)

PRETRAINER = "speechbrain.utils.parameter_transfer.Pretrainer"
# Exact names. Not one of these may do anything with its arguments but make layers of them.
NETWORKS = frozenset(
    {
        "mossformer_sb.ConvTasNetMaskNet",
        "mossformer_sb.DPRNNMaskNet",
        "mossformer_sb.MossFormer2MaskNet",
        "mossformer_sb.MossFormerMaskNet",
        "mossformer_sb.SepFormerMaskNet",
        # As earlier exports have them.
        "mossformer_sb.baselines.ConvTasNetMaskNet",
        "mossformer_sb.baselines.DPRNNMaskNet",
        "mossformer_sb.baselines.SepFormerMaskNet",
        "mossformer_sb.masknet.MossFormerMaskNet",
        "speechbrain.lobes.models.dual_path.Decoder",
        "speechbrain.lobes.models.dual_path.Encoder",
    }
)
BUILDERS = frozenset(
    {"mossformer_sb.build_decoder", "mossformer_sb.build_encoder", "mossformer_sb.build_masknet"}
)  # what the experiments call
DEEPEST = 100  # of what refers to, or holds, something else; an exported model has 3

_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "map", "null", "seq", "str")}
_REFERENCE = re.compile(r"<(\w+)((?:\[\w+\])*)>")
_NAME = re.compile(r"\w+")
_KEY_OF_A_TRAINING = re.compile(r"^save_folder:", re.MULTILINE)
_KEY_OF_A_MODEL = re.compile(r"^pretrainer:", re.MULTILINE)


@dataclass(eq=False)
class Tagged:
    """A node of the tree that has something built: its tag, such as ``!new:a.B``, and its content."""

    tag: str
    content: Any
    line: int


class Tree:
    """A YAML file as plain values and `Tagged` nodes; nothing is built before `build`.

    Arguments
    ---------
    text : str
        The YAML file's content.
    name : str
        Its name, for messages.
    allowed : collection of str
        The exact dotted names that may be built or called.

    Raises
    ------
    InputError
        If it isn't valid YAML.

    Example
    -------
    >>> tree = Tree("rate: 8000\\nhalf: !apply:os.system [ls]", "x.yaml", allowed=NETWORKS)
    >>> tree.build("rate")
    8000
    >>> tree.build("half")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: x.yaml, line 2: !apply:os.system is refused, since the model is not trusted. If \
you know who made it, and that this may run here, load it with trust=True.
    """

    def __init__(self, text, name, allowed):
        self.name = name
        self.allowed = allowed
        self._built = {}
        try:
            node = YAML(typ="safe", pure=True).compose(text)
            self.root = self._plain(node, {}) if node is not None else {}
        except YAMLError as error:
            raise InputError(f"{name}: is not valid YAML ({error}). Download the file again.") from error
        except RecursionError as error:
            raise InputError(f"{name}: is nested too deeply to be the description of a model.") from error
        if not isinstance(self.root, dict):
            raise InputError(f"{name}: has to hold keys and values; found {type(self.root).__name__}.")

    def check(self):
        """Raise InputError if anything in the tree would be refused; builds nothing."""
        self._check(self.root, set())

    def build(self, key):
        """Build the value of a top-level key, and what it refers to; each thing once.

        Arguments
        ---------
        key : str

        Returns
        -------
        object

        Raises
        ------
        InputError
            If the key is absent, or its value is refused or can't be built.
        """
        if key not in self.root:
            raise InputError(f"{self.name}: has no key {key!r}, so it doesn't describe a separator.")
        return self._build(self.root[key], ())

    def update(self, overrides, must_match=True):
        """Put plain values in the place of others, as HyperPyYAML's overrides do.

        Arguments
        ---------
        overrides : mapping
            Key to value, or to a mapping for a part of what is there.
        must_match : bool
            Whether every top-level key has to be there.
        """
        unknown = [key for key in overrides if key not in self.root] if must_match else []
        if unknown:
            raise InputError(
                f"{self.name}: has no key {unknown[0]!r} to override; it has {', '.join(map(str, self.root))}."
            )
        _merge(self.root, overrides)

    # ---- reading

    def _plain(self, node, seen):
        """A composed node as plain values; the same node, reached through an alias, gives the same object."""
        if id(node) in seen:
            if seen[id(node)] is None:
                raise self._refusal(node, "a node that contains itself")
            return seen[id(node)]
        seen[id(node)] = None
        if isinstance(node, ScalarNode):
            content = self._scalar(node)
        elif isinstance(node, SequenceNode):
            content = [self._plain(item, seen) for item in node.value]
        else:
            content = self._mapping(node, seen)
        tag = str(node.tag or "")
        seen[id(node)] = content if tag in _PLAIN else Tagged(tag, content, node.start_mark.line + 1)
        return seen[id(node)]

    def _mapping(self, node, seen):
        assert isinstance(node, MappingNode)
        content = {}
        for key_node, value in node.value:
            key = self._plain(key_node, seen)
            if not isinstance(key, (str, int, float, bool, type(None))):
                raise self._refusal(key_node, f"{key_node.tag} as a key")
            if key in content:
                raise self._refusal(key_node, f"the key {key!r}, given twice,")
            content[key] = self._plain(value, seen)
        return content

    def _scalar(self, node):
        if str(node.tag) in _PLAIN and node.tag != "tag:yaml.org,2002:str":
            return YAML(typ="safe", pure=True).load(node.value)
        if node.style is None and re.fullmatch(r"\(.*\)", node.value):
            # HyperPyYAML reads this as a tuple, with a loader that makes any Python object.
            raise self._refusal(node, f"{node.value!r}, a tuple,")
        return node.value

    def _refusal(self, node, what):
        return self._refused(node.start_mark.line + 1, what)

    def _refused(self, line, what):
        return InputError(
            f"{self.name}, line {line}: {what} is refused, since the model is not trusted. If you know who made it, "
            f"and that this may run here, load it with trust=True."
        )

    # ---- checking

    def _check(self, node, done):
        if id(node) in done:
            return
        done.add(id(node))
        if isinstance(node, Tagged):
            self._check_tagged(node)
            node = node.content
        if isinstance(node, (dict, list)):
            for value in node.values() if isinstance(node, dict) else node:
                self._check(value, done)

    def _check_tagged(self, node):
        kind, _, name = node.tag.partition(":")
        if node.tag == "!ref":
            self._target(node)
        elif not (kind in ("!new", "!apply") and name in self.allowed):
            raise self._refused(node.line, node.tag)
        if name == PRETRAINER:
            extra = sorted(set(node.content or {}) - {"loadables"}) if isinstance(node.content, dict) else ["a list"]
            if extra:
                raise self._refused(node.line, f"{extra[0]} in the Pretrainer")

    def _target(self, node):
        """The node that a ``!ref <key[part]>`` leads to."""
        match = _REFERENCE.fullmatch(node.content) if isinstance(node.content, str) else None
        if not match:
            raise self._refused(node.line, f"!ref {node.content}, which is more than the name of a key,")
        target = self.root
        for part in [match[1], *re.findall(r"\w+", match[2])]:
            target = target.content if isinstance(target, Tagged) else target
            if not isinstance(target, dict) or part not in target:
                raise InputError(f"{self.name}, line {node.line}: !ref {node.content} is an undefined reference.")
            target = target[part]
        return target

    # ---- building

    def _build(self, node, parents):
        if not isinstance(node, (Tagged, dict, list)):
            return node
        if any(node is parent for parent in parents):
            raise InputError(f"{self.name}: a reference leads back to itself.")
        if len(parents) == DEEPEST:
            raise InputError(f"{self.name}: has references or lists in each other, more than {DEEPEST} deep.")
        if id(node) not in self._built:
            self._built[id(node)] = self._make(node, (*parents, node))
        return self._built[id(node)]

    def _make(self, node, parents):
        if isinstance(node, dict):
            return {key: self._build(value, parents) for key, value in node.items()}
        if isinstance(node, list):
            return [self._build(value, parents) for value in node]
        self._check_tagged(node)
        if node.tag == "!ref":
            return self._build(self._target(node), parents)
        name = node.tag.partition(":")[2]
        arguments = self._build(node.content, parents)
        positional, named = ([], arguments) if isinstance(arguments, dict) else (arguments or [], {})
        make = pydoc.locate(name)
        if make is None:
            raise InputError(f"{self.name}, line {node.line}: there is no {name} here. Install a newer mossformer_sb.")
        try:
            return make(*positional, **named)
        except InputError as error:
            raise InputError(f"{self.name}, line {node.line}: {name}: {error}") from error
        except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, MemoryError) as error:
            raise InputError(f"{self.name}, line {node.line}: {name} can't be built: {error}") from error


def _merge(old, new):
    for key, value in new.items():
        target = old.get(key)
        target = target.content if isinstance(target, Tagged) else target
        if isinstance(value, Mapping) and isinstance(target, dict):
            _merge(target, value)
        else:
            old[key] = value


def find_model(source, hparams_file=HPARAMS_FILE, **fetching):
    """Find a model by its folder, by the output folder of its training, or by its name on a model hub.

    Arguments
    ---------
    source : str, Path or ModelSource
        As for `mossformer_sb.sharing.fetching.ModelSource`; one of these is returned as it is.
    hparams_file : str
        Name of the YAML file in it.
    **fetching
        Further arguments of `ModelSource`.

    Returns
    -------
    ModelSource
        Of a training's output folder, its export.

    Raises
    ------
    InputError
        If there is no such folder, or it is a local folder and no model's; a model hub is not asked.
    """
    if isinstance(source, ModelSource):
        return source
    source = resolve_source(source)
    model = ModelSource(source, **fetching)
    if model.folder is None:
        return model
    export_folder = export_of_training(model.folder)
    if export_folder is not None:
        logger.info("%s is the output folder of a training: taking its export, %s", model.folder, export_folder)
        return ModelSource(export_folder, **fetching)
    if not (model.folder / hparams_file).is_file():
        raise InputError(
            f"{model.folder}: holds no {hparams_file}, so it is no exported model. Training writes one to its "
            f"export_folder, by default <output_folder>/export."
        )
    return model


def export_of_training(folder):
    """The exported model in the output folder of a training.

    Arguments
    ---------
    folder : Path

    Returns
    -------
    Path or None
        None for a folder that is no training's.

    Raises
    ------
    InputError
        If it is one, and has no export.
    """
    path = folder / HPARAMS_FILE
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    has_settings = _KEY_OF_A_TRAINING.search(text) and not _KEY_OF_A_MODEL.search(text)
    if not (has_settings or (folder / RECORD_FILE).is_file()):
        return None
    try:
        settings = Tree(text, str(path), ()).root
    except InputError:
        settings = {}
    named, output_folder = (settings.get(key) for key in ("export_folder", "output_folder"))
    export_folder = locate(folder, named, output_folder) if isinstance(named, str) else folder / "export"
    if (export_folder / HPARAMS_FILE).is_file():
        return export_folder
    raise InputError(
        f"{folder}: is the output folder of a training. Its model is in its export_folder, {export_folder}, which "
        f"is not there yet: `mossformer-sb export {folder} --output_folder MODEL` makes one of the best checkpoint."
    )


def load_model(source, hparams_file=HPARAMS_FILE, overrides=None, overrides_must_match=True, **fetching):
    """Load a separator that is not trusted, with its weights, from a model folder or a model hub.

    Arguments
    ---------
    source, hparams_file, **fetching
        As for `find_model`.
    overrides, overrides_must_match
        As for `load_hparams`.

    Returns
    -------
    dict
        At least ``sample_rate``, Hz; ``num_spks``; and ``modules``: ``encoder``, ``masknet`` and ``decoder``.

    Raises
    ------
    InputError
        If there is no such model, or something in it is refused, missing, or doesn't fit.

    Example
    -------
    >>> from mossformer_sb import MossFormerSeparator
    >>> from mossformer_sb.sharing.folder import export
    >>> separator = MossFormerSeparator.from_size("mini")
    >>> folder = export(getfixture("tmp_path") / "model", dict(separator.named_children()), sample_rate=8000)
    >>> model = load_model(folder)
    >>> model["sample_rate"], sorted(model["modules"])
    (8000, ['decoder', 'encoder', 'masknet'])
    """
    source = find_model(source, hparams_file, **fetching)
    hparams = load_hparams(source, hparams_file, overrides, overrides_must_match)
    modules = hparams.get("modules")
    modules = modules if isinstance(modules, dict) else {}
    numbers = ("sample_rate", "num_spks")
    wrong = [key for key in numbers if not isinstance(hparams.get(key), int) or hparams[key] < 1]
    wrong += [f"modules: {key}" for key in MODULES if not isinstance(modules.get(key), torch.nn.Module)]
    if wrong:
        raise InputError(
            f"{source.name}: {hparams_file} has no usable {', '.join(wrong)}, so it doesn't describe a separator. A "
            f"whole one has sample_rate and num_spks, whole numbers, and modules: encoder, masknet and decoder."
        )
    return hparams


def load_hparams(source, hparams_file, overrides=None, overrides_must_match=True):
    """Build what the YAML file of a model that is not trusted describes, with its weights.

    Arguments
    ---------
    source : ModelSource
        Where its files are.
    hparams_file : str
        Name of the YAML file in it.
    overrides : mapping, optional
        Other plain values for the YAML's keys.
    overrides_must_match : bool
        Whether each has to have its place in the YAML.

    Returns
    -------
    dict
        As from ``load_hyperpyyaml``, without the pretrainer; the weights are in the modules.

    Raises
    ------
    InputError
        If the source can't be fetched, or something in it is refused, missing, or doesn't fit.
    """
    path = source.file(hparams_file)
    check_no_pointer(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text in UTF-8, so it is no {hparams_file}.") from error
    tree = Tree(text, str(path), NETWORKS | {PRETRAINER})
    tree.update(overrides or {}, overrides_must_match)
    tree.check()
    loadables = _loadables(tree)
    hparams = {key: tree.build(key) for key in tree.root if key != "pretrainer"}
    for name, module in loadables.items():
        load_weights(module, source.weights(name), name)
    return hparams


def _loadables(tree):
    """Name to module, as the Pretrainer has them."""
    node = tree.root.get("pretrainer")
    if not isinstance(node, Tagged) or node.tag != f"!new:{PRETRAINER}":
        raise InputError(f"{tree.name}: the key pretrainer has to be !new:{PRETRAINER}, which tells what has weights.")
    loadables = tree._build((node.content or {}).get("loadables"), ()) or {}
    for name, module in loadables.items() if isinstance(loadables, dict) else [("loadables", None)]:
        if not isinstance(module, torch.nn.Module) or not _NAME.fullmatch(str(name)):
            raise tree._refused(node.line, f"{name!r} in the Pretrainer, which is no network,")
    return loadables
