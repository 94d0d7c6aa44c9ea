"""Limits of the service: size and length of a recording, and length of the queue."""

from __future__ import annotations

from dataclasses import dataclass

from mossformer_sb.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Limits of the service.

    Arguments
    ---------
    megabytes : float
        Largest request.
    minutes : float
        Longest recording.
    waiting : int
        Recordings that wait while others are separated; one more is refused.
    parallel : int
        Recordings that are separated at a time.
    upload_seconds : float
        Longest pause of a client that is sending.

    Raises
    ------
    InputError
        If a number can't be used.

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

    def __post_init__(self):
        for name, smallest in (("megabytes", 0), ("minutes", 0), ("parallel", 0), ("upload_seconds", 0)):
            if not getattr(self, name) > smallest:
                key = name if name in ("parallel", "upload_seconds") else f"max_{name}"
                raise InputError(f"{key} must be greater than 0; found {getattr(self, name)!r}.")
        if self.waiting < 0:
            raise InputError(f"max_waiting must be 0 or more; found {self.waiting!r}.")

    @property
    def bytes(self) -> float:
        """Largest request in bytes."""
        return round(self.megabytes * 1e6)
