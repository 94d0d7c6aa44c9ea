"""Short names for many parameters: wildcards, ranges of numbers, and suggestions for mistyped names."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def branches(names: Sequence[str], among: Sequence[str]) -> list[str]:
    """Replace names by the highest branch of which all names are given.

    Arguments
    ---------
    names : sequence of str
        Names, such as "blocks.2.norm.gain".
    among : sequence of str
        All existing names.

    Returns
    -------
    list of str
        Names and branches, with repetitions.

    Example
    -------
    >>> branches(["a.0.x", "a.0.y", "a.1.x"], among=["a.0.x", "a.0.y", "a.1.x", "a.1.y"])
    ['a.0.*', 'a.0.*', 'a.1.x']
    """
    chosen = set(names)
    return [_highest_branch(name, chosen, among) or name for name in names]


def _highest_branch(name, chosen, among):
    parts = name.split(".")
    for depth in range(len(parts)):
        branch = "".join(f"{part}." for part in parts[:depth])
        below = [other for other in among if other.startswith(branch)]
        if len(below) > 1 and chosen.issuperset(below):
            return f"{branch}*"
    return None


def merge_numbers(names: Sequence[str]) -> Iterator[str]:
    """Join names that differ only in their first number.

    Example
    -------
    >>> list(merge_numbers(["a.0.x", "a.1.x", "a.2.x", "b"]))
    ['a.{0…2}.x (3)', 'b']
    """
    groups = {}
    for name in names:
        before, number, after = re.fullmatch(r"(.*?)(?:(?<=\.)(\d+)(?=\.)(.*))?", name).groups(default="")
        groups.setdefault((before, after), []).append(number)
    for (before, after), numbers in groups.items():
        count = f" ({len(numbers)})" if len(numbers) > 1 else ""
        yield f"{before}{_listed([*dict.fromkeys(numbers)])}{after}{count}"


def _listed(numbers):
    if len(numbers) == 1:
        return numbers[0]
    first, last = int(numbers[0]), int(numbers[-1])
    if numbers == [str(number) for number in range(first, last + 1)]:
        return f"{{{first}…{last}}}"
    return f"{{{','.join(numbers)}}}"


def closest(pattern: str, names: Sequence[str]) -> list[str]:
    """Up to three names or branches close to a mistyped pattern, the likeliest first.

    Example
    -------
    >>> closest("masknet.block.*", ["masknet.blocks.0.gain", "encoder.weight"])[0]
    'masknet.blocks.*'
    """
    parts = [name.split(".") for name in names]
    stems = dict.fromkeys(f"{'.'.join(p[:depth])}.*" for p in parts for depth in range(1, len(p)))
    return difflib.get_close_matches(pattern, [*stems, *names], n=3)
