"""How loud any stretch of a recording of noise is, from energies that were summed once.

What BS.1770 needs of a stretch is its K-weighted energy in blocks. A table has the energy of each recording in cells
of 10 ms; a stretch that begins on a cell adds up its own. That is `mossformer_sb.data.loudness.loudness` of the
stretch but for one thing: the filters have heard what comes before. So a stretch's first 30 ms are filtered anew, since
the filters' own beginning is part of the measure, and what is left is far below a hundredth of a dB. It needs cells of
a whole number of samples, as at all rates of the published corpora: a block that begins a sample later may not pass a
gate.
"""

import functools

import numpy as np

from mossformer_sb.data.loudness import LOUDNESS_BLOCK, integrated, k_weighted, quarter_bounds
from mossformer_sb.errors import InputError

CELLS_PER_SECOND = 100
_CELLS_OF_QUARTER = 10  # of a block of BS.1770
_HEAD_CELLS = 3  # in which the filters swing in


def cell_energies(signal, sample_rate):
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


def num_cells(num_samples, sample_rate):
    """Number of cells of a recording, of which the last may be shorter.

    Example
    -------
    >>> num_cells(11025, 11025), num_cells(8001, 8000)
    (100, 101)
    """
    return -(-num_samples * CELLS_PER_SECOND // sample_rate)


def _bounds(first, last, sample_rate):
    """Where the cells from one to before another begin, and where the last one ends: [last - first + 1], samples."""
    return -(-np.arange(first, last + 1) * sample_rate // CELLS_PER_SECOND)


def cell_start(sample, sample_rate):
    """Where the cell begins that holds a sample.

    Example
    -------
    >>> cell_start(5001, 8000), cell_start(1000, 11025)
    (4960, 993)
    """
    return -(-(sample * CELLS_PER_SECOND // sample_rate) * sample_rate // CELLS_PER_SECOND)


def loudness_of_stretch(cells, sample_rate, start, stretch):
    """Integrated loudness of a stretch of a recording.

    Arguments
    ---------
    cells : numpy.ndarray
        Of the whole recording, from `cell_energies`.
    sample_rate : int
        Hz, a multiple of 100.
    start : int
        Where the stretch begins, in samples: where a cell does, see `cell_start`.
    stretch : numpy.ndarray
        [T], its samples, of which the first 30 ms are read.

    Returns
    -------
    float
        LUFS, as of `mossformer_sb.data.loudness.loudness`.

    Example
    -------
    >>> from mossformer_sb.data.loudness import loudness
    >>> recording = np.random.default_rng(0).standard_normal(40000)
    >>> stretch = recording[4960:24960]
    >>> found = loudness_of_stretch(cell_energies(recording, 8000), 8000, 4960, stretch)
    >>> bool(abs(found - loudness(stretch, 8000)) < 0.005)
    True
    """
    if len(stretch) < LOUDNESS_BLOCK * sample_rate:
        return -np.inf
    length, first = sample_rate // CELLS_PER_SECOND, start * CELLS_PER_SECOND // sample_rate  # of a cell, in samples
    num_quarters = len(quarter_bounds(len(stretch), sample_rate)) - 1
    sums = np.zeros(num_quarters * _CELLS_OF_QUARTER)
    found = cells[first : first + min(len(sums), num_cells(len(stretch), sample_rate))]
    sums[: len(found)] = found
    if len(found) * length > len(stretch):  # of the last cell, a part
        sums[len(found) - 1] *= len(stretch) / length % 1
    head = np.convolve(stretch[: _HEAD_CELLS * length], _impulse_response(sample_rate))[: _HEAD_CELLS * length]
    sums[0] += np.square(head).sum() - sums[:_HEAD_CELLS].sum()
    return integrated(sums.reshape(num_quarters, _CELLS_OF_QUARTER).sum(1), sample_rate)


@functools.lru_cache
def _impulse_response(sample_rate):
    """What the filters make of a click, in a stretch's first cells."""
    click = np.zeros(_HEAD_CELLS * sample_rate // CELLS_PER_SECOND)
    click[0] = 1.0
    return k_weighted(click, sample_rate)


class NoiseEnergies:
    """The cells of all recordings of a table; read as they are needed, and shared by all workers of a machine.

    Arguments
    ---------
    path : str or Path
        Of the cells, one recording after the other, as NumPy writes them.
    num_samples, sample_rates : list of int
        Of the recordings, in their order.

    Raises
    ------
    InputError
        If the file is of other recordings.
    """

    def __init__(self, path, num_samples, sample_rates):
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

    def has(self, number):
        """Whether stretches of a recording can be looked up: its rate is a multiple of 100 Hz."""
        return self._sample_rates[number] % CELLS_PER_SECOND == 0

    def loudness(self, number, start, stretch):
        """Loudness of a stretch of a recording, see `loudness_of_stretch`."""
        cells = self._open()[self._ends[number] : self._ends[number + 1]]
        return loudness_of_stretch(cells, self._sample_rates[number], start, stretch)
