"""Which items make up which batch, on one process or on several.

Items are put in an order, this is cut into global batches, and each of them is dealt to the ranks like cards.
"""

import numpy as np
from torch.utils.data import Sampler

from mossformer_sb.errors import InputError

# Keeps the order's random numbers apart from those of the items, which are drawn by (seed, epoch, index).
_ORDER = 0x6F72646572


class GlobalBatches(Sampler):
    """Batches of indices, for ``torch.utils.data.DataLoader(batch_sampler=…)``.

    A global batch has ``world_size`` x ``batch_size`` items; rank r takes every ``world_size``-th of it, from the r-th
    on. So the k-th batches of all the ranks make up the k-th batch of one process with ``world_size`` times the batch
    size. The order is a pure function of (seed, epoch).

    For training, every rank has the same number of batches, none of them empty, for the gradients' sake: a remainder
    with fewer items than ranks joins the batch before. No item is lost or comes twice.

    Arguments
    ---------
    num_items : int
        Length of the dataset.
    batch_size : int
        Items in a batch of one rank.
    shuffle : bool
        Whether the order changes from epoch to epoch.
    seed : int
        Seed of the order.
    limit : int, optional
        How many batches an epoch has at most. Default: as many as there are.
    rank, world_size : int
        Number of this process, and of all.
    even : bool
        Whether every rank has the same number of batches, as in training. Without, a rank may have fewer.

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

    def __init__(self, num_items, batch_size, shuffle=False, seed=0, limit=None, rank=0, world_size=1, even=True):
        for name, value in (("batch_size", batch_size), ("batches_per_epoch", limit)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and value >= 1):
                raise InputError(f"{name} must be a whole number of at least 1; found {value!r}.")
        if even and num_items < world_size:
            raise InputError(
                f"The training data has {num_items} items, too few for {world_size} processes: "
                f"each needs one at least. Start fewer processes, or use more data."
            )
        self.num_items, self.batch_size = num_items, batch_size
        self.shuffle, self.seed, self.limit = shuffle, seed, limit
        self.rank, self.world_size, self.even = rank, world_size, even
        self.epoch, self._start = 0, 0

    def set_epoch(self, epoch, start=0):
        """Choose the epoch whose order comes next, and the batch to begin with: only once, the next begins with 0."""
        self.epoch, self._start = epoch, start

    def _spans(self):
        """First item and end of each global batch in which this rank has a share."""
        firsts = list(range(0, self.num_items, self.batch_size * self.world_size))
        if self.even and len(firsts) > 1 and self.num_items - firsts[-1] < self.world_size:
            firsts.pop()
        spans = list(zip(firsts, [*firsts[1:], self.num_items], strict=True))[: self.limit]
        return [(first, end) for first, end in spans if first + self.rank < end]

    def __len__(self):
        """Batches of the whole epoch, wherever it begins."""
        return len(self._spans())

    def __iter__(self):
        start, self._start = self._start, 0
        order = np.arange(self.num_items)
        if self.shuffle:
            order = np.random.default_rng((_ORDER, self.seed, self.epoch)).permutation(self.num_items)
        for first, end in self._spans()[start:]:
            yield order[first:end][self.rank :: self.world_size].tolist()
