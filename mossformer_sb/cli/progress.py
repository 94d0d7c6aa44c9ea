"""Progress of separating many recordings: number done, speed, and time left."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mossformer_sb.cli.input_files import Job

_UNKNOWN_BYTES = 1  # assumed size of a recording that is not a file
_SHOW_SECONDS = 0.2  # refresh interval


class Progress:
    """A progress line: recordings done, seconds of audio per second, and time left.

    The time left is estimated from the remaining bytes, since lengths are known only when a file is opened. This also
    suits lists of short and long recordings.

    Arguments
    ---------
    jobs : list of mossformer_sb.cli.input_files.Job
        The recordings to separate.
    hidden : bool
        Whether to show nothing.
    clock : callable
        Returns the time in seconds.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> times = iter((0.0, 10.0, 20.0))
    >>> jobs = [SimpleNamespace(path="a"), SimpleNamespace(path="b")]
    >>> with Progress(jobs, hidden=True, clock=lambda: next(times)) as progress:
    ...     progress.add(0, num_samples=8000 * 60, total=8000 * 60, sample_rate=8000)
    ...     print(progress.text())
    6.0 s of audio per second, 0:10 left
    """

    def __init__(self, jobs: list[Job], hidden: bool = False, clock: Callable = time.monotonic) -> None:
        from tqdm import tqdm

        self._weights = [_num_bytes(job.path) for job in jobs]
        self._shares = {}  # progress of the started recordings
        self._done, self._seconds = 0, 0.0
        self._clock, self._start = clock, clock()
        self._shown = float("-inf")  # time of the last refresh
        style = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} recordings [{elapsed}{postfix}]"
        self._bar = tqdm(total=len(jobs), disable=hidden or not jobs, bar_format=style)

    def add(self, number: int, num_samples: int, total: int | None, sample_rate: int) -> None:
        """Report progress of a recording: number in the list, new samples, total samples or None, sample rate in Hz."""
        self._seconds += num_samples / sample_rate
        if total:
            self._shares[number] = min(1.0, self._shares.get(number, 0.0) + num_samples / total)
        self._show()

    def finish(self, number: int) -> None:
        """Report that a recording is done, successfully or not."""
        self._shares.pop(number, None)
        self._done += self._weights[number]
        self._bar.update(1)
        self._show()

    def text(self) -> str:
        """Speed and time left."""
        passed = max(self._clock() - self._start, 1e-9)
        done = self._done + sum(share * self._weights[number] for number, share in self._shares.items())
        speed = f"{self._seconds / passed:.1f} s of audio per second"
        if not done:
            return speed
        left = round(passed * (sum(self._weights) - done) / done)
        minutes, seconds = divmod(left, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{speed}, {f'{hours}:{minutes:02d}' if hours else minutes}:{seconds:02d} left"

    def _show(self):
        now = time.monotonic()
        if self._bar.disable or now - self._shown < _SHOW_SECONDS:
            return
        self._shown = now
        self._bar.set_postfix_str(self.text())

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown = float("-inf")
        self._show()
        self._bar.close()


def _num_bytes(path):
    try:
        return max(os.path.getsize(path), _UNKNOWN_BYTES)
    except OSError:
        return _UNKNOWN_BYTES
