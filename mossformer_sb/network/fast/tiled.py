"""Tiled inference: the mask net in tiles of time, for a CPU.

`MossFormerMaskNet` computes tensor by tensor, this module tile by tile: all steps of a block for some hundred frames,
which fit the caches, then all steps for the next ones. It is faster, especially for long recordings, and needs memory
only for the values of one block. Sums over the complete sequence are computed first: the context of the global
attention, and the statistics of the two global norms.

A batch is computed item by item, each with its true length, without padding.

Shapes: l frames of a tile, L of the item, D model width, H width of v and of u, K query/key width, N encoder channels,
S speakers.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from mossformer_sb.network.checks import check_input
from mossformer_sb.network.fast.backward import working_dtype
from mossformer_sb.network.fast.depthwise import half_width
from mossformer_sb.network.fast.matmul import matmul
from mossformer_sb.network.fast.tiled_block import PaddedSequence, TiledBlock, spans_of
from mossformer_sb.network.fast.tiled_recurrent import recurrent_of_item
from mossformer_sb.network.precision import at_least_float32
from mossformer_sb.network.recurrent import RecurrentModule

if TYPE_CHECKING:
    from mossformer_sb.network.block import MossFormerBlock
    from mossformer_sb.network.masknet import MossFormerMaskNet

RECURRENT_TILE_FRAMES = 1024


def masks(masknet: MossFormerMaskNet, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """As `MossFormerMaskNet.forward`, in evaluation mode and without gradient.

    Example
    -------
    >>> from mossformer_sb import build_masknet
    >>> with torch.no_grad():
    ...     masks(build_masknet("mini"), torch.rand(2, 128, 300), torch.tensor([300, 200])).shape
    torch.Size([2, 2, 128, 300])
    """
    _keep_freed_memory()
    check_input(x, masknet.config["in_channels"], lengths)
    batch_size, _, num_frames = x.shape
    true_lengths = [num_frames] * batch_size if lengths is None else lengths.tolist()
    items = []  # B times [S, N, L]
    for item, length in zip(x, true_lengths, strict=True):
        found = masks_of_item(masknet, item[:, :length])
        items.append(F.pad(found, (0, num_frames - length)) if length < num_frames else found)
    return items[0].unsqueeze(1) if len(items) == 1 else torch.stack(items, dim=1)


@functools.cache
def _keep_freed_memory():
    """Let the C library reuse the memory of one tensor for the next, instead of new pages each time.

    glibc returns freed blocks above a threshold to the system. It is 128 KB at first, and grows to the size of the
    largest such freed block, at most 32 MB. Pages that are never written to use no memory.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def masks_of_item(masknet: MossFormerMaskNet, x: torch.Tensor) -> torch.Tensor:
    """`MossFormerMaskNet.forward` for one item.

    Arguments
    ---------
    masknet : MossFormerMaskNet
        Mask net in evaluation mode: dropout is not computed.
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
    spans = spans_of(num_frames)
    embedded = _embed(masknet, x, spans)
    rotation = masknet.rotation(num_frames, like=embedded)
    hidden = embedded
    for module, *_ in masknet.stages(rotation):
        if isinstance(module, RecurrentModule):
            hidden = recurrent_of_item(module, hidden, RECURRENT_TILE_FRAMES)
        else:
            hidden = block_of_item(module, hidden, rotation)
    statistics = _statistics(masknet.frame_norm(hidden[start:stop]) for start, stop in spans)
    masks = x.new_empty(masknet.num_spks, *x.shape, dtype=working_dtype(x))
    for start, stop in spans:
        normed = _global_norm(masknet.output_norm, masknet.frame_norm(hidden[start:stop]), statistics)
        for mask, tile_mask in zip(masks, _masks_of_tile(masknet, normed + embedded[start:stop]), strict=True):
            mask[:, start:stop] = tile_mask
    return masks


def _embed(masknet, x, spans):
    """Norm, projection and positions: [N, L] → [L, D]."""
    statistics = _statistics(x[:, start:stop] for start, stop in spans)
    tiles = []
    for start, stop in spans:
        projected = masknet.input_projection(_global_norm(masknet.norm, x[:, start:stop].t(), statistics))
        tiles.append(projected + masknet.position(stop - start, start))
    return torch.cat(tiles)


def _statistics(tiles):
    """Mean and variance over all elements of all tiles, combined from those of the tiles.

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
    shares = torch.tensor(counts, dtype=mean.dtype, device=mean.device) / sum(counts)
    means, variances = torch.stack(means), torch.stack(variances)
    mean = (shares * means).sum()
    return mean, (shares * (variances + (means - mean).square())).sum()


def _global_norm(norm, x, statistics):
    """A `GlobalLayerNorm` of a tile [l, N], given the mean and the variance of the sequence."""
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
    """`MossFormerBlock.forward` for one item.

    Arguments
    ---------
    block : MossFormerBlock
        Block in evaluation mode: dropout is not computed.
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
    dtype, reach = working_dtype(x), half_width(block.to_values.depthwise)
    rotation = torch.complex(*(at_least_float32(part) for part in rotation))
    sequence = PaddedSequence(x, len(x), x.shape[1], before=reach + 1, after=reach)
    sequence.frames.copy_(x)
    with torch.autocast("cpu", enabled=False):
        TiledBlock(block, len(x), rotation, dtype).run(sequence)
    return sequence.frames
