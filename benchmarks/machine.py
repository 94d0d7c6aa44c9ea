"""Machine and versions of a measurement, in one line."""

import datetime
import importlib.metadata
import platform
from pathlib import Path

import torch

ENGINES = ("onnxruntime", "openvino")


def processor_name():
    """Name of the CPU, from ``/proc/cpuinfo`` if it exists."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device_name(device):
    """Name of a device: of the GPU, or of the CPU."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else processor_name()


def versions():
    """Versions of torch and of the installed engines.

    Example
    -------
    >>> versions().startswith("torch ")
    True
    """
    found = [f"torch {torch.__version__}"]
    for name in ENGINES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    return ", ".join(found)


def describe(device, threads):
    """Device, CPU threads, versions and date.

    Example
    -------
    >>> describe("cpu", 2).count(", 2 threads, torch ")
    1
    """
    counted = f", {threads} thread{'s' if threads > 1 else ''}" if torch.device(device).type == "cpu" else ""
    return f"{device_name(device)}{counted}, {versions()}, {datetime.date.today()}"
