"""The most memory that was used: of the GPU, or of the process where there is none."""

import sys

import torch


def reset_peak(device):
    """Begin a new measurement on a GPU. The peak of a process is that of its whole life, so there it does nothing."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device):
    """Peak in bytes: what torch allocated on the GPU, or the resident set of this process on a processor.

    NaN where the system does not tell.

    Example
    -------
    >>> peak_memory("cpu") > 1e6
    True
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
