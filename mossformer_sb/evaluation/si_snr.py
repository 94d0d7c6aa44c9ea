"""SI-SNR, and the best permutation of the estimates.

Shapes: B batch, T samples, S sources (and as many estimates). Signals are [B, T, S], as everywhere in SpeechBrain.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch

from mossformer_sb.errors import InputError
from mossformer_sb.network.lengths import check_lengths, padding_mask

# Bounds SI-SNR to ±120 dB; at 60 dB it changes the value by 4e-6 dB.
EPS = 1e-12
# A source whose root mean square is below the last bit of 24-bit audio is silent.
SILENCE = 2.0**-23
_MOST_EXPONENT = 125  # of a power of two that float32 has, and its inverse
# Up to this number of sources, all S! permutations are compared; for more, the Hungarian algorithm is used.
_MAX_ENUMERATED = 4


def si_snr(estimates: torch.Tensor, sources: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Scale-invariant signal-to-noise ratio of each estimate against the source with the same index.

    Both are made zero-mean; with α = ⟨ŝ, s⟩ / ‖s‖², it is 10·log10(‖αs‖² / ‖ŝ − αs‖²). Source: Le Roux et al., "SDR –
    half-baked or well done?", ICASSP 2019.

    Arguments
    ---------
    estimates, sources : torch.Tensor
        [B, T, S].
    lengths : torch.Tensor, optional
        [B], int64, samples of each item; later samples are ignored. Default: all T.

    Returns
    -------
    torch.Tensor
        [B, S], dB, between -120 and 120. A silent source gives -120 and no gradient: exclude it (see `is_active`).

    Raises
    ------
    InputError
        If shapes differ or a length is wrong.

    Example
    -------
    >>> source = torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(1, 4, 1)
    >>> noise = torch.tensor([1.0, 1.0, -1.0, -1.0]).reshape(1, 4, 1)
    >>> round(si_snr(3 * source + 0.3 * noise, source).item(), 3)
    20.0
    """
    estimates, sources = (_unit_norm(x) for x in zero_mean(estimates, sources, lengths=lengths))
    correlation = (estimates * sources).sum(1, keepdim=True)  # [B, 1, S]
    residual = (estimates - correlation * sources).square().sum(1)
    silent = (estimates == 0).all(1)  # neither signal nor noise: the worst estimate, not one of 0 dB
    return _decibels(correlation.square().squeeze(1), residual + silent)


def pairwise_si_snr(
    estimates: torch.Tensor, sources: torch.Tensor, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """SI-SNR of every estimate against every source.

    Arguments
    ---------
    estimates, sources : torch.Tensor
        [B, T, S].
    lengths : torch.Tensor, optional
        [B], as in `si_snr`.

    Returns
    -------
    torch.Tensor
        [B, S, S], dB, estimates by sources; in float32 precise up to about 60 dB. Zero for a silent source, for which
        all estimates are equally good.

    Example
    -------
    >>> sources = torch.randn(1, 8000, 3)
    >>> pairwise_si_snr(sources.flip(-1), sources).argmax(-1)
    tensor([[2, 1, 0]])
    """
    estimates, centred_sources = zero_mean(estimates, sources, lengths=lengths)
    # No matrix multiplication: under autocast it would be computed in half precision.
    pairs = _unit_norm(estimates)[..., :, None] * _unit_norm(centred_sources)[..., None, :]  # [B, T, S, S]
    explained = pairs.sum(1).square()
    scores = _decibels(explained, (1 - explained).clamp(min=0))
    return scores * is_active(sources, lengths)[:, None, :]


def is_active(sources: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Which sources are not silent, ignoring a constant offset: [B, T, S] → [B, S], bool.

    Example
    -------
    >>> is_active(torch.tensor([[[0.5, 0.0, 0.1], [0.5, 0.0, -0.1]]]))
    tensor([[False, False,  True]])
    """
    (sources,) = zero_mean(sources, lengths=lengths)
    num_samples = sources.shape[1] if lengths is None else lengths.to(sources.device, non_blocking=True)[:, None]
    return (sources.square().sum(1) / num_samples).sqrt() > SILENCE


def best_permutation(scores: torch.Tensor) -> torch.Tensor:
    """The assignment of estimates to sources that maximises the sum of the scores.

    Arguments
    ---------
    scores : torch.Tensor
        [B, S, S], estimates by sources.

    Returns
    -------
    torch.Tensor
        [B, S], int64: entry s is the index of the estimate for source s.

    Example
    -------
    >>> best_permutation(torch.tensor([[[1.0, 9.0], [8.0, 1.0]]]))
    tensor([[1, 0]])
    """
    num_spks = scores.shape[-1]
    if num_spks <= _MAX_ENUMERATED:
        # Only real tensors are cached: one of FakeTensorMode would be of no use later.
        make = _permutations if type(scores) is torch.Tensor else _permutations.__wrapped__
        permutations = make(num_spks, scores.device)  # [S!, S]
        totals = scores[:, permutations, torch.arange(num_spks, device=scores.device)].sum(-1)  # [B, S!]
        return permutations[totals.argmax(-1)]
    from scipy.optimize import linear_sum_assignment  # a slow import, for many speakers only

    finite = torch.nan_to_num(scores.detach()).cpu().double().numpy()
    rows = [linear_sum_assignment(item.T, maximize=True)[1] for item in finite]
    return torch.as_tensor(np.array(rows, dtype=np.int64).reshape(-1, num_spks), device=scores.device)


@functools.cache
def _permutations(num_spks, device):
    """[S!, S]. Cached, since each copy to an accelerator would wait for it."""
    with torch.inference_mode(False):
        return torch.tensor(list(itertools.permutations(range(num_spks))), device=device)


def reorder(estimates: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
    """Put the estimates in the order of the sources: [B, T, S], [B, S] → [B, T, S].

    Example
    -------
    >>> reorder(torch.tensor([[[10, 20, 30]]]), torch.tensor([[2, 0, 1]])).tolist()
    [[[30, 10, 20]]]
    """
    return estimates.gather(2, permutation[:, None, :].expand_as(estimates))


def check_signals(*signals: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor | None:
    """Check that signals have the same shape, [B, T, S], and check lengths; return these on the signals' device."""
    shape = signals[0].shape
    if len(shape) != 3 or any(signal.shape != shape for signal in signals):
        found = " and ".join(str(list(signal.shape)) for signal in signals)
        raise InputError(f"estimates and sources must both be [batch, samples, sources]; found {found}.")
    if lengths is None:
        return None
    check_lengths(lengths, shape[0], maximum=shape[1])
    return lengths.to(signals[0].device, non_blocking=True)


def zero_mean(*signals: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Each signal in float32 at least, zero-mean over its true length and zero beyond it."""
    lengths = check_signals(*signals, lengths=lengths)
    signals = [signal.to(torch.promote_types(signal.dtype, torch.float32)) for signal in signals]
    if lengths is None:
        return [signal - signal.mean(1, keepdim=True) for signal in signals]
    padding = padding_mask(lengths, signals[0].shape[1])[..., None]  # [B, T, 1]
    centred = []
    for signal in signals:
        signal = signal.masked_fill(padding, 0.0)
        mean = signal.sum(1, keepdim=True) / lengths[:, None, None]
        centred.append((signal - mean).masked_fill(padding, 0.0))
    return centred


def _unit_norm(signal):
    """Each signal with a norm of 1; zeros if it is silent."""
    # Squares of very soft or loud signals underflow or overflow. A power of two changes no digit.
    peak = signal.detach().abs().amax(1, keepdim=True)
    # Not by frexp, which not all devices have.
    exponent = peak.clamp(min=torch.finfo(peak.dtype).tiny).log2().floor().clamp(-_MOST_EXPONENT, _MOST_EXPONENT)
    signal = signal * torch.ldexp(torch.ones_like(peak), -exponent)
    return signal / torch.linalg.vector_norm(signal, dim=1, keepdim=True).clamp(min=torch.finfo(signal.dtype).tiny)


def _decibels(signal_power, noise_power):
    return 10 * torch.log10((signal_power + EPS) / (noise_power + EPS))
