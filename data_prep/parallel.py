"""Work on many items in several processes or threads."""

import contextlib
import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

NUM_READERS = 16  # on a network disk the waiting dominates, and threads overlap it; NumPy and libsndfile let them run


@contextlib.contextmanager
def parallel_map(workers=None):
    """A function like `map` that works in processes, unless there is one worker.

    Arguments
    ---------
    workers : int, optional
        Number of processes; one a processor if None.

    Example
    -------
    >>> with parallel_map(1) as mapped:
    ...     list(mapped(abs, [-1, 2]))
    [1, 2]
    """
    if workers == 1:
        yield map
        return
    # Spawned, not forked: a fork copies locks that other threads hold.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        yield functools.partial(pool.map, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)
