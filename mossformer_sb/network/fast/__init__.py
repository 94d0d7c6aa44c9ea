"""Fast implementations for CPUs, and the switch that turns them off.

The network is written plainly, and is complete without this folder. For speed, some calls have another implementation
with the same numbers: custom backward passes, tiled inference, matrix multiplications in float32 by oneDNN. None is
used for a module that was changed; `mossformer_sb.network.fast.choice` holds every rule. To disable all of them::

    with mossformer_sb.network.fast.disabled():
        masks = masknet(encoded)

or ``MOSSFORMER_SB_FAST=0`` in the environment of the program.
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

# None: as the environment says. A context variable, so that one thread's setting is not another's.
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
    """Use the plain implementations: as a context, or as a decorator of a function.

    It holds for the thread (and the task of asyncio) that enters it. Plain calls can be differentiated twice and
    forward, and ``torch.func`` can transform them. A backward pass uses the setting of its forward pass.

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
    """The same function, run with the switch as it is now.

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
            f"The environment variable {VARIABLE} is {value!r}: set it to 0 to do without the fast implementations "
            f"of the network, or to 1, which is its value where it is not set."
        )
    return value == "1"
