"""The mask net by pieces of time, for inference on a processor.

What `MossFormerMaskNet` computes, tensor after tensor, this computes piece after piece: all steps of a block for some
hundred frames, which stay in the caches, then all steps for the next ones. It takes less time, the more so the longer
the recording, and no memory but for the values of one block. Only sums over the whole sequence have to come first:
the context of the global attention, and the statistics of the two global norms.

A batch goes item by item, each with its true length, so padding never enters.

Shapes: l frames of a piece, L of the item, D model width, H width of v and of u, K query/key width, N encoder channels.
"""

import torch
import torch.nn.functional as F

from mossformer_sb.network.attention import local_attention, rotate
from mossformer_sb.network.depthwise import filter_inside, filter_pieces
from mossformer_sb.network.fast.matmul import add_product, linear, packed, product
from mossformer_sb.network.lengths import over_length

PIECE = 768  # frames: 6 MB of v and u at size L


def masks_by_pieces(masknet, x):
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
    ...     masks_by_pieces(build_masknet("mini"), torch.rand(128, 300)).shape
    torch.Size([2, 128, 300])
    """
    num_frames = x.shape[1]
    spans = [(start, min(start + PIECE, num_frames)) for start in range(0, num_frames, PIECE)]
    embedded = _embed(masknet, x, spans)
    rotation = masknet.rotation(num_frames, like=embedded)
    hidden = embedded
    for block in masknet.blocks:
        hidden = block_by_pieces(block, hidden, rotation)
    statistics = _statistics(masknet.frame_norm(hidden[start:stop]) for start, stop in spans)
    masks = None
    for start, stop in spans:
        normed = _normed(masknet.output_norm, masknet.frame_norm(hidden[start:stop]), statistics)
        of_piece = _masks_of_piece(masknet, normed + embedded[start:stop])  # S times [N, l]
        if masks is None:
            masks = of_piece[0].new_empty(len(of_piece), *x.shape)
        for mask, one in zip(masks, of_piece, strict=True):
            mask[:, start:stop] = one
    return masks


def _embed(masknet, x, spans):
    """Norm, projection and positions: [N, L] → [L, D]."""
    statistics = _statistics(x[:, start:stop] for start, stop in spans)
    embedded = None
    for start, stop in spans:
        projected = masknet.input_projection(_normed(masknet.norm, x[:, start:stop].t(), statistics))
        positioned = projected + masknet.position(stop - start, start)
        if embedded is None:
            embedded = positioned.new_empty(x.shape[1], positioned.shape[1])
        embedded[start:stop] = positioned
    return embedded


def _statistics(pieces):
    """Mean and variance over all elements of all pieces, which are each put together from those of the pieces."""
    counts, means, variances = [], [], []
    for piece in pieces:
        wide = piece.to(torch.promote_types(piece.dtype, torch.float32))
        mean = wide.mean()
        counts.append(piece.numel())
        means.append(mean)
        variances.append((wide - mean).square().mean())
    shares = torch.tensor(counts, dtype=mean.dtype) / sum(counts)
    means, variances = torch.stack(means), torch.stack(variances)
    mean = (shares * means).sum()
    return mean, (shares * (variances + (means - mean).square())).sum()


def _normed(norm, x, statistics):
    """A `GlobalLayerNorm` of a piece [l, N], given the mean and the variance of the whole."""
    mean, variance = statistics
    weight, bias = norm.weight.to(mean.dtype), norm.bias.to(mean.dtype)  # float32, of half-precision modules too
    scale = weight * torch.rsqrt(variance + norm.eps)
    return torch.addcmul(bias - mean * scale, x.to(scale.dtype), scale).to(x.dtype)


def _masks_of_piece(masknet, x):
    """From the last skip connection to the masks: [l, D] → S times [N, l]."""
    of_speakers = masknet.speaker_projection(masknet.prelu(x)).chunk(masknet.num_spks, dim=-1)  # S times [l, D]
    hidden = (masknet.tanh_projection(one).tanh_().mul_(masknet.gate_projection(one).sigmoid_()) for one in of_speakers)
    # The product comes out transposed, which is how masks are wanted.
    return [product(masknet.mask_projection.weight, one.t()).relu_() for one in hidden]


def block_by_pieces(block, x, rotation):
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
    ...     block_by_pieces(block, torch.randn(100, 64), (cos, sin)).shape
    torch.Size([100, 64])
    """
    spans = _spans(len(x), block.group_size)
    pieces, context = _project(block, x, rotation, spans)
    gated = (_attend(block, *piece, context) for piece in pieces)
    weight = packed(block.to_output.linear.weight)
    hidden = (_to_hidden(block.to_output, weight, rows) for rows in gated)
    output = torch.empty_like(x)
    start = 0
    for filtered in filter_pieces(hidden, block.to_output.depthwise.taps().to(x.dtype)):
        stop = start + len(filtered)
        torch.add(x[start:stop], filtered, out=output[start:stop])
        start = stop
    return output


def _spans(num_frames, group_size):
    """Pieces of whole groups, as (start, stop); the last, shorter group goes by itself."""
    frames = group_size * max(1, PIECE // group_size)
    in_whole_groups = num_frames - num_frames % group_size
    starts = [*range(0, in_whole_groups, frames), in_whole_groups]
    return [(start, stop) for start, stop in zip(starts, [*starts[1:], num_frames], strict=True) if start < stop]


def _project(block, x, rotation, spans):
    """Values [l, 2H], z [l, K] and rotation of each piece, and the context [K, 2H]."""
    pieces, context = [], 0.0
    value_weight, key_weight = packed(block.to_values.linear.weight), packed(block.to_query_key.linear.weight)
    for start, stop in spans:
        shifted, before = _shifted_with_neighbours(x, start, stop, block.to_values.depthwise.reach)
        values = _conv_module(block.to_values, value_weight, shifted, before, stop - start)
        z = _conv_module(block.to_query_key, key_weight, shifted, before, stop - start)
        turn = rotation[0][start:stop], rotation[1][start:stop]
        key = _copy_of(z, block.offset_scale, 3, turn).to(values.dtype)
        # Sums of many pieces are taken in float32 at least.
        wide = torch.promote_types(values.dtype, torch.float32)
        context = context + product(over_length(key, num_frames=len(x)).t(), values).to(wide)
        pieces.append((values, z, turn))
    return pieces, context.to(pieces[0][0].dtype)


def _shifted_with_neighbours(x, start, stop, reach):
    """Rows from ``reach`` before to ``reach`` after a piece, as far as there are such, after token shift.

    Returns them and how many of them lie before the piece.
    """
    first, last = max(0, start - reach), min(len(x), stop + reach)
    half = (x.shape[1] + 1) // 2
    delayed = x[first - 1 : last - 1, :half] if first else F.pad(x[: last - 1, :half], (0, 0, 1, 0))
    return torch.cat((delayed, x[first:last, half:]), dim=1), start - first


def _to_hidden(module, weight, x):
    """The part of a `ConvModule` before its filter, given its packed weight: [l, in] → [l, out]."""
    return linear(module.norm(x), weight, module.linear.bias, silu=True)


def _conv_module(module, weight, x, before, num_frames):
    """A `ConvModule` for a piece whose neighbours came along: [l', in] → [l, out]."""
    hidden = _to_hidden(module, weight, x)
    reach = module.depthwise.reach
    missing = reach - before, reach - (len(x) - before - num_frames)
    if any(missing):
        hidden = F.pad(hidden, (0, 0, *missing))
    return filter_inside(hidden, module.depthwise.taps().to(hidden.dtype))


def _copy_of(z, offset_scale, number, turn):
    """One of the four affine, rotated copies of z: [l, K]."""
    return rotate(torch.addcmul(offset_scale.beta[number], z, offset_scale.gamma[number]), *turn)


def _attend(block, values, z, turn, context):
    """Joint attention and the gate, for one piece: [l, H]."""
    local_query, global_query, local_key = (
        _copy_of(z, block.offset_scale, number, turn).to(values.dtype) for number in range(3)
    )
    local = local_attention(local_query[None], local_key[None], values[None], block.group_size)[0]  # [l, 2H]
    attended_v, attended_u = add_product(local, global_query, context).chunk(2, dim=-1)
    v, u = values.chunk(2, dim=-1)
    gate = attended_v.mul_(u).sigmoid_()
    return attended_u.mul_(v).mul_(gate)
