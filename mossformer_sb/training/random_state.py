"""The random state, saved in checkpoints, so that a resumed run has the dropout masks of an uninterrupted one."""

from __future__ import annotations

import functools
import logging
import random
from typing import TYPE_CHECKING

import numpy
import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from speechbrain.utils.distributed import ddp_prevent_block, if_main_process

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)


# All ranks call this, since their states are gathered into one file.
@functools.partial(register_checkpoint_hooks, save_on_main_only=False)
class RandomState:
    """The random state of Python, NumPy (the global one), torch and its CUDA devices, as a recoverable.

    Loading only stores the state: it becomes current in `apply_pending`, which the Brain calls when a batch begins.
    Code between two batches must not draw from these generators, since a resumed run would not repeat it; a data
    loader, which draws a seed for its workers, needs its own generator.

    In a distributed run, the state of each rank is saved and restored. A rank or a device that the saved run did not
    have keeps its state, with a warning.

    Example
    -------
    >>> state = RandomState()
    >>> state.save(getfixture("tmp_path") / "random.ckpt")
    >>> expected = torch.rand(3)
    >>> state.load(getfixture("tmp_path") / "random.ckpt", end_of_epoch=True)
    >>> state.apply_pending()
    >>> torch.equal(torch.rand(3), expected)
    True
    """

    def __init__(self) -> None:
        self._pending = None  # the states of all the ranks

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Save the states of all ranks, or a loaded state that is still pending."""
        states = self._pending or [_random_state()]
        if self._pending is None and not ddp_prevent_block():
            states *= torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, _random_state())
        if if_main_process():
            torch.save(states, path)

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Read the states of all the ranks, for `apply_pending`."""
        del end_of_epoch
        self._pending = torch.load(path, map_location="cpu", weights_only=True)

    def apply_pending(self) -> None:
        """Make a loaded state the current one; without one, do nothing."""
        if self._pending is None:
            return
        states, self._pending = self._pending, None
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, ranks = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)
        if len(states) != ranks:
            _warn_of_differences(f"{len(states)} processes, not {ranks}")
        if rank < len(states):
            _set_random_state(states[rank])


def _random_state():
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached_gauss = numpy.random.get_state()
    return {
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [name, torch.tensor(keys.astype("int64")), position, has_gauss, cached_gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state):
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), *rest))
    torch.set_rng_state(state["torch"])
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if len(state["cuda"]) != devices:
        _warn_of_differences(f"{len(state['cuda'])} CUDA devices, not {devices}")
    for device, cuda_state in enumerate(state["cuda"][:devices]):
        torch.cuda.set_rng_state(cuda_state, device)


def _warn_of_differences(saved_with):
    logger.warning(
        "The random state is from a run with %s: resuming, but results will differ from the original run.", saved_with
    )
