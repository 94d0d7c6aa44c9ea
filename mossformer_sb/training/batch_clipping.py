"""Limiting the gradient norm of each batch before the gradients of several batches are added up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mossformer_sb.errors import InputError
from mossformer_sb.training import distributed

if TYPE_CHECKING:
    from collections.abc import Iterable


class BatchClipping:
    """The sum of the gradients of batches, each scaled down to a norm.

    Gradients of single examples differ in norm by factors of hundreds, most of all those of examples that can't be
    separated yet, so that one example can dominate a step. With one example in a batch, and several batches in a step,
    none has more weight than the limit.

    Source: Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1, which clips the gradient of each
    example; here without noise.

    Arguments
    ---------
    parameters : iterable of torch.nn.Parameter
        The parameters.
    max_norm : float
        Maximum norm of the mean gradient of a batch's examples.

    Raises
    ------
    InputError
        If the limit is no positive number.

    Example
    -------
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> clipping = BatchClipping([weight], max_norm=1.0)
    >>> for gradient in ([0.0, 0.5], [100.0, 0.0]):
    ...     weight.grad = torch.tensor(gradient)
    ...     clipping.add(num_examples=1)
    >>> clipping.restore()
    >>> weight.grad
    tensor([1.0000, 0.5000])
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], max_norm: float) -> None:
        is_number = isinstance(max_norm, int | float) and not isinstance(max_norm, bool)
        if not (is_number and max_norm > 0):
            raise InputError(
                f"max_batch_grad_norm must be a number greater than 0, such as 10, or null; found {max_norm!r}."
            )
        self.max_norm = max_norm
        self._parameters = list(parameters)
        self._sums: dict[torch.nn.Parameter, torch.Tensor] = {}

    @torch.no_grad()
    def add(self, num_examples: torch.Tensor | int, scale: float = 1.0) -> None:
        """Move the gradients of a batch into the sum.

        Arguments
        ---------
        num_examples : torch.Tensor or int
            Examples that the gradients are the sum of, at least 1.
        scale : float
            Factor of all gradients, that of a gradient scaler.
        """
        parameters = [parameter for parameter in self._parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters]
        norm = torch.nn.utils.get_total_norm(gradients)
        factor = (self.max_norm * scale * num_examples / norm.clamp(min=1e-30)).clamp(max=1.0)
        # A gradient that is not finite stays so, and the step is skipped.
        torch._foreach_mul_(gradients, torch.where(norm.isfinite(), factor, 1.0))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None
            if parameter in self._sums:
                self._sums[parameter].add_(gradient)
            else:
                self._sums[parameter] = gradient

    def restore(self) -> None:
        """Set the gradients to the sum, its mean over all ranks, as DDP leaves them."""
        for parameter, gradient in self._sums.items():
            parameter.grad = gradient
        distributed.mean_over_ranks([parameter.grad for parameter in self._sums])
        self.reset()

    def reset(self) -> None:
        """Remove the sum."""
        self._sums = {}
