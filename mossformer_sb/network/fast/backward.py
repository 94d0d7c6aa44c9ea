"""Custom backward passes of the parts of a block: fewer passes over memory, and fewer saved tensors.

Each computes the same as its reference implementation in `block.py` or `attention.py`, as tests verify, and replaces it
by the rules in `mossformer_sb.network.fast.choice`. Saved for the gradient are the input and one tensor before the
nonlinearity; cheap intermediates are recomputed, and only the required gradients are computed.

The precision is that of the reference: matrix multiplications, convolutions and their results in that of autocast or of
the module, norms and sums in float32 at least.

In the derivations G is ∂loss/∂y, the gradient of the output y, ⊙ the product of elements.

Shapes: B batch, L frames, I, O input and output channels, K query/key width, E value width, R rotated channels,
P frames of a group, G groups in one call, H = E/2 width of v and of u.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F

from mossformer_sb.network.attention import QueriesKeys
from mossformer_sb.network.fast.choice import private_operator
from mossformer_sb.network.fast.depthwise import kernel_gradient, kernel_with_skip
from mossformer_sb.network.fast.matmul import linear, matmul
from mossformer_sb.network.fast.once import differentiable_once
from mossformer_sb.network.layers import depthwise_conv
from mossformer_sb.network.lengths import over_length, zero_padding
from mossformer_sb.network.precision import at_least_float32

_SILU_BACKWARD = private_operator("aten", "silu_backward", "default")
_HALF_ELEMENTS = 2**21  # of values in half precision, whose groups of attention are computed in one call
_LEVELS = 2**16  # quantisation of probabilities: a dropout of 0.1 drops 6554 of 65536


# ---- replacements of a block's calls


def conv_module(module: torch.nn.Module, x: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
    """As `ConvModule.forward`."""
    norm, linear_layer, dropout = module.norm, module.linear, module.dropout
    return ConvModuleFunction.apply(
        x,
        norm.gain,
        linear_layer.weight,
        linear_layer.bias,
        kernel_with_skip(module.depthwise),
        norm.scale,
        norm.eps,
        dropout.p if dropout.training else 0.0,
        padding,
        working_dtype(x),
    )


def queries_keys(
    block: torch.nn.Module, z: torch.Tensor, rotation: tuple[torch.Tensor, ...], dtype: torch.dtype
) -> QueriesKeys:
    """As `MossFormerBlock.queries_keys`."""
    offset_scale = block.offset_scale
    return QueriesKeys(*RotatedHeadsFunction.apply(z, offset_scale.gamma, offset_scale.beta, *rotation, dtype))


def joint_attention(
    queries_keys: QueriesKeys,
    values: torch.Tensor,
    group_size: int,
    lengths: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """As `mossformer_sb.network.attention.joint_attention`."""
    return JointAttentionFunction.apply(*queries_keys, values, lengths, group_size, dropout)


def gate(attended: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """As `mossformer_sb.network.block.gate`."""
    return GateFunction.apply(attended, values)


# ---- precision and dropout


def working_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of matrix multiplications of x: autocast's, if that is on. Double precision is never cast."""
    device = x.device.type
    casts = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if casts else x.dtype


def _chooses_dtypes(method):
    """Decorator of a forward or backward that chooses its dtypes itself: autocast is off inside."""

    @functools.wraps(method)
    def inside(ctx, first, *others):
        with torch.autocast(first.device.type, enabled=False):
            return method(ctx, first, *others)

    return inside


def keep_mask(like: torch.Tensor, dropout: float) -> tuple[torch.Tensor, float]:
    """Draw a dropout mask, four elements from each random number, and return it with the scale of the kept elements.

    Arguments
    ---------
    like : torch.Tensor
        Tensor with the shape and the device of the result.
    dropout : float
        Dropout probability, rounded to the nearest 65536th.

    Returns
    -------
    torch.Tensor
        bool, in the shape of ``like``, True for kept elements.
    float
        1 / the probability that an element is kept.

    Example
    -------
    >>> mask, factor = keep_mask(torch.empty(3, 5), dropout=0.5)
    >>> mask.shape, mask.dtype, factor
    (torch.Size([3, 5]), torch.bool, 2.0)
    """
    dropped = min(round(dropout * _LEVELS), _LEVELS - 1)
    numbers = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    mask = numbers.view(torch.int16)[: like.numel()].view(like.shape) >= dropped - _LEVELS // 2
    return mask, _LEVELS / (_LEVELS - dropped)


# ---- the functions


class ConvModuleFunction(torch.autograd.Function):
    """ScaleNorm → linear → SiLU → depthwise convolution with skip → dropout, as `ConvModule` has it.

    ``apply(x, gain, weight, bias, kernel, scale, eps, dropout, padding, dtype)``, x [B, L, I] → [B, L, O] of a dtype;
    ``kernel`` [O, K] has the skip in it (see `depthwise`), ``scale`` (1/√I) and ``eps`` are those of `ScaleNorm`.

    ::

        r = max(rms(x), eps)     n = g x / r     h = W n + b     a = SiLU(h) = h σ(h)     y = f m ⊙ conv(a)

    with the mask m and the factor f of dropout. The gradients of the convolution are in `depthwise`; it gets f m ⊙ G.
    Then::

        ∂loss/∂h = ∂loss/∂a ⊙ σ(h) (1 + h (1 - σ(h)))
        ∂loss/∂W = Σ ∂loss/∂h nᵀ        ∂loss/∂b = Σ ∂loss/∂h        N = ∂loss/∂n = Wᵀ ∂loss/∂h
        ∂loss/∂g = Σ (N·x) / r
        ∂loss/∂x = (g / r) N - (g (N·x) / (I r³)) x

    since ∂r/∂x = x / (I r). The last term removes the part of the gradient along x, because n doesn't change with the
    length of x. Where r is clamped to eps it does, and the term is zero.
    """

    @staticmethod
    @_chooses_dtypes
    def forward(ctx, x, gain, weight, bias, kernel, scale, eps, dropout, padding, dtype):
        norm_dtype = torch.promote_types(x.dtype, torch.float32)
        rms = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=norm_dtype) * scale
        inverse_rms = rms.clamp(min=eps).reciprocal()  # [B, L, 1]
        rms_clamped = rms < eps
        normed = (x * (gain * inverse_rms)).to(dtype)
        hidden = linear(normed, weight.to(dtype), None if bias is None else bias.to(dtype))  # [B, L, O]
        active = zero_padding(F.silu(hidden), padding)
        mask, factor = keep_mask(hidden, dropout) if dropout > 0 else (None, 1.0)
        # The factor of dropout is multiplied into the kernel, which is smaller than the output.
        output = depthwise_conv(active, (kernel * factor).to(dtype))
        if mask is not None:
            output.mul_(mask)
        ctx.save_for_backward(x, gain, weight, kernel, inverse_rms, rms_clamped, hidden, mask, padding)
        ctx.factor, ctx.scale = factor, scale
        return output

    @staticmethod
    @differentiable_once
    @_chooses_dtypes
    def backward(ctx, grad):
        x, gain, weight, kernel, inverse_rms, rms_clamped, hidden, mask, padding = ctx.saved_tensors
        needs_x, needs_gain, needs_weight, needs_bias, needs_kernel = ctx.needs_input_grad[:5]
        grad_x = grad_gain = grad_weight = grad_bias = grad_kernel = None
        dtype = hidden.dtype
        if mask is not None:
            grad = grad * mask
        if needs_kernel:
            active = zero_padding(F.silu(hidden), padding)
            grad_kernel = kernel_gradient(grad, active, kernel.shape[1]).mul_(ctx.factor).to(kernel.dtype)
        if needs_x or needs_gain or needs_weight or needs_bias:
            grad_active = zero_padding(depthwise_conv(grad, (kernel.flip(1) * ctx.factor).to(dtype)), padding)
            grad_hidden = _silu_backward(grad_active, hidden)
            grad_rows = grad_hidden.flatten(0, -2)  # [B·L, O]
        if needs_weight:
            normed = (x * (gain * inverse_rms)).to(dtype)
            grad_weight = matmul(normed.flatten(0, -2).t(), grad_rows).t()  # [O, I]
        if needs_bias:
            grad_bias = grad_rows.sum(0)
        if needs_x or needs_gain:
            grad_normed = linear(grad_hidden, weight.t().to(dtype)).to(inverse_rms.dtype)  # [B, L, I]
            projection_on_x = (grad_normed * x).sum(-1, keepdim=True)  # [B, L, 1]
        if needs_gain:
            grad_gain = (projection_on_x * inverse_rms).sum().view(1).to(gain.dtype)
        if needs_x:
            radial_term = (projection_on_x * inverse_rms.pow(3) * ctx.scale**2).masked_fill(rms_clamped, 0.0) * gain
            grad_x = grad_normed.mul_(gain * inverse_rms)
            grad_x = torch.addcmul(grad_x, at_least_float32(x), radial_term, value=-1).to(x.dtype)
        return grad_x, grad_gain, grad_weight, grad_bias, grad_kernel, None, None, None, None, None


def _silu_backward(grad, x):
    """Gradient of SiLU with respect to x."""
    if _SILU_BACKWARD is not None:
        return _SILU_BACKWARD(grad, x)
    gate = x.sigmoid()
    return grad * gate * (1 + x * (1 - gate))


class RotatedHeadsFunction(torch.autograd.Function):
    """Four affine heads of z with their rotary position embedding, as by `OffsetScale` and `rotate`.

    ``apply(z, gamma, beta, cos, sin, dtype)``, z [B, L, K] → four times [B, L, K] of a dtype. A pair of channels is a
    complex number here, and its rotation R by an angle θ the product with exp(iθ). The transpose of a rotation by θ is
    that by -θ, so::

        yᵢ = R(θ) (γᵢ ⊙ z + βᵢ)     Uᵢ = R(-θ) Gᵢ
        ∂loss/∂z = Σᵢ γᵢ ⊙ Uᵢ       ∂loss/∂γᵢ = Σ_frames z ⊙ Uᵢ       ∂loss/∂βᵢ = Σ_frames Uᵢ
    """

    @staticmethod
    @_chooses_dtypes
    def forward(ctx, z, gamma, beta, cos, sin, dtype):
        ctx.save_for_backward(z, gamma, cos, sin)
        rotation, z = _complex(cos, sin), at_least_float32(z)
        heads = (
            torch.addcmul(at_least_float32(shift), z, at_least_float32(scale))
            for scale, shift in zip(gamma, beta, strict=True)
        )
        return tuple(_rotate(head, rotation).to(dtype) for head in heads)

    @staticmethod
    @differentiable_once
    @_chooses_dtypes
    def backward(ctx, *grads):
        z, gamma, cos, sin = ctx.saved_tensors
        needs_z, needs_gamma, needs_beta = ctx.needs_input_grad[:3]
        inverse_rotation, z32 = _complex(cos, -sin), at_least_float32(z)
        grad_z, grad_gamma, grad_beta = torch.zeros_like(z32) if needs_z else None, [], []
        for grad, scale in zip(grads, gamma, strict=True):
            unrotated = at_least_float32(grad).clone(memory_format=torch.contiguous_format)
            unrotated = _rotate(unrotated, inverse_rotation)
            if needs_gamma:
                grad_gamma.append((unrotated * z32).sum((0, 1)))
            if needs_beta:
                grad_beta.append(unrotated.sum((0, 1)))
            if needs_z:
                grad_z.addcmul_(unrotated, at_least_float32(scale))
        return (
            grad_z.to(z.dtype) if needs_z else None,
            torch.stack(grad_gamma).to(gamma.dtype) if needs_gamma else None,
            torch.stack(grad_beta).to(gamma.dtype) if needs_beta else None,
            None,
            None,
            None,
        )


def _complex(cos, sin):
    """[L, R/2], complex."""
    return torch.complex(at_least_float32(cos), at_least_float32(sin))


def _rotate(x, rotation):
    """Rotate the first R channels of x [B, L, K]: in place, unless x is stored with channels before time."""
    x = x.contiguous()  # a complex number's two parts must be adjacent
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # [B, L, K/2]
    pairs[..., : rotation.shape[-1]].mul_(rotation)
    return x


class JointAttentionFunction(torch.autograd.Function):
    """Local plus global attention, as by `joint_attention`.

    ``apply(local_query, global_query, local_key, global_key, values, lengths, group_size, dropout)``, queries and keys
    [B, L, K], values [B, L, E] → [B, L, E]. Of the local attention it saves the weights ReLU(scores) after dropout.

    ::

        A = m ⊙ ReLU(Q Kᵀ / P)     y = f A² V + Q_g C     C = K_gᵀ V / L

    in each group, with the mask m and the factor f of dropout, A² the square of each element, and Q_g, K_g the queries
    and keys of the global attention. With ∂loss/∂C = Q_gᵀ G over all groups, and D = (2 f / P) A ⊙ (G Vᵀ)::

        ∂loss/∂Q = D K         ∂loss/∂Q_g = G Cᵀ
        ∂loss/∂K = Dᵀ Q        ∂loss/∂K_g = V (∂loss/∂C)ᵀ / L
        ∂loss/∂V = f (A²)ᵀ G + K_g ∂loss/∂C / L
    """

    @staticmethod
    @_chooses_dtypes
    def forward(ctx, local_query, global_query, local_key, global_key, values, lengths, group_size, dropout):
        context = matmul(over_length(global_key, values.shape[1], lengths).mT, values)  # [B, K, E]
        output, kept_scores = torch.empty_like(values), []
        ctx.factor = 1.0
        for groups in _groups(values, group_size):
            query, key, value = (groups.of(x) for x in (local_query, local_key, values))  # [G, P, ·]
            relu_scores = matmul(query / group_size, key.mT).relu_()  # [G, P, P]
            if dropout > 0:
                mask, ctx.factor = keep_mask(relu_scores, dropout)
                relu_scores.mul_(mask)
            kept_scores.append(relu_scores)
            local = matmul(relu_scores.square().mul_(ctx.factor), value)
            torch.add(local, matmul(groups.of(global_query), context[groups.items]), out=groups.of(output))
        ctx.save_for_backward(local_query, global_query, local_key, global_key, values, lengths, context, *kept_scores)
        ctx.group_size = group_size
        return output

    @staticmethod
    @differentiable_once
    @_chooses_dtypes
    def backward(ctx, grad):
        local_query, global_query, local_key, global_key, values, lengths, context, *kept_scores = ctx.saved_tensors
        needs_local_query, needs_global_query, needs_local_key, needs_global_key, needs_values = ctx.needs_input_grad[
            :5
        ]
        num_frames = values.shape[1]
        grad_global_query = matmul(grad, context.mT) if needs_global_query else None
        grad_global_key = grad_values = None
        if needs_global_key or needs_values:
            grad_context = matmul(global_query.mT, grad)  # [B, K, E]
        if needs_global_key:
            grad_global_key = over_length(matmul(values, grad_context.mT), num_frames, lengths)
        if needs_values:
            grad_values = matmul(over_length(global_key, num_frames, lengths), grad_context)
        grad_local_query = torch.empty_like(local_query) if needs_local_query else None
        grad_local_key = torch.empty_like(local_key) if needs_local_key else None
        for groups, relu_scores in zip(_groups(values, ctx.group_size), kept_scores, strict=True):
            query, key, value, grad_group = (groups.of(x) for x in (local_query, local_key, values, grad))  # [G, P, ·]
            if needs_values:
                weights = relu_scores.square().mul_(ctx.factor)
                groups.of(grad_values).add_(matmul(weights.mT, grad_group))
            if needs_local_query or needs_local_key:
                grad_scores = matmul(grad_group, value.mT).mul_(relu_scores).mul_(2 * ctx.factor / ctx.group_size)
            if needs_local_query:
                groups.of(grad_local_query).copy_(matmul(grad_scores, key))
            if needs_local_key:
                groups.of(grad_local_key).copy_(matmul(grad_scores.mT, query))
        return grad_local_query, grad_global_query, grad_local_key, grad_global_key, grad_values, None, None, None


class _Groups(NamedTuple):
    """Groups that are computed in one call: one of every item, or several of one item."""

    items: slice | int
    frames: slice
    number: int  # of groups of one item

    def of(self, x):
        """Their part of x [B, L, ·]: a view [G, P, ·]."""
        part = x[self.items, self.frames]
        return part if part.dim() == 3 else part.unflatten(0, (self.number, -1))


def _groups(values, group_size):
    """All groups of values [B, L, E], in the order of computation; an item's last one may be shorter."""
    batch, num_frames, _ = values.shape
    complete = num_frames // group_size
    at_once = _groups_at_once(values, group_size)
    if batch * -(-complete // at_once) >= complete:  # no fewer calls
        starts = range(0, num_frames, group_size)
        return [_Groups(slice(None), slice(start, min(start + group_size, num_frames)), 1) for start in starts]
    groups = []
    for item in range(batch):
        for start in range(0, complete, at_once):
            stop = min(start + at_once, complete)
            groups.append(_Groups(item, slice(start * group_size, stop * group_size), stop - start))
    if num_frames % group_size:
        groups.append(_Groups(slice(None), slice(complete * group_size, num_frames), 1))
    return groups


def _groups_at_once(values, group_size):
    """How many groups of an item one call computes.

    In float32, one group fits the caches, and more are slower. In half precision a multiplication takes so little time
    that calls with more groups are faster: a training step by 4 to 10 %.
    """
    return 1 if values.dtype.itemsize > 2 else max(1, _HALF_ELEMENTS // (group_size * values.shape[2]))


class GateFunction(torch.autograd.Function):
    """(au ⊙ v) ⊙ sigmoid(av ⊙ u): ``apply(attended, values)``, each [B, L, 2H] with v before u, → [B, L, H].

    One tensor for each gradient; the gradient of each slice of a tensor would be a padded tensor, and all would be
    added up. With s = σ(av ⊙ u), whose derivative is s ⊙ (1 - s), and T = G ⊙ au ⊙ v ⊙ s ⊙ (1 - s)::

        y = au ⊙ v ⊙ s
        ∂loss/∂au = G ⊙ v ⊙ s      ∂loss/∂av = T ⊙ u
        ∂loss/∂v = G ⊙ au ⊙ s      ∂loss/∂u = T ⊙ av
    """

    @staticmethod
    @_chooses_dtypes
    def forward(ctx, attended, values):
        ctx.save_for_backward(attended, values)
        (attended_v, attended_u), (v, u) = attended.chunk(2, dim=-1), values.chunk(2, dim=-1)
        return (attended_v * u).sigmoid_().mul_(attended_u).mul_(v)

    @staticmethod
    @differentiable_once
    @_chooses_dtypes
    def backward(ctx, grad):
        attended, values = ctx.saved_tensors
        (attended_v, attended_u), (v, u) = attended.chunk(2, dim=-1), values.chunk(2, dim=-1)
        needs_attended, needs_values = ctx.needs_input_grad
        grad_attended = torch.empty_like(attended) if needs_attended else None
        grad_values = torch.empty_like(values) if needs_values else None
        sigmoid = (attended_v * u).sigmoid_()
        grad_gated = grad * sigmoid  # G ⊙ s
        grad_v = grad_values.chunk(2, dim=-1)[0] if needs_values else torch.empty_like(grad_gated)
        grad_sigmoid = torch.mul(grad_gated, attended_u, out=grad_v) * v
        grad_sigmoid.addcmul_(grad_sigmoid, sigmoid, value=-1)  # T
        if needs_attended:
            grad_attended_v, grad_attended_u = grad_attended.chunk(2, dim=-1)
            torch.mul(grad_gated, v, out=grad_attended_u)
            torch.mul(grad_sigmoid, u, out=grad_attended_v)
        if needs_values:
            torch.mul(grad_sigmoid, attended_v, out=grad_values.chunk(2, dim=-1)[1])
        return grad_attended, grad_values
