"""Resumable work on many items, with progress."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def resumable(path: str | Path, key: str, items: Sequence, mapped: Callable, name: str = "") -> list:
    """The results of a function for many items; each is saved as soon as it is computed.

    Arguments
    ---------
    path : str or Path
        File for intermediate results. The caller deletes it at the end.
    key : str
        Identifier of this work: results with another key are discarded.
    items : sequence
        Arguments of the function.
    mapped : Callable
        Function from items to their results in order, as from `data_prep.parallel.process_map`. Results are saved as
        JSON: lists, numbers, text.
    name : str
        Text of the progress bar.

    Returns
    -------
    results : list

    Example
    -------
    >>> path, lengths = getfixture("tmp_path") / "lengths.partial", lambda words: map(len, words)
    >>> resumable(path, "words", ["a", "bb"], lengths)
    [1, 2]
    >>> resumable(path, "words", ["a", "bb", "ccc"], lengths), len(path.read_text().splitlines())
    ([1, 2, 3], 4)
    """
    results = _read(Path(path), key)[: len(items)]
    mode = "a" if results else "w"
    with open(path, mode, encoding="utf-8") as file:
        if not results:
            file.write(json.dumps(key) + "\n")
        rest = mapped(items[len(results) :])
        for result in tqdm(rest, name, len(items), initial=len(results), unit="file", disable=None):
            results.append(result)
            file.write(json.dumps(result) + "\n")
    return results


def _read(path, key):
    """Reads the complete lines of an earlier run, and truncates the file after them."""
    if not path.is_file():
        return []
    lines, length = [], 0
    with open(path, "rb") as file:
        for line in file:
            try:
                lines.append(json.loads(line))
            except ValueError:  # killed while it was written
                break
            if not line.endswith(b"\n"):
                lines.pop()
                break
            length += len(line)
    if not lines or lines[0] != key:
        return []
    os.truncate(path, length)
    return lines[1:]
