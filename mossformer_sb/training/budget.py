"""Training with a time budget: how much of it is used, and when an epoch and the training end."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING

import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from tqdm import tqdm

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from speechbrain.utils.epoch_loop import EpochCounter

logger = logging.getLogger(__name__)

LOG_SECONDS = 60  # between two progress messages, without a terminal for a progress bar


class RunningClock:
    """Running time of this process in seconds, without the time in which it was stopped.

    A thread reads the system's clock several times per second. After a gap that is longer than a busy machine explains,
    the process was stopped (SIGSTOP, a suspended machine), and the gap counts as one tick.

    Arguments
    ---------
    tick : float
        Seconds between two readings.
    longest : float
        Seconds; a longer gap means that the process was stopped.

    Example
    -------
    >>> clock = RunningClock()
    >>> time.sleep(0.1)
    >>> 0.1 <= clock.seconds() < 1
    True
    """

    def __init__(self, tick: float = 0.2, longest: float = 2.0) -> None:
        self._tick, self._longest = tick, longest
        self._seconds, self._seen = 0.0, time.monotonic()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="RunningClock", daemon=True).start()

    def _run(self):
        while True:
            time.sleep(self._tick)
            self.seconds()

    def seconds(self) -> float:
        """Seconds since the clock was created."""
        with self._lock:
            now = time.monotonic()
            gap, self._seen = now - self._seen, now
            self._seconds += gap if gap <= self._longest else self._tick
            return self._seconds


@register_checkpoint_hooks
class TimeBudget:
    """Time budget of a training, a recoverable, so that a resumed run keeps counting.

    Only the main process's training steps count; validation, checkpoints and pauses do not.

    Arguments
    ---------
    minutes : float, optional
        Limit for the training. Default: none.
    epoch_minutes : float, optional
        Limit for an epoch, which may end earlier with its data. Default: none.

    Raises
    ------
    InputError
        If a number is not positive.

    Example
    -------
    >>> budget = TimeBudget(minutes=2)
    >>> budget.add(90)
    >>> budget.share, budget.is_spent
    (0.75, False)
    >>> list(budget.epochs(iter([1])))
    [1]
    """

    def __init__(self, minutes: float | None = None, epoch_minutes: float | None = None) -> None:
        for key, value in (("train_minutes", minutes), ("epoch_minutes", epoch_minutes)):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value < math.inf):
                raise InputError(f"{key} must be a number of minutes greater than 0, or null; found {value!r}.")
        self.minutes, self.epoch_minutes = minutes, epoch_minutes
        self.used = 0.0  # seconds
        self.previous_minutes = minutes  # the limit of the checkpoint's run

    def add(self, seconds: float) -> None:
        """Add the time of a training step."""
        self.used += seconds

    @property
    def share(self) -> float:
        """Used share of the budget, from 0 to 1; 0 without a limit."""
        return 0.0 if self.minutes is None else min(self.used / (60 * self.minutes), 1.0)

    @property
    def minutes_left(self) -> float:
        """Minutes until the end of the training; infinite without a limit."""
        return math.inf if self.minutes is None else max(self.minutes - self.used / 60, 0.0)

    @property
    def is_spent(self) -> bool:
        """Whether the budget for the training is used up."""
        return self.minutes_left == 0

    def ends_epoch(self, epoch_seconds: float) -> bool:
        """Whether an epoch that has trained for this many seconds is over."""
        return self.is_spent or (self.epoch_minutes is not None and epoch_seconds >= 60 * self.epoch_minutes)

    def epochs(self, counter: EpochCounter, is_begun: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """The epochs to train: those of a counter; with a time limit, as many as it allows.

        Arguments
        ---------
        counter : EpochCounter
            Gives the numbers of the epochs.
        is_begun : callable
            Whether the next epoch is one that a resumed run has begun already. It is always completed, if only with its
            validation, so that nothing of it is lost where no time is left.

        Returns
        -------
        iterator of int
        """
        if self.minutes is None:
            yield from counter
            return
        counter = iter(counter)
        if hasattr(counter, "limit"):
            counter.limit = math.inf
        while is_begun() or not self.is_spent:
            try:
                yield next(counter)
            except StopIteration:
                return

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Save the used time."""
        torch.save({"used": self.used, "minutes": self.minutes}, path)

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Load the used time; the limits stay as given now."""
        del end_of_epoch
        saved = torch.load(path, weights_only=True)
        self.used, self.previous_minutes = saved["used"], saved["minutes"]


class Progress:
    """A progress bar in minutes of training, or regular log messages without a terminal.

    Arguments
    ---------
    budget : TimeBudget
        A budget with a limit.
    bar : bool
        Whether to draw a bar, if there is a terminal; otherwise progress is logged.
    """

    def __init__(self, budget: TimeBudget, bar: bool = True) -> None:
        self.budget = budget
        self._logged = -math.inf
        self._bar = tqdm(
            total=budget.minutes,
            initial=round(budget.used / 60, 2),
            disable=None if bar else True,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.1f} of {total:g} min, {postfix}",
        )

    def update(self, epoch: int, step: int, loss: float) -> None:
        """Show the state after a step of an epoch, with the epoch's mean loss in dB."""
        if not self._bar.disable:
            self._bar.set_description_str(f"epoch {epoch}", refresh=False)
            self._bar.set_postfix_str(f"{self.budget.minutes_left:.1f} min left, loss {loss:.2f} dB", refresh=False)
            self._bar.update(self.budget.used / 60 - self._bar.n)
        elif time.monotonic() - self._logged > LOG_SECONDS:
            self._logged = time.monotonic()
            logger.info(
                "epoch %d, step %d: mean loss %.2f dB; %.1f of %g minutes left",
                *(epoch, step, loss, self.budget.minutes_left, self.budget.minutes),
            )

    def close(self) -> None:
        """Close the bar, and leave it on the terminal."""
        self._bar.close()
