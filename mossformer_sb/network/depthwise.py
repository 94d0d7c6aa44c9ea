"""Depthwise convolution over time, in the layout that the network keeps: time before channels.

Shapes: B batch, L frames, C channels, K filter taps.

PyTorch's grouped ``Conv1d`` wants channels before time and is slow at it: two transposes and, on a CPU, a filter that
takes dozens of times as long as the same filter written as a channels-last ``Conv2d`` with a 1×K kernel. The latter
reads [B, L, C] where it lies. Its gradient with respect to the input is again such a filter, with the taps reversed.
The gradient with respect to the taps is slow in stock PyTorch on a CPU, so there it is computed here, by blocks of time
that stay in the cache.
"""

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn

from mossformer_sb.network.fast import choice
from mossformer_sb.network.fast.choice import needs_gradient
from mossformer_sb.network.fast.once import differentiable_once

# Elements of one block of the gradient's input. 2**13 floats, times 17 taps, fit a CPU core's second-level cache.
_CPU_BLOCK = 2**13
# Up to here, oneDNN's half-precision depthwise convolution never returns (torch 2.11, 17 taps, with AVX-512).
_HANGING_CHANNELS = 16


def depthwise_filter(x, taps):
    """Filter each channel over time with its own taps, zero-padded so that the length stays.

    This is cross-correlation, as in ``torch.nn.Conv1d``.

    Arguments
    ---------
    x : torch.Tensor
        [B, L, C].
    taps : torch.Tensor
        [C, K], K odd.

    Returns
    -------
    torch.Tensor
        [B, L, C].

    Example
    -------
    >>> x = torch.tensor([[[1.0], [2.0], [3.0]]])
    >>> depthwise_filter(x, torch.tensor([[10.0, 1.0, 0.0]])).flatten().tolist()
    [1.0, 12.0, 23.0]
    """
    if choice.takes_backward_by_hand(x, taps) and needs_gradient(x, taps):
        return _DepthwiseFilter.apply(x, taps)
    return correlate(x, taps)


def filter_pieces(pieces, taps):
    """`depthwise_filter` of a sequence that comes in pieces, where no gradient is needed.

    Arguments
    ---------
    pieces : iterable of torch.Tensor
        Each [l, C], in order.
    taps : torch.Tensor
        [C, K], K odd.

    Yields
    ------
    torch.Tensor
        [l', C], filtered, in order. The lengths are others, since a frame waits for the K//2 frames after it.

    Example
    -------
    >>> pieces = filter_pieces(torch.randn(50, 4).split(20), torch.randn(4, 17))
    >>> [len(piece) for piece in pieces]
    [12, 20, 10, 8]
    """
    reach = taps.shape[1] // 2
    kept = None
    for piece in pieces:
        kept = F.pad(piece, (0, 0, reach, 0)) if kept is None else torch.cat((kept, piece))
        if len(kept) > 2 * reach:
            yield filter_inside(kept, taps)
            kept = kept[len(kept) - 2 * reach :]
    kept = F.pad(kept, (0, 0, 0, reach))
    if len(kept) > 2 * reach:
        yield filter_inside(kept, taps)


def filter_inside(x, taps):
    """[l, C] → [l - K + 1, C]: the filter where all of its taps have a frame, without gradient."""
    return correlate(x[None], taps, padding=0)[0]


class _DepthwiseFilter(torch.autograd.Function):
    """`depthwise_filter` with the gradients that this layout makes cheap."""

    @staticmethod
    def forward(ctx, x, taps):
        ctx.save_for_backward(x, taps)
        return correlate(x, taps)

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        x, taps = ctx.saved_tensors
        grad_x = correlate(grad, taps.flip(1)) if ctx.needs_input_grad[0] else None
        grad_taps = tap_gradient(grad, x, taps.shape[1]).to(taps.dtype) if ctx.needs_input_grad[1] else None
        return grad_x, grad_taps


def correlate(x, taps, padding=None):
    """The filter itself: [B, L, C] seen as a channels-last image of height one."""
    channels, num_taps = taps.shape
    padding = num_taps // 2 if padding is None else padding
    few = x.device.type == "cpu" and x.dtype.itemsize < 4 and channels <= _HANGING_CHANNELS
    dtype = torch.float32 if few else x.dtype
    image = x.to(dtype).transpose(1, 2).unsqueeze(2)  # [B, C, 1, L]
    kernel = taps.to(dtype)[:, None, None, :]  # [C, 1, 1, K]
    # There is no autocast to switch off on the meta device, where shapes and parameters are counted.
    with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        image = F.conv2d(image, kernel, padding=(0, padding), groups=channels)
    return image.squeeze(2).transpose(1, 2).to(x.dtype)


def tap_gradient(grad, x, num_taps):
    """Sum over batch and time of ``grad[b, t, c] * x[b, t + k - K//2, c]``: [C, K].

    All K shifts of a block of x are views of one padded tensor, so the only memory it takes is one block of sums, to
    which the products of each block are added. Sums are taken in float32 at least.
    """
    dtype = torch.promote_types(grad.dtype, torch.float32)
    grad = grad.to(dtype)
    padded = F.pad(x.to(dtype), (0, 0, num_taps // 2, num_taps // 2))  # [B, L+K-1, C]
    batch, length, channels = grad.shape
    block = min(length, max(1, _CPU_BLOCK // (batch * channels)))
    totals = grad.new_zeros(num_taps, batch, block, channels)
    for start in range(0, length, block):
        grad_block = grad[:, start : start + block]  # [B, n, C]
        size = grad_block.shape[1]
        shifted = _shifts(padded[:, start : start + size + num_taps - 1], num_taps)
        totals[:, :, :size].addcmul_(shifted, grad_block)
    return totals.sum((1, 2)).t()


def _shifts(padded, num_taps):
    """[B, L+K-1, C] → [K, B, L, C]: the K stretches of L frames, without a copy."""
    return padded.unfold(1, padded.shape[1] - num_taps + 1, 1).permute(1, 0, 3, 2)


@choice.known
class DepthwiseConv(nn.Module):
    """``x + filter(x)``: the depthwise convolution of a MossFormer block, with the skip around it.

    Arguments
    ---------
    channels : int
        Number of channels C.
    kernel_size : int
        Number of taps K, odd. The parameter ``weight`` is [C, K], initialised as in ``torch.nn.Conv1d``.

    Example
    -------
    >>> conv = DepthwiseConv(channels=8, kernel_size=17)
    >>> conv(torch.randn(2, 100, 8)).shape
    torch.Size([2, 100, 8])
    """

    def __init__(self, channels, kernel_size=17):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, kernel_size))
        self.reset_parameters()

    def reset_parameters(self):
        """Draw the taps from U(-1/√K, 1/√K)."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)

    @property
    def reach(self):
        """Frames on either side that an output depends on."""
        return self.weight.shape[1] // 2

    def taps(self):
        """[C, K], the skip included: it is one more on the middle tap, so that a fast filter gets it for nothing."""
        # Made anew each time: a buffer, which never changes, would be sent around by DDP before every step.
        return self.weight + F.pad(self.weight.new_ones(1), (self.reach, self.reach))

    def forward(self, x):
        """[B, L, C] → [B, L, C]."""
        return x + depthwise_filter(x, self.weight)
