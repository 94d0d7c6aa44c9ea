"""A running average of the weights, which is less noisy than the last ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

# The n-th update keeps at most n / (n + 9) of the average, so that the random start is forgotten soon.
_RAMP = 9


@register_checkpoint_hooks
class AveragedWeights:
    """Exponential moving average of the parameters of some modules, as a recoverable.

    After step n + 1 of the optimizer, a ← d a + (1 - d) p, with d the smaller of ``decay`` and n / (n + 9); so the
    first update copies the weights. Before it there is no average, and `use` does not change the weights.

    Training continues with the raw weights: `use` replaces them with the average, `restore` restores them. Buffers are
    not averaged.

    Arguments
    ---------
    modules : dict
        Name to module, before they are wrapped for several GPUs. The parameters are changed in place, so that every
        reference to a parameter sees the average.
    decay : float
        Share of the average that an update keeps, between 0 and 1.

    Raises
    ------
    InputError
        If the decay is out of range.

    Example
    -------
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> averaged = AveragedWeights({"model": model}, decay=0.999)
    >>> for weight in (1.0, 2.0):
    ...     _ = model.weight.data.fill_(weight)
    ...     averaged.update()
    >>> averaged.use()
    >>> round(model.weight.item(), 6)
    1.9
    >>> averaged.restore()
    >>> model.weight.item()
    2.0
    """

    def __init__(self, modules: dict, decay: float) -> None:
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay < 1:
            raise InputError(
                f"ema_decay must be a number between 0 and 1, such as 0.999, or null for no average; found {decay!r}."
            )
        self.decay = decay
        self._parameters = {
            f"{module_name}.{name}": parameter
            for module_name, module in modules.items()
            for name, parameter in module.named_parameters()
        }
        self._averages = {}
        self._num_updates = 0
        self._raw = None  # the raw weights, while the averaged ones are in use

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the weights after a step of the optimizer."""
        weights = [parameter.detach() for parameter in self._parameters.values()]
        if not self._averages:
            self._averages = {name: weight.clone() for name, weight in zip(self._parameters, weights, strict=True)}
        decay = min(self.decay, self._num_updates / (self._num_updates + _RAMP))
        torch._foreach_lerp_(list(self._averages.values()), weights, 1 - decay)
        self._num_updates += 1

    @torch.no_grad()
    def use(self) -> None:
        """Replace the raw weights with the averaged ones, if they are not in use yet."""
        if self._raw is None and self._averages:
            self._raw = [parameter.detach().clone() for parameter in self._parameters.values()]
            self._set(self._averages.values())

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the raw weights, if the averaged ones are in use."""
        if self._raw is not None:
            self._set(self._raw)
            self._raw = None

    def _set(self, values):
        for parameter, value in zip(self._parameters.values(), values, strict=True):
            parameter.copy_(value)

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Save the averages. The raw weights must be in use, since the modules' own files hold them."""
        if self._raw is not None:
            raise RuntimeError("The averaged weights are in use: restore the raw ones before a checkpoint is saved.")
        torch.save({"num_updates": self._num_updates, "averages": self._averages}, path)

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Load the averages. The raw weights must be in use, since they are loaded into the modules."""
        del end_of_epoch
        if self._raw is not None:
            raise RuntimeError("The averaged weights are in use: restore the raw ones before a checkpoint is loaded.")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        self._num_updates = saved["num_updates"]
        self._averages = {
            name: saved["averages"][name].to(parameter.device)
            for name, parameter in self._parameters.items()
            if saved["averages"]
        }
