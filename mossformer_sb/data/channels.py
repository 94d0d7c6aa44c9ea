"""Comparing the two channels of a recording while it is read: has each its own speaker, as in a recorded phone call?

Shapes: T samples, F frames of 20 ms.
"""

from __future__ import annotations

import numpy as np

_FRAMES_PER_SECOND = 50
_LEAST_SECONDS = 2
# Two speakers of LibriSpeech, each on a channel, have correlations of 0.0 to 0.2 (with crosstalk of -20 dB) and -0.3 to
# 0.0; one scene with two microphones, or in a room, has -0.1 to 0.1 and 0.8 to 0.9.
_MOST_CORRELATION, _MOST_ENVELOPE_CORRELATION = 0.3, 0.4
_LEAST_BALANCE = 1e-3  # power of the softer channel, relative to the other


class ChannelComparison:
    """The correlation of two channels, and that of their envelopes, of a recording that is read block by block.

    Arguments
    ---------
    sample_rate : int
        Hz.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> turn = np.repeat([[1.0, 0.01], [0.01, 1.0]], 20000, axis=0)
    >>> comparison = ChannelComparison(8000)
    >>> comparison.add(turn * rng.standard_normal((40000, 2)))
    >>> comparison.have_own_speakers
    True
    """

    def __init__(self, sample_rate: int) -> None:
        self._frame = max(1, sample_rate // _FRAMES_PER_SECOND)
        self._products = np.zeros((2, 2))
        # Sums over frames: their number, the root mean squares of the channels, and products of these.
        self._count, self._sums, self._moments = 0, np.zeros(2), np.zeros((2, 2))

    def add(self, channels: np.ndarray) -> None:
        """Add a block, [T, 2]."""
        channels = channels.astype(np.float64)
        self._products += channels.T @ channels
        frames = channels[: len(channels) // self._frame * self._frame].reshape(-1, self._frame, 2)
        envelopes = np.sqrt(np.square(frames).mean(1))  # [F, 2]
        self._count += len(envelopes)
        self._sums += envelopes.sum(0)
        self._moments += envelopes.T @ envelopes

    @property
    def have_own_speakers(self) -> bool:
        """Whether the channels have nothing in common, neither signals nor when they are loud."""
        powers = np.diagonal(self._products)
        if self._count < _LEAST_SECONDS * _FRAMES_PER_SECOND or not powers.min() > _LEAST_BALANCE * powers.max():
            return False
        means = self._sums / self._count
        covariance = self._moments / self._count - np.outer(means, means)
        return bool(
            abs(_correlation(self._products)) < _MOST_CORRELATION
            and _correlation(covariance) < _MOST_ENVELOPE_CORRELATION
        )


def _correlation(products):
    """Of two signals with these products [2, 2]; 1 if one of them is constant."""
    energies = products[0, 0] * products[1, 1]
    return products[0, 1] / np.sqrt(energies) if energies > 0 else 1.0
