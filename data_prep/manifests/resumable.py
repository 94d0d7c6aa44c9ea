"""Long work on many items, with progress, that goes on where a killed run stopped."""

import json
import os
from pathlib import Path

from tqdm import tqdm


def resumable(path, key, items, function, mapped=map, name=""):
    """The results of a function for many items; each is written down as soon as it is there.

    Arguments
    ---------
    path : str or Path
        File for the results so far. The caller deletes it when its own work is done.
    key : str
        Tells this work from another: results under another key are thrown away.
    items : sequence
        What the function is called with.
    function : Callable
        Its results go through JSON: lists, numbers, text.
    mapped : Callable
        `map`, or one that works in several processes and keeps the order.
    name : str
        For the progress bar.

    Returns
    -------
    results : list

    Example
    -------
    >>> path = getfixture("tmp_path") / "lengths.partial"
    >>> resumable(path, "words", ["a", "bb"], len)
    [1, 2]
    >>> resumable(path, "words", ["a", "bb", "ccc"], len), len(path.read_text().splitlines())
    ([1, 2, 3], 4)
    """
    results = _read(Path(path), key)[: len(items)]
    mode = "a" if results else "w"
    with open(path, mode, encoding="utf-8") as file:
        if not results:
            file.write(json.dumps(key) + "\n")
        rest = mapped(function, items[len(results) :])
        for result in tqdm(rest, name, len(items), initial=len(results), unit="file", disable=None):
            results.append(result)
            file.write(json.dumps(result) + "\n")
    return results


def _read(path, key):
    """The whole lines of an earlier run; what follows the last of them is cut off."""
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
