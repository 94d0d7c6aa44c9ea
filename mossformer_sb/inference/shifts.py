"""Averaging the estimates for shifted copies of a mixture, for better separation in more time.

A network's errors depend on where its frames and its groups of local attention begin, and the speech does not: the mean
of several estimates, each for the mixture after another delay, is closer to the sources than one of them. The errors
also depend on the sign of the samples, which the encoder's ReLU makes a difference of: every second copy is negated,
and so are its estimates. Source: the "shift trick" of Défossez et al., "Demucs", 2019, there with random delays.

Shapes: B batch, T samples, S speakers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from mossformer_sb.evaluation.si_snr import best_permutation, reorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_GROUP_SIZE = 128  # frames, for networks without groups
_LARGEST_GROUP = 1024  # frames: longer delays would cost more than the recording itself


def delays(shifts: int, encoder: torch.nn.Module, masknet: torch.nn.Module) -> list[int]:
    """The delays of a number of shifts, evenly within a group of frames and, at the same time, within a hop.

    Arguments
    ---------
    shifts : int
        Number of delays, the first of which is 0.
    encoder : torch.nn.Module
        SpeechBrain's ``Encoder``.
    masknet : torch.nn.Module
        A mask net; the frames of a group are in its ``config``.

    Returns
    -------
    list of int
        Samples.

    Example
    -------
    >>> from mossformer_sb import build_encoder, build_masknet
    >>> delays(4, build_encoder("small"), build_masknet("small"))  # a hop of 32 samples, groups of 128 frames
    [0, 1032, 2064, 3096]
    """
    hop = encoder.conv1d.stride[0]
    group_size = min(getattr(masknet, "config", {}).get("group_size", _GROUP_SIZE), _LARGEST_GROUP)
    parts = (number / shifts for number in range(shifts))
    return [hop * round(part * group_size) + round(part * hop) for part in parts]


def mean_of_delayed(
    separate: Callable, mixture: torch.Tensor, lengths: torch.Tensor | None, delays: Sequence[int]
) -> torch.Tensor:
    """The mean of a network's estimates for a mixture after several delays, every second time negated.

    Arguments
    ---------
    separate : callable
        (mixture [B, T'], lengths) → estimates [B, T', S].
    mixture : torch.Tensor
        [B, T].
    lengths : torch.Tensor, optional
        [B], int64, samples of each item of a padded batch.
    delays : sequence of int
        Samples of silence before the mixture.

    Returns
    -------
    torch.Tensor
        [B, T, S], with the speakers in the order of the first delay's estimates, to which those of the others are
        permuted by their correlations.

    Example
    -------
    >>> import torch
    >>> mixture = torch.tensor([[1.0, 2.0, 3.0]])
    >>> def halves(x, lengths):  # the speakers' order depends on the length
    ...     return torch.stack([x, -x] if x.shape[1] % 2 else [-x, x], dim=-1)
    >>> mean_of_delayed(halves, mixture, None, [0, 1, 3])[..., 0]
    tensor([[1., 2., 3.]])
    """
    first = total = None
    for number, delay in enumerate(delays):
        sign = -1 if number % 2 else 1
        delayed = F.pad(sign * mixture, (delay, 0))
        estimates = sign * separate(delayed, None if lengths is None else lengths + delay)[:, delay:]
        if first is None:
            first = total = estimates
            continue
        with torch.autocast(estimates.device.type, enabled=False):  # sums over time overflow in half precision
            correlations = estimates.float().mT @ first.float()  # [B, S, S]
        total = total + reorder(estimates, best_permutation(correlations))
    return total if len(delays) == 1 else total / len(delays)
