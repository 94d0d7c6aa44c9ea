"""Metrics of a separation: SI-SNR, SDR, and their improvement over the unprocessed mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.fft import irfft, next_fast_len, rfft
from scipy.linalg import matmul_toeplitz, solve_toeplitz, toeplitz

from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.extra_metrics import extra_metric
from mossformer_sb.evaluation.si_snr import best_permutation, is_active, pairwise_si_snr, reorder, si_snr

if TYPE_CHECKING:
    from collections.abc import Collection

# As for SI-SNR: silent and perfect estimates have no finite ratio.
_SDR_LIMIT = 120.0
_NUM_TAPS = 512
# Residual of the filter's equations, relative to their right-hand side, up to which a solution is used.
_MOST_RESIDUAL, _MOST_RESIDUAL_OF_RECURSION = 1e-3, 1e-10


class Scores(NamedTuple):
    """Scores of one utterance in dB, each the mean over its active sources; NaN if it has none."""

    sdr: float
    sdr_i: float
    si_snr: float
    si_snr_i: float


def separation_scores(
    mixture: torch.Tensor, sources: torch.Tensor, estimates: torch.Tensor
) -> tuple[Scores, torch.Tensor]:
    """Score the estimates for one utterance, in double precision.

    The permutation is the best one in SI-SNR. The improvements are over the mixture as an estimate of each source.
    Silent sources are excluded.

    Arguments
    ---------
    mixture : torch.Tensor or numpy.ndarray
        [T].
    sources, estimates : torch.Tensor or numpy.ndarray
        [T, S].

    Returns
    -------
    scores : Scores
        SDR is that of BSS-eval with filters of 512 taps (Vincent et al., 2006).
    permutation : torch.Tensor
        [S], index of the estimate of each source.

    Raises
    ------
    InputError
        If shapes differ.

    Example
    -------
    >>> sources = torch.randn(8000, 2)
    >>> scores, permutation = separation_scores(sources.sum(1), sources, sources.flip(1) + 0.1 * torch.randn(8000, 2))
    >>> round(scores.si_snr), round(scores.si_snr_i), permutation.tolist()
    (20, 20, [1, 0])
    """
    mixture, sources, estimates = (_tensor(x).detach().cpu() for x in (mixture, sources, estimates))
    _check_shapes(mixture, sources, estimates)
    mixture, sources, estimates = (x.double()[None] for x in (mixture, sources, estimates))
    permutation = best_permutation(pairwise_si_snr(estimates, sources))
    active = is_active(sources)[0]
    if not active.any():
        return Scores(*[float("nan")] * 4), permutation[0]
    sources = sources[..., active]
    estimates = reorder(estimates, permutation)[..., active]
    unprocessed = mixture[..., None].expand_as(sources)
    si_snrs, input_si_snrs = (si_snr(x, sources).mean().item() for x in (estimates, unprocessed))
    sdrs, input_sdrs = (_sdr(x, sources).mean().item() for x in (estimates, unprocessed))
    return Scores(sdrs, sdrs - input_sdrs, si_snrs, si_snrs - input_si_snrs), permutation[0]


def score_signals(
    utterance_id: str,
    mixture: torch.Tensor,
    sources: torch.Tensor,
    estimates: torch.Tensor,
    rate: int,
    metrics: Collection[str] = (),
) -> tuple:
    """Score an utterance.

    Arguments
    ---------
    utterance_id : str
        ID for messages.
    mixture : torch.Tensor
        [T].
    sources, estimates : torch.Tensor
        [T, S].
    rate : int
        Sample rate in Hz.
    metrics : collection of str
        Further metrics in addition to SI-SNR and SDR: "stoi", "pesq".

    Returns
    -------
    tuple
        The ID, its `Scores`, and a dict of the other metrics.
    """
    check_finite(utterance_id, mixture, sources, estimates)
    scores, permutation = separation_scores(mixture, sources, estimates)
    others = {}
    if metrics:
        active = is_active(sources[None].double())[0]
        pairs = [signals[:, active].T for signals in (reorder(estimates[None], permutation[None])[0], sources)]
        others = {name: extra_metric(name, *pairs, rate, utterance_id) for name in metrics}
    return utterance_id, scores, others


def check_finite(utterance_id: str, mixture: torch.Tensor, sources: torch.Tensor, estimates: torch.Tensor) -> None:
    """Refuse to score signals of an utterance with NaN or infinity, by an `InputError` that names them."""
    for name, signals in (("mixture", mixture), ("sources", sources), ("estimates", estimates)):
        if not bool(_tensor(signals).isfinite().all()):
            raise InputError(f"{utterance_id}: NaN or infinity in its {name}, so it has no scores.")


def _tensor(signals):
    # PyTorch takes no arrays with negative strides, such as reversed ones.
    return torch.as_tensor(np.ascontiguousarray(signals) if isinstance(signals, np.ndarray) else signals)


def _check_shapes(mixture, sources, estimates):
    if sources.dim() != 2 or estimates.shape != sources.shape or mixture.shape != sources.shape[:1]:
        raise InputError(
            f"the mixture must be [samples], sources and estimates [samples, speakers], all of one length; found "
            f"{list(mixture.shape)}, {list(sources.shape)} and {list(estimates.shape)}."
        )
    if not len(mixture):
        raise InputError("the mixture has no samples, so there are no scores.")


def _sdr(estimates, sources):
    """[1, T, S] twice → [1, S]."""
    pairs = zip(estimates[0].T.numpy(), sources[0].T.numpy(), strict=True)
    return torch.tensor([[_filtered_ratio(*pair) for pair in pairs]], dtype=torch.float64)


def _filtered_ratio(estimate, source):
    """Energy of the optimally filtered source relative to that of the residual: [T] twice → dB.

    The same as torchmetrics' ``signal_distortion_ratio``, at any level.
    """
    smallest = np.finfo(np.float64).tiny  # of silence
    estimate, source = (signal / max(np.linalg.norm(signal), smallest) for signal in (estimate, source))
    size = next_fast_len(len(source) + _NUM_TAPS, real=True)
    spectrum = rfft(source, size)
    correlation = irfft(np.abs(spectrum) ** 2, size)[:_NUM_TAPS]
    crosscorrelation = irfft(spectrum.conj() * rfft(estimate, size), size)[:_NUM_TAPS]
    coherence = crosscorrelation @ _best_filter(correlation, crosscorrelation)
    # A silent or a perfect estimate has no finite ratio; rounding can leave a distortion below zero.
    if coherence <= 0:
        return -_SDR_LIMIT
    return float(np.clip(10 * np.log10(coherence / max(1 - coherence, 1e-300)), -_SDR_LIMIT, _SDR_LIMIT))


def _best_filter(correlation, crosscorrelation):
    """The taps of the filter that makes the source most similar to the estimate: the solution of a Toeplitz system.

    Levinson recursion is fast, and wrong without an error for sources with an empty band, whose system is
    ill-conditioned: its residual shows it. The solution isn't unique for a pure tone.
    """
    ways = [
        (solve_toeplitz, _MOST_RESIDUAL_OF_RECURSION),
        (lambda column, right: np.linalg.solve(toeplitz(column), right), _MOST_RESIDUAL),
    ]
    for solve, most in ways:
        try:
            taps = solve(correlation, crosscorrelation)
        except np.linalg.LinAlgError:
            continue
        residual = matmul_toeplitz(correlation, taps) - crosscorrelation if np.isfinite(taps).all() else np.inf
        if np.linalg.norm(residual) <= most * np.linalg.norm(crosscorrelation):
            return taps
    return np.linalg.lstsq(toeplitz(correlation), crosscorrelation, rcond=None)[0]
