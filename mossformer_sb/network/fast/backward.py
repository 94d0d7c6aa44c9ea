"""Training steps of a block whose gradients are written by hand: fewer passes over memory, and less kept.

Each has a plain form beside it, in `block.py` and `attention.py`, which tests hold it against;
`mossformer_sb.network.fast.choice` says where which is taken. What is kept for the gradient is the input and one tensor
before the nonlinearity; what is cheap is computed again, and no gradient is computed that nobody asked for.

A step has the precision of its plain form: products, filters and what they give in that of autocast or of the module,
norms and sums in float32 at least.

Shapes: B batch, L frames, I, O input and output channels, K query/key width, E value width, R rotated channels,
P frames of a group, G groups.
"""

import functools

import torch
import torch.nn.functional as F

from mossformer_sb.network.depthwise import correlate, tap_gradient
from mossformer_sb.network.fast.choice import private_operator
from mossformer_sb.network.fast.matmul import linear, product
from mossformer_sb.network.fast.once import differentiable_once
from mossformer_sb.network.lengths import over_length

_SILU_BACKWARD = private_operator("aten", "silu_backward", "default")
_LEVELS = 2**16  # of a probability: a dropout of 0.1 drops 6554 of 65536


def working_dtype(x):
    """The dtype that products of x have: autocast's, where that is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _chooses_dtypes(method):
    """For the forward or backward of a step that chooses its dtypes itself: autocast is off inside."""

    @functools.wraps(method)
    def inside(ctx, first, *others):
        with torch.autocast(first.device.type, enabled=False):
            return method(ctx, first, *others)

    return inside


def keep_mask(like, dropout):
    """Draw which elements dropout keeps, four of them from each random number, and the factor that keeps the mean.

    Arguments
    ---------
    like : torch.Tensor
        Of the shape and on the device wanted.
    dropout : float
        Probability of not being kept, taken to the nearest 65536th.

    Returns
    -------
    torch.Tensor
        bool, in the shape of ``like``.
    float
        1 / the probability of being kept.

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


def conv_module_step(module, x, padding=None):
    """What `ConvModule.forward` computes, as one step."""
    norm, linear_layer, dropout = module.norm, module.linear, module.dropout
    return ConvModuleStep.apply(
        x,
        norm.gain,
        linear_layer.weight,
        linear_layer.bias,
        module.depthwise.taps(),
        norm.scale,
        norm.eps,
        dropout.p if dropout.training else 0.0,
        padding,
        working_dtype(x),
    )


class ConvModuleStep(torch.autograd.Function):
    """ScaleNorm → linear → SiLU → depthwise filter → dropout, as `ConvModule` has it.

    ``apply(x, gain, weight, bias, taps, scale, eps, dropout, padding, dtype)``, x [B, L, I] → [B, L, O] of a dtype;
    ``scale`` and ``eps`` are those of `ScaleNorm`.
    """

    @staticmethod
    @_chooses_dtypes
    def forward(ctx, x, gain, weight, bias, taps, scale, eps, dropout, padding, dtype):
        wide = torch.promote_types(x.dtype, torch.float32)
        root_mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide) * scale
        inverse = root_mean_square.clamp(min=eps).reciprocal()  # [B, L, 1]
        normed = (x * (gain * inverse)).to(dtype)
        hidden = linear(normed, weight.to(dtype), None if bias is None else bias.to(dtype))  # [B, L, O]
        active = _without(padding, F.silu(hidden))
        mask, factor = keep_mask(hidden, dropout) if dropout > 0 else (None, 1.0)
        output = correlate(active, (taps * factor).to(dtype))  # the factor of dropout rides on the taps
        if mask is not None:
            output.mul_(mask)
        ctx.save_for_backward(x, gain, weight, taps, inverse, root_mean_square < eps, hidden, mask, padding)
        ctx.factor, ctx.scale = factor, scale
        return output

    @staticmethod
    @differentiable_once
    @_chooses_dtypes
    def backward(ctx, grad):
        x, gain, weight, taps, inverse, bounded, hidden, mask, padding = ctx.saved_tensors
        needs_x, needs_gain, needs_weight, needs_bias, needs_taps = ctx.needs_input_grad[:5]
        grad_x = grad_gain = grad_weight = grad_bias = grad_taps = None
        dtype = hidden.dtype
        if mask is not None:
            grad = grad * mask
        if needs_taps:
            active = _without(padding, F.silu(hidden))
            grad_taps = tap_gradient(grad, active, taps.shape[1]).mul_(ctx.factor).to(taps.dtype)
        if needs_x or needs_gain or needs_weight or needs_bias:
            grad_active = _without(padding, correlate(grad, (taps.flip(1) * ctx.factor).to(dtype)))
            grad_hidden = _silu_backward(grad_active, hidden)
            rows = grad_hidden.flatten(0, -2)  # [B·L, O]
        if needs_weight:
            normed = (x * (gain * inverse)).to(dtype)
            grad_weight = product(normed.flatten(0, -2).t(), rows).t()  # [O, I]
        if needs_bias:
            grad_bias = rows.sum(0)
        if needs_x or needs_gain:
            grad_normed = linear(grad_hidden, weight.t().to(dtype)).to(inverse.dtype)  # [B, L, I]
            # x / r with r² the mean of x²: the part of the gradient along x goes, unless r was bounded by eps.
            along = (grad_normed * x).sum(-1, keepdim=True)  # [B, L, 1]
        if needs_gain:
            grad_gain = (along * inverse).sum().view(1).to(gain.dtype)
        if needs_x:
            bent = (along * inverse.pow(3) * ctx.scale**2).masked_fill(bounded, 0.0) * gain
            grad_x = torch.addcmul(grad_normed.mul_(gain * inverse), _wide(x), bent, value=-1).to(x.dtype)
        return grad_x, grad_gain, grad_weight, grad_bias, grad_taps, None, None, None, None, None


def _silu_backward(grad, x):
    """Gradient of SiLU with respect to x."""
    if _SILU_BACKWARD is not None:
        return _SILU_BACKWARD(grad, x)
    gate = x.sigmoid()
    return grad * gate * (1 + x * (1 - gate))


def _without(padding, x):
    return x if padding is None else x.masked_fill(padding, 0.0)


class RotatedCopies(torch.autograd.Function):
    """Four affine copies of z and their rotary position embedding, as `OffsetScale` and `rotate` have them.

    ``apply(z, gamma, beta, cos, sin, dtype)``, z [B, L, K] → four times [B, L, K] of a dtype. A pair of channels is a
    complex number here, and its rotation a product.
    """

    @staticmethod
    @_chooses_dtypes
    def forward(ctx, z, gamma, beta, cos, sin, dtype):
        ctx.save_for_backward(z, gamma, cos, sin)
        turn, z = _complex(cos, sin), _wide(z)
        copies = (torch.addcmul(_wide(shift), z, _wide(scale)) for scale, shift in zip(gamma, beta, strict=True))
        return tuple(_turned(copy, turn).to(dtype) for copy in copies)

    @staticmethod
    @differentiable_once
    @_chooses_dtypes
    def backward(ctx, *grads):
        z, gamma, cos, sin = ctx.saved_tensors
        needs_z, needs_gamma, needs_beta = ctx.needs_input_grad[:3]
        back, wide_z = _complex(cos, -sin), _wide(z)
        grad_z, grad_gamma, grad_beta = torch.zeros_like(wide_z) if needs_z else None, [], []
        for grad, factor in zip(grads, gamma, strict=True):
            grad = _turned(_wide(grad).clone(memory_format=torch.contiguous_format), back)
            if needs_gamma:
                grad_gamma.append((grad * wide_z).sum((0, 1)))
            if needs_beta:
                grad_beta.append(grad.sum((0, 1)))
            if needs_z:
                grad_z.addcmul_(grad, _wide(factor))
        return (
            grad_z.to(z.dtype) if needs_z else None,
            torch.stack(grad_gamma).to(gamma.dtype) if needs_gamma else None,
            torch.stack(grad_beta).to(gamma.dtype) if needs_beta else None,
            None,
            None,
            None,
        )


def _wide(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _complex(cos, sin):
    """[L, R/2], complex."""
    return torch.complex(_wide(cos), _wide(sin))


def _turned(x, turn):
    """The first R channels of x [B, L, K] turned: in place, unless x lies in memory with channels before time."""
    x = x.contiguous()  # a complex number's two parts must be neighbours
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # [B, L, K/2]
    pairs[..., : turn.shape[-1]].mul_(turn)
    return x


class JointAttention(torch.autograd.Function):
    """Local plus global attention, as `joint_attention` has them.

    ``apply(local_query, global_query, local_key, global_key, values, lengths, group_size, dropout)``, queries and keys
    [B, L, K], values [B, L, E] → [B, L, E]. Of the weights of the local attention it keeps what dropout left of
    ReLU(scores).
    """

    @staticmethod
    @_chooses_dtypes
    def forward(ctx, local_query, global_query, local_key, global_key, values, lengths, group_size, dropout):
        context = product(over_length(global_key, values.shape[1], lengths).mT, values)  # [B, K, E]
        output, positives = torch.empty_like(values), []
        ctx.factor = 1.0
        for span, groups in _spans(values, group_size):
            query, key, value = (x[:, span].unflatten(1, groups) for x in (local_query, local_key, values))
            positive = product(query / group_size, key.mT).relu_()  # [B, G, P, P]
            if dropout > 0:
                mask, ctx.factor = keep_mask(positive, dropout)
                positive.mul_(mask)
            positives.append(positive)
            local = product(positive.square().mul_(ctx.factor), value).flatten(1, 2)
            torch.add(local, product(global_query[:, span], context), out=output[:, span])
        ctx.save_for_backward(local_query, global_query, local_key, global_key, values, lengths, context, *positives)
        ctx.group_size = group_size
        return output

    @staticmethod
    @differentiable_once
    @_chooses_dtypes
    def backward(ctx, grad):
        local_query, global_query, local_key, global_key, values, lengths, context, *positives = ctx.saved_tensors
        needs_local_query, needs_global_query, needs_local_key, needs_global_key, needs_values = ctx.needs_input_grad[
            :5
        ]
        num_frames = values.shape[1]
        grad_global_query = product(grad, context.mT) if needs_global_query else None
        grad_global_key = grad_values = None
        if needs_global_key or needs_values:
            grad_context = product(global_query.mT, grad)  # [B, K, E]
        if needs_global_key:
            grad_global_key = over_length(product(values, grad_context.mT), num_frames, lengths)
        if needs_values:
            grad_values = product(over_length(global_key, num_frames, lengths), grad_context)
        grad_local_query = torch.empty_like(local_query) if needs_local_query else None
        grad_local_key = torch.empty_like(local_key) if needs_local_key else None
        for (span, groups), positive in zip(_spans(values, ctx.group_size), positives, strict=True):
            query, key, value, to_group = (
                x[:, span].unflatten(1, groups) for x in (local_query, local_key, values, grad)
            )  # [B, G, P, ·]
            if needs_values:
                weights = positive.square().mul_(ctx.factor)
                grad_values[:, span] += product(weights.mT, to_group).flatten(1, 2)
            if needs_local_query or needs_local_key:
                grad_scores = product(to_group, value.mT).mul_(positive).mul_(2 * ctx.factor / ctx.group_size)
            if needs_local_query:
                grad_local_query[:, span] = product(grad_scores, key).flatten(1, 2)
            if needs_local_key:
                grad_local_key[:, span] = product(grad_scores.mT, query).flatten(1, 2)
        return grad_local_query, grad_global_query, grad_local_key, grad_global_key, grad_values, None, None, None


def _spans(x, group_size):
    """Groups, the last of which may be shorter: (frames of x [B, L, ·], their shape [1, frames of the group]).

    One after the other, since a group stays in the caches.
    """
    starts = range(0, x.shape[1], group_size)
    stops = [min(start + group_size, x.shape[1]) for start in starts]
    return [(slice(start, stop), (1, stop - start)) for start, stop in zip(starts, stops, strict=True)]


class Gate(torch.autograd.Function):
    """(au ⊙ v) ⊙ sigmoid(av ⊙ u): ``apply(attended, values)``, each [B, L, 2H] with v before u, → [B, L, H].

    Four products from one, and one tensor for each gradient, where slices of a tensor would each bring a tensor of
    zeros to be added up.
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
        gate = (attended_v * u).sigmoid_()
        gated = grad * gate
        # Through the sigmoid: grad · au · v · gate · (1 - gate).
        to_v = grad_values.chunk(2, dim=-1)[0] if needs_values else torch.empty_like(gated)
        inner = torch.mul(gated, attended_u, out=to_v) * v
        inner.addcmul_(inner, gate, value=-1)
        if needs_attended:
            to_attended_v, to_attended_u = grad_attended.chunk(2, dim=-1)
            torch.mul(gated, v, out=to_attended_u)
            torch.mul(inner, u, out=to_attended_v)
        if needs_values:
            torch.mul(inner, attended_v, out=grad_values.chunk(2, dim=-1)[1])
        return grad_attended, grad_values
