"""Training steps of a block whose gradients are written by hand: fewer passes over memory, and less kept.

Each has a plain form beside it, in `block.py` and `attention.py`, which autocast and compilers take and tests hold it
against. What is kept for the gradient is the input and one tensor before the nonlinearity; what is cheap is computed
again.

Shapes: B batch, L frames, I, O input and output channels, K filter taps, P frames of a group.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from mossformer_sb.depthwise import correlate, tap_gradient
from mossformer_sb.products import linear, product

_LEVELS = 2**16  # of a probability: a dropout of 0.1 drops 6554 of 65536


def suits(x):
    """Whether these are the way for an input: a gradient is wanted, and nobody else looks after dtypes or kernels."""
    return (
        torch.is_grad_enabled()
        and not x.is_meta
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled(x.device.type)
    )


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


class ConvModuleStep(torch.autograd.Function):
    """ScaleNorm → linear → SiLU → depthwise filter → dropout, as `ConvModule` has it.

    ``apply(x, gain, weight, bias, taps, eps, dropout, padding)``, x [B, L, I] → [B, L, O].
    """

    @staticmethod
    def forward(ctx, x, gain, weight, bias, taps, eps, dropout, padding):
        root_mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        inverse = root_mean_square.clamp(min=eps).reciprocal()  # [B, L, 1]
        hidden = linear(x * (gain * inverse), weight, bias)  # [B, L, O]
        active = _without(padding, F.silu(hidden))
        output, mask, factor = correlate(active, taps), None, 1.0
        if dropout > 0:
            mask, factor = keep_mask(output, dropout)
            output.mul_(mask).mul_(factor)
        ctx.save_for_backward(x, gain, weight, taps, inverse, root_mean_square < eps, hidden, mask, padding)
        ctx.factor = factor
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, gain, weight, taps, inverse, bounded, hidden, mask, padding = ctx.saved_tensors
        if mask is not None:
            grad = (grad * mask).mul_(ctx.factor)
        grad_taps = tap_gradient(grad, _without(padding, F.silu(hidden)), taps.shape[1]).to(taps.dtype)
        grad_active = _without(padding, correlate(grad, taps.flip(1)))
        grad_hidden = torch.ops.aten.silu_backward(grad_active, hidden)
        rows = grad_hidden.flatten(0, -2)  # [B·L, O]
        grad_weight = product((x * (gain * inverse)).flatten(0, -2).t(), rows).t()  # [O, I]
        grad_normed = linear(grad_hidden, weight.t())  # [B, L, I]
        # x / r with r² the mean of x²: the part of the gradient along x goes, unless r was bounded by eps.
        along = (grad_normed * x).sum(-1, keepdim=True)  # [B, L, 1]
        grad_gain = (along * inverse).sum().view(1)
        bent = (along * inverse.pow(3) / x.shape[-1]).masked_fill(bounded, 0.0) * gain
        grad_x = torch.addcmul(grad_normed.mul_(gain * inverse), x, bent, value=-1)
        return grad_x, grad_gain, grad_weight, rows.sum(0), grad_taps, None, None, None


def _without(padding, x):
    return x if padding is None else x.masked_fill(padding, 0.0)


class SquaredReLU(torch.autograd.Function):
    """ReLU(scores)² and dropout: ``apply(scores, dropout)``, of any shape."""

    @staticmethod
    def forward(ctx, scores, dropout):
        positive, factor = F.relu(scores), 1.0
        if dropout > 0:
            mask, factor = keep_mask(positive, dropout)
            positive.mul_(mask)
        ctx.save_for_backward(positive)
        ctx.factor = factor
        return positive.square().mul_(factor) if factor != 1 else positive.square()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (positive,) = ctx.saved_tensors
        return (grad * positive).mul_(2 * ctx.factor), None


class Gate(torch.autograd.Function):
    """(au ⊙ v) ⊙ sigmoid(av ⊙ u): ``apply(attended, values)``, each [B, L, 2H] with v before u, → [B, L, H].

    Four products from one, and one tensor for each gradient, where slices of a tensor would each bring a tensor of
    zeros to be added up.
    """

    @staticmethod
    def forward(ctx, attended, values):
        ctx.save_for_backward(attended, values)
        (attended_v, attended_u), (v, u) = attended.chunk(2, dim=-1), values.chunk(2, dim=-1)
        return (attended_v * u).sigmoid_().mul_(attended_u).mul_(v)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        attended, values = ctx.saved_tensors
        (attended_v, attended_u), (v, u) = attended.chunk(2, dim=-1), values.chunk(2, dim=-1)
        gate = (attended_v * u).sigmoid_()
        grad_attended, grad_values = torch.empty_like(attended), torch.empty_like(values)
        (to_attended_v, to_attended_u), (to_v, to_u) = grad_attended.chunk(2, dim=-1), grad_values.chunk(2, dim=-1)
        opened = grad * gate
        torch.mul(opened, v, out=to_attended_u)
        torch.mul(opened, attended_u, out=to_v)
        # Through the sigmoid: grad · au · v · gate · (1 - gate).
        inner = to_v * v
        inner.addcmul_(inner, gate, value=-1)
        torch.mul(inner, u, out=to_attended_v)
        torch.mul(inner, attended_v, out=to_u)
        return grad_attended, grad_values
