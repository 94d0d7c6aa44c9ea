"""Tiled inference of a MossFormer block: three passes over the tiles.

::

    project   token shift, norm, both projections, their convolution; the tile's part of the global attention's context
    attend    local and global attention, gate, norm and the output layer before its convolution
    add       that convolution, added to the sequence

Each pass needs results of the previous one for other tiles: the context, a sum over all tiles, or the neighbouring
frames that the convolution sees.

Linear operations are folded into the weights: the gains of the norms into the linear layers, 1/P and 1/L of the
attentions into the affine heads. Both projections have the same input, so they are one multiplication and one
convolution.

Shapes: l frames of a tile, L of the item, D model width, H width of v and of u, K query/key width, P group size, R
rotated channels, r frames on either side that a convolution sees.
"""

import torch

from mossformer_sb.network.attention import QueriesKeys
from mossformer_sb.network.fast.depthwise import convolve_valid, half_width, kernel_with_skip
from mossformer_sb.network.fast.matmul import PackedLinear, add_matmul, matmul
from mossformer_sb.network.precision import at_least_float32

TILE_FRAMES = 2048  # the fastest of 1024, 2048 and 4096, at sizes S, L and small, for 4 s and 30 s


class PaddedSequence:
    """A zero-padded sequence [L, D], so that no tile is a special case.

    Arguments
    ---------
    like : torch.Tensor
        Tensor with the required dtype.
    num_frames, channels : int
        L and D.
    before, after : int
        Number of frames of zeros.

    Example
    -------
    >>> sequence = PaddedSequence(torch.ones(1), num_frames=3, channels=1, before=2, after=1)
    >>> _ = sequence.frames.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
    >>> sequence.around(0, 2).flatten().tolist()
    [0.0, 0.0, 1.0, 2.0, 3.0]
    """

    def __init__(self, like, num_frames, channels, before, after, dtype=None):
        self.before, self.after = before, after
        self._rows = like.new_empty(before + num_frames + after, channels, dtype=dtype)
        self._rows[:before] = 0.0
        self._rows[before + num_frames :] = 0.0
        self.frames = self._rows[before : before + num_frames]  # [L, D]

    def around(self, start, stop):
        """Frames ``start`` to ``stop`` and their neighbours: [before + l + after, D]."""
        return self._rows[start : stop + self.before + self.after]


def spans_of(num_frames, group_size=1):
    """Tiles of complete groups, as (start, stop); a last, shorter group is a separate tile."""
    frames = group_size * max(1, TILE_FRAMES // group_size)
    in_whole_groups = num_frames - num_frames % group_size
    starts = [*range(0, in_whole_groups, frames), in_whole_groups]
    return [(start, stop) for start, stop in zip(starts, [*starts[1:], num_frames], strict=True) if start < stop]


class TiledBlock:
    """A `MossFormerBlock` in evaluation mode, ready for the tiles of sequences of one length.

    Arguments
    ---------
    block : MossFormerBlock
    num_frames : int
        L.
    rotation : torch.Tensor
        [L, R/2], cosines and sines of the rotary embedding as complex numbers.
    dtype : torch.dtype
        Type of multiplications and convolutions.
    """

    def __init__(self, block, num_frames, rotation, dtype):
        values, query_key, output = block.to_values, block.to_query_key, block.to_output
        self.group_size, self.num_frames, self.rotation, self.dtype = block.group_size, num_frames, rotation, dtype
        self.norms = query_key.norm, output.norm
        weight, bias = zip(*(_with_gain(module) for module in (values, query_key)), strict=True)
        self.project_linear = PackedLinear(torch.cat(weight), torch.cat(bias), dtype)
        self.output_linear = PackedLinear(*_with_gain(output), dtype)
        kernels = [kernel_with_skip(module.depthwise).to(dtype) for module in (values, query_key, output)]
        self.project_kernel, self.output_kernel = torch.cat(kernels[:2]), kernels[2]
        self.reach, self.output_reach = half_width(values.depthwise), half_width(output.depthwise)
        # In the order of QueriesKeys.
        factors = torch.tensor(
            [[1 / block.group_size], [1.0], [1.0], [1 / num_frames]], dtype=rotation.real.dtype, device=rotation.device
        )
        self.gamma, self.beta = (
            at_least_float32(x) * factors for x in (block.offset_scale.gamma, block.offset_scale.beta)
        )
        self.widths = len(values.linear.weight), len(query_key.linear.weight)

    def project(self, x, start, stop):
        """Values [l, 2H] and z [l, K] of a tile of a sequence that is padded with r + 1 frames before, r after."""
        rows = x.around(start, stop)  # [1 + r + l + r, D]
        half = rows.shape[1] // 2
        delayed, passed = rows[:-1, :half], rows[1:, half:]
        scale = _scale(self.norms[0], delayed, passed)
        normed = rows.new_empty(len(rows) - 1, rows.shape[1], dtype=self.dtype)
        torch.mul(delayed, scale, out=normed[:, :half])
        torch.mul(passed, scale, out=normed[:, half:])
        hidden = self.project_linear(normed, silu=True)
        # Past both ends the convolution sees zeros, not the outputs of bias and SiLU for zeros.
        hidden[: max(0, self.reach - start)] = 0.0
        hidden[len(hidden) - max(0, stop + self.reach - self.num_frames) :] = 0.0
        convolved = convolve_valid(hidden, self.project_kernel)
        # Copies: for non-contiguous rows, oneDNN uses its slowest implementation.
        return tuple(part.contiguous() for part in convolved.split(self.widths, dim=1))

    def context(self, values, z, start, stop):
        """A tile's part of the global attention's context: [K, 2H], float32 at least, for sums of many tiles."""
        (key,) = self.heads(z, ["global_key"], start, stop)
        return at_least_float32(matmul(key.t(), values))

    def heads(self, z, names, start, stop):
        """Some of the affine, rotated heads of a tile's z, by their names in `QueriesKeys`: [heads, l, K]."""
        first = QueriesKeys._fields.index(names[0])
        rows = slice(first, first + len(names))
        heads = torch.addcmul(self.beta[rows, None], z, self.gamma[rows, None])
        pairs = torch.view_as_complex(heads.unflatten(-1, (-1, 2)))  # [heads, l, K/2]
        pairs[..., : self.rotation.shape[1]].mul_(self.rotation[start:stop])
        return heads.to(self.dtype)

    def attend(self, values, z, context, start, stop):
        """Both attentions, gate, norm and output layer of a tile, up to its convolution: [l, D]."""
        local_query, global_query, local_key = self.heads(z, QueriesKeys._fields[:3], start, stop)
        local = self.local_attention(local_query, local_key, values)
        attended_v, attended_u = add_matmul(local, global_query, context).chunk(2, dim=1)
        v, u = values.chunk(2, dim=1)
        gated = attended_u.mul_(v) * attended_v.mul_(u).sigmoid_()  # [l, H]
        normed = torch.mul(gated, _scale(self.norms[1], gated), out=gated)
        return self.output_linear(normed, silu=True)

    def local_attention(self, query, key, values):
        """ReLU(Q Kᵀ)² V within groups: [l, 2H]."""
        if len(values) <= self.group_size:
            return matmul(matmul(query, key.t()).relu_().square_(), values)
        query, key, groups = (x.unflatten(0, (-1, self.group_size)) for x in (query, key, values))  # [G, P, ·]
        return matmul(matmul(query, key.mT).relu_().square_(), groups).flatten(0, 1)

    def run(self, x):
        """Replace a sequence, padded as `project` needs it, by the block's output."""
        tiles, context = [], 0.0
        for span in spans_of(self.num_frames, self.group_size):
            projected = self.project(x, *span)
            context = context + self.context(*projected, *span)
            tiles.append((span, projected))
        context = context.to(self.dtype)
        padding = self.output_reach
        hidden = PaddedSequence(x.frames, *x.frames.shape, padding, padding, self.dtype)
        for (start, stop), projected in tiles:
            hidden.frames[start:stop] = self.attend(*projected, context, start, stop)
        for (start, stop), _ in tiles:
            x.frames[start:stop] += convolve_valid(hidden.around(start, stop), self.output_kernel)


def _with_gain(module):
    """Weight and bias of a `ConvModule`'s linear layer, with the gain of its norm in the weight."""
    return at_least_float32(module.linear.weight) * at_least_float32(module.norm.gain), module.linear.bias


def _scale(norm, *parts):
    """1 / max(rms, eps) of a `ScaleNorm`, without its gain, for rows in several parts of columns: [l, 1]."""
    dtype = torch.promote_types(parts[0].dtype, torch.float32)
    norms = [torch.linalg.vector_norm(part, dim=1, keepdim=True, dtype=dtype) for part in parts]
    whole = norms[0] if len(norms) == 1 else torch.hypot(*norms)
    return whole.mul_(norm.scale).clamp_(min=norm.eps).reciprocal_()
