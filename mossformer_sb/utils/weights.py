"""Weights in untrusted files: finding them, reading only tensors, and checking names and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeGuard

EXTENSIONS = (".safetensors", ".ckpt")  # in order of precedence
SHOWN_DIFFERENCES = 3
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def find_weights(folder: str | Path, modules: Iterable[str]) -> dict:
    """Find the weights of modules in a folder.

    Arguments
    ---------
    folder : str or Path
    modules : iterable of str
        Names, such as "masknet".

    Returns
    -------
    dict
        Name to path, for those that exist.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "masknet.ckpt").touch()
    >>> {name: path.name for name, path in find_weights(folder, ["encoder", "masknet"]).items()}
    {'masknet': 'masknet.ckpt'}
    """
    candidates = {name: [Path(folder) / f"{name}{extension}" for extension in EXTENSIONS] for name in modules}
    found = {name: next(filter(Path.is_file, paths), None) for name, paths in candidates.items()}
    return {name: path for name, path in found.items() if path is not None}


def load_weights(module: torch.nn.Module, path: str | Path, name: str) -> None:
    """Load a module's weights from an untrusted file.

    Arguments
    ---------
    module : torch.nn.Module
    path : str or Path
        A ``.safetensors`` file, or else a file of ``torch.save`` with a state dict.
    name : str
        The module's name, for messages.

    Raises
    ------
    InputError
        If the file holds other objects, or weights of another network.
    """
    state = read_state_dict(path)
    check_state(module, state, path, name, "its YAML file")
    module.load_state_dict(state)


def check_state(module: torch.nn.Module, state: Mapping, path: str | Path, name: str, described_in: str | Path) -> None:
    """Raise InputError unless a state dict fits a module, in names and shapes.

    Arguments
    ---------
    module : torch.nn.Module
    state : mapping
        Name to tensor.
    path : str or Path
        The file of the state dict, for the message.
    name : str
        The module's name.
    described_in : str
        The file that describes the module, for the message.
    """
    number, shown = differences(state, module.state_dict(), "in the file", "in the network")
    if number:
        raise InputError(
            f"{path}: holds the weights of another network than the '{name}' of {described_in}: {number} differ "
            f"({shown}). Use the settings and the weights that were saved together."
        )


def differences(found: Mapping, needed: Mapping, where_found: str, where_needed: str) -> tuple[int, str]:
    """Compare the names, shapes and kinds of number of two state dicts. All kinds of floating point are alike.

    Arguments
    ---------
    found, needed : mapping
        Name to tensor; other values have no shape.
    where_found, where_needed : str
        Their locations for the text, such as "in the file".

    Returns
    -------
    number : int
        Number of names whose shapes or kinds differ, or that are missing in one of them.
    text : str
        The first differences.

    Example
    -------
    >>> differences({"a": torch.zeros(2)}, {"a": torch.zeros(3)}, "in the file", "in the network")
    (1, 'a: [2] in the file, [3] in the network')
    """
    found, needed = ({key: shape(value) for key, value in state.items()} for state in (found, needed))
    different = [key for key in dict.fromkeys([*needed, *found]) if needed.get(key) != found.get(key)]
    shown = [
        f"{key}: {found.get(key, 'nothing')} {where_found}, {needed.get(key, 'nothing')} {where_needed}"
        for key in different[:SHOWN_DIFFERENCES]
    ]
    return len(different), "; ".join([*shown, "..."] if len(different) > SHOWN_DIFFERENCES else shown)


def shape(value: object) -> str:
    """A tensor's shape as text, and whether its numbers are not real: loading would convert them without a word.

    Example
    -------
    >>> shape(torch.zeros(2, dtype=torch.half)), shape(torch.zeros(2, dtype=torch.int8)), shape(torch.zeros(2) * 1j)
    ('[2]', '[2] of whole numbers', '[2] of complex numbers')
    """
    if not isinstance(value, torch.Tensor):
        return "no tensor"
    if value.is_complex():
        return f"{list(value.shape)} of complex numbers"
    return f"{list(value.shape)}{'' if value.is_floating_point() else ' of whole numbers'}"


def read_state_dict(path: str | Path) -> dict:
    """Read a state dict from an untrusted file.

    Arguments
    ---------
    path : str or Path
        ``.safetensors``, or else a file of ``torch.save``.

    Returns
    -------
    dict
        Name to tensor, on the CPU.

    Raises
    ------
    InputError
        If the file holds other objects.
    """
    state = read_plain(path)
    if not is_state_dict(state):
        raise InputError(f"{path}: must hold a state dict, names and tensors; found {type(state).__name__}.")
    return state


def is_state_dict(value: object) -> TypeGuard[dict]:
    """Whether an object is a dict of names and dense tensors, none of them larger than what is stored of it.

    Example
    -------
    >>> is_state_dict({"a": torch.zeros(2)}), is_state_dict({0: torch.zeros(2)})
    (True, False)
    >>> is_state_dict({"a": torch.zeros(1).expand(10**12)})
    False
    """
    return isinstance(value, dict) and all(isinstance(key, str) and _is_stored(item) for key, item in value.items())


def _is_stored(value):
    if not torch.is_tensor(value) or value.layout != torch.strided or value.is_quantized or value.is_meta:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def read_plain(path: str | Path) -> object:
    """Read tensors, plain values, and containers of them from an untrusted file, such as a training checkpoint.

    Arguments
    ---------
    path : str or Path
        ``.safetensors``, or else a file of ``torch.save``.

    Returns
    -------
    object
        The saved object; tensors are on the CPU.

    Raises
    ------
    InputError
        If the file holds other objects.
    """
    try:
        if str(path).endswith(".safetensors"):
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an invalid pickle can raise any exception, such as struct.error or IndexError
        check_no_pointer(path)
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{path}: can't be read as plain weights ({reason}). It is damaged, or holds other objects than tensors, "
            f"which could run code and are not loaded. Save it as a state dict or as .safetensors."
        ) from error


def check_no_pointer(path: str | Path) -> None:
    """Raise InputError if a file is a Git LFS pointer."""
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError(
                f"{path}: is a pointer of Git LFS, not the file itself. In the folder, run `git lfs install` and "
                f"`git lfs pull`; or download the model by its id."
            )
