"""Matrix multiplications in float32 by oneDNN, on AMD CPUs with AVX-512.

PyTorch uses MKL for matrix multiplications in float32, which uses half-width instructions on CPUs that are not from
Intel. oneDNN, which PyTorch includes for convolutions and half precision, uses the full width: on such a CPU
multiplications take half the time. Elsewhere these functions are PyTorch's own.

Their gradients are multiplications too. With G = ∂loss/∂y::

    y = x Wᵀ + b      ∂loss/∂x = G W      ∂loss/∂W = Gᵀ x      ∂loss/∂b = Σ_rows G
    y = a b           ∂loss/∂a = G bᵀ     ∂loss/∂b = aᵀ G

Shapes: M, K, N rows, inner width and columns of a multiplication; I, O input and output channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import register_flop_formula

from mossformer_sb.network.fast import choice
from mossformer_sb.network.fast.choice import ONEDNN_LINEAR, ONEDNN_LINEAR_BINARY, ONEDNN_REORDER, needs_gradient
from mossformer_sb.network.fast.once import differentiable_once


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, silu: bool = False) -> torch.Tensor:
    """``x @ weight.T + bias``, as in ``torch.nn.functional.linear``; differentiable once.

    Arguments
    ---------
    x : torch.Tensor
        [..., I].
    weight : torch.Tensor
        [O, I].
    bias : torch.Tensor, optional
        [O].
    silu : bool
        Whether to apply SiLU to the result, if possible in the same pass.

    Returns
    -------
    torch.Tensor
        [..., O].

    Example
    -------
    >>> linear(torch.ones(2, 5, 3), torch.ones(4, 3)).shape
    torch.Size([2, 5, 4])
    """
    if not choice.takes_onednn(x, weight):
        result = F.linear(x, weight, bias)
    elif not needs_gradient(x, weight, bias):
        return ONEDNN_LINEAR(x, weight, bias, "swish" if silu else "none", [], "")
    else:
        result = _LinearFunction.apply(x, weight, bias)
    if not silu:
        return result
    # A result without gradient has no other reference, and can be overwritten.
    return F.silu(result, inplace=not result.requires_grad)


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b`` for every item of a batch, as in ``torch.matmul``; differentiable once.

    Arguments
    ---------
    a : torch.Tensor
        [..., M, K].
    b : torch.Tensor
        [..., K, N], with the same leading axes.

    Returns
    -------
    torch.Tensor
        [..., M, N].

    Example
    -------
    >>> matmul(torch.ones(2, 5, 3), torch.ones(2, 3, 4)).shape
    torch.Size([2, 5, 4])
    """
    if not choice.takes_onednn(a, b):
        return torch.matmul(a, b)
    return _MatmulFunction.apply(a, b) if needs_gradient(a, b) else _onednn_matmul(a, b)


def add_matmul(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``total + a @ b`` for matrices, without gradient; ``total`` may be overwritten.

    Arguments
    ---------
    total : torch.Tensor
        [M, N].
    a : torch.Tensor
        [M, K].
    b : torch.Tensor
        [K, N].

    Returns
    -------
    torch.Tensor
        [M, N].

    Example
    -------
    >>> add_matmul(torch.ones(1, 1), torch.ones(1, 3), torch.ones(3, 1))
    tensor([[4.]])
    """
    if choice.takes_onednn(a, b) and total.dtype == a.dtype:
        return ONEDNN_LINEAR_BINARY(a, total, b.t(), None, "add")
    return total.addmm_(a, b)


class PackedLinear:
    """`linear` with one weight, for many calls without gradient: in oneDNN's own layout if oneDNN computes it.

    Arguments
    ---------
    weight : torch.Tensor
        [O, I].
    bias : torch.Tensor, optional
        [O].
    dtype : torch.dtype
        Type of inputs and outputs, independent of autocast.

    Example
    -------
    >>> with torch.no_grad():
    ...     PackedLinear(torch.ones(4, 3), None, torch.bfloat16)(torch.ones(5, 3).bfloat16()).dtype
    torch.bfloat16
    """

    def __init__(self, weight, bias, dtype):
        self.by_onednn = choice.takes_packing(weight, dtype)
        self.weight, self.bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        if self.by_onednn:
            self.weight = ONEDNN_REORDER(self.weight)

    def __call__(self, x, silu=False):
        """[..., I] → [..., O], optionally with SiLU."""
        if self.by_onednn:
            return ONEDNN_LINEAR(x, self.weight, self.bias, "swish" if silu else "none", [], "")
        result = F.linear(x, self.weight, self.bias)
        return F.silu(result, inplace=True) if silu else result


def packed(weight: torch.Tensor) -> torch.Tensor:
    """A weight [O, I] for many calls of `linear` without gradient: in oneDNN's own layout if oneDNN computes it."""
    if not choice.takes_onednn(weight, weight):
        return weight
    return ONEDNN_REORDER(weight)


def linear_layer(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """`linear` with the weight and bias of a ``torch.nn.Linear``."""
    return linear(x, layer.weight, layer.bias)


def _onednn_matmul(a, b):
    """[..., M, K] and [..., K, N] → [..., M, N]: one call per item, since oneDNN's linear layer has one weight."""
    if a.dim() == 2:
        return ONEDNN_LINEAR(a, b.t(), None, "none", [], "")
    batch = a.shape[:-2]
    if batch.numel() == 1:
        return _onednn_matmul(a.reshape(a.shape[-2:]), b.reshape(b.shape[-2:])).view(*batch, a.shape[-2], b.shape[-1])
    items = zip(a.flatten(0, -3), b.flatten(0, -3), strict=True)
    return torch.stack([_onednn_matmul(*item) for item in items]).unflatten(0, batch)


class _LinearFunction(torch.autograd.Function):
    """`linear` by oneDNN, whose gradients are two more multiplications."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return ONEDNN_LINEAR(x, weight, bias, "none", [], "")

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)  # [M, O]
        grad_x = linear(grad, weight.t()) if ctx.needs_input_grad[0] else None
        # Transposed, since it is faster with more columns than rows.
        grad_weight = matmul(x.flatten(0, -2).t(), rows).t() if ctx.needs_input_grad[1] else None  # [O, I]
        grad_bias = rows.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias


class _MatmulFunction(torch.autograd.Function):
    """`matmul` by oneDNN, whose gradients are two more multiplications."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return _onednn_matmul(a, b)

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        grad_a = _onednn_matmul(grad, b.transpose(-1, -2)) if ctx.needs_input_grad[0] else None
        grad_b = _onednn_matmul(a.transpose(-1, -2), grad) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b


if ONEDNN_LINEAR is not None:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _count_operations(x_shape, weight_shape, *others, **keywords):
        """For PyTorch's FLOP counter: each multiply-add counts as two."""
        return 2 * x_shape.numel() * weight_shape[0]
