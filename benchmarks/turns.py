"""Several ways of doing the same, timed in turns, since a machine's speed drifts."""

import statistics
import time

from tqdm import tqdm


def in_turns(ways, items, rounds, description):
    """Time functions of an item's index.

    Arguments
    ---------
    ways : dict
        Name to function of an index; the first is what the others are compared with.
    items : int
        Items of one turn.
    rounds : int
        How many turns each has, after one item that warms up and isn't timed.
    description : str
        For the progress bar.

    Returns
    -------
    list of dict
        For each, its ``name``; ``items_per_second``, the median over its turns; and ``ratio``, the median over the
        rounds of its speed to that of the first.

    Example
    -------
    >>> rows = in_turns({"a": lambda index: None, "b": lambda index: None}, items=2, rounds=3, description="Nothing")
    >>> [row["name"] for row in rows], rows[0]["ratio"]
    (['a', 'b'], 1.0)
    """
    for way in ways.values():
        way(0)
    seconds = {name: [] for name in ways}
    for turn in tqdm(range(rounds), description, unit="round", disable=None):
        for name, way in ways.items():
            start = time.perf_counter()
            for index in range(turn * items, (turn + 1) * items):
                way(index)
            seconds[name].append((time.perf_counter() - start) / items)
    base = next(iter(seconds.values()))
    return [
        {
            "name": name,
            "items_per_second": 1 / statistics.median(found),
            "ratio": statistics.median(slow / fast for slow, fast in zip(base, found, strict=True)),
        }
        for name, found in seconds.items()
    ]
