"""STOI and PESQ, whose packages are in the extra ``score``."""

from __future__ import annotations

import importlib.util
import threading
from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection

    import torch

EXTRA_METRICS = {"stoi": "pystoi", "pesq": "pesq"}  # metric to the package that it needs in addition to torchmetrics
PESQ_MODES = {8000: "nb", 16000: "wb"}
TOO_SHORT_FOR_STOI = 1e-5  # pystoi returns it, with a warning, for less than 30 frames of speech
_PESQ_ALONE = threading.Lock()  # its C code keeps its state in global variables


def check_metrics(metrics: Collection[str]) -> None:
    """Raise InputError if a metric is not known, or its package is not installed.

    Example
    -------
    >>> check_metrics(["mos"])
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: metric 'mos' is not known: choose among stoi, pesq.
    """
    for name in metrics:
        if name not in EXTRA_METRICS:
            raise InputError(f"metric {name!r} is not known: choose among {', '.join(EXTRA_METRICS)}.")
        for package in (EXTRA_METRICS[name], "torchmetrics"):
            if importlib.util.find_spec(package) is None:
                raise InputError(
                    f"{name.upper()} needs the package {package}, which is not installed: pip install "
                    f"'mossformer_sb[score]'."
                )


def extra_metric(name: str, estimates: torch.Tensor, sources: torch.Tensor, rate: int, utterance_id: str) -> float:
    """STOI or PESQ of an utterance, its mean over the active sources.

    Arguments
    ---------
    name : str
        One of `EXTRA_METRICS`.
    estimates, sources : torch.Tensor
        [S, T], only of the active sources.
    rate : int
        Sample rate in Hz.
    utterance_id : str
        ID for messages.

    Returns
    -------
    float
        NaN if no source is active, if PESQ finds no speech, or STOI less than 0.4 s of it.

    Raises
    ------
    InputError
        If the metric isn't defined for this sample rate.
    """
    from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality
    from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility

    if not len(sources):
        return float("nan")
    if name == "stoi":
        scores = short_time_objective_intelligibility(estimates, sources, rate)
        return (
            float("nan") if bool(((scores.double() - TOO_SHORT_FOR_STOI).abs() < 1e-9).any()) else scores.mean().item()
        )
    if rate not in PESQ_MODES:
        raise InputError(
            f"{utterance_id}: has {rate} Hz; PESQ is defined for 8000 and 16000 Hz. Remove it from --metrics."
        )
    import pesq

    with _PESQ_ALONE:
        try:
            return perceptual_evaluation_speech_quality(estimates, sources, rate, PESQ_MODES[rate]).mean().item()
        except (pesq.PesqError, ValueError):  # the latter for an estimate of zeros
            return float("nan")
