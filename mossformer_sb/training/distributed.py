"""Distributed training: collectives for values and errors, so that an error in one process ends all.

A rank is the number of a process, from 0. ``torchrun`` starts them, with the rank in their environment. All functions
also work in a single process, without overhead.
"""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

import numpy
import torch
from speechbrain.utils.distributed import (
    MainProcessContext,
    ddp_broadcast,
    ddp_init_group,
    get_rank,
    if_main_process,
    is_distributed_initialized,
)
from torch.nn.parallel import DistributedDataParallel

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from speechbrain.utils.run_opts import RunOptions

logger = logging.getLogger(__name__)

PAUSE_BEFORE_FORK = 0.01  # seconds


class SharedError(InputError):
    """An `InputError` that all ranks raise, so that only one of them needs to report it."""


def start(run_opts: RunOptions) -> None:
    """Join the process group, if torchrun has started this process.

    Arguments
    ---------
    run_opts : speechbrain.utils.run_opts.RunOptions
        Run options; ``distributed_backend`` is read.

    Raises
    ------
    InputError
        If the backend can't be used on this machine, usually because there are too few GPUs.
    """
    try:
        ddp_init_group(run_opts)
    except ValueError as error:
        raise InputError(
            f"distributed_backend '{run_opts['distributed_backend']}' can't be used by this process: "
            f"{' '.join(str(error).split())} This machine has {torch.cuda.device_count()} GPUs, and torchrun's "
            f"--nproc_per_node must not be greater. To train on CPUs, give train.py the options "
            f"--distributed_backend gloo --device cpu."
        ) from error


def stop() -> None:
    """Leave the process group. Call it only after success or a `SharedError`, on all ranks."""
    if is_distributed_initialized():
        torch.distributed.destroy_process_group()


def pause_before_fork() -> None:
    """Wait for the backend's threads, before this process is forked for a data loader's workers.

    After a collective, gloo frees its tensors in threads of its own. Where a process is forked at the moment in which
    such a thread announces itself to the interpreter, the new one waits forever, and so do all ranks: CPython's issue
    112275, mended in 3.12.
    """
    if is_distributed_initialized():
        time.sleep(PAUSE_BEFORE_FORK)


def rank() -> int:
    """Number of this process."""
    return torch.distributed.get_rank() if is_distributed_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return torch.distributed.get_world_size() if is_distributed_initialized() else 1


def should_report(error: BaseException) -> bool:
    """Whether this process should report an `InputError`.

    An error before the process group exists is raised, and reported, by all processes.
    """
    found_by_all = isinstance(error, SharedError) or not is_distributed_initialized()
    return not found_by_all or (get_rank() or 0) == 0


def gather(value: object) -> list:
    """Collect a picklable value from each rank: a list in the order of the ranks, the same on all.

    Example
    -------
    >>> gather("a")
    ['a']
    """
    if not is_distributed_initialized():
        return [value]
    values = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def sum_over_ranks(values: Sequence[float] | torch.Tensor, device: str | torch.device = "cpu") -> list[float]:
    """Add up numbers over the ranks, a list or a tensor of them: a list of floats, the same on all.

    Example
    -------
    >>> sum_over_ranks([1, 2.5])
    [1.0, 2.5]
    """
    sums = torch.as_tensor(values, dtype=torch.float64)
    if is_distributed_initialized():
        sums = sums.to(device, copy=True)
        torch.distributed.all_reduce(sums)
    return sums.tolist()


def run_on_main(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Run a function in the main process alone; all get its result, or its `InputError`.

    Example
    -------
    >>> run_on_main(max, 1, 2)
    2
    """
    if not is_distributed_initialized():
        return function(*args, **kwargs)
    result, message = None, None
    if if_main_process():
        try:
            with MainProcessContext():
                result = function(*args, **kwargs)
        except InputError as error:
            message = str(error)
    result, message = ddp_broadcast((result, message))
    if message is not None:
        raise SharedError(message)
    return result


def run_on_all_ranks(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Run a function in every process; an `InputError` of any of them is raised by all.

    Example
    -------
    >>> run_on_all_ranks(max, 1, 2)
    2
    """
    if not is_distributed_initialized():
        return function(*args, **kwargs)
    result, message = None, None
    try:
        result = function(*args, **kwargs)
    except InputError as error:
        message = str(error)
    messages = [found for found in gather(message) if found is not None]
    if messages:
        raise SharedError(messages[0])
    return result


def mean_over_ranks(tensors: Sequence[torch.Tensor]) -> None:
    """Replace tensors by their means over all ranks, which have the same tensors in the same order.

    Example
    -------
    >>> mean_over_ranks([torch.ones(2)])
    """
    if not is_distributed_initialized() or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def seed_each_rank(seed: int) -> None:
    """Seed each rank differently, for dropout. A single process keeps its random state."""
    if not is_distributed_initialized():
        return
    own = (seed + rank()) % 2**32
    random.seed(own)
    numpy.random.seed(own)
    torch.manual_seed(own)  # those of CUDA too


def unwrapped(modules: Mapping[str, torch.nn.Module]) -> dict:
    """The networks without DDP or `torch.compile` around them: dict, name to module.

    DDP's forward exchanges buffers with the other ranks, so it would hang if a rank does not call it. A compiled
    network's parameters have other names, with which a model could not be loaded.

    Example
    -------
    >>> unwrapped({"masknet": torch.nn.Identity()})
    {'masknet': Identity()}
    """
    inner = {
        name: module.module if isinstance(module, DistributedDataParallel) else module
        for name, module in modules.items()
    }
    return {name: getattr(module, "_orig_mod", module) for name, module in inner.items()}
