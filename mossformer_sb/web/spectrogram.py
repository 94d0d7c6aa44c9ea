"""Spectrograms as images of bounded size, independent of the length of the recording.

Shapes: T samples, t samples of a block, K frequencies, C columns of the picture.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

COLUMNS, ROWS = 900, 160  # maximum size of a picture
RANGE = 80.0  # dB from the brightest to the darkest colour
HIGHEST = 8000.0  # Hz; speech has little energy above


def power_spectrogram(blocks: Iterable[np.ndarray], num_samples: int, sample_rate: int) -> tuple[np.ndarray, float]:
    """Power over frequency and time, up to `HIGHEST`.

    Arguments
    ---------
    blocks : iterable of numpy.ndarray
        [t], ``num_samples`` in all.
    num_samples : int
        T.
    sample_rate : int
        Sample rate in Hz.

    Returns
    -------
    power : numpy.ndarray
        [K, C], the mean over the frames of each column and the bins of each row; the lowest frequency first.
    highest : float
        Upper end in Hz.

    Example
    -------
    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    >>> power, highest = power_spectrogram([tone[:3000], tone[3000:]], 8000, 8000)
    >>> highest, round(power.mean(1).argmax() / len(power) * highest / 1000)
    (4000.0, 1)
    """
    window = 2 ** round(np.log2(0.032 * sample_rate)) if sample_rate >= 1000 else 32
    hop = window // 2
    highest = min(sample_rate / 2, HIGHEST)
    num_bins = max(1, round(highest / sample_rate * window))
    num_frames = max(1, 1 + (num_samples - window) // hop)
    num_columns = min(COLUMNS, num_frames)
    total, counts = np.zeros((num_columns, num_bins)), np.zeros(num_columns)
    for first, frames in _frames(blocks, window, hop):
        frames = frames[: num_frames - first]
        if not len(frames):
            break
        power = np.abs(np.fft.rfft(frames * np.hanning(window)))[:, :num_bins] ** 2
        columns = (first + np.arange(len(frames))) * num_columns // num_frames
        np.add.at(total, columns, power)
        np.add.at(counts, columns, 1)
    return _fewer_rows((total / np.maximum(counts, 1)[:, None]).T), highest


def _frames(blocks, window, hop):
    """Number of the first frame, and [frames, window]."""
    first, rest = 0, np.empty(0, dtype=np.float32)
    for block in blocks:
        rest = np.concatenate((rest, block))
        if len(rest) >= window:
            frames = np.lib.stride_tricks.sliding_window_view(rest, window)[::hop]
            yield first, frames
            first += len(frames)
            rest = rest[len(frames) * hop :]
    if first == 0:
        yield 0, np.pad(rest, (0, window - len(rest)))[None]


def _fewer_rows(power):
    """[K, C] with at most `ROWS` rows, by averaging adjacent rows."""
    edges = np.linspace(0, len(power), min(ROWS, len(power)) + 1).astype(int)
    return np.add.reduceat(power, edges[:-1]) / np.diff(edges)[:, None]


def png(power: np.ndarray, loudest: float) -> bytes:
    """A picture of a spectrogram, `RANGE` dB in the colours from black to yellow.

    Arguments
    ---------
    power : numpy.ndarray
        [K, C], from `power_spectrogram`.
    loudest : float
        The power of the brightest colour; the same for comparable pictures.

    Returns
    -------
    bytes
        PNG, C wide and K high.

    Example
    -------
    >>> png(np.random.rand(20, 30), loudest=1.0)[1:4]
    b'PNG'
    """
    from matplotlib import colormaps
    from matplotlib.image import imsave

    levels = 10 * np.log10(power / max(loudest, 1e-30) + 1e-30)
    colours = colormaps["magma"](np.clip(1 + levels / RANGE, 0, 1), bytes=True)
    buffer = io.BytesIO()
    imsave(buffer, colours[::-1], format="png")
    return buffer.getvalue()
