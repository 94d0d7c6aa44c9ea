"""Tiled inference of MossFormer2's recurrent module, like `tiled` for a block.

The statistics of the two instance norms are sums over the complete sequence, so there are three passes over the tiles:
up to the first filter of the memory, up to the second, and to the end. Between them h, u, v, q and the outputs of the
filters are stored for each frame.

The second filter sees pairs of channels at every second frame. Here it consists of two depthwise filters without
dilation: the even channels of its input are one tensor and the odd ones another, and an even frame and the odd one
after it are one row of twice as many channels. To separate even and odd channels from the beginning, q and the output
of the first filter are computed with the even channels first.

Shapes: l frames of a tile, L of the item, D model width, C inner width, K kernel weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from mossformer_sb.network.fast.depthwise import convolve_tiles, convolve_valid, kernel_with_skip
from mossformer_sb.network.fast.matmul import linear, packed
from mossformer_sb.network.precision import at_least_float32

if TYPE_CHECKING:
    from mossformer_sb.network.recurrent import RecurrentModule


def recurrent_of_item(module: RecurrentModule, x: torch.Tensor, tile_frames: int) -> torch.Tensor:
    """`RecurrentModule.forward` for one item.

    Arguments
    ---------
    module : RecurrentModule
        Module in evaluation mode: dropout is not computed. C is even.
    x : torch.Tensor
        [L, D].
    tile_frames : int
        Frames per tile, rounded up to an even number.

    Returns
    -------
    torch.Tensor
        [L, D].

    Example
    -------
    >>> from mossformer_sb.network.recurrent import RecurrentModule
    >>> with torch.no_grad():
    ...     recurrent_of_item(RecurrentModule(64, 16), torch.randn(101, 64), tile_frames=32).shape
    torch.Size([101, 64])
    """
    frames = tile_frames + tile_frames % 2
    spans = [(start, min(start + frames, len(x))) for start in range(0, len(x), frames)]
    fsmn = module.unit.fsmn
    h, u, v = _branches(module, x, spans)
    pairs, filtered, statistics = _first_filter(fsmn, u, spans)
    statistics = _second_filter(fsmn.memory, pairs, filtered, statistics, spans)
    return _output(module, x, h, u, v, filtered, statistics, spans)


# ---- the passes


def _branches(module, x, spans):
    """h, and its two convolution modules u and v, each [L, C].

    Both have the same input, so they are one multiplication and one convolution. The scales and shifts of their norms
    are folded into the linear layer.
    """
    unit = module.unit
    bottleneck = packed(module.bottleneck.weight)
    modules = unit.to_u, unit.to_v
    weights, biases = zip(*(_with_norm(branch) for branch in modules), strict=True)
    weight, bias = packed(torch.cat(weights)), torch.cat(biases)
    kernel = torch.cat([kernel_with_skip(branch.depthwise) for branch in modules])
    norm = unit.to_u.norm
    tiles = []  # of h, each [l, C]
    for start, stop in spans:
        tile = linear(x[start:stop], bottleneck, module.bottleneck.bias)
        tile = F.prelu(tile, module.prelu.weight.to(tile.dtype))
        tiles.append(_layer_norm(module.input_norm, tile))
    hidden = (
        linear(F.layer_norm(tile, norm.normalized_shape, eps=norm.eps), weight, bias, silu=True) for tile in tiles
    )
    u, v, start = None, None, 0
    for tile in convolve_tiles(hidden, kernel):  # [l, 2C]
        stop = start + len(tile)
        if u is None:
            u, v = tile.new_empty(2, len(x), tile.shape[1] // 2)
        u[start:stop], v[start:stop] = tile.chunk(2, dim=1)
        start = stop
    return torch.cat(tiles), u, v


def _with_norm(module):
    """Weight and bias of a `ConvModule`'s linear layer, with its LayerNorm's scale and shift folded in."""
    norm, weight, bias = module.norm, module.linear.weight, module.linear.bias
    shift = weight @ norm.bias
    return weight * norm.weight, shift if bias is None else bias + shift


def _first_filter(fsmn, u, spans):
    """q, the output of the first filter, and its statistics.

    Returns q as a part of the input of the second filter, a `_Pairs`; and [L, C], with the even channels first.
    """
    first = fsmn.memory.first
    weight, projection = packed(fsmn.linear.weight), packed(_even_first(fsmn.projection.weight))
    pairs = _Pairs(u, reach=_reach(fsmn.memory.second))

    def tiles():
        for start, stop in spans:
            q = linear(linear(u[start:stop], weight, fsmn.linear.bias).relu_(), projection)
            pairs.write(q, start, second=True)
            yield q

    filtered = _joined(convolve_tiles(tiles(), _even_first(first.conv.weight[:, 0])), len(u))
    return pairs, filtered, _statistics(filtered, spans)


def _second_filter(memory, pairs, filtered, statistics, spans):
    """Norm and slopes of the first layer, then the second filter, which overwrites the first; its statistics."""
    first, second = memory.first, memory.second
    affine = _affine(first.norm, statistics, _even_first)
    slope = _even_first(first.prelu.weight)
    for start, stop in spans:
        pairs.write(_norm_prelu(filtered[start:stop], affine, slope), start, second=False)
    kernels = second.conv.weight.repeat(2, 1, 1).unbind(1)  # each [2C, K]: of the even frames and the odd ones
    for start, stop in spans:
        filtered[start:stop] = pairs.convolve(kernels, start, stop)
    return _statistics(filtered, spans)


def _output(module, x, h, u, v, filtered, statistics, spans):
    """Norm and slopes of the second layer, the gate and the output layer: [L, D]."""
    second = module.unit.fsmn.memory.second
    affine, weight = _affine(second.norm, statistics), packed(module.output.weight)
    output = torch.empty_like(x)
    for start, stop in spans:
        remembered = _norm_prelu(filtered[start:stop], affine, second.prelu.weight).add_(u[start:stop])
        hidden = torch.addcmul(h[start:stop], v[start:stop], remembered)
        hidden = linear(_layer_norm(module.output_norm, hidden), weight, module.output.bias)
        torch.add(x[start:stop], hidden, out=output[start:stop])
    return output


# ---- helpers


class _Pairs:
    """The input ``[y ; q]`` of the second filter: its even channels in one tensor, its odd ones in another.

    Arguments
    ---------
    like : torch.Tensor
        [L, C], of the dtype of the result.
    reach : int
        Number of zeros before and after the sequence, even.
    """

    def __init__(self, like, reach):
        num_frames, channels = like.shape
        self.reach = reach
        rows = num_frames + num_frames % 2 + 2 * reach
        self.halves = [like.new_zeros(rows, channels) for _ in range(2)]

    def write(self, tile, start, second):
        """Write a tile [l, C] of y or, as the second part, of q; its even channels come first."""
        columns = slice(tile.shape[1] // 2, None) if second else slice(tile.shape[1] // 2)
        for half, part in zip(self.halves, tile.chunk(2, dim=1), strict=True):
            half[self.reach + start : self.reach + start + len(tile), columns] = part

    def convolve(self, kernels, start, stop):
        """Filter a tile that starts with an even frame: [l, C]."""
        even_stop = stop + stop % 2
        found = None
        for half, kernel in zip(self.halves, kernels, strict=True):
            rows = half[start : even_stop + 2 * self.reach].view(-1, 2 * half.shape[1])
            convolved = convolve_valid(rows, kernel)
            found = convolved if found is None else found.add_(convolved)
        return found.reshape(-1, self.halves[0].shape[1])[: stop - start]


def _reach(layer):
    """Number of frames on each side that a `MemoryLayer` sees."""
    return layer.conv.dilation * (layer.conv.weight.shape[2] // 2)


def _even_first(x):
    """Rows 0, 2, … and then 1, 3, …"""
    return torch.cat((x[0::2], x[1::2]))


def _joined(tiles, num_frames):
    """Concatenate tiles [l, C]: [L, C]."""
    joined, start = None, 0
    for tile in tiles:
        joined = tile.new_empty(num_frames, tile.shape[1]) if joined is None else joined
        joined[start : start + len(tile)] = tile
        start += len(tile)
    return joined


def _layer_norm(norm, x):
    return F.layer_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def _statistics(x, spans):
    """Mean and variance over time of [L, C], each [C], combined from those of the tiles as in `tiled`."""
    means, variances = [], []
    for start, stop in spans:
        tile = at_least_float32(x[start:stop])
        means.append(tile.mean(0))
        variances.append((tile - means[-1]).square().mean(0))
    means, variances = torch.stack(means), torch.stack(variances)
    counts = [[stop - start] for start, stop in spans]
    shares = torch.tensor(counts, dtype=means.dtype, device=means.device) / len(x)
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0)


def _affine(norm, statistics, order=None):
    """An `InstanceNorm`, given its statistics, as shift and scale, each [C]."""
    mean, variance = statistics
    weight, bias = (value if order is None else order(value) for value in (norm.weight, norm.bias))
    scale = weight.to(mean.dtype) * torch.rsqrt(variance + norm.eps)
    return bias.to(mean.dtype) - mean * scale, scale


def _norm_prelu(x, affine, slope):
    """Norm and PReLU of a tile [l, C], with one slope per channel."""
    shift, scale = affine
    normed = torch.addcmul(shift, x.to(scale.dtype), scale).to(x.dtype)
    return F.prelu(normed, slope.to(x.dtype))
