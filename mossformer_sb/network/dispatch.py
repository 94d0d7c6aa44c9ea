"""Registering another implementation of a call of the reference implementation.

The reference implementation of the network is complete without any registration. Another implementation with the same
result may compute calls that are marked `replaceable`: `mossformer_sb.network.fast.register` registers the fast ones.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_rules = {}  # by the name of the reference call; None: not registered


def replaceable(plain: Callable) -> Callable:
    """Decorator: mark a function or method that another implementation may replace.

    Arguments
    ---------
    plain : callable

    Returns
    -------
    callable
        With the same arguments and result.
    """
    name = _name_of(plain)
    _rules[name] = None

    @functools.wraps(plain)
    def call(*args, **kwargs):
        rule = _rules[name]
        implementation = None if rule is None else rule(*args, **kwargs)
        return plain(*args, **kwargs) if implementation is None else implementation(*args, **kwargs)

    return call


def register(call: Callable) -> Callable:
    """Decorator: register the rule that chooses the implementation of a replaceable call.

    Arguments
    ---------
    call : callable
        Marked `replaceable`.

    Returns
    -------
    callable
        A decorator of the rule, a function from the call's arguments to an implementation, a callable with the same
        arguments, or to None for the reference implementation.

    Raises
    ------
    ValueError
        If the call is not replaceable.

    Example
    -------
    >>> @replaceable
    ... def double(x):
    ...     return 2 * x
    >>> @register(double)
    ... def rule(x):
    ...     return (lambda text: text + text) if isinstance(x, str) else None
    >>> double(3), double("ha")
    (6, 'haha')
    """
    name = _name_of(call)
    if name not in _rules:
        raise ValueError(f"{name} is not marked as replaceable.")

    def remember(rule):
        _rules[name] = rule
        return rule

    return remember


def _name_of(call):
    return f"{call.__module__}.{call.__qualname__}"
