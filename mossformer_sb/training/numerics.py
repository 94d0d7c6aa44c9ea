"""Numerical settings of a training: device, precision, TF32, deterministic kernels, versions."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

import torch

from mossformer_sb.training import distributed
from mossformer_sb.version import __version__

# cuBLAS needs it to be deterministic, and reads it when it is first used.
_CUBLAS_VARIABLE, _CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


def make_deterministic() -> None:
    """Make torch use deterministic kernels in this process.

    The same command then gives the same weights on the same kind of device, with the same versions and the same number
    of ranks; so does an interrupted and resumed run. Another device, version or number of ranks sums in another order.
    An operation without such a kernel raises an error. It is slower on a GPU; on a CPU, kernels are deterministic
    anyway, for the same number of threads.
    """
    os.environ.setdefault(_CUBLAS_VARIABLE, _CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def describe(device: str | torch.device, precision: str, eval_precision: str, compiled: bool = False) -> str:
    """Device, precision, kernels and versions of a training, in one line.

    Arguments
    ---------
    device : str or torch.device
        Device of the networks.
    precision, eval_precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    compiled : bool
        Whether `torch.compile` is used, with which the fast implementations are not.

    Returns
    -------
    str

    Example
    -------
    >>> describe("cpu", "fp32", "fp32")
    'Computes on cpu (... threads), 1 process, in fp32, evaluates in fp32; deterministic ...; torch ...
    """
    device = torch.device(device)
    deterministic = "on" if torch.are_deterministic_algorithms_enabled() else "off"
    return "; ".join(
        [
            f"Computes on {_device(device)}, {_processes()}, in {precision}, evaluates in {eval_precision}",
            *(_tf32() if device.type == "cuda" else []),
            f"deterministic kernels: {deterministic}",
            f"fast paths: {'off, torch.compile: on' if compiled else _fast_paths()}",
            _versions(device),
        ]
    )


def _device(device):
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def _processes():
    count = distributed.world_size()
    return f"{count} process" if count == 1 else f"{count} processes"


def _tf32():
    """TF32 rounds the inputs of float32 matrix multiplications to 10 bits. Importing SpeechBrain turns it on."""
    states = {"matmul": torch.backends.cuda.matmul.allow_tf32, "convolutions": torch.backends.cudnn.allow_tf32}
    shown = ", ".join(f"{name} {'on' if is_on else 'off'}" for name, is_on in states.items())
    yield f"TF32 in float32: {shown} (SpeechBrain turns it on; SB_DISABLE_QUIRKS=allow_tf32 leaves it off)"


def _fast_paths():
    """Whether networks use the fast implementations, or the reference ones."""
    try:
        from mossformer_sb.network import fast
    except ImportError:  # without a switch
        return "on"
    return "on" if fast.is_enabled() else "off"


def _versions(device):
    versions = {"torch": torch.__version__}
    if device.type == "cuda":
        versions |= {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
    for name in ("speechbrain", "hyperpyyaml"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # on the path, but not installed
            versions[name] = "?"
    versions["mossformer_sb"] = __version__
    return ", ".join(f"{name} {number}" for name, number in versions.items())
