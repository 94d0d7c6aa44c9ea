"""Parallel maps: in several processes for computation, in threads for disk access.

The processes are local or, within `on_cluster`, the workers of a Dask cluster.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import joblib
from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm

from mossformer_sb.errors import InputError
from mossformer_sb.utils.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import Any

NUM_READERS = 16  # threads that overlap the latency of network disks; NumPy and libsndfile release the GIL
MOST_AT_ONCE = 100  # maximum number of items per task of a thread
PARENT_CHECK_SECONDS = 0.05  # interval at which a worker checks that its parent exists


_cluster = None  # the cluster to use instead of processes


@contextlib.contextmanager
def on_cluster(address: str, output_folder: str | Path, paths: Iterable[str | Path] = ()) -> Iterator[None]:
    """Context: `process_map` uses a Dask cluster.

    Arguments
    ---------
    address : str
        Address of its scheduler, or its scheduler file.
    output_folder : str or Path
        Output folder of the workers.
    paths : iterable of str or Path
        Input files of the workers. All paths for them must be absolute.

    Raises
    ------
    InputError
        If the cluster can't be used, see `mossformer_sb.utils.cluster.Cluster`.
    """
    global _cluster
    with Cluster(address, output_folder, paths, package="data_prep") as _cluster:
        try:
            yield
        finally:
            _cluster = None


@contextlib.contextmanager
def process_map(function: Callable, workers: int | None = None, ordered: bool = True) -> Iterator[Any]:
    """Context: a map from items to results that uses several processes.

    The results don't depend on the number of processes. The processes end with the context, also if the program is
    killed. Within `on_cluster`, the cluster's workers are used.

    Arguments
    ---------
    function : Callable
        Function of one item. It must be picklable, as must items and results; it is sent to each process once.
    workers : int, optional
        Number of processes. Default: one per CPU. With 1, the work is done in this process, on a cluster too.
    ordered : bool
        Whether results come in the order of the items, or as they are done.

    Raises
    ------
    InputError
        If the number is invalid, or a process was killed; and the exceptions of the function.

    Example
    -------
    >>> with process_map(abs, workers=1) as mapped:
    ...     list(mapped([-1, 2]))
    [1, 2]
    """
    workers = None if workers is None and _cluster is not None else count_workers(workers)
    if workers == 1:
        yield functools.partial(map, function)
        return
    if _cluster is not None:
        yield functools.partial(_cluster.map, function, ordered=ordered)
        return
    pool = joblib.Parallel(
        n_jobs=workers,
        backend="loky",
        return_as="generator" if ordered else "generator_unordered",
        max_nbytes=None,  # items are small: no files in shared memory
        initializer=_start_worker,
        initargs=(function, os.getpid()),
    )
    started = []

    def mapped(items):
        started.append(_results(pool, items, workers))
        return started[-1]

    try:
        yield mapped
    finally:
        for results in started:
            results.close()  # cancels the remaining work after an error
        get_reusable_executor(reuse=True).shutdown(wait=True)


def count_workers(workers: int | None = None) -> int:
    """Number of processes: as given, or one for each CPU that this program may use.

    Raises
    ------
    InputError
        If it is less than 1.

    Example
    -------
    >>> count_workers(2)
    2
    """
    if workers is None:
        return joblib.cpu_count()
    if workers < 1:
        raise InputError(f"workers is {workers}: give at least 1, or none for one for each CPU.")
    return workers


def workers_for(num_items: int, workers: int | None = None) -> int | None:
    """Number of processes of `process_map` for some items: at most one per item, and 1 if that is enough.

    Example
    -------
    >>> workers_for(3, workers=8), workers_for(1), workers_for(0)
    (3, 1, 1)
    """
    if _cluster is not None:
        return None if num_items > 1 else 1
    return max(1, min(count_workers(workers), num_items))


def thread_map(function: Callable, items: Sequence, description: str, unit: str) -> list:
    """The results for items, in order, computed in threads, with a progress bar.

    Arguments
    ---------
    function : Callable
        Function of one item.
    items : sequence
        The items.
    description, unit : str
        Texts of the progress bar.

    Returns
    -------
    results : list

    Example
    -------
    >>> thread_map(len, ["a", "bb"], "Measuring", "word")
    [1, 2]
    """
    # Passing an item to a thread is slower than reading a header, so each task has several items.
    size = max(1, min(MOST_AT_ONCE, len(items) // (4 * NUM_READERS)))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    results = []
    with (
        ThreadPoolExecutor(NUM_READERS) as pool,
        tqdm(desc=description, total=len(items), unit=unit, disable=None) as progress,
    ):
        for found in pool.map(lambda chunk: [function(item) for item in chunk], chunks):
            results += found
            progress.update(len(found))
    return results


def _results(pool, items, workers):
    try:
        resource_tracker.ensure_running()  # its start would unblock the signal
        with _sigint_blocked():  # the call starts the workers
            results = pool(joblib.delayed(_call)(item) for item in items)
        yield from results
    except BrokenProcessPool as error:
        raise InputError(
            "A worker process was killed, probably out of memory. Finished files are kept: "
            f"start again with fewer than {workers} workers to resume."
        ) from error


@contextlib.contextmanager
def _sigint_blocked():
    """Delivers Ctrl-C after the context; processes started in it never get it, not even during their imports."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# In a worker process


_function = None  # the function of this worker process


def _start_worker(function, parent):
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers, and reports it once
    threading.Thread(target=_die_with_parent, args=(parent,), daemon=True).start()


def _die_with_parent(parent):
    # A killed parent can't stop its workers, which would write in parallel with those of a resumed run.
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)


def _call(item):
    return _function(item)
