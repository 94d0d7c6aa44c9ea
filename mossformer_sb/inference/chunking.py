"""Chunked inference for long recordings: overlapping chunks, whose outputs are permuted consistently and joined.

The order of a network's outputs is arbitrary for each chunk. Neighbouring chunks overlap by some seconds, where both
estimate the same voices, so the permutation that correlates best over the overlap continues the speakers.

Shapes: T samples, t samples of a block, S speakers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclass(frozen=True)
class Chunking:
    """When and how a recording is cut, in seconds.

    Arguments
    ---------
    seconds : float
        Length of a chunk.
    overlap : float
        Overlap of a chunk with the one before it, at most half a chunk. It must be longer than joint pauses of all
        speakers, which hold nothing to identify the speakers by.
    above : float
        Recordings longer than this are cut into chunks, shorter ones are not. ``float("inf")``: none is cut.

    Raises
    ------
    InputError
        If the values don't fit each other.

    Example
    -------
    >>> Chunking(seconds=10, overlap=6)
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: chunks of 10 s overlap by 6 s: the overlap must be more than 0 and at most half \
a chunk.
    """

    seconds: float = 60.0
    overlap: float = 10.0
    above: float = 60.0

    def __post_init__(self):
        if not math.isfinite(self.seconds):
            raise InputError(
                f"chunks of {self.seconds} s: the length must be a number of seconds. To cut no recording, cut those "
                f"above infinity (--chunk_above inf; above in Python)."
            )
        if not 0 < self.overlap <= self.seconds / 2:
            raise InputError(
                f"chunks of {self.seconds} s overlap by {self.overlap} s: the overlap must be more than 0 and at most "
                f"half a chunk."
            )
        if not self.above >= self.seconds:
            raise InputError(
                f"recordings above {self.above} s are to be cut into chunks of {self.seconds} s: chunks can't be "
                f"longer than the recordings that they are cut from. Cut above {self.seconds} s or more."
            )

    def samples(self, sample_rate: int) -> tuple:
        """Length and overlap of the chunks in samples."""
        return round(self.seconds * sample_rate), max(1, round(self.overlap * sample_rate))


def separate_in_chunks(
    separate: Callable, blocks: Iterable[np.ndarray], length: int, overlap: int
) -> Iterator[np.ndarray]:
    """Separate a recording, given in blocks, chunk by chunk.

    Arguments
    ---------
    separate : callable
        [T] → [T, S], NumPy arrays: separates one chunk.
    blocks : iterable of numpy.ndarray
        [t] each, of any lengths.
    length, overlap : int
        Samples of a chunk, and of its overlap with the one before.

    Returns
    -------
    iterator of numpy.ndarray
        [t, S], as many samples in all as came in. Over the overlap, chunks are cross-faded.

    Example
    -------
    >>> def halves(chunk):  # gives its outputs in another order for each chunk
    ...     order = np.random.permutation(2)
    ...     return np.stack((chunk.clip(min=0), chunk.clip(max=0)), axis=1)[:, order]
    >>> signal = np.random.randn(10000)
    >>> estimates = np.concatenate(list(separate_in_chunks(halves, [signal], length=2000, overlap=500)))
    >>> estimates.shape, [bool((estimate >= 0).all() or (estimate <= 0).all()) for estimate in estimates.T]
    ((10000, 2), [True, True])
    """
    chunks = ((start, is_last, separate(chunk)) for start, chunk, is_last in cut(blocks, length, overlap))
    yield from join(chunks, overlap)


def cut(blocks: Iterable[np.ndarray], length: int, overlap: int) -> Iterator[tuple[int, np.ndarray, bool]]:
    """Cut a recording, given in blocks, into chunks.

    Arguments
    ---------
    blocks, length, overlap
        As for `separate_in_chunks`.

    Returns
    -------
    iterator of (int, numpy.ndarray, bool)
        Start of a chunk, its samples [T], and whether it is the last one, which may be shorter: where little is left,
        it starts earlier, so that it has half the length.

    Raises
    ------
    InputError
        If there is no overlap, or no chunk is longer than it.

    Example
    -------
    >>> [(start, len(chunk), is_last) for start, chunk, is_last in cut([np.zeros(25)], length=10, overlap=4)]
    [(0, 10, False), (6, 10, False), (12, 10, False), (18, 7, True)]
    """
    if not 0 < overlap < length:
        raise InputError(f"chunks of {length} samples overlap by {overlap}: needed are 1 to {length - 1} samples.")
    start, waiting, num_waiting = 0, [np.empty(0, dtype=np.float32)], 0
    for block in blocks:
        waiting.append(block)
        num_waiting += len(block)
        # There is at least one more sample after the next chunk, so it is not the last.
        if num_waiting > length + (length - overlap):
            buffer = np.concatenate(waiting)
            while len(buffer) > length + (length - overlap):
                yield start, buffer[:length], False
                buffer = buffer[length - overlap :]
                start += length - overlap
            waiting, num_waiting = [buffer], len(buffer)
    buffer = np.concatenate(waiting)
    if len(buffer) > length:
        yield start, buffer[:length], False
        last = max(len(buffer) - (length - overlap), math.ceil(length / 2))
        start, buffer = start + len(buffer) - last, buffer[-last:]
    if len(buffer):
        yield start, buffer, True


def join(chunks: Iterable[tuple[int, bool, np.ndarray]], overlap: int) -> Iterator[np.ndarray]:
    """Permute the estimates of chunks into one order of the speakers, and cross-fade them.

    Arguments
    ---------
    chunks : iterable of (int, bool, numpy.ndarray)
        Start of each chunk and whether it is the last, as from `cut`; and its estimates [T, S], which may be changed in
        place.
    overlap : int
        As for `cut`.

    Returns
    -------
    iterator of numpy.ndarray
        [t, S].

    Example
    -------
    >>> [block.shape for block in join([(0, False, np.ones((10, 2))), (6, True, np.ones((10, 2)))], overlap=4)]
    [(6, 2), (10, 2)]
    """
    fade_out = np.linspace(1, 0, overlap + 2, dtype=np.float32)[1:-1, None]
    tail, position = None, 0  # the pending end of the chunk before, and where it starts
    for start, is_last, estimates in chunks:
        end = start + len(estimates)
        if tail is not None:
            estimates = estimates[position - start :]
            estimates = estimates[:, continuing_order(tail, estimates[:overlap])]
            estimates[:overlap] += fade_out * (tail - estimates[:overlap])
        if is_last:
            yield estimates
            return
        yield estimates[:-overlap]
        tail, position = estimates[-overlap:], end - overlap


def joins(num_samples: int, length: int, overlap: int) -> list[tuple[int, ...]]:
    """Positions of the cross-fades of `separate_in_chunks`.

    Arguments
    ---------
    num_samples : int
        Length of the recording.
    length, overlap : int
        As for `separate_in_chunks`.

    Returns
    -------
    list of tuple of int
        First sample of each cross-fade, and the first one after it.

    Example
    -------
    >>> joins(10000, length=4000, overlap=1000), joins(4000, length=4000, overlap=1000)
    ([(3000, 4000), (6000, 7000)], [])
    """
    chunks = cut([np.zeros(num_samples, dtype=np.float32)], length, overlap)
    ends = [start + len(chunk) for start, chunk, is_last in chunks if not is_last]
    return [(end - overlap, end) for end in ends]


def continuing_order(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The permutation in which the outputs of a chunk continue those of the one before.

    The one with the greatest sum of correlations. They are not normalised, so that a speaker who is silent in the
    overlap has no influence; it is also the permutation with the least squared difference.

    Arguments
    ---------
    before, after : numpy.ndarray
        [T, S], estimates for the same samples by one chunk and by the next.

    Returns
    -------
    numpy.ndarray
        [S], int64: which output of the next chunk continues each one.

    Example
    -------
    >>> before = np.random.randn(1000, 3)
    >>> continuing_order(before, before[:, [1, 2, 0]]).tolist()
    [2, 0, 1]
    """
    # Imported here, so that `Chunking`, whose defaults the command line's --help shows, needs no PyTorch.
    import torch

    from mossformer_sb.evaluation.si_snr import best_permutation

    correlations = torch.from_numpy(after.T.astype(np.float64) @ before.astype(np.float64))  # [S, S]
    return best_permutation(correlations[None])[0].numpy()
