"""Scores of separated mixtures, compared with torchmetrics: best permutation, SI-SNR, SDR and their improvements.

An item is one mixture of two speakers.
"""

import torch
from torchmetrics.functional.audio import (
    permutation_invariant_training,
    pit_permutate,
    scale_invariant_signal_noise_ratio,
    signal_distortion_ratio,
)

from benchmarks.alternating import time_alternating
from mossformer_sb.evaluation.metrics import Scores, separation_scores

SAMPLE_RATE = 8000


def draw(seconds):
    """A mixture [T], its sources and estimates of them, each [T, S]; their content does not matter."""
    sources = torch.randn(round(seconds * SAMPLE_RATE), 2)
    return sources.sum(1), sources, sources.flip(1) + 0.3 * torch.randn_like(sources)


def by_torchmetrics(mixture, sources, estimates):
    """The same `Scores` as ours, computed with torchmetrics' functions, in double precision."""
    mixture, sources, estimates = (x.double() for x in (mixture, sources.T, estimates.T))  # [S, T]
    _, order = permutation_invariant_training(
        estimates[None], sources[None], scale_invariant_signal_noise_ratio, eval_func="max"
    )
    estimates = pit_permutate(estimates[None], order)[0]
    unprocessed = mixture.expand_as(sources)
    si_snr, input_si_snr = (scale_invariant_signal_noise_ratio(x, sources).mean() for x in (estimates, unprocessed))
    sdr, input_sdr = (signal_distortion_ratio(x, sources).mean() for x in (estimates, unprocessed))
    return Scores(*(value.item() for value in (sdr, sdr - input_sdr, si_snr, si_snr - input_si_snr)))


def compare(seconds=5.0, items=10, rounds=5):
    """Time both in alternation.

    Arguments
    ---------
    seconds : float
        Length of a mixture, at 8 kHz.
    items : int
        Mixtures per round.
    rounds : int
        Number of rounds.

    Returns
    -------
    list of dict
        As `benchmarks.alternating.time_alternating` returns them.
    """
    signals = draw(seconds)
    ways = {"torchmetrics": by_torchmetrics, "ours": separation_scores}
    ways = {name: lambda _, score=score: score(*signals) for name, score in ways.items()}
    return time_alternating(ways, items, rounds, "Evaluation")
