"""Loudness of any segment of a noise recording, from energies that are computed once per recording.

BS.1770 loudness needs the K-weighted energy of a segment in blocks. The K-weighted energy of each recording is stored
in cells of 10 ms; the energy of a segment that starts on a cell boundary is the sum over its cells. The result equals
`mossformer_sb.data.loudness.loudness` of the segment except for the state of the filters at its start, so the first 30
ms of a segment are filtered again from zero state; the remaining difference is far below 0.01 dB. The sample rate must
be a multiple of 100 Hz, as in all published corpora: otherwise blocks would be shifted by a sample, which can change
the result of a gate.
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
_CELLS_OF_QUARTER = 10  # cells per quarter of a block of BS.1770
_HEAD_CELLS = 3  # filtered again from zero state: the transient of the filters


def cell_energies(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """K-weighted energy of a recording in cells of 10 ms.

    Arguments
    ---------
    signal : numpy.ndarray
        [T], full scale 1.
    sample_rate : int
        Sample rate in Hz, at least 100.

    Returns
    -------
    numpy.ndarray
        [`num_cells`], float32.

    Example
    -------
    >>> cell_energies(np.ones(8000), 8000).shape
    (100,)
    """
    starts = _bounds(0, num_cells(len(signal), sample_rate), sample_rate)[:-1]
    # At other rates than multiples of 100 Hz the last cell may start at the end of the signal.
    energies = np.append(np.square(k_weighted(signal, sample_rate)), 0.0)
    return np.add.reduceat(energies, starts).astype(np.float32)


def num_cells(num_samples: int, sample_rate: int) -> int:
    """Number of cells of a recording; the last one may be shorter.

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
    """The first sample of the cell that contains a sample.

    Example
    -------
    >>> cell_start(5001, 8000), cell_start(1000, 11025)
    (4960, 993)
    """
    return -(-(sample * CELLS_PER_SECOND // sample_rate) * sample_rate // CELLS_PER_SECOND)


def segment_loudness(cells: np.ndarray, sample_rate: int, start: int, segment: np.ndarray, total: int) -> float:
    """Integrated loudness of a segment of a recording.

    Arguments
    ---------
    cells : numpy.ndarray
        Energies of the complete recording, from `cell_energies`.
    sample_rate : int
        Sample rate in Hz, a multiple of 100.
    start : int
        First sample of the segment, on a cell boundary: see `cell_start`.
    segment : numpy.ndarray
        [T], its samples; only the first 30 ms are used.
    total : int
        Length of the recording in samples.

    Returns
    -------
    float
        Loudness in LUFS, as from `mossformer_sb.data.loudness.loudness`.

    Example
    -------
    >>> from mossformer_sb.data.loudness import loudness
    >>> recording = np.random.default_rng(0).standard_normal(40000)
    >>> segment = recording[4960:24960]
    >>> found = segment_loudness(cell_energies(recording, 8000), 8000, 4960, segment, total=40000)
    >>> bool(abs(found - loudness(segment, 8000)) < 0.005)
    True
    """
    if len(segment) < LOUDNESS_BLOCK * sample_rate:
        return -np.inf
    length, first = sample_rate // CELLS_PER_SECOND, start * CELLS_PER_SECOND // sample_rate  # samples per cell
    num_quarters = len(quarter_bounds(len(segment), sample_rate)) - 1
    sums = np.zeros(num_quarters * _CELLS_OF_QUARTER)
    found = cells[first : first + min(len(sums), num_cells(len(segment), sample_rate))]
    sums[: len(found)] = found
    if len(found) * length > len(segment):  # only a part of the last cell, unless the recording ends with it
        inside = len(segment) - (len(found) - 1) * length
        available = min(length, total - start - (len(found) - 1) * length)
        sums[len(found) - 1] *= inside / available
    head = np.convolve(segment[: _HEAD_CELLS * length], _impulse_response(sample_rate))[: _HEAD_CELLS * length]
    sums[0] += np.square(head).sum() - sums[:_HEAD_CELLS].sum()
    return integrated(sums.reshape(num_quarters, _CELLS_OF_QUARTER).sum(1), sample_rate)


@functools.lru_cache
def _impulse_response(sample_rate):
    """Impulse response of the filters, as long as the first cells of a segment."""
    impulse = np.zeros(_HEAD_CELLS * sample_rate // CELLS_PER_SECOND)
    impulse[0] = 1.0
    return k_weighted(impulse, sample_rate)


class NoiseEnergies:
    """The cells of all recordings of a table, memory-mapped and shared by the workers on a machine.

    Arguments
    ---------
    path : str or Path
        A NumPy file with the concatenated cells of all recordings.
    num_samples, sample_rates : list of int
        Length and sample rate of each recording, in order.

    Raises
    ------
    InputError
        If the file can't be read, or belongs to other recordings.
    """

    def __init__(self, path: str | Path, num_samples: Sequence[int], sample_rates: Sequence[int]) -> None:
        self.path = str(path)
        counts = [num_cells(*recording) for recording in zip(num_samples, sample_rates, strict=True)]
        self._sample_rates, self._num_samples = list(sample_rates), list(num_samples)
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
                    f"{self.path}: can't be read as noise energies ({error}). Delete it and prepare the data again "
                    f"(without --skip_prep)."
                ) from error
        return self._cells

    def __getstate__(self):
        return {**self.__dict__, "_cells": None}  # another process opens the file itself

    def has(self, number: int) -> bool:
        """Whether the loudness of a recording's segments is available: its sample rate is a multiple of 100 Hz."""
        return self._sample_rates[number] % CELLS_PER_SECOND == 0

    def loudness(self, number: int, start: int, segment: np.ndarray) -> float:
        """Loudness of a segment of a recording, see `segment_loudness`."""
        cells = self._open()[self._ends[number] : self._ends[number + 1]]
        return segment_loudness(cells, self._sample_rates[number], start, segment, self._num_samples[number])
