"""Calls in a new process."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def in_fresh_process(function, *arguments):
    """torchmetrics' SDR fails in processes that have run many other tests: PyTorch's solver then finds no pivots."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        return pool.submit(function, *arguments).result()
