"""Loudness of any segment of a noise recording, from energies that are computed once per recording.

BS.1770 loudness needs the K-weighted energy of a segment in blocks. The K-weighted energy of each recording is stored
in cells of 10 ms; a segment that starts on a cell boundary adds up its cells. The result equals
`mossformer_sb.data.loudness.loudness` of the segment except for the state of the filters at its start, so the first 30
ms of a segment are filtered again from rest; the remaining difference is far below 0.01 dB. The sample rate must be a
multiple of 100 Hz, as in all published corpora: otherwise blocks would be shifted by a sample, which can change the
outcome of a gate.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from mossformer_sb.data.loudness import LOUDNESS_BLOCK, integrated, k_weighted, quarter_bounds
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CELLS_PER_SECOND = 100
_CELLS_OF_QUARTER = 10  # of a block of BS.1770
_HEAD_CELLS = 3  # filtered again from rest: the transient of the filters


def cell_energies(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """K-weighted energy of a whole recording in cells of 10 ms.

    Arguments
    ---------
    signal : numpy.ndarray
        [T], full scale 1.
    sample_rate : int
        Hz, 100 at least.

    Returns
    -------
    numpy.ndarray
        [`num_cells`], float32.

    Example
    -------
    >>> cell_energies(np.ones(8000), 8000).shape
    (100,)
    """
    bounds = _bounds(0, num_cells(len(signal), sample_rate), sample_rate)
    return np.add.reduceat(np.square(k_weighted(signal, sample_rate)), bounds[:-1]).astype(np.float32)


def num_cells(num_samples: int, sample_rate: int) -> int:
    """Number of cells of a recording, of which the last may be shorter.

    Example
    -------
    >>> num_cells(11025, 11025), num_cells(8001, 8000)
    (100, 101)
    """
    return -(-num_samples * CELLS_PER_SECOND // sample_rate)


def _bounds(first, last, sample_rate):
    """Boundaries of the cells first to last - 1: [last - first + 1], samples."""
    return -(-np.arange(first, last + 1) * sample_rate // CELLS_PER_SECOND)


def cell_start(sample: int, sample_rate: int) -> int:
    """The first sample of the cell that has a sample.

    Example
    -------
    >>> cell_start(5001, 8000), cell_start(1000, 11025)
    (4960, 993)
    """
    return -(-(sample * CELLS_PER_SECOND // sample_rate) * sample_rate // CELLS_PER_SECOND)


def segment_loudness(cells: np.ndarray, sample_rate: int, start: int, segment: np.ndarray) -> float:
    """Integrated loudness of a segment of a recording.

    Arguments
    ---------
    cells : numpy.ndarray
        Of the whole recording, from `cell_energies`.
    sample_rate : int
        Hz, a multiple of 100.
    start : int
        First sample of the segment, on a cell boundary: see `cell_start`.
    segment : numpy.ndarray
        [T], its samples; only the first 30 ms are read.

    Returns
    -------
    float
        LUFS, as `mossformer_sb.data.loudness.loudness` measures it.

    Example
    -------
    >>> from mossformer_sb.data.loudness import loudness
    >>> recording = np.random.default_rng(0).standard_normal(40000)
    >>> segment = recording[4960:24960]
    >>> found = segment_loudness(cell_energies(recording, 8000), 8000, 4960, segment)
    >>> bool(abs(found - loudness(segment, 8000)) < 0.005)
    True
    """
    if len(segment) < LOUDNESS_BLOCK * sample_rate:
        return -np.inf
    length, first = sample_rate // CELLS_PER_SECOND, start * CELLS_PER_SECOND // sample_rate  # of a cell, in samples
    num_quarters = len(quarter_bounds(len(segment), sample_rate)) - 1
    sums = np.zeros(num_quarters * _CELLS_OF_QUARTER)
    found = cells[first : first + min(len(sums), num_cells(len(segment), sample_rate))]
    sums[: len(found)] = found
    if len(found) * length > len(segment):  # of the last cell, a part
        sums[len(found) - 1] *= len(segment) / length % 1
    head = np.convolve(segment[: _HEAD_CELLS * length], _impulse_response(sample_rate))[: _HEAD_CELLS * length]
    sums[0] += np.square(head).sum() - sums[:_HEAD_CELLS].sum()
    return integrated(sums.reshape(num_quarters, _CELLS_OF_QUARTER).sum(1), sample_rate)


@functools.lru_cache
def _impulse_response(sample_rate):
    """Impulse response of the filters, in the first cells of a segment."""
    impulse = np.zeros(_HEAD_CELLS * sample_rate // CELLS_PER_SECOND)
    impulse[0] = 1.0
    return k_weighted(impulse, sample_rate)


class NoiseEnergies:
    """The cells of all recordings of a table, memory-mapped and shared by the workers of a machine.

    Arguments
    ---------
    path : str or Path
        A NumPy file of the cells of all recordings, concatenated.
    num_samples, sample_rates : list of int
        Of the recordings, in their order.

    Raises
    ------
    InputError
        If the file can't be read, or belongs to other recordings.
    """

    def __init__(self, path: str | Path, num_samples: Sequence[int], sample_rates: Sequence[int]) -> None:
        self.path = str(path)
        counts = [num_cells(*recording) for recording in zip(num_samples, sample_rates, strict=True)]
        self._sample_rates = list(sample_rates)
        self._ends = np.cumsum([0, *counts])
        self._cells = None
        if self._open().shape != (self._ends[-1],):
            raise InputError(
                f"{path}: has {self._open().size} energies; the recordings of the table have {self._ends[-1]}. Delete "
                f"it and prepare the data again (without --skip_prep)."
            )

    def _open(self):
        if self._cells is None:
            try:
                self._cells = np.load(self.path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
            except (OSError, ValueError, EOFError) as error:
                raise InputError(
                    f"{self.path}: can't be read as energies of noise ({error}). Delete it and prepare the data again "
                    f"(without --skip_prep)."
                ) from error
        return self._cells

    def __getstate__(self):
        return {**self.__dict__, "_cells": None}  # another process opens the file itself

    def has(self, number: int) -> bool:
        """Whether the loudness of a recording's segments can be looked up: its rate is a multiple of 100 Hz."""
        return self._sample_rates[number] % CELLS_PER_SECOND == 0

    def loudness(self, number: int, start: int, segment: np.ndarray) -> float:
        """Loudness of a segment of a recording, see `segment_loudness`."""
        cells = self._open()[self._ends[number] : self._ends[number + 1]]
        return segment_loudness(cells, self._sample_rates[number], start, segment)
