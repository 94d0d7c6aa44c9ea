"""Tiled inference: the mask net in tiles of time, for a CPU.

What `MossFormerMaskNet` computes tensor by tensor, this computes tile by tile: all steps of a block for some hundred
frames, which stay in the caches, then all steps for the next ones. It takes less time, the more so the longer the
recording, and memory only for the values of one block. Only sums over the whole sequence have to come first: the
context of the global attention, and the statistics of the two global norms.

A batch is computed item by item, each with its true length, so padding never enters.

Shapes: l frames of a tile, L of the item, D model width, H width of v and of u, K query/key width, N encoder channels,
S speakers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from mossformer_sb.network.attention import QueriesKeys, rotate
from mossformer_sb.network.checks import check_input
from mossformer_sb.network.fast.depthwise import convolve_tiles, convolve_valid, half_width, kernel_with_skip
from mossformer_sb.network.fast.matmul import add_matmul, linear, matmul, packed
from mossformer_sb.network.fast.tiled_recurrent import recurrent_of_item
from mossformer_sb.network.fast.unpadded import local_attention
from mossformer_sb.network.lengths import over_length
from mossformer_sb.network.precision import at_least_float32
from mossformer_sb.network.recurrent import RecurrentModule

if TYPE_CHECKING:
    from mossformer_sb.network.block import MossFormerBlock
    from mossformer_sb.network.masknet import MossFormerMaskNet

TILE_FRAMES = 1024  # 8 MB of v and u at size L


def masks(masknet: MossFormerMaskNet, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """As `MossFormerMaskNet.forward`, in evaluation mode and without gradient.

    Example
    -------
    >>> from mossformer_sb import build_masknet
    >>> with torch.no_grad():
    ...     masks(build_masknet("mini"), torch.rand(2, 128, 300), torch.tensor([300, 200])).shape
    torch.Size([2, 2, 128, 300])
    """
    check_input(x, masknet.config["in_channels"], lengths)
    batch_size, _, num_frames = x.shape
    true_lengths = [num_frames] * batch_size if lengths is None else lengths.tolist()
    items = []  # B times [S, N, L]
    for item, length in zip(x, true_lengths, strict=True):
        found = masks_of_item(masknet, item[:, :length])
        items.append(F.pad(found, (0, num_frames - length)) if length < num_frames else found)
    return items[0].unsqueeze(1) if len(items) == 1 else torch.stack(items, dim=1)


def masks_of_item(masknet: MossFormerMaskNet, x: torch.Tensor) -> torch.Tensor:
    """What `MossFormerMaskNet.forward` computes, for one item.

    Arguments
    ---------
    masknet : MossFormerMaskNet
        In evaluation mode: there is no dropout here.
    x : torch.Tensor
        [N, L], the encoded mixture.

    Returns
    -------
    torch.Tensor
        [S, N, L].

    Example
    -------
    >>> from mossformer_sb import build_masknet
    >>> with torch.no_grad():
    ...     masks_of_item(build_masknet("mini"), torch.rand(128, 300)).shape
    torch.Size([2, 128, 300])
    """
    num_frames = x.shape[1]
    spans = [(start, min(start + TILE_FRAMES, num_frames)) for start in range(0, num_frames, TILE_FRAMES)]
    embedded = _embed(masknet, x, spans)
    rotation = masknet.rotation(num_frames, like=embedded)
    hidden = embedded
    for module, *_ in masknet.stages(rotation):
        if isinstance(module, RecurrentModule):
            hidden = recurrent_of_item(module, hidden, TILE_FRAMES)
        else:
            hidden = block_of_item(module, hidden, rotation)
    statistics = _statistics(masknet.frame_norm(hidden[start:stop]) for start, stop in spans)
    masks = None
    for start, stop in spans:
        normed = _global_norm(masknet.output_norm, masknet.frame_norm(hidden[start:stop]), statistics)
        tile_masks = _masks_of_tile(masknet, normed + embedded[start:stop])  # S times [N, l]
        if masks is None:
            masks = tile_masks[0].new_empty(len(tile_masks), *x.shape)
        for mask, tile_mask in zip(masks, tile_masks, strict=True):
            mask[:, start:stop] = tile_mask
    return masks


def _embed(masknet, x, spans):
    """Norm, projection and positions: [N, L] → [L, D]."""
    statistics = _statistics(x[:, start:stop] for start, stop in spans)
    embedded = None
    for start, stop in spans:
        projected = masknet.input_projection(_global_norm(masknet.norm, x[:, start:stop].t(), statistics))
        positioned = projected + masknet.position(stop - start, start)
        if embedded is None:
            embedded = positioned.new_empty(x.shape[1], positioned.shape[1])
        embedded[start:stop] = positioned
    return embedded


def _statistics(tiles):
    """Mean and variance over all elements of all tiles, each combined from those of the tiles.

    With the share p of a tile in all elements, its mean m and its variance s²: mean = Σ p m, and
    variance = Σ p (s² + (m - mean)²).
    """
    counts, means, variances = [], [], []
    for tile in tiles:
        tile32 = at_least_float32(tile)
        mean = tile32.mean()
        counts.append(tile.numel())
        means.append(mean)
        variances.append((tile32 - mean).square().mean())
    shares = torch.tensor(counts, dtype=mean.dtype) / sum(counts)
    means, variances = torch.stack(means), torch.stack(variances)
    mean = (shares * means).sum()
    return mean, (shares * (variances + (means - mean).square())).sum()


def _global_norm(norm, x, statistics):
    """A `GlobalLayerNorm` of a tile [l, N], given the mean and the variance of the whole."""
    mean, variance = statistics
    weight, bias = norm.weight.to(mean.dtype), norm.bias.to(mean.dtype)  # float32, of half-precision modules too
    scale = weight * torch.rsqrt(variance + norm.eps)
    return torch.addcmul(bias - mean * scale, x.to(scale.dtype), scale).to(x.dtype)


def _masks_of_tile(masknet, x):
    """From the last skip connection to the masks: [l, D] → S times [N, l]."""
    by_speaker = masknet.speaker_projection(masknet.prelu(x)).chunk(masknet.num_spks, dim=-1)  # S times [l, D]
    gated = (masknet.tanh_projection(one).tanh_().mul_(masknet.gate_projection(one).sigmoid_()) for one in by_speaker)
    # The multiplication gives the transpose, which is the layout of masks.
    return [matmul(masknet.mask_projection.weight, one.t()).relu_() for one in gated]


def block_of_item(block: MossFormerBlock, x: torch.Tensor, rotation: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """What `MossFormerBlock.forward` computes, for one item.

    Arguments
    ---------
    block : MossFormerBlock
        In evaluation mode: there is no dropout here.
    x : torch.Tensor
        [L, D].
    rotation : tuple of torch.Tensor
        Cosines and sines of the rotary embedding, each [L, R/2].

    Returns
    -------
    torch.Tensor
        [L, D].

    Example
    -------
    >>> from mossformer_sb.network.block import MossFormerBlock
    >>> block = MossFormerBlock(channels=64, group_size=32)
    >>> cos, sin = torch.ones(100, 16), torch.zeros(100, 16)
    >>> with torch.no_grad():
    ...     block_of_item(block, torch.randn(100, 64), (cos, sin)).shape
    torch.Size([100, 64])
    """
    tiles, context = _project(block, x, rotation, _spans(len(x), block.group_size))
    gated = (_attend(block, *tile, context) for tile in tiles)
    weight = packed(block.to_output.linear.weight)
    hidden = (_before_convolution(block.to_output, weight, tile) for tile in gated)
    output = torch.empty_like(x)
    start = 0
    for convolved in convolve_tiles(hidden, kernel_with_skip(block.to_output.depthwise).to(x.dtype)):
        stop = start + len(convolved)
        torch.add(x[start:stop], convolved, out=output[start:stop])
        start = stop
    return output


def _spans(num_frames, group_size):
    """Tiles of whole groups, as (start, stop); the last, shorter group is a tile of its own."""
    frames = group_size * max(1, TILE_FRAMES // group_size)
    in_whole_groups = num_frames - num_frames % group_size
    starts = [*range(0, in_whole_groups, frames), in_whole_groups]
    return [(start, stop) for start, stop in zip(starts, [*starts[1:], num_frames], strict=True) if start < stop]


def _project(block, x, rotation, spans):
    """Values [l, 2H], z [l, K] and rotation of each tile, and the context [K, 2H] of the global attention."""
    tiles, context = [], 0.0
    value_weight, key_weight = packed(block.to_values.linear.weight), packed(block.to_query_key.linear.weight)
    for start, stop in spans:
        shifted, before = _shift_with_neighbours(x, start, stop, half_width(block.to_values.depthwise))
        values = _conv_module(block.to_values, value_weight, shifted, before, stop - start)
        z = _conv_module(block.to_query_key, key_weight, shifted, before, stop - start)
        tile_rotation = rotation[0][start:stop], rotation[1][start:stop]
        key = _affine_head(block.offset_scale, z, "global_key", tile_rotation).to(values.dtype)
        # Sums of many tiles are taken in float32 at least.
        context = context + at_least_float32(matmul(over_length(key, num_frames=len(x)).t(), values))
        tiles.append((values, z, tile_rotation))
    return tiles, context.to(tiles[0][0].dtype)


def _shift_with_neighbours(x, start, stop, reach):
    """Rows from ``reach`` before to ``reach`` after a tile, as far as there are such, after token shift.

    Returns them and how many of them lie before the tile.
    """
    first, last = max(0, start - reach), min(len(x), stop + reach)
    half = (x.shape[1] + 1) // 2
    delayed = x[first - 1 : last - 1, :half] if first else F.pad(x[: last - 1, :half], (0, 0, 1, 0))
    return torch.cat((delayed, x[first:last, half:]), dim=1), start - first


def _before_convolution(module, weight, x):
    """The part of a `ConvModule` before its convolution, given its packed weight: [l, in] → [l, out]."""
    return linear(module.norm(x), weight, module.linear.bias, silu=True)


def _conv_module(module, weight, x, before, num_frames):
    """A `ConvModule` for a tile whose neighbours came along: [l', in] → [l, out]."""
    hidden = _before_convolution(module, weight, x)
    reach = half_width(module.depthwise)
    missing = reach - before, reach - (len(x) - before - num_frames)
    if any(missing):
        hidden = F.pad(hidden, (0, 0, *missing))
    return convolve_valid(hidden, kernel_with_skip(module.depthwise).to(hidden.dtype))


def _affine_head(offset_scale, z, name, rotation):
    """One of the four affine, rotated heads of z, by its name in `QueriesKeys`: [l, K]."""
    number = QueriesKeys._fields.index(name)
    return rotate(torch.addcmul(offset_scale.beta[number], z, offset_scale.gamma[number]), *rotation)


def _attend(block, values, z, rotation, context):
    """Joint attention and the gate, for one tile: [l, H]."""
    local_query, global_query, local_key = (
        _affine_head(block.offset_scale, z, name, rotation).to(values.dtype)
        for name in ("local_query", "global_query", "local_key")
    )
    local = local_attention(local_query[None], local_key[None], values[None], block.group_size)[0]  # [l, 2H]
    attended_v, attended_u = add_matmul(local, global_query, context).chunk(2, dim=-1)
    v, u = values.chunk(2, dim=-1)
    gate = attended_v.mul_(u).sigmoid_()
    return attended_u.mul_(v).mul_(gate)
