"""Fast implementations for CPUs, and the switch that disables them.

The reference implementation of the network is complete without this folder. For speed, some calls have another
implementation with the same results: custom backward passes, tiled inference, float32 matrix multiplications by oneDNN.
None is used for a modified module; `mossformer_sb.network.fast.choice` has all rules. To disable all of them::

    with mossformer_sb.network.fast.disabled():
        masks = masknet(encoded)

or set ``MOSSFORMER_SB_FAST=0`` in the environment.
"""

from __future__ import annotations

import contextlib
import functools
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VARIABLE = "MOSSFORMER_SB_FAST"

# None: as in the environment. A context variable, so that each thread has its own setting.
_setting = ContextVar("mossformer_sb_fast", default=None)


def is_enabled() -> bool:
    """Whether fast implementations may be used.

    Returns
    -------
    bool

    Raises
    ------
    InputError
        If the environment variable is neither 0 nor 1.

    Example
    -------
    >>> with disabled():
    ...     is_enabled()
    False
    """
    setting = _setting.get()
    return _from_environment(os.environ.get(VARIABLE, "1")) if setting is None else setting


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Use the reference implementations: as a context, or as a decorator of a function.

    It applies to the thread (and the task of asyncio) that enters it. Reference calls support second derivatives,
    forward-mode differentiation and ``torch.func``. A backward pass uses the setting of its forward pass.

    Example
    -------
    >>> @disabled()
    ... def run():
    ...     return is_enabled()
    >>> run()
    False
    """
    with _set(False):
        yield


@contextlib.contextmanager
def _set(value):
    token = _setting.set(value)
    try:
        yield
    finally:
        _setting.reset(token)


def as_now(function: Callable) -> Callable:
    """The same function, run with the current setting of the switch.

    For activation checkpointing: the recomputation in the backward pass must use the implementation of the forward
    pass.

    Arguments
    ---------
    function : callable

    Returns
    -------
    callable

    Example
    -------
    >>> with disabled():
    ...     later = as_now(is_enabled)
    >>> later()
    False
    """
    setting = is_enabled()

    def run(*arguments, **keywords):
        with _set(setting):
            return function(*arguments, **keywords)

    return run


@functools.cache
def _from_environment(value):
    if value not in ("0", "1"):
        raise InputError(
            f"The environment variable {VARIABLE} is {value!r}: set it to 0 to disable the fast implementations "
            f"of the network, or to 1, the default."
        )
    return value == "1"
