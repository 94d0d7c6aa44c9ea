"""Parts of servers that separate recordings: limits, queue and temporary files.

The HTTP service (`mossformer_sb.service`) and the page (`mossformer_sb.web`) use it.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mossformer_sb.data.audio_io import Recording
from mossformer_sb.errors import InputError

_COUNTED_RATE = 48_000  # Hz: see `Limits.minutes`


class TooLong(InputError):
    """A recording is longer than the maximum."""


class Full(InputError):
    """The queue is full."""


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Arguments
    ---------
    megabytes : float
        Largest recording, 10^6 bytes.
    minutes : float
        Longest recording, at up to 48 kHz. At a higher rate, which only the file claims, as many samples are allowed,
        since they determine memory and disk space.
    waiting : int
        Recordings that wait while others are separated; one more is refused.
    parallel : int
        Recordings that are separated at a time.
    upload_seconds : float
        Longest pause of a client that is sending.
    upload_minutes : float
        Longest time for sending a recording.

    Raises
    ------
    InputError
        If a number is out of range.

    Example
    -------
    >>> Limits(megabytes=0)
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: max_megabytes must be greater than 0; found 0.
    """

    megabytes: float = 200.0
    minutes: float = 60.0
    waiting: int = 16
    parallel: int = 1
    upload_seconds: float = 30.0
    upload_minutes: float = 15.0

    def __post_init__(self):
        for name in ("megabytes", "minutes", "parallel", "upload_seconds", "upload_minutes"):
            if not getattr(self, name) > 0:
                key = f"max_{name}" if name in ("megabytes", "minutes") else name
                raise InputError(f"{key} must be greater than 0; found {getattr(self, name)!r}.")
        if math.isinf(self.megabytes):
            raise InputError(f"max_megabytes must be a finite number; found {self.megabytes!r}. Give a large one.")
        if self.waiting < 0:
            raise InputError(f"max_waiting must be 0 or more; found {self.waiting!r}.")

    @property
    def bytes(self) -> int:
        """Largest recording in bytes."""
        return round(self.megabytes * 1e6)

    def check_length(self, path: Path) -> float:
        """Check the length of a recording before it is separated.

        Arguments
        ---------
        path : Path

        Returns
        -------
        float
            Length in seconds.

        Raises
        ------
        TooLong
            If it is longer than ``minutes``, or has too many samples.
        InputError
            If it can't be read as audio.

        Example
        -------
        >>> import numpy as np
        >>> from mossformer_sb.data.audio_writing import write_audio
        >>> path = getfixture("tmp_path") / "talk.wav"
        >>> write_audio(path, np.zeros(8000), 8000)
        >>> Limits(minutes=1).check_length(path)
        1.0
        """
        recording = Recording(path)
        num_samples, rate = recording.num_samples, recording.sample_rate
        most = 60 * self.minutes * min(rate, _COUNTED_RATE)
        if num_samples is None:  # a stream without a length in its header
            num_samples = 0
            for block in recording.blocks():
                num_samples += len(block)
                if num_samples > most:
                    break
        if num_samples > most:
            more = " or more" if recording.num_samples is None else ""
            at_rate = f" at {rate} Hz" if rate > _COUNTED_RATE else ""
            raise TooLong(
                f"{path}: lasts {duration(num_samples / rate)}{more}; the maximum{at_rate} is {duration(most / rate)}. "
                "Cut it, separate it with `mossformer-sb separate`, which has no limit, or start the server with a "
                "larger --max_minutes."
            )
        return num_samples / rate


def check_port(port: int) -> None:
    """Raise InputError if a server can't have a port.

    Example
    -------
    >>> check_port(70000)
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: port must be from 0 (any free one) to 65535; found 70000.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"port must be from 0 (any free one) to 65535; found {port}.")


def duration(seconds: float) -> str:
    """Format a duration for a message.

    Example
    -------
    >>> duration(90), duration(2.5)
    ('1.5 minutes', '2.5 seconds')
    """
    return f"{seconds / 60:.3g} minutes" if seconds >= 60 else f"{seconds:.3g} seconds"


class Turns:
    """A queue with a limited length, for a limited number of separations at a time, first come, first served.

    Arguments
    ---------
    parallel : int
        Number of separations at a time.
    waiting : int, optional
        Number of recordings that may wait in addition. Default: unlimited.

    Example
    -------
    >>> turns = Turns(parallel=1, waiting=0)
    >>> with turns.place(), turns.turn():
    ...     turns.taken
    1
    >>> turns.taken
    0
    """

    def __init__(self, parallel: int = 1, waiting: int | None = None) -> None:
        self.parallel = parallel
        self.number = None if waiting is None else parallel + waiting  # number of places
        self.taken = 0  # number of occupied places
        self._queue: list[object] = []  # callers that compute or wait
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Context: admit a recording to the queue.

        Raises
        ------
        Full
            If the queue is full.
        """
        with self._changed:
            if self.number is not None and self.taken >= self.number:
                raise Full(f"{self.taken} recordings are being separated or waiting, the maximum. Try again later.")
            self.taken += 1
        try:
            yield
        finally:
            with self._changed:
                self.taken -= 1

    @contextlib.contextmanager
    def turn(self, waiting: Callable[[int], object] = lambda num_ahead: None) -> Iterator[None]:
        """Context: wait for the caller's turn, in the order of the calls.

        Arguments
        ---------
        waiting : callable
            Called several times per second with the number of separations ahead. An exception in it ends the wait.
        """
        mine = object()
        with self._changed:
            self._queue.append(mine)
        try:
            while num_ahead := self._num_ahead(mine):
                waiting(num_ahead)
                with self._changed:
                    self._changed.wait_for(lambda: not self._num_ahead(mine), timeout=0.2)
            yield
        finally:
            with self._changed:
                self._queue.remove(mine)
                self._changed.notify_all()

    def _num_ahead(self, mine):
        with self._changed:
            return max(0, self._queue.index(mine) - self.parallel + 1)


class TemporaryFolder:
    """A new folder below the system's folder of temporary files, deleted at the end of the context.

    Arguments
    ---------
    prefix : str
        Beginning of its name.
    parent : str or Path, optional
        Another parent folder.

    Example
    -------
    >>> with TemporaryFolder(parent=getfixture("tmp_path")) as path:
    ...     _ = (path / "talk.wav").write_bytes(b"...")
    >>> path.exists()
    False
    """

    def __init__(self, prefix: str = "mossformer-sb-", parent: str | Path | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.delete()

    def delete(self) -> None:
        """Delete the folder, including files that a running separation still writes."""
        for _ in range(20):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                return
            time.sleep(0.1)
