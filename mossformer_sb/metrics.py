"""What a separation is worth: SI-SNR, SDR, and their improvement over the unprocessed mixture."""

from typing import NamedTuple

from torchmetrics.functional.audio import signal_distortion_ratio

from mossformer_sb.losses import best_permutation, is_active, pairwise_si_snr, reorder, si_snr

# As for SI-SNR: a silent or a perfect estimate has no finite ratio.
_SDR_LIMIT = 120.0


class Scores(NamedTuple):
    """Scores of one utterance in dB, each the mean over its active sources; NaN if it has none."""

    sdr: float
    sdr_i: float
    si_snr: float
    si_snr_i: float


def separation_scores(mixture, sources, estimates):
    """Score the estimates for one utterance, in double precision.

    The permutation is the one best in SI-SNR. The improvements are over the mixture, taken as an estimate of each
    source. Silent sources are left out.

    Arguments
    ---------
    mixture : torch.Tensor
        [T].
    sources, estimates : torch.Tensor
        [T, S].

    Returns
    -------
    scores : Scores
        SDR is that of BSS-eval with filters of 512 taps (Vincent et al., 2006), computed by torchmetrics.
    permutation : torch.Tensor
        [S], which estimate belongs to each source.

    Raises
    ------
    InputError
        If shapes differ.

    Example
    -------
    >>> import torch
    >>> sources = torch.randn(8000, 2)
    >>> scores, permutation = separation_scores(sources.sum(1), sources, sources.flip(1) + 0.1 * torch.randn(8000, 2))
    >>> round(scores.si_snr), round(scores.si_snr_i), permutation.tolist()
    (20, 20, [1, 0])
    """
    mixture, sources, estimates = (x.detach().cpu().double()[None] for x in (mixture, sources, estimates))
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


def _sdr(estimates, sources):
    """[1, T, S] twice → [1, S]."""
    ratios = signal_distortion_ratio(estimates.transpose(1, 2), sources.transpose(1, 2))
    # For a perfect estimate, rounding can leave a distortion below zero, whose logarithm is NaN.
    return ratios.nan_to_num(nan=_SDR_LIMIT).clamp(-_SDR_LIMIT, _SDR_LIMIT)
