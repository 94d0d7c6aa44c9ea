"""The level of estimates. SI-SNR is invariant to it, so a network's output levels are arbitrary."""

from __future__ import annotations

import numpy as np

from mossformer_sb.errors import InputError

LEVELS = ("speakers", "mixture", "none", "peak")  # the default first


class LevelMeter:
    """The gain of estimates that come in blocks, constant over the whole recording.

    Example
    -------
    >>> meter = LevelMeter()
    >>> for _ in range(3):
    ...     estimates = np.random.randn(100, 2)
    ...     estimates -= estimates.mean(0)
    ...     meter.add(estimates, mixture=0.5 * estimates.sum(1))
    >>> round(meter.gain("mixture"), 4), meter.gain("speakers").round(4).tolist(), meter.gain("none")
    (0.5, [0.5, 0.5], 1.0)
    """

    def __init__(self) -> None:
        self.num_samples = 0
        self.peaks: np.ndarray = np.zeros(1)  # [S], of each estimate, before the gain
        self._products: np.ndarray = np.zeros((1, 1))  # [S, S], of the estimates with each other
        self._agreement: np.ndarray = np.zeros(1)  # [S], of each estimate with the mixture
        self._totals: np.ndarray = np.zeros(1)  # [S], sums over all samples
        self._mixture = 0.0  # sum of the mixture's samples

    def add(self, estimates: np.ndarray, mixture: np.ndarray) -> None:
        """Add a block: [t, S] and [t]."""
        # Contiguous, so that the same samples give the same bits, also as part of a larger array.
        estimates, mixture = (np.ascontiguousarray(signal, dtype=np.float64) for signal in (estimates, mixture))
        self.num_samples += len(estimates)
        self._products = self._products + estimates.T @ estimates
        self._agreement = self._agreement + estimates.T @ mixture
        self._totals = self._totals + estimates.sum(0)
        self._mixture += float(mixture.sum())
        self.peaks = np.maximum(self.peaks, np.abs(estimates).max(axis=0, initial=0.0))

    @property
    def energies(self) -> np.ndarray:
        """[S], energies of the estimates before the gain."""
        return np.diagonal(self._products)

    def gain(self, level: str) -> float | np.ndarray:
        """The gain of a level policy.

        Arguments
        ---------
        level : str
            "mixture": one gain that fits the estimates' sum to the zero-mean mixture (least squares). "speakers": the
            same with a gain for each speaker. "peak": the loudest sample of all estimates is at full scale. "none": 1.

        Returns
        -------
        float or numpy.ndarray
            [S] for "speakers". 1 where all estimates are silent.

        Raises
        ------
        InputError
            If the level policy is not known.
        """
        check_level(level)
        if level == "mixture" and self._products.sum() > 0:
            return float(self._agreement_without_mean().sum() / self._products.sum())
        if level == "speakers":
            return fitted_gains(self._products, self._agreement_without_mean())
        if level == "peak" and self.peaks.max() > 0:
            return 1 / float(self.peaks.max())
        return 1.0

    def _agreement_without_mean(self):
        return self._agreement - self._mixture * self._totals / self.num_samples


def fitted_gains(products: np.ndarray, agreement: np.ndarray) -> np.ndarray:
    """Gains, one for each estimate, that fit their sum to the mixture (least squares).

    Where estimates are multiples of each other, the louder one gets the larger share.

    Arguments
    ---------
    products : numpy.ndarray
        [S, S], inner products of the estimates.
    agreement : numpy.ndarray
        [S], inner products of the estimates with the mixture.

    Returns
    -------
    numpy.ndarray
        [S]; ones where all estimates are silent.

    Example
    -------
    >>> voices = np.random.randn(8000, 2)
    >>> estimates = voices * [0.01, 3.0]  # at different levels
    >>> ((0.01, 3.0) * fitted_gains(estimates.T @ estimates, estimates.T @ voices.sum(1))).round(3)
    array([1., 1.])
    """
    ridge = 1e-10 * np.trace(products)
    if not ridge > 0:
        return np.ones(len(products))
    return np.linalg.solve(products + ridge * np.eye(len(products)), agreement)


def mapping_gain(estimates: np.ndarray, mixture: np.ndarray) -> float:
    """The gain that scales the estimates of a network without masks to the level of their mixture.

    A mask only attenuates the mixture, so its estimates are about as loud as the sources in it. The output level of a
    network that applies none is independent of the mixture's, and may differ from chunk to chunk.

    Arguments
    ---------
    estimates : numpy.ndarray
        [T, S].
    mixture : numpy.ndarray
        [T], without a constant offset.

    Returns
    -------
    float
        Fits the estimates' sum to the mixture (least squares), so that noise has little influence. Above zero: that of
        equal power where the two are uncorrelated, and 1 where all is silent.

    Example
    -------
    >>> speech, noise = np.random.randn(2, 10000)
    >>> estimates = np.stack((40 * speech, np.zeros(10000)), axis=1)
    >>> 0.024 < mapping_gain(estimates, speech + noise) < 0.026
    True
    """
    total = estimates.sum(1, dtype=np.float64)
    energy, agreement = float(total @ total), float(total @ mixture)
    if energy == 0:
        return 1.0
    if agreement > 0:
        return agreement / energy
    return float(np.sqrt(np.square(mixture, dtype=np.float64).sum() / energy)) or 1.0


def check_level(level: str) -> None:
    """Raise InputError if a level policy is not known.

    Example
    -------
    >>> check_level("loud")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: level 'loud' is not known: choose one of speakers, mixture, none, peak.
    """
    if level not in LEVELS:
        raise InputError(f"level {level!r} is not known: choose one of {', '.join(LEVELS)}.")
