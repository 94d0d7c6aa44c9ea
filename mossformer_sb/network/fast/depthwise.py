"""Fast depthwise convolution of a MossFormer block: its skip, its gradients, and its input in tiles.

Shapes: B batch, L frames, C channels, K kernel weights of a channel.

The skip. With δ the kernel that is 1 in the middle and 0 elsewhere, ``h + conv(h, w) = conv(h, w + δ)``, so the skip
around the convolution costs nothing (`kernel_with_skip`).

The gradients. For ``y[t] = Σ_k w[k] · x[t + k - K//2]`` in each channel, and G = ∂loss/∂y::

    ∂loss/∂x[t] = Σ_k w[K-1-k] · G[t + k - K//2]          the same convolution, with the kernel reversed
    ∂loss/∂w[k] = Σ_t G[t] · x[t + k - K//2]

The second is slow in stock PyTorch on a CPU, so it is computed here, in blocks of time that fit the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from mossformer_sb.network.fast.once import differentiable_once
from mossformer_sb.network.layers import depthwise_conv
from mossformer_sb.network.precision import at_least_float32
from mossformer_sb.network.workarounds import conv2d

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mossformer_sb.network.layers import DepthwiseConv

# Elements per block of the gradient's input. The sums of 2**14 floats, times 17 kernel weights, fit the L2 caches of
# two CPU cores, or just exceed that of one; smaller blocks cost more calls than they gain.
_CPU_BLOCK = 2**14


def kernel_with_skip(conv: DepthwiseConv) -> torch.Tensor:
    """The kernel weights of ``h + conv(h)`` as one convolution.

    Arguments
    ---------
    conv : DepthwiseConv

    Returns
    -------
    torch.Tensor
        [C, K].

    Example
    -------
    >>> from mossformer_sb.network.layers import DepthwiseConv
    >>> conv = DepthwiseConv(channels=1, kernel_size=5).requires_grad_(False)
    >>> _ = conv.weight.zero_()
    >>> kernel_with_skip(conv)
    tensor([[0., 0., 1., 0., 0.]])
    """
    reach = half_width(conv)
    # Not a buffer: DDP would broadcast this constant before every step.
    return conv.weight + F.pad(conv.weight.new_ones(1), (reach, reach))


def half_width(conv: DepthwiseConv) -> int:
    """Number of frames on each side that an output of a `DepthwiseConv` depends on: K//2."""
    return conv.weight.shape[1] // 2


def convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`depthwise_conv` with a custom backward."""
    return DepthwiseFunction.apply(x, weight)


class DepthwiseFunction(torch.autograd.Function):
    """`depthwise_conv` with a custom backward: ``apply(x, weight)``, [B, L, C] and [C, K] → [B, L, C]."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return depthwise_conv(x, weight)

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x = depthwise_conv(grad, weight.flip(1)) if ctx.needs_input_grad[0] else None
        grad_weight = kernel_gradient(grad, x, weight.shape[1]).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight


def kernel_gradient(grad: torch.Tensor, x: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Sum over batch and time of ``grad[b, t, c] * x[b, t + k - K//2, c]``: [C, K].

    All K shifts of a block of x are views of one padded tensor, so the only additional memory is one block of sums, to
    which the products of each block are added. Sums are in float32 at least.
    """
    grad = at_least_float32(grad)
    batch, length, channels = grad.shape
    block = min(length, max(1, _CPU_BLOCK // (batch * channels)))
    totals = grad.new_zeros(kernel_size, batch, block, channels)
    shifted = _shifts(_pad_frames(x, kernel_size // 2, grad.dtype), kernel_size)  # [K, B, L, C]
    # Split in one call: a block takes some ten microseconds, as would slicing it.
    for shifted_block, grad_block in zip(shifted.split(block, dim=2), grad.split(block, dim=1), strict=True):
        frames = grad_block.shape[1]
        (totals if frames == block else totals[:, :, :frames]).addcmul_(shifted_block, grad_block)
    return totals.sum((1, 2)).t()


def _pad_frames(x, reach, dtype):
    """[B, L, C] → [B, L + 2 reach, C] of a dtype, with zeros at both ends: in one pass, unlike F.pad."""
    batch, length, channels = x.shape
    padded = x.new_empty(batch, length + 2 * reach, channels, dtype=dtype)
    padded[:, :reach] = 0
    padded[:, reach : reach + length] = x
    padded[:, reach + length :] = 0
    return padded


def _shifts(padded, kernel_size):
    """[B, L+K-1, C] → [K, B, L, C]: the K excerpts of L frames, without a copy."""
    return padded.unfold(1, padded.shape[1] - kernel_size + 1, 1).permute(1, 0, 3, 2)


def grouped_conv(x: torch.Tensor, weight: torch.Tensor, dilation: int = 1) -> torch.Tensor:
    """`mossformer_sb.network.layers.grouped_conv` by depthwise filters without dilation, which are fast.

    The first channels of all groups form one tensor, the second ones another, and so on; each has its own filter, and
    the results are added. With a dilation d, d frames form one row of d times as many channels.

    Example
    -------
    >>> grouped_conv(torch.randn(2, 101, 16), torch.randn(8, 2, 39), dilation=2).shape
    torch.Size([2, 101, 8])
    """
    channels, group_channels, _ = weight.shape
    num_frames = x.shape[1]
    missing = -num_frames % dilation
    total = None
    # One unbind, whose gradient is one stack; the gradient of each slice would be a padded tensor.
    for part, kernel in zip(x.unflatten(-1, (channels, group_channels)).unbind(-1), weight.unbind(1), strict=True):
        rows = F.pad(part, (0, 0, 0, missing)) if missing else part
        rows = rows.reshape(len(x), -1, dilation * channels)  # [B, L/d, d·C]
        convolved = depthwise_conv(rows, kernel.repeat(dilation, 1))
        total = convolved if total is None else total + convolved
    return total.reshape(len(x), -1, channels)[:, :num_frames]


def convolve_tiles(tiles: Iterable[torch.Tensor], weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """`depthwise_conv` of a sequence in tiles of time, without gradient.

    Arguments
    ---------
    tiles : iterable of torch.Tensor
        Each [l, C], in order.
    weight : torch.Tensor
        [C, K], K odd.

    Yields
    ------
    torch.Tensor
        [l', C], convolved, in order. Their lengths differ from the input's, since an output frame needs the K//2 frames
        after it.

    Example
    -------
    >>> tiles = convolve_tiles(torch.randn(50, 4).split(20), torch.randn(4, 17))
    >>> [len(tile) for tile in tiles]
    [12, 20, 10, 8]
    """
    reach = weight.shape[1] // 2
    kept = None
    for tile in tiles:
        kept = F.pad(tile, (0, 0, reach, 0)) if kept is None else torch.cat((kept, tile))
        if len(kept) > 2 * reach:
            yield convolve_valid(kept, weight)
            kept = kept[len(kept) - 2 * reach :]
    kept = F.pad(kept, (0, 0, 0, reach))
    if len(kept) > 2 * reach:
        yield convolve_valid(kept, weight)


def convolve_valid(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[l, C] → [l - K + 1, C]: the convolution without padding ("valid"), without gradient."""
    # This order of views gives the strides of channels last; otherwise PyTorch would copy the image.
    image = x.unsqueeze(0).transpose(1, 2).unsqueeze(2)  # [1, C, 1, l]
    image = conv2d(image, weight[:, None, None, :], padding=(0, 0), groups=len(weight))
    return image.squeeze(2).transpose(1, 2).squeeze(0)
