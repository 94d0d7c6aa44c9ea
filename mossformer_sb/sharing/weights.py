"""Reading the weights of a module from a file that is not trusted: tensors alone, which fit or are refused."""

import torch
from safetensors.torch import load_file

from mossformer_sb.errors import InputError

SHOWN_DIFFERENCES = 3


def load_weights(module, path, name):
    """Load a module's weights from a file that is not trusted.

    Arguments
    ---------
    module : torch.nn.Module
    path : str or Path
        ``.safetensors``, or else a file of ``torch.save`` with a state dict.
    name : str
        What the module is called, for messages.

    Raises
    ------
    InputError
        If the file holds anything else, or weights of another network.
    """
    state = read_state_dict(path)
    check_state(module, state, path, name, "its YAML file")
    module.load_state_dict(state)


def check_state(module, state, path, name, described_in):
    """Raise InputError unless a state dict is of a module, in names and shapes.

    Arguments
    ---------
    module : torch.nn.Module
    state : mapping
        Name to tensor.
    path : str or Path
        The file that it comes from, for the message.
    name : str
        What the module is called.
    described_in : str
        Where the module is described.
    """
    found, needed = (
        {key: list(value.shape) for key, value in states.items()} for states in (state, module.state_dict())
    )
    different = [key for key in dict.fromkeys([*needed, *found]) if needed.get(key) != found.get(key)]
    if different:
        shown = "; ".join(
            f"{key}: {found.get(key, 'nothing')} in the file, {needed.get(key, 'nothing')} in the network"
            for key in different[:SHOWN_DIFFERENCES]
        )
        raise InputError(
            f"{path}: holds the weights of another network than the '{name}' of {described_in}: {len(different)} "
            f"differ ({shown}{'; ...' if len(different) > SHOWN_DIFFERENCES else ''}). Use the settings and the "
            f"weights that were saved together."
        )


def read_state_dict(path):
    """Read a state dict, and nothing else, from a file.

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
        If the file holds anything else.
    """
    try:
        if str(path).endswith(".safetensors"):
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle can raise anything, struct.error and IndexError among others
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{path}: can't be read as plain weights ({reason}). It is damaged, or holds other objects than tensors, "
            f"which could run code and are not loaded. Save it as a state dict or as .safetensors."
        ) from error
    if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
        raise InputError(f"{path}: has to hold a state dict, names and tensors; found {type(state).__name__}.")
    return state
