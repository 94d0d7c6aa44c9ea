"""Timing several implementations in alternation, since a machine's speed drifts."""

import statistics
import time

from tqdm import tqdm


def time_alternating(functions, items, rounds, description):
    """Time functions of an item's index.

    Arguments
    ---------
    functions : dict
        Name to function of an index; the first is the reference of the ratios.
    items : int
        Items of each function per round.
    rounds : int
        Number of rounds, after one untimed warm-up item of each function.
    description : str
        For the progress bar.

    Returns
    -------
    list of dict
        For each, its ``name``; ``items_per_second``, the median over the rounds; and ``ratio``, the median over the
        rounds of its speed to that of the first.

    Example
    -------
    >>> functions = {"a": lambda index: None, "b": lambda index: None}
    >>> rows = time_alternating(functions, items=2, rounds=3, description="Nothing")
    >>> [row["name"] for row in rows], rows[0]["ratio"]
    (['a', 'b'], 1.0)
    """
    for function in functions.values():
        function(0)
    seconds = {name: [] for name in functions}
    for number in tqdm(range(rounds), description, unit="round", disable=None):
        for name, function in functions.items():
            start = time.perf_counter()
            for index in range(number * items, (number + 1) * items):
                function(index)
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
