"""Training with SI-SNR under permutation invariance.

Shapes: B batch, T samples, S sources (and as many estimates). Signals are [B, T, S], as everywhere in SpeechBrain.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from mossformer_sb.evaluation.si_snr import (
    best_permutation,
    check_signals,
    is_active,
    pairwise_si_snr,
    reorder,
    si_snr,
    zero_mean,
)
from mossformer_sb.network.lengths import lengths_are_checked

# Lower bound of the summed energy of the active estimates.
_LEAST_ENERGY = 1e-24


class PitLoss(NamedTuple):
    """Result of `pit_si_snr_loss` for each item of a batch."""

    losses: torch.Tensor  # [B], dB, to be minimised
    permutation: torch.Tensor  # [B, S]: index of the estimate of each source
    num_active: torch.Tensor  # [B]: number of sources that are not silent
    si_snr: torch.Tensor  # [B], dB: mean over the active sources; zero without any


def pit_si_snr_loss(
    estimates: torch.Tensor,
    sources: torch.Tensor,
    lengths: torch.Tensor | None = None,
    silence_snr: float | None = None,
) -> PitLoss:
    """Negative SI-SNR of each item under its best permutation (uPIT: one permutation per item).

    Source: Kolbæk et al., "Multi-talker Speech Separation with Utterance-level Permutation Invariant Training", 2017.

    A silent source has no SI-SNR. Either its estimate has no loss, or `silence_loss` attenuates it below the others.
    The permutation is the best one in SI-SNR of the active sources in both cases.

    Arguments
    ---------
    estimates, sources : torch.Tensor
        [B, T, S].
    lengths : torch.Tensor, optional
        [B], int64, samples of each item; later samples are ignored. Default: all T.
    silence_snr : float, optional
        Level in dB below the other estimates at which the loss of a silent source's estimate levels off. Default: no
        loss.

    Returns
    -------
    PitLoss
        ``losses`` [B], dB: the mean over an item's active sources, or over all with ``silence_snr``. An item without
        any active source has loss 0, no gradient, and ``num_active`` 0; the caller excludes it.

    Raises
    ------
    InputError
        If shapes differ or a length is wrong.

    Example
    -------
    >>> sources = torch.randn(1, 8000, 2)
    >>> pit_si_snr_loss(sources.flip(-1) + 0.1 * torch.randn(1, 8000, 2), sources).permutation
    tensor([[1, 0]])
    """
    lengths = check_signals(estimates, sources, lengths=lengths)
    with lengths_are_checked():
        return _pit_si_snr_loss(estimates, sources, lengths, silence_snr)


def _pit_si_snr_loss(estimates, sources, lengths, silence_snr):
    """Without reads from the device, so that an accelerator always has work queued (up to four speakers)."""
    with torch.no_grad():
        permutation = best_permutation(pairwise_si_snr(estimates, sources, lengths))
    active = is_active(sources, lengths)
    num_active = active.sum(-1)
    estimates = reorder(estimates, permutation)
    mean_si_snr = _mean_where(si_snr(estimates, sources, lengths), active)
    losses = -mean_si_snr
    if silence_snr is not None:
        silent = ~active & (num_active > 0)[:, None]
        has_silent = silent.any(-1)  # [B]
        share = num_active / active.shape[1]
        # Zero where unused: a ratio of almost zero energies has an infinite gradient, and zero times infinity is NaN.
        compared = torch.where(has_silent[:, None, None], estimates, 0.0)
        suppression = _mean_where(silence_loss(compared, active, silence_snr, lengths), silent)
        losses = torch.where(has_silent, share * losses + (1 - share) * suppression, losses)
    return PitLoss(losses, permutation, num_active, mean_si_snr.detach())


def silence_loss(
    estimates: torch.Tensor, active: torch.Tensor, silence_snr: float, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """Level of each estimate relative to the sum of the active ones: 10·log10(‖ŝ‖² / ‖Σ ŝ_active‖² + τ), in dB.

    τ = 10^(-silence_snr / 10) bounds it below: an estimate that is quiet enough has little gradient. Source: the loss
    for inactive sources in Wisdom et al., "What's All the FUSS about Free Universal Sound Separation Data?", ICASSP
    2021, equation 5, where the reference is the mixture. Here the other estimates are the reference: SI-SNR doesn't
    constrain their levels, so all of them could get quieter than a mixture.

    Arguments
    ---------
    estimates : torch.Tensor
        [B, T, S].
    active : torch.Tensor
        [B, S], bool: which estimates are the reference.
    silence_snr : float
        Level in dB at which the loss levels off.
    lengths : torch.Tensor, optional
        [B], as in `mossformer_sb.evaluation.si_snr.si_snr`.

    Returns
    -------
    torch.Tensor
        [B, S], dB.

    Example
    -------
    >>> estimates = torch.randn(1, 8000, 1) * torch.tensor([1.0, 0.1])
    >>> silence_loss(estimates, torch.tensor([[True, False]]), silence_snr=60)[0, 1].round().item()
    -20.0
    """
    (estimates,) = zero_mean(estimates, lengths=lengths)
    reference = estimates.masked_fill(~active[:, None, :], 0.0).sum(-1).square().sum(1)  # [B]
    energies = estimates.square().sum(1)  # [B, S]
    reference = reference.clamp(min=_LEAST_ENERGY)[:, None]
    # The logarithm of the ratio plus τ, written so that the gradient is finite where both energies are nearly zero.
    floored = energies + 10 ** (-silence_snr / 10) * reference
    return 10 * (torch.log10(floored) - torch.log10(reference))


def _mean_where(values, chosen):
    """Mean over the chosen sources of each item, zero where none is: [B, S] twice → [B]."""
    return values.masked_fill(~chosen, 0.0).sum(-1) / chosen.sum(-1).clamp(min=1)
