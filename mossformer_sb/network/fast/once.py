"""Custom backward passes are differentiable once: a clear error for a second derivative."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable


_BATCHED = "is_grads_batched=True, or vectorize=True of torch.autograd.functional"
_REMEDY = (
    "Run the forward pass within mossformer_sb.network.fast.disabled(), or set MOSSFORMER_SB_FAST=0 in the environment."
)


def differentiable_once(backward: Callable) -> Callable:
    """Decorator of the ``backward`` of a ``torch.autograd.Function``.

    PyTorch's ``once_differentiable`` treats a gradient as a constant if the incoming gradient is one; otherwise its
    message only mentions "a function".
    """

    @functools.wraps(backward)
    def run(ctx, *grads):
        if any(map(_is_batched, grads)):
            raise InputError(f"The network's custom backward pass takes no batched gradients ({_BATCHED}). {_REMEDY}")
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not torch.is_grad_enabled():
            return found
        # The graph of this gradient is recorded (create_graph=True), maybe to differentiate it.
        found = found if isinstance(found, tuple) else (found,)
        marked = iter(_Refusal.apply(*(grad.detach().requires_grad_() for grad in found if grad is not None)))
        return tuple(None if grad is None else next(marked) for grad in found)

    return run


def _is_batched(grad):
    test = getattr(torch._C._functorch, "is_legacy_batchedtensor", None)
    return test is not None and grad is not None and test(grad)


class _Refusal(torch.autograd.Function):
    """Identity of gradients, with an error if they are differentiated."""

    @staticmethod
    def forward(ctx, *grads):
        return tuple(grad.view_as(grad) for grad in grads)

    @staticmethod
    def backward(ctx, *grads):
        raise InputError(
            "The network's custom backward pass can be differentiated once; found a derivative of its gradient "
            f"(create_graph=True). {_REMEDY}"
        )
