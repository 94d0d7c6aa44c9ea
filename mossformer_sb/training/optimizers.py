"""Optimizers by name, as the experiments offer them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

OPTIMIZERS = ("adam", "adamw", "muon")
# Minimum size of a matrix, in both dimensions. Smaller ones are groups of vectors: depthwise filters, or the gains of
# the four heads of queries and keys.
LEAST_SIZE = 32


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices, AdamW for everything else, as one optimizer.

    Muon orthogonalises each update of a matrix; its RMS is matched to AdamW's, so that both use the same learning rate.
    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; Liu et al., "Muon is
    scalable for LLM training", 2025, for the RMS.

    Arguments
    ---------
    params : iterable of torch.nn.Parameter, or of dict
        Parameters, or groups of them with settings of their own. Parameters of two dimensions, both of 32 or more, are
        matrices.
    lr : float
        Learning rate.
    weight_decay : float
        Decoupled weight decay.

    Raises
    ------
    InputError
        If this PyTorch has no Muon, which needs 2.9 or newer.

    Example
    -------
    >>> layer = torch.nn.Linear(32, 32)
    >>> optimizer = MuonWithAdamW(layer.parameters(), lr=0.01)
    >>> layer(torch.ones(1, 32)).sum().backward()
    >>> optimizer.step()
    >>> sorted(key for state in optimizer.state.values() for key in state)
    ['exp_avg', 'exp_avg_sq', 'momentum_buffer', 'step']
    """

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise InputError(
                f"optimizer 'muon' needs PyTorch 2.9 or newer, and this is {torch.__version__}: upgrade it, or choose "
                "adamw."
            )
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        # Groups and states belong to this optimizer, so that it is saved and loaded as one.
        self._rules = []
        for group in groups:
            options = {"lr": lr, "weight_decay": weight_decay, **group}
            members = list(options.pop("params"))
            matrices = [p for p in members if p.ndim == 2 and min(p.shape) >= LEAST_SIZE]
            chosen = {id(p) for p in matrices}
            others = [p for p in members if id(p) not in chosen]
            if matrices:
                self._rules.append(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **options))
            if others:
                self._rules.append(torch.optim.AdamW(others, **options))
        super().__init__([dict(group) for rule in self._rules for group in rule.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> torch.Tensor | float | None:
        """Take a step, as other PyTorch optimizers do."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for rule, group in zip(self._rules, self.param_groups, strict=True):
            # Set at each step, since loading a state replaces groups and states.
            rule.param_groups, rule.state = [group], self.state
            rule.step()
        return loss


def choose_optimizer(
    params: Iterable[torch.nn.Parameter], name: str = "adam", lr: float = 1e-3, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Build an optimizer by name.

    Arguments
    ---------
    params : iterable of torch.nn.Parameter
        The parameters to optimize.
    name : str
        "adam", without weight decay, as the paper trains; "adamw"; or "muon", see `MuonWithAdamW`.
    lr, weight_decay : float
        Learning rate, and decoupled weight decay.

    Returns
    -------
    torch.optim.Optimizer

    Raises
    ------
    InputError
        If the name is not known, or a setting conflicts with it.

    Example
    -------
    >>> type(choose_optimizer(torch.nn.Linear(2, 2).parameters(), "adamw", 0.1)).__name__
    'AdamW'
    """
    if name not in OPTIMIZERS:
        raise InputError(f"optimizer {name!r} is not known: choose one of {', '.join(OPTIMIZERS)}.")
    if name == "muon":
        return MuonWithAdamW(params, lr, weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(params, lr, weight_decay=weight_decay)
    if weight_decay:
        raise InputError(f"weight_decay {weight_decay!r} has no effect with optimizer 'adam': choose adamw.")
    return torch.optim.Adam(params, lr)


@contextlib.contextmanager
def naming_opt_class() -> Iterator[None]:
    """Raise InputError with a hint where an optimizer refuses its settings.

    Example
    -------
    >>> with naming_opt_class():
    ...     torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=-1)
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: opt_class can't be built: Invalid learning rate: -1. Check lr and its settings.
    """
    try:
        yield
    except (TypeError, ValueError) as error:  # InputError among them
        raise InputError(f"opt_class can't be built: {str(error).rstrip('.')}. Check lr and its settings.") from error
