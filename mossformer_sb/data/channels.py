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
        self._signals, self._envelopes = _Moments(), _Moments()
        self._rest = np.empty((0, 2))  # samples of an incomplete frame

    def add(self, channels: np.ndarray) -> None:
        """Add a block, [T, 2]."""
        channels = np.concatenate([self._rest, channels], dtype=np.float64)
        complete = len(channels) // self._frame * self._frame
        frames, self._rest = channels[:complete].reshape(-1, self._frame, 2), channels[complete:]
        self._signals.add(channels[:complete])
        self._envelopes.add(frames.std(1))

    @property
    def have_own_speakers(self) -> bool:
        """Whether the channels have nothing in common, neither signals nor when they are loud."""
        powers = np.diagonal(self._signals.covariance)
        is_short = self._envelopes.count < _LEAST_SECONDS * _FRAMES_PER_SECOND
        if is_short or not powers.min() > _LEAST_BALANCE * powers.max():
            return False
        unlike = abs(self._signals.correlation) < _MOST_CORRELATION
        return bool(unlike and self._envelopes.correlation < _MOST_ENVELOPE_CORRELATION)


class _Moments:
    """Means and covariance of two series of numbers that are added in parts, [N, 2]."""

    def __init__(self):
        self.count, self._sums, self._products = 0, np.zeros(2), np.zeros((2, 2))

    def add(self, values):
        self.count += len(values)
        self._sums += values.sum(0)
        self._products += values.T @ values

    @property
    def covariance(self):
        count = max(1, self.count)
        return self._products / count - np.outer(self._sums, self._sums) / count**2

    @property
    def correlation(self):
        """1 if one of the series is constant."""
        covariance = self.covariance
        energies = covariance[0, 0] * covariance[1, 1]
        return covariance[0, 1] / np.sqrt(energies) if energies > 0 else 1.0
