"""Helpers for messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NUM_SHOWN = 10  # maximum number of names or problems in a message


def first_of(names: Sequence[str], ellipsis: str = "…") -> str:
    """The first names of a sequence, for a message.

    Arguments
    ---------
    names : sequence of str
        All names.
    ellipsis : str
        Text for the others.

    Returns
    -------
    str

    Example
    -------
    >>> first_of(["a", "b"])
    'a, b'
    >>> first_of([str(number) for number in range(12)], " …")
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 …'
    """
    return ", ".join(names[:NUM_SHOWN]) + (ellipsis if len(names) > NUM_SHOWN else "")
