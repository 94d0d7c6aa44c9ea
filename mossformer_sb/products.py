"""Matrix products in float32 that use the whole width of an AMD processor.

PyTorch hands products of float32 to MKL, which keeps to half-width instructions on processors of other makers. oneDNN,
which PyTorch ships for convolutions and half precision, takes the full width anywhere: on such a processor products
take half the time. Elsewhere these functions are PyTorch's own.

Shapes: M, K, N rows, inner width and columns of a product; I, O input and output channels.
"""

import functools
import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

_onednn_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


@functools.cache
def is_wide_amd():
    """Whether this is an AMD processor with AVX-512, and PyTorch has oneDNN."""
    if _onednn_linear is None or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    about = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (about.read_text(errors="replace") if about.exists() else platform.processor())


def linear(x, weight, bias=None, silu=False):
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
        Apply SiLU to the result, in the same pass where that is possible.

    Returns
    -------
    torch.Tensor
        [..., O].

    Example
    -------
    >>> linear(torch.ones(2, 5, 3), torch.ones(4, 3)).shape
    torch.Size([2, 5, 4])
    """
    if not _by_onednn(x, weight):
        result = F.linear(x, weight, bias)
    elif not needs_gradient(x, weight, bias):
        return _onednn_linear(x, weight, bias, "swish" if silu else "none", [], "")
    else:
        result = _Linear.apply(x, weight, bias)
    if not silu:
        return result
    # What no gradient goes through is ours alone, and can be written over.
    return F.silu(result, inplace=not result.requires_grad)


def product(a, b):
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
    >>> product(torch.ones(2, 5, 3), torch.ones(2, 3, 4)).shape
    torch.Size([2, 5, 4])
    """
    if not _by_onednn(a, b):
        return torch.matmul(a, b)
    return _Product.apply(a, b) if needs_gradient(a, b) else _multiply(a, b)


def add_product(total, a, b):
    """``total + a @ b`` for matrices, where no gradient is needed; ``total`` may be written over.

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
    >>> add_product(torch.ones(1, 1), torch.ones(1, 3), torch.ones(3, 1))
    tensor([[4.]])
    """
    if _by_onednn(a, b) and total.dtype == a.dtype:
        return _onednn_linear.binary(a, total, b.t(), None, "add")
    return total.add_(torch.mm(a, b))


def packed(weight):
    """A weight [O, I] for many calls of `linear` without gradient: where oneDNN is asked, in the layout it works in."""
    if not _by_onednn(weight, weight):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight)


class Linear(nn.Linear):
    """``torch.nn.Linear`` by `linear`."""

    def forward(self, x):
        """[..., I] → [..., O]."""
        return linear(x, self.weight, self.bias)


def is_plain(module):
    """Whether a linear layer does nothing but its product: no hook looks on, no adapter has taken its place.

    Where it is, its weight and bias say all, and a faster way to the same numbers may be taken.

    Example
    -------
    >>> layer = nn.Linear(3, 4)
    >>> is_plain(layer), is_plain(nn.Sequential(layer))
    (True, False)
    """
    return type(module) in (nn.Linear, Linear) and not has_hooks(module)


def has_hooks(module):
    """Whether somebody looks on when a module, itself, is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _by_onednn(a, b):
    """Whether a product is one that oneDNN has to be asked for."""
    return (
        a.device.type == "cpu"
        and a.dtype == b.dtype == torch.float32
        # A compiler sees through PyTorch's own products; autocast would have to cast these.
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and is_wide_amd()
    )


def needs_gradient(*tensors):
    """Whether an operation on these tensors, of which some may be None, has to keep what its gradient takes."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _multiply(a, b):
    """[..., M, K] and [..., K, N] → [..., M, N]: one call an item, since oneDNN's linear layer has one weight."""
    if a.dim() == 2:
        return _onednn_linear(a, b.t(), None, "none", [], "")
    batch = a.shape[:-2]
    if batch.numel() == 1:
        return _multiply(a.reshape(a.shape[-2:]), b.reshape(b.shape[-2:])).view(*batch, a.shape[-2], b.shape[-1])
    items = zip(a.flatten(0, -3), b.flatten(0, -3), strict=True)
    return torch.stack([_multiply(*item) for item in items]).unflatten(0, batch)


class _Linear(torch.autograd.Function):
    """`linear` by oneDNN, whose gradients are two more products."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _onednn_linear(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)  # [M, O]
        grad_x = linear(grad, weight.t()) if ctx.needs_input_grad[0] else None
        # Transposed, since it goes faster when the longer side is the columns'.
        grad_weight = product(x.flatten(0, -2).t(), rows).t() if ctx.needs_input_grad[1] else None  # [O, I]
        grad_bias = rows.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias


class _Product(torch.autograd.Function):
    """`product` by oneDNN, whose gradients are two more products."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return _multiply(a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        grad_a = _multiply(grad, b.transpose(-1, -2)) if ctx.needs_input_grad[0] else None
        grad_b = _multiply(a.transpose(-1, -2), grad) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b


if _onednn_linear is not None:

    @register_flop_formula(_onednn_linear)
    def _count_operations(x_shape, weight_shape, *others, **keywords):
        """For PyTorch's counter: each multiply-add counts as two."""
        return 2 * x_shape.numel() * weight_shape[0]
