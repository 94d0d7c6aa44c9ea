"""Learning-rate schedules by name, stepped after each epoch or before each step.

The training loop calls `Schedule`; experiments choose by name with `choose_schedule`, `OneCycle` among them. At the end
are the adapters for each kind of scheduler.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
from typing import TYPE_CHECKING

import torch
from speechbrain.nnet import schedulers as stock
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

# By the arguments of __call__ of SpeechBrain's schedulers: the values for them after an epoch, or before a step.
_AFTER_EPOCH = {
    ("current_epoch",): lambda optimizer, epoch, loss: (epoch,),
    # It compares ratios of a positive value, so decibels, which may be negative, become a ratio of powers.
    ("metric_value",): lambda optimizer, epoch, loss: (10 ** (loss / 10),),
    ("optim_list", "current_epoch", "current_loss"): lambda optimizer, epoch, loss: ([optimizer], epoch, loss),
}
_BEFORE_STEP = {
    ("opt",): lambda optimizer, step: (optimizer,),
    ("opt", "num_updates"): lambda optimizer, step: (optimizer, step),
}
SCHEDULES = ("plateau", "linear", "one_cycle")
LEAST_STEPS = 4  # of one_cycle
START_FACTOR, END_FACTOR = 1 / 25, 1 / 25e4  # of one_cycle's highest rate, as torch's OneCycleLR has them
# These of torch's schedulers count batches, the others epochs.
_TORCH_BY_STEP = ("CyclicLR", "OneCycleLR")
_GIVEN = ("lr", "weight_decay")  # of the optimizer's groups: may change when a run is resumed
_GIVEN_KEY, _KIND_KEY = "given_for_optimizer", "scheduler"  # in a checkpoint
_STATE = ("base_lrs", "last_epoch", "_step_count", "_last_lr")  # of torch's schedulers
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # of the optimizer's groups, as torch's schedulers name them

logger = logging.getLogger(__name__)


@register_checkpoint_hooks
class Schedule:
    """A learning-rate scheduler of SpeechBrain or torch, stepped at the right time and saved in checkpoints.

    A schedule by steps sets the rate before each step of the optimizer, so that the first step has the schedule's
    first rate; a schedule by epochs sets it after validation. Skipped steps don't count.

    Arguments
    ---------
    scheduler : object or callable or None
        A scheduler of ``speechbrain.nnet.schedulers``; or a class of ``torch.optim.lr_scheduler`` with all arguments
        but the optimizer, as from ``!name:`` in a YAML. None: a constant rate.
    optimizer : torch.optim.Optimizer
        The optimizer whose rate is set.

    Raises
    ------
    InputError
        If the scheduler is unsupported.

    Example
    -------
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> schedule = Schedule(stock.StepScheduler(1.0), optimizer)
    >>> for epoch in (1, 2, 3):
    ...     rate = schedule.rate
    ...     schedule.after_epoch(epoch, loss=0.0)
    ...     print(epoch, rate)
    1 1.0
    2 0.5
    3 0.5
    """

    def __init__(self, scheduler: object | Callable | None, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._given = [{key: group.get(key) for key in _GIVEN} for group in optimizer.param_groups]
        self._given_before: list[dict] | None = None  # in the run of the checkpoint
        self._kind_before: str | None = None  # if that run had another scheduler
        self._adapter = _adapter(scheduler, optimizer)
        self._groups = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]

    @property
    def scheduler(self) -> Any:
        """The scheduler; None for a constant rate."""
        return self._adapter.scheduler

    @property
    def by_step(self) -> bool:
        """Whether it sets the rate before each step of the optimizer; otherwise after each epoch."""
        return self._adapter.by_step

    @property
    def rate(self) -> float:
        """The current learning rate."""
        return self.optimizer.param_groups[0]["lr"]

    def before_step(self, step: int, share: float | None = None) -> None:
        """Set the rate for a step of the optimizer, counted from 1.

        ``share`` is the used share of a time budget, for `OneCycle` without a number of steps.
        """
        if self.by_step:
            self._adapter.before_step(step, share)

    def after_epoch(self, epoch: int, loss: float) -> None:
        """Set the rate for the next epoch, after validation with this loss in dB."""
        if not self.by_step:
            self._adapter.after_epoch(epoch, loss)

    def resumed(self, epochs_done: int) -> None:
        """Apply the current configuration, after a checkpoint has restored the optimizer and this schedule.

        The optimizer's state has the checkpoint's ``lr`` and ``weight_decay``. Where a given ``lr`` differs from the
        one given then, the rate is changed by the same factor, so that what the schedule has done so far stays. Another
        kind of scheduler begins with the given ``lr``: the rate that the earlier one ended with means nothing to it.

        Arguments
        ---------
        epochs_done : int
            Complete epochs.
        """
        if self._given_before is None:
            return
        if self._kind_before is not None:
            self._begin_anew(epochs_done)
            return
        groups = list(zip(self.optimizer.param_groups, self._given, self._given_before, strict=True))
        factor = 1.0
        for group, now, before in groups:
            if now["lr"] != before["lr"] and before["lr"]:
                factor = now["lr"] / before["lr"]
                group |= {key: factor * group[key] for key in _RATES if key in group}
            if now["weight_decay"] is not None:
                group["weight_decay"] = now["weight_decay"]
        self._adapter.resumed(epochs_done, factor)
        self._given_before = None
        _, now, before = groups[0]
        if now["lr"] != before["lr"]:
            logger.info("lr was %g: with %g now, the learning rate is %.3g", before["lr"], now["lr"], self.rate)
        if now["weight_decay"] != before["weight_decay"]:
            logger.info("weight_decay was %s, and is %s now", before["weight_decay"], now["weight_decay"])

    def _begin_anew(self, epochs_done):
        """Restore the optimizer's settings from before the checkpoint was loaded."""
        for group, settings in zip(self.optimizer.param_groups, self._groups, strict=True):
            group.update(settings)
        self._adapter.resumed(epochs_done, factor=1.0)
        logger.info("The scheduler was %s, and is %s now: it begins at %.3g", self._kind_before, self._kind, self.rate)
        self._given_before = self._kind_before = None

    @property
    def _kind(self):
        return "constant" if self.scheduler is None else type(self.scheduler).__name__

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Save the state that calls have changed, and what was given for the optimizer."""
        torch.save({**self._adapter.state(), _GIVEN_KEY: self._given, _KIND_KEY: self._kind}, path)

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Load the saved state; the configuration stays the current one, see `resumed`."""
        del end_of_epoch
        state = torch.load(path, map_location="cpu", weights_only=True)
        self._given_before = state.pop(_GIVEN_KEY, self._given)  # both are missing in checkpoints of earlier versions
        kind = state.pop(_KIND_KEY, self._kind)
        self._kind_before = kind if kind != self._kind else None
        if self._kind_before is None:
            self._adapter.load(state)


class OneCycle:
    """Rise to the highest rate, hold it, and decay to nearly zero, both along a cosine, within a budget.

    The rate is a pure function of the used share of the budget, in steps or time. So a run that is resumed with a
    larger budget continues with the rate for that budget; it does not change while both are at the highest rate.
    Source: Smith and Topin, "Super-Convergence", 2017, with the initial and final rate of torch's ``OneCycleLR``.

    Arguments
    ---------
    lr : float
        The highest rate.
    total_steps : int, optional
        The budget. Default: a time budget, or the steps that `for_steps` is given when training begins.
    warmup_share : float
        Share of the budget in which the rate rises.
    decay_share : float, optional
        Share of the budget, at its end, in which it decays. Default: the rest after the rise.

    Raises
    ------
    InputError
        If the shares are negative or exceed 1 together, or there are too few steps.

    Example
    -------
    >>> schedule = OneCycle(1.0, warmup_share=0.1, decay_share=0.4)
    >>> [round(schedule.rate_at(share), 2) for share in (0, 0.1, 0.6, 0.8, 1)]
    [0.04, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(
        self, lr: float, total_steps: int | None = None, warmup_share: float = 0.05, decay_share: float | None = None
    ) -> None:
        self._given = warmup_share, decay_share
        self.lr, self.total_steps = lr, None
        self._set_shares(warmup_share, decay_share)
        if total_steps is not None:
            self.for_steps(total_steps)

    def for_steps(self, total_steps: int) -> None:
        """Set the budget in steps; the rate rises over two of them at least."""
        if total_steps < LEAST_STEPS:
            raise InputError(
                f"schedule 'one_cycle' needs {LEAST_STEPS} steps or more in all epochs; found {total_steps}."
            )
        warmup_share, decay_share = self._given
        self._set_shares(max(warmup_share, 2 / total_steps), decay_share)
        self.total_steps = total_steps

    def _set_shares(self, warmup_share, decay_share):
        decay = 1 - warmup_share if decay_share is None else decay_share
        if not (0 <= warmup_share < 1 and 0 < decay and warmup_share + decay <= 1 + 1e-9):
            raise InputError(
                f"warmup_share {warmup_share!r} and decay_share {decay_share!r} must be shares of the training, at "
                f"least 0 and at most 1 together, such as 0.05 and 0.25."
            )
        self.warmup_share, self.decay_share = warmup_share, decay

    def rate(self, step: int, share: float | None = None) -> float:
        """The rate of a step of the optimizer, from 1; or of a share of the time, without a number of steps."""
        if self.total_steps is not None:
            share = step / self.total_steps
        elif share is None:
            raise InputError("schedule 'one_cycle' has no number of steps: give it with total_steps or for_steps.")
        return self.rate_at(share)

    def rate_at(self, share: float) -> float:
        """The rate at this used share of the budget, from 0 to 1."""
        if share < self.warmup_share:
            return self.lr * _cosine(START_FACTOR, 1.0, share / self.warmup_share)
        left = (1 - min(share, 1.0)) / self.decay_share
        return self.lr * _cosine(END_FACTOR, 1.0, min(left, 1.0))


def _cosine(start, end, share):
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def choose_schedule(
    name: str,
    lr: float,
    number_of_epochs: int,
    warmup_share: float = 0.05,
    decay_share: float | None = None,
    train_minutes: float | None = None,
    final_lr: float = 0.0,
) -> object | Callable:
    """The schedules that the experiments offer by name.

    Arguments
    ---------
    name : str
        "plateau": constant for 85 epochs, then halved when the validation loss has not improved for 3. "linear": from
        ``lr`` to ``final_lr`` in a straight line over the epochs. "one_cycle": see `OneCycle`, for a fixed budget of
        time or steps.
    lr : float
        The highest rate.
    number_of_epochs : int
        Epochs of the training, for "linear".
    warmup_share, decay_share : float
        As in `OneCycle`.
    train_minutes : float, optional
        Time budget. Without it, "one_cycle" follows the steps, whose number the training sets.
    final_lr : float
        The last epoch's rate, for "linear"; 0 is reached after the last epoch, which would otherwise learn nothing.

    Returns
    -------
    object or callable
        For `Schedule`.

    Raises
    ------
    InputError
        If the name is not known, or a setting conflicts with it.

    Example
    -------
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> schedule = Schedule(choose_schedule("one_cycle", 1.0, number_of_epochs=2), optimizer)
    >>> schedule.by_step, round(schedule.rate, 2)
    (True, 0.04)
    """
    if name not in SCHEDULES:
        raise InputError(f"schedule {name!r} is not known: choose one of {', '.join(SCHEDULES)}.")
    if name == "plateau":
        return stock.ReduceLROnPlateau(factor=0.5, patience=2, dont_halve_until_epoch=85)
    if name == "linear":
        if train_minutes:
            raise InputError(
                f"schedule 'linear' follows number_of_epochs, which train_minutes: {train_minutes} replaces: set "
                "schedule: one_cycle, whose rate follows the time, or leave out train_minutes."
            )
        return stock.LinearScheduler(lr, final_lr, number_of_epochs + (final_lr == 0))
    return OneCycle(lr, None, warmup_share, decay_share)


# ---- adapters


def _adapter(scheduler, optimizer):
    """The adapter of a scheduler: it has ``scheduler``, ``by_step`` and the methods of `_Constant`."""
    if scheduler is None:
        return _Constant()
    if isinstance(scheduler, OneCycle):
        return _OneCycleAdapter(scheduler, optimizer)
    if isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler):
        return _TorchAdapter(scheduler)
    if callable(scheduler) and _is_torchs(scheduler):
        return _TorchAdapter(_build(scheduler, optimizer))
    return _SpeechBrainAdapter(scheduler, optimizer)


class _Constant:
    """No scheduler."""

    scheduler, by_step = None, False

    def before_step(self, step, share):
        """Set the rate for a step, if ``by_step``."""

    def after_epoch(self, epoch, loss):
        """Set the rate for the next epoch, unless ``by_step``."""

    def state(self):
        """The state that calls have changed, as a dict."""
        return {}

    def load(self, state):
        """Restore a state."""

    def resumed(self, epochs_done, factor):
        """Follow a change of the given rate by a factor; the optimizer's rate has been changed already."""


class _OneCycleAdapter(_Constant):
    """Its rate is a pure function of the step or the time, so it has no state."""

    by_step = True

    def __init__(self, scheduler, optimizer):
        self.scheduler, self.optimizer = scheduler, optimizer
        self._set_rate(scheduler.rate_at(0.0))

    def before_step(self, step, share):
        self._set_rate(self.scheduler.rate(step, share))

    def _set_rate(self, rate):
        for group in self.optimizer.param_groups:
            group["lr"] = rate


class _TorchAdapter(_Constant):
    """Torch's schedulers hold their optimizer, and set the first rate when they are built.

    Their state has their configuration too. What calls have not changed of it is the present one after loading.
    """

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.by_step = type(scheduler).__name__ in _TORCH_BY_STEP
        self._initial = copy.deepcopy(scheduler.state_dict())
        self._is_other = False  # whether the run of the checkpoint had another configuration

    def before_step(self, step, share):
        if step > 1:
            self.scheduler.step()

    def after_epoch(self, epoch, loss):
        needs_loss = isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        self.scheduler.step(*([loss] if needs_loss else []))

    def state(self):
        return {"now": self.scheduler.state_dict(), "initial": self._initial}

    def load(self, state):
        if "initial" not in state:  # a checkpoint of an earlier version
            self.scheduler.load_state_dict(state)
            return
        merged = _with_configuration(state["now"], state["initial"], self._initial)
        self._is_other = merged != state["now"]
        self.scheduler.load_state_dict(merged)

    def resumed(self, epochs_done, factor):
        if hasattr(self.scheduler, "base_lrs"):
            self.scheduler.base_lrs = [factor * rate for rate in self.scheduler.base_lrs]
        # Most compute a rate from the last one, which is that of the earlier configuration.
        if self._is_other and hasattr(self.scheduler, "_get_closed_form_lr"):
            rates = self.scheduler._get_closed_form_lr()
            for group, rate in zip(self.scheduler.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            self.scheduler._last_lr = rates


def _with_configuration(now, initial, configured):
    """A state with the values of ``configured`` where no call has changed it since ``initial``.

    Rates are always those of ``now``: `Schedule.resumed` changes them, for all schedulers alike.
    """
    if isinstance(now, dict) and isinstance(initial, dict) and isinstance(configured, dict):
        kept = {key: value for key, value in now.items() if key in _STATE or not (key in initial and key in configured)}
        others = [key for key in now if key not in kept]
        return kept | {key: _with_configuration(now[key], initial[key], configured[key]) for key in others}
    if all(isinstance(values, list) and len(values) == len(now) for values in (now, initial, configured)):
        return [_with_configuration(*values) for values in zip(now, initial, configured, strict=True)]
    return configured if now == initial else now


class _SpeechBrainAdapter(_Constant):
    """SpeechBrain's schedulers are called with an optimizer, an epoch or a loss, each with other arguments.

    Their own savers omit some of the state that calls change, and one scheduler has no loader.
    """

    def __init__(self, scheduler, optimizer):
        if not is_supported(type(scheduler)):
            name = getattr(scheduler, "__name__", type(scheduler).__name__)
            raise InputError(
                f"lr_scheduler: unsupported scheduler {name}. Choose one of speechbrain.nnet.schedulers "
                f"({', '.join(supported())}), as !new:…; a class of torch.optim.lr_scheduler, as !name:…, with all its "
                f"arguments but the optimizer; or null for a constant learning rate."
            )
        self.scheduler, self.optimizer = scheduler, optimizer
        names = call_arguments(type(scheduler))
        self.by_step = hasattr(scheduler, "on_batch_end") or names in _BEFORE_STEP
        self._arguments = _BEFORE_STEP.get(names) or _AFTER_EPOCH.get(names)
        self._initial = copy.deepcopy(_data(scheduler))

    def before_step(self, step, share):
        if hasattr(self.scheduler, "on_batch_end"):
            self.scheduler.on_batch_end(self.optimizer)
        else:
            self.scheduler(*self._arguments(self.optimizer, step))

    def after_epoch(self, epoch, loss):
        _, rate = self.scheduler(*self._arguments(self.optimizer, epoch, loss))
        stock.update_learning_rate(self.optimizer, rate)

    def state(self):
        return {name: value for name, value in _data(self.scheduler).items() if value != self._initial.get(name)}

    def load(self, state):
        vars(self.scheduler).update(state)

    def resumed(self, epochs_done, factor):
        if hasattr(self.scheduler, "hyperparam_value"):  # the current rate of NewBobScheduler
            self.scheduler.hyperparam_value *= factor
        # A rate that follows the epoch alone is computed anew: also another number of epochs may have changed it.
        if call_arguments(type(self.scheduler)) == ("current_epoch",) and epochs_done:
            self.after_epoch(epochs_done, loss=0.0)


def call_arguments(scheduler_class: type) -> tuple[str, ...]:
    """Names of the arguments of a call of a SpeechBrain scheduler.

    Example
    -------
    >>> call_arguments(stock.NoamScheduler)
    ('opt',)
    """
    if not any("__call__" in vars(base) for base in scheduler_class.__mro__):
        return ()
    return tuple(inspect.signature(scheduler_class.__call__).parameters)[1:]


def is_supported(scheduler_class: type) -> bool:
    """Whether a SpeechBrain class is a learning-rate scheduler that `Schedule` can call."""
    names = call_arguments(scheduler_class)
    return hasattr(scheduler_class, "on_batch_end") or names in _BEFORE_STEP or names in _AFTER_EPOCH


def supported() -> list:
    """Names of the supported SpeechBrain schedulers.

    Example
    -------
    >>> supported()[:3]
    ['CyclicCosineScheduler', 'CyclicLRScheduler', 'IntervalScheduler']
    """
    module = inspect.getmodule(stock.NoamScheduler)  # SpeechBrain imports lazily: `stock` may be a placeholder
    classes = inspect.getmembers(module, lambda obj: inspect.isclass(obj) and obj.__module__ == module.__name__)
    return [name for name, scheduler_class in classes if is_supported(scheduler_class)]


def _data(scheduler):
    """A scheduler's attributes, without its functions."""
    return {name: value for name, value in getattr(scheduler, "__dict__", {}).items() if not callable(value)}


def _is_torchs(factory):
    built = getattr(factory, "func", factory)  # !name: creates a functools.partial
    return inspect.isclass(built) and issubclass(built, torch.optim.lr_scheduler.LRScheduler)


def _build(factory, optimizer):
    try:
        return factory(optimizer)
    except (TypeError, ValueError) as error:
        name = getattr(factory, "func", factory).__name__
        raise InputError(f"lr_scheduler: torch's {name} can't be built with these arguments: {error}.") from error
