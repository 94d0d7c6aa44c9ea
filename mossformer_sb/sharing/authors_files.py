"""The files of the authors' checkpoints: recognising their formats, and reading them as plain tensors.

Four formats for two networks:

- MossFormer, in ModelScope's package: ``encoder.bin``, ``masknet.bin``, ``decoder.bin``.
- MossFormer2, in ModelScope's package: one state dict, ``pytorch_model.pt`` or ``.bin``. For its pipelines, both have
  ``configuration.json``, with the network's arguments under ``model``.
- MossFormer2 "standalone", of github.com/alibabasglab/MossFormer2: ``config.json``, and ``encoder.ckpt``,
  ``masknet.ckpt``, ``decoder.ckpt``, or all in ``pytorch_model.bin`` or ``model.safetensors``.
- MossFormer2 in ClearerVoice-Studio: ``last_best_checkpoint``, a text file with the name of a checkpoint, which holds
  the weights under ``model`` and the state of the optimizer, which is ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from mossformer_sb.errors import InputError
from mossformer_sb.sharing.folder import MODULES, describes_model, is_model_folder
from mossformer_sb.utils.files import expanded
from mossformer_sb.utils.weights import is_state_dict, read_plain, read_state_dict

CONFIG_FILE = "config.json"
CONFIGURATION_FILE = "configuration.json"  # ModelScope's
GROUP_SIZE = 256  # of all released models
POINTERS = ("last_best_checkpoint", "last_checkpoint")  # of ClearerVoice; the first existing one is read
WHOLE_FILES = ("pytorch_model.pt", "pytorch_model.bin", "model.safetensors")
MAPPING_TASK = "mossformer2-whamr-2spk"  # config_name with which the standalone applies no masks
TRAINING_FILES = "model.ckpt-*.pt"  # of ClearerVoice, during training
# Prefixes of keys, in the order of `MODULES`.
MODELSCOPE_PREFIXES = ("enc.", "mask_net.", "dec.")
STANDALONE_PREFIXES = ("encoder.", "masknet.", "decoder.")
# Part of a mask net's key in the standalone, and in ModelScope's package; the rest is identical.
_STANDALONE_PARTS = (
    ("dual_mdl.0.intra_mdl.mdl.flashT.", "mdl.intra_mdl.mossformerM."),
    ("dual_mdl.0.intra_mdl.mdl.norm.norm.", "mdl.intra_mdl.norm."),
    ("dual_mdl.0.intra_norm.", "mdl.intra_norm."),
)
# The other networks of ClearerVoice-Studio, by the prefix of a key.
_OTHERS = {
    "mossformer.": "MossFormer2_SE_48K, which enhances the speech of one speaker",
    "sep_network.": "AV_MossFormer2_TSE_16K, which extracts one speaker with the help of video",
    "dense_encoder.": "MossFormerGAN_SE_16K, which enhances the speech of one speaker",
    "unet.": "FRCRN_SE_16K, which enhances the speech of one speaker",
    "generator.": "MossFormer2_SR_48K, which raises the sample rate of speech",
}
_SUPER_RESOLUTION = _OTHERS["generator."]
_EXPECTED = (
    "encoder.bin, masknet.bin and decoder.bin (MossFormer); pytorch_model.pt or pytorch_model.bin (ModelScope's "
    "MossFormer2); encoder.ckpt, masknet.ckpt, decoder.ckpt and config.json (the standalone MossFormer2); or "
    "last_best_checkpoint and the .pt file that it names (ClearerVoice-Studio)"
)


@dataclass
class AuthorsCheckpoint:
    """A checkpoint of the authors, with ModelScope's parameter names.

    ``states`` has the state dict of each of `MODULES`; ``form`` is "modelscope", "standalone" or "clearvoice";
    ``files`` has the file of each module; ``settings`` is the content of ``config.json``, or what
    ``configuration.json`` has under ``model``.
    """

    source: Path
    form: str
    states: dict
    files: dict
    settings: dict = field(default_factory=dict)
    one_file: bool = False

    def key_in_file(self, module: str, key: str) -> str:
        """Name of a parameter in the file."""
        if self.form == "standalone" and module == "masknet":
            key = to_standalone(key)
        if not self.one_file:
            return key
        prefixes = STANDALONE_PREFIXES if self.form == "standalone" else MODELSCOPE_PREFIXES
        return prefixes[MODULES.index(module)] + key


def read_checkpoint(source: str | Path) -> AuthorsCheckpoint:
    """Read a checkpoint of the authors in any of their formats.

    Arguments
    ---------
    source : str or Path
        A folder, or a single file of all weights.

    Returns
    -------
    AuthorsCheckpoint

    Raises
    ------
    InputError
        If it is not a checkpoint, or its network is not supported.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> state = {"enc.conv1d.weight": torch.zeros(64, 1, 16), "mask_net.norm.weight": torch.zeros(64)}
    >>> torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, folder / "best.pt")
    >>> _ = (folder / "last_best_checkpoint").write_text("best.pt\\n")
    >>> checkpoint = read_checkpoint(folder)
    >>> checkpoint.form, [*checkpoint.states["masknet"]]
    ('clearvoice', ['norm.weight'])
    """
    source = Path(expanded(source))
    if source.is_file():
        if source.name in POINTERS:
            return _of_whole(source.parent, _pointed_at(source), "clearvoice")
        return _of_whole(source, source)
    if not source.is_dir():
        raise InputError(f"{source}: there is no such folder or file. Give a folder with {_EXPECTED}.")
    if is_model_folder(source):
        if not describes_model(source / CONFIG_FILE):
            raise InputError(
                f"{source}: is an export of an earlier version of mossformer_sb, or a model for SpeechBrain: "
                f"`mossformer-sb export {source} --output_folder MODEL` converts the former."
            )
        raise InputError(
            f"{source}: is already a model folder, and needs no conversion. To convert it into an "
            f"authors' format, choose one with --to."
        )
    for ending in (".bin", ".ckpt"):
        files = {name: source / f"{name}{ending}" for name in MODULES}
        if all(path.is_file() for path in files.values()):
            return _of_three(source, files)
    for name in POINTERS:
        if (source / name).is_file():
            return _of_whole(source, _pointed_at(source / name), "clearvoice")
    whole = [source / name for name in WHOLE_FILES if (source / name).is_file()]
    return _of_whole(source, whole[0] if whole else _only_training_file(source))


def _of_three(source, files):
    """Checkpoint of a folder with one file per module."""
    states = {name: _without_module(read_state_dict(path)) for name, path in files.items()}
    _refuse_others(source, [key for state in states.values() for key in state])
    is_standalone = any(key.startswith("dual_mdl.") for key in states["masknet"])
    if is_standalone:
        states["masknet"] = {from_standalone(key): value for key, value in states["masknet"].items()}
    names = {name: path.name for name, path in files.items()}
    form = "standalone" if is_standalone else "modelscope"
    return AuthorsCheckpoint(source, form, states, names, _settings(source, form))


def _of_whole(source, path, form="modelscope"):
    """Checkpoint of one file with all weights."""
    state, is_training = _read_whole(path)
    _refuse_others(path, state)
    form, prefixes = "clearvoice" if is_training else form, MODELSCOPE_PREFIXES
    if any(key.startswith("masknet.") for key in state):
        form, prefixes = "standalone", STANDALONE_PREFIXES
    states = {name: {} for name in MODULES}
    for key, value in state.items():
        index = next((number for number, prefix in enumerate(prefixes) if key.startswith(prefix)), None)
        if index is None:
            raise InputError(
                f"{path}: is not a checkpoint of the authors' MossFormer or MossFormer2: unknown key {key!r}. Their "
                f"keys begin with {', '.join(MODELSCOPE_PREFIXES)} or {', '.join(STANDALONE_PREFIXES)}."
            )
        inner = key.removeprefix(prefixes[index])
        is_masknet = MODULES[index] == "masknet"
        states[MODULES[index]][from_standalone(inner) if form == "standalone" and is_masknet else inner] = value
    files = dict.fromkeys(MODULES, path.name)
    return AuthorsCheckpoint(source, form, states, files, _settings(path.parent, form), one_file=True)


def _read_whole(path):
    """The state dict, without the prefix of parallel training; and whether it is from a training."""
    content = read_plain(path)
    content = content if isinstance(content, dict) else {}
    if any(isinstance(content.get(key), dict) for key in ("mossformer", "generator")):
        raise _is_other(path, _SUPER_RESOLUTION)
    is_training = isinstance(content.get("model"), dict)
    state = content["model"] if is_training else content
    if not state or not is_state_dict(state):
        raise InputError(f"{path}: must hold a state dict, names and tensors, or one under 'model'; found neither.")
    return _without_module(state), is_training


def _without_module(state):
    """A state dict without the prefix of parallel training."""
    parallel = all(key.startswith("module.") for key in state)
    return {key.removeprefix("module.") if parallel else key: value for key, value in state.items()}


def _refuse_others(path, keys):
    """Raise InputError if the keys are of an unsupported network of the authors."""
    for key in keys:
        for prefix, what in _OTHERS.items():
            if key.startswith(prefix):
                raise _is_other(path, what)


def _is_other(path, what):
    return InputError(
        f"{path}: is ClearerVoice's {what}. It is not an audio-only separator of mixtures, and not supported. "
        f"`mossformer-sb models` lists the supported models."
    )


def _pointed_at(pointer):
    """The checkpoint that ClearerVoice's text file refers to."""
    try:
        names = [line.strip() for line in pointer.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{pointer}: is not text; it must hold the name of a checkpoint in its folder.") from error
    if len(names) == 2:
        raise _is_other(pointer, _SUPER_RESOLUTION)
    if len(names) != 1 or Path(names[0]).name != names[0]:
        raise InputError(f"{pointer}: must hold the name of one file in its folder; found {' '.join(names)[:80]!r}.")
    path = pointer.parent / names[0]
    if not path.is_file():
        raise InputError(f"{pointer}: refers to {names[0]}, which is not in its folder. Add it, or give a .pt file.")
    return path


def _only_training_file(folder):
    found = sorted(folder.glob(TRAINING_FILES))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{folder}: holds several checkpoints, {names}: give the path of one of them.")
    if found:
        return found[0]
    endings = (".bin", ".ckpt")
    some = [folder / f"{name}{ending}" for ending in endings for name in MODULES]
    some = [path.name for path in some if path.is_file()]
    if some:
        ending = Path(some[0]).suffix
        missing = [f"{name}{ending}" for name in MODULES if f"{name}{ending}" not in some]
        raise InputError(f"{folder}: holds {', '.join(some)}, but no {' and no '.join(missing)}. All three are needed.")
    raise InputError(f"{folder}: holds no checkpoint of the authors. Expected {_EXPECTED}.")


def _settings(folder, form):
    """The network's settings in the JSON file of a format; empty without one."""
    if form == "standalone":
        return _read_json(folder / CONFIG_FILE)
    if form == "modelscope":
        model = _read_json(folder / CONFIGURATION_FILE).get("model")
        return model if isinstance(model, dict) else {}
    return {}


def _read_json(path):
    """The content of a JSON file, if it exists."""
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error}). Download it again.") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: must hold keys and values; found {type(settings).__name__}. Download it again.")
    return settings


def from_standalone(key: str) -> str:
    """ModelScope's name for a key of the standalone's mask net.

    Example
    -------
    >>> from_standalone("dual_mdl.0.intra_norm.weight"), from_standalone("prelu.weight")
    ('mdl.intra_norm.weight', 'prelu.weight')
    """
    return _with_beginning(key, [(theirs, ours) for theirs, ours in _STANDALONE_PARTS])


def to_standalone(key: str) -> str:
    """The inverse of `from_standalone`.

    Example
    -------
    >>> to_standalone("mdl.intra_mdl.norm.bias")
    'dual_mdl.0.intra_mdl.mdl.norm.norm.bias'
    """
    return _with_beginning(key, [(ours, theirs) for theirs, ours in _STANDALONE_PARTS])


def _with_beginning(key, pairs):
    for old, new in pairs:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
