"""Batches for one or several processes: sampling, and errors of the data loaders.

The ordered examples are cut into global batches, and the examples of each batch are distributed to the ranks in turn.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import numpy as np
import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from torch.utils.data import DataLoader, Sampler, get_worker_info

from mossformer_sb.data.manifests import FINGERPRINT_SHOWN
from mossformer_sb.errors import InputError
from mossformer_sb.training import distributed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

# Separates the order's random numbers from those of the examples, which are drawn by (seed, epoch, index).
_ORDER = 0x6F72646572


# Options of torch's DataLoader that dataloader_opts may have. The others would change the content of an epoch.
LOADER_OPTIONS = ("persistent_workers", "prefetch_factor", "pin_memory", "timeout", "multiprocessing_context")
# PyTorch's messages if the shared memory is used up, or a worker was killed.
_SHARED_MEMORY = re.compile(r"Bus error|shared memory|</torch_|/dev/shm")
_KILLED = re.compile(r"DataLoader worker .* killed by signal: Killed")
# The examples of an epoch and their order depend on these values and the number of the epoch.
_ORDER_KEYS = {
    "num_items": "examples of the training data",
    "seed": "seed",
    "shuffle": "shuffle",
    "fingerprint": "fingerprint of the training data",
    "grouping": "examples in batches of their own",
}


@register_checkpoint_hooks
class GlobalBatches(Sampler):
    """Batches of indices, for ``torch.utils.data.DataLoader(batch_sampler=…)``.

    A global batch has ``world_size`` x ``batch_size`` examples; rank r gets every ``world_size``-th of them, from the
    r-th on. So the k-th batches of all ranks together are the k-th batch of one process with ``world_size`` times the
    batch size. The order is a pure function of (seed, epoch).

    If the dataset has examples of different lengths (its ``length_groups``), a global batch has those of one group, so
    that padding wastes no time, and no rank waits for another one's longer example. Only what is left of the groups is
    mixed.

    For training, every rank has the same number of batches, none of them empty, since DDP averages their gradients: a
    remainder with fewer examples than ranks joins the previous batch. No example is lost or repeated.

    A checkpoint holds the settings that determine the order, and the fingerprint of the data. Within an epoch, another
    order or other data is refused: it would skip examples and repeat others. Another batch size or number of ranks only
    divides the remaining examples differently, see `set_epoch`.

    Arguments
    ---------
    num_items : int
        Length of the dataset.
    batch_size : int
        Examples per batch of one rank.
    shuffle : bool
        Whether the order changes from epoch to epoch. With groups it always does, since they are drawn anew.
    seed : int
        Seed of the order.
    limit : int, optional
        Maximum number of batches per epoch. Default: none.
    rank, world_size : int
        Number of this process, and of all processes.
    even : bool
        Whether every rank has the same number of batches, as in training. If False, a rank may have fewer.

    Attributes
    ----------
    dataset : torch.utils.data.Dataset, optional
        The dataset, whose ``fingerprint`` is read if it has one. `RankLoader` sets it.

    Raises
    ------
    InputError
        If a number is too small.

    Example
    -------
    >>> list(GlobalBatches(7, batch_size=2, rank=0, world_size=2))
    [[0, 2], [4, 6]]
    >>> list(GlobalBatches(7, batch_size=2, rank=1, world_size=2))
    [[1, 3], [5]]
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        limit: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        even: bool = True,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("batches_per_epoch", limit)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and value >= 1):
                raise InputError(f"{name} must be a whole number of at least 1; found {value!r}.")
        if even and num_items < world_size:
            raise InputError(
                f"The training data has {num_items} examples, too few for {world_size} processes: each needs at least "
                f"one. Start fewer processes, or use more data."
            )
        self.num_items, self.batch_size = num_items, batch_size
        self.shuffle, self.seed, self.limit = shuffle, seed, limit
        self.rank, self.world_size, self.even = rank, world_size, even
        self.dataset = None
        self.epoch = 0
        self._run = batch_size * world_size  # consecutive examples of one group
        self._done = (0, 0)  # processed examples of all ranks, and batches of each, of the epoch
        self._length = len(self._spans(0))

    def set_epoch(self, epoch: int, items_done: int = 0, batches_done: int = 0) -> None:
        """Set the epoch of the next iteration, and the position in it; later epochs start at 0.

        Arguments
        ---------
        epoch : int
            Number of the epoch.
        items_done : int
            Number of examples that all ranks together have processed, in batches of any size. The others follow.
        batches_done : int
            Number of batches that each rank has processed.

        Raises
        ------
        InputError
            If fewer examples remain than there are ranks.
        """
        if not items_done:
            self._run = self.batch_size * self.world_size
        self.epoch, self._done = epoch, (items_done, batches_done)
        self._length = batches_done + len(self._spans(items_done))

    def _spans(self, items_done):
        """Start and end of each global batch with examples of this rank, after the processed ones."""
        firsts = self._firsts(0, self.num_items)
        end = self.num_items if self.limit is None or self.limit >= len(firsts) else firsts[self.limit]
        left = end - items_done
        if items_done and self.even and 0 < left < self.world_size:
            raise InputError(
                f"The epoch to resume has {left} examples left, too few for {self.world_size} processes: each needs at "
                f"least one. Start {left} processes or fewer; from the next epoch on, there may be more."
            )
        firsts = self._firsts(items_done, end)
        spans = zip(firsts, [*firsts, end][1:], strict=True)  # none if no example remains
        return [(first, end) for first, end in spans if first + self.rank < end]

    def _firsts(self, begin, end):
        """Start of each global batch in a part of the order."""
        firsts = list(range(begin, end, self.batch_size * self.world_size))
        if self.even and len(firsts) > 1 and end - firsts[-1] < self.world_size:
            firsts.pop()
        return firsts

    def __len__(self) -> int:
        """Number of batches of the epoch, including those before a resumption."""
        return self._length

    def __iter__(self) -> Iterator[list]:
        (items_done, batches_done), self._done = self._done, (0, 0)
        spans = self._spans(items_done)
        self._length = batches_done + len(spans)
        rng = np.random.default_rng((_ORDER, self.seed, self.epoch))
        order = rng.permutation(self.num_items) if self.shuffle else np.arange(self.num_items)
        groups = None if self.dataset is None else getattr(self.dataset, "length_groups", lambda: None)()
        if groups is not None and self._run > 1:
            order = in_runs(order, groups, self._run, rng)
        for first, end in spans:
            yield order[first:end][self.rank :: self.world_size].tolist()

    @property
    def fingerprint(self) -> str | None:
        """First digits of the dataset's fingerprint; None without one."""
        fingerprint = getattr(self.dataset, "fingerprint", None)
        return None if fingerprint is None else fingerprint[:FINGERPRINT_SHOWN]

    @property
    def grouping(self) -> str:
        """The dataset's settings of its groups of examples, on which the order depends."""
        return getattr(self.dataset, "grouping", "none")

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Save the settings that determine the order."""
        torch.save({"run": self._run, **{key: getattr(self, key) for key in _ORDER_KEYS}}, path)

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Compare the saved settings with the current ones, if the checkpoint was saved within an epoch.

        A setting that is unknown, as the fingerprint is in earlier checkpoints, is not compared.
        """
        if end_of_epoch:
            return
        saved = torch.load(path, map_location="cpu", weights_only=True)
        self._run = saved.get("run", 1)  # earlier checkpoints: groups were not kept together
        pairs = {name: (saved.get(key), getattr(self, key)) for key, name in _ORDER_KEYS.items()}
        different = [
            f"{name} {there} there, {now} now"
            for name, (there, now) in pairs.items()
            if there is not None and now is not None and there != now
        ]
        if different:
            raise InputError(
                f"{path}: was saved within an epoch, which now has other examples or another order "
                f"({'; '.join(different)}). Some would be skipped, and others repeated. Resume with the settings that "
                f"it was saved with; or remove the folder of this checkpoint, to resume from the end of an epoch."
            )


def in_runs(order: np.ndarray, groups: np.ndarray, run: int, rng: np.random.Generator) -> np.ndarray:
    """Reorder examples, so that ``run`` consecutive ones are of one group, wherever the group has enough of them.

    The first part of the result has the proportions of the whole, since runs are in random order. What is left of the
    groups is mixed in runs of its own.

    Arguments
    ---------
    order : np.ndarray
        Indices of the examples, [N].
    groups : np.ndarray
        Group of each example, [N], by index.
    run : int
        Number of examples of one group in sequence.
    rng : numpy.random.Generator
        Random generator of the order of the runs.

    Returns
    -------
    np.ndarray
        The indices, [N].

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> in_runs(np.array([4, 0, 3, 1, 2]), groups=np.array([0, 0, 0, 1, 1]), run=2, rng=rng).tolist()
    [0, 1, 4, 3, 2]
    """
    order, last = np.split(order, [len(order) - len(order) % run])
    of_group = [order[groups[order] == group] for group in np.unique(groups)]
    cuts = [len(members) - len(members) % run for members in of_group]
    mixed = rng.permutation(np.concatenate([members[cut:] for members, cut in zip(of_group, cuts, strict=True)]))
    runs = [members[:cut] for members, cut in zip(of_group, cuts, strict=True)]
    return np.concatenate([rng.permutation(np.concatenate([*runs, mixed]).reshape(-1, run)).ravel(), last])


class RankLoader(DataLoader):
    """``torch.utils.data.DataLoader`` for one of several ranks.

    When a recording can't be read, the other ranks would wait for this rank's gradients. So the error is only stored,
    and in training the remaining batches are None. The Brain contributes zero gradients for them, and calls `check`
    where all ranks synchronize. A single process raises the error immediately.

    Arguments
    ---------
    *args, **kwargs
        As for ``torch.utils.data.DataLoader``.
    none_after_error : bool
        Whether the remaining batches are None after an error; otherwise the loader ends.
    ended : callable, optional
        Called before each batch: True ends the epoch. Default: always False.

    Example
    -------
    >>> list(RankLoader([1, 2, 3], batch_size=2))
    [tensor([1, 2]), tensor([3])]
    """

    def __init__(
        self, *args: Any, none_after_error: bool = False, ended: Callable | None = None, **kwargs: Any
    ) -> None:
        self.none_after_error = none_after_error
        self.ended = ended or (lambda: False)
        self.error = None
        if kwargs.get("collate_fn") is not None:
            kwargs["collate_fn"] = _IntoSharedMemory(kwargs["collate_fn"])
        super().__init__(*args, **kwargs)
        if isinstance(self.batch_sampler, GlobalBatches):
            self.batch_sampler.dataset = self.dataset

    def __iter__(self) -> Iterator[Any]:
        yielded = 0
        if self.num_workers:
            distributed.pause_before_fork()
        try:
            for batch in super().__iter__():
                if self.ended():
                    return
                yielded += 1
                yield batch
        except (InputError, RuntimeError) as error:
            message = _loading_error_message(error, self.num_workers)
            if message is None:
                raise
            if distributed.world_size() == 1:
                if message == str(error):
                    raise
                raise InputError(message) from error
            self.error = message
        while self.error is not None and self.none_after_error and yielded < len(self) and not self.ended():
            yielded += 1
            yield None

    def check(self) -> None:
        """Raise the stored error, if there is one."""
        if self.error is not None:
            raise InputError(self.error)


class _IntoSharedMemory:
    """A collate function that puts batches into shared memory in the worker.

    Otherwise PyTorch does so in a separate thread: if that runs out of memory, the batch is lost, and the main process
    hangs. Here it is an error of the worker, which reaches the main process.
    """

    def __init__(self, collate):
        self.collate = collate

    def __call__(self, items):
        batch = self.collate(items)
        if get_worker_info() is not None:
            for value in vars(batch).values():
                if torch.is_tensor(value):
                    value.share_memory_()
        return batch


def _loading_error_message(error, num_workers):
    """The message for an error of a loader, or None for a bug of the program."""
    if isinstance(error, InputError):
        return _original_message(error)
    text = f"{error} {error.__cause__}"  # "exited unexpectedly", and why
    if _SHARED_MEMORY.search(text):
        return (
            f"The {num_workers} processes that load data have used up the shared memory for batches"
            f"{_shared_memory()}. In docker, give it more with --shm-size=2g, or use the host's "
            f"with --ipc=host; else use a smaller --num_workers, --batch_size, --segment or --turn_segment. "
            f"--num_workers 0 needs none."
        )
    if _KILLED.search(text):
        return (
            f"One of the {num_workers} processes that load data was killed, probably by the operating system, out of "
            f"memory. Use a smaller --num_workers, --batch_size, --segment or --turn_segment."
        )
    return None


def _original_message(error):
    """The message of an error; of one from a worker, without the traceback that PyTorch puts before it."""
    text, kind = str(error), type(error)
    if not text.startswith(f"Caught {kind.__name__} in DataLoader worker process"):
        return text
    return text.rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")[2].removesuffix("\n")


def _shared_memory():
    try:
        size = shutil.disk_usage("/dev/shm").total
    except OSError:  # not Linux
        return ""
    return f": /dev/shm has {size / 2**20:.0f} MB"
