"""Choice of PyTorch's device, and what a device lacks."""

from __future__ import annotations

import torch

from mossformer_sb.errors import InputError


def choose_device(name: str | torch.device, auto: bool = True) -> str:
    """The device for a name.

    Arguments
    ---------
    name : str or torch.device
        Name of a device; or "auto": CUDA, else Apple's MPS, else the CPU.
    auto : bool
        Whether "auto" is allowed.

    Returns
    -------
    str
        PyTorch's name of the device.

    Raises
    ------
    InputError
        If the device is not known, or not available.

    Example
    -------
    >>> choose_device("cpu")
    'cpu'
    """
    name = str(name)
    kind, _, index = name.partition(":")
    num_devices = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if auto and name == "auto":
        return next(kind for kind in num_devices if num_devices[kind])
    if kind not in num_devices or not (index.isdigit() or name == kind):
        choices = ["auto"] if auto else []
        choices += ["cpu", "mps", "cuda"]
        raise InputError(f"device {name!r} is not known: choose {', '.join(choices)}, or one of several as in cuda:1.")
    if int(index or 0) >= num_devices[kind]:
        available = ", ".join(f"{count} of kind {kind}" for kind, count in num_devices.items() if count)
        hint = "choose auto" if auto else "give no --device for the best of these"
        raise InputError(f"device {name!r} is not available; available: {available}. Or {hint}.")
    return name


def in_double(values: torch.Tensor) -> torch.Tensor:
    """The values in float64, on the same device; on the CPU if the device is Apple's MPS, which has no float64.

    Example
    -------
    >>> in_double(torch.zeros(1)).dtype
    torch.float64
    """
    return (values.cpu() if values.device.type == "mps" else values).double()
