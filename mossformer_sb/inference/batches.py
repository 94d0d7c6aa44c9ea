"""Batched inference: several pieces of recordings per call of the network, in their order.


Which pieces are in a batch depends only on their order, lengths and number, never on timing: the same list gives the
same batches. Shapes: T samples of a piece, S speakers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    import numpy as np

    from mossformer_sb.inference.prepared import Piece

logger = logging.getLogger(__name__)

# Default batch size on the CPU, measured to be the fastest, see docs/bulk.md: the fast implementation of the network
# computes a batch item by item, and one item fits the caches best.
CPU_BATCH = 1
MOST_ON_GPU = 32
MEMORY_SHARE = 0.5  # share of a GPU's free memory for a batch
WINDOW = 4  # batches to collect, so that pieces of similar length form a batch
WINDOW_SAMPLES = 320_000  # mean length of the pieces, 20 s at 16 kHz: the window has fewer pieces if they are longer


class BatchLimit:
    """Largest batch: how many pieces the network computes at once.

    Arguments
    ---------
    batch_size : int, optional
        Number of pieces. Default: on a GPU what fits half of its free memory, measured at the first piece, at most
        `MOST_ON_GPU`; `CPU_BATCH` elsewhere.
    device : str or torch.device
        Device of the network.

    Raises
    ------
    InputError
        If the number is not a valid batch size.

    Example
    -------
    >>> limit = BatchLimit(8)
    >>> limit.allows(8, 240000), limit.allows(9, 10)
    (True, False)
    """

    def __init__(self, batch_size: int | None = None, device: str | torch.device = "cpu") -> None:
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise InputError(f"batch size {batch_size}: give an integer of at least 1, or none for the default.")
        self._device = torch.device(device)
        self._is_automatic = batch_size is None and self._device.type == "cuda"
        self.most = batch_size or (MOST_ON_GPU if self._is_automatic else CPU_BATCH)
        self._num_samples = 0 if self._is_automatic else None  # samples of a padded batch; 0: not measured yet

    def allows(self, num_pieces: int, longest: int) -> bool:
        """Whether a batch may have this many pieces and longest piece, in samples. A single piece is always allowed."""
        if num_pieces == 1:
            return True
        return num_pieces <= self.most and (self._num_samples is None or num_pieces * longest <= self._num_samples)

    def measured(self, network: Callable, signals: list[np.ndarray]) -> list[np.ndarray]:
        """Call the network; on a GPU, measure the memory per sample at the first call."""
        if self._num_samples != 0:
            return network(signals)
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        found = network(signals)
        used = torch.cuda.max_memory_allocated(self._device) - before
        free = torch.cuda.mem_get_info(self._device)[0] + torch.cuda.memory_reserved(self._device) - before
        padded = len(signals) * max(map(len, signals))
        self._num_samples = max(1, int(MEMORY_SHARE * free / max(1, used) * padded))
        return found

    def lower(self, num_pieces: int) -> None:
        """Halve the limit, after a batch of this many pieces ran out of memory."""
        self.most = max(1, num_pieces // 2)
        logger.warning(
            "a batch of %d does not fit into memory: the batch size is now at most %d (--batch-size).",
            num_pieces,
            self.most,
        )


def separate_pieces(
    network: Callable, pieces: Iterable[tuple[object, Piece | None]], limit: BatchLimit
) -> Generator[tuple[object, Piece | None, np.ndarray | Exception | None], None, None]:
    """Separate pieces in batches.

    Arguments
    ---------
    network : callable
        From a list of arrays [T], of any lengths, to a list of arrays [T, S].
    pieces : iterable of (object, mossformer_sb.inference.prepared.Piece or None)
        The object is returned with its piece's result; without a piece it is passed through.
    limit : BatchLimit
        Largest batch.

    Returns
    -------
    iterator of (object, Piece or None, numpy.ndarray, Exception or None)
        In the order of the pieces, with the estimates [T, S]: None for silence, and the exception where the network
        failed with only this piece.

    Example
    -------
    >>> import numpy as np
    >>> from mossformer_sb.inference.prepared import Piece
    >>> pieces = [(name, Piece(np.ones(length), 1.0, 0, True)) for name, length in (("a", 3), ("b", 2))]
    >>> network = lambda signals: [np.stack((signal, signal), 1) for signal in signals]
    >>> [(name, found.shape) for name, piece, found in separate_pieces(network, pieces, BatchLimit(2))]
    [('a', (3, 2)), ('b', (2, 2))]
    """
    for window in _windows(pieces, limit):
        found, position = {}, 0
        due = {index for index, (_, piece) in enumerate(window) if piece is not None and not piece.is_silent}
        for batch in _batches(window, due, limit):
            signals = [window[index][1].samples for index in batch]
            found.update(zip(batch, _separate(network, signals, limit), strict=True))
            due.difference_update(batch)
            while position < len(window) and position not in due:
                yield *window[position], found.pop(position, None)
                position += 1
        for index in range(position, len(window)):
            yield *window[index], None


def result_or_raise(found: np.ndarray | Exception | None) -> np.ndarray | None:
    """The result of `separate_pieces` for a piece; raises it if it is an exception."""
    if isinstance(found, BaseException):
        raise found
    return found


def _windows(pieces, limit):
    """Lists of pieces among which batches are formed."""
    window, num_samples, num_pieces = [], 0, 0
    for owner, piece in pieces:
        window.append((owner, piece))
        if piece is not None:
            num_samples, num_pieces = num_samples + len(piece.samples), num_pieces + 1
        size = WINDOW * limit.most if limit.most > 1 else 1
        if num_pieces >= size or num_samples >= size * WINDOW_SAMPLES:
            yield window
            window, num_samples, num_pieces = [], 0, 0
    if window:
        yield window


def _batches(window, due, limit):
    """Lists of positions in the window, of pieces of similar length."""
    order = sorted(due, key=lambda index: (len(window[index][1].samples), -index))  # consumed from its end
    while order:
        batch = [order.pop()]  # the longest piece determines how many fit
        longest = len(window[batch[0]][1].samples)
        while order and limit.allows(len(batch) + 1, longest):
            batch.append(order.pop())
        yield batch


def _separate(network, signals, limit):
    """Estimates, or an exception, for each signal; a batch that fails is repeated in smaller ones."""
    try:
        return limit.measured(network, signals)
    except Exception as error:
        if len(signals) == 1:
            return [error]
        if _is_out_of_memory(error):
            limit.lower(len(signals))
    half = (len(signals) + 1) // 2  # outside of the handler, so that the failed call's tensors are freed
    return _separate(network, signals[:half], limit) + _separate(network, signals[half:], limit)


def _is_out_of_memory(error):
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
