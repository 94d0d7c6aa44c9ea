"""The level of estimates. SI-SNR does not see it, so a network's outputs have none of their own."""

import numpy as np

from mossformer_sb.errors import InputError

LEVELS = ("mixture", "none", "peak")


class LevelMeter:
    """The gain of estimates that come in blocks: one for all speakers and the whole recording.

    Example
    -------
    >>> meter = LevelMeter()
    >>> for _ in range(3):
    ...     estimates = np.random.randn(100, 2)
    ...     estimates -= estimates.mean(0)
    ...     meter.add(estimates, mixture=0.5 * estimates.sum(1))
    >>> round(meter.gain("mixture"), 4), meter.gain("none")
    (0.5, 1.0)
    """

    def __init__(self):
        self.num_samples = 0
        self.peak = 0.0  # of all estimates, before the gain
        self._energy = 0.0  # of the estimates' sum
        self._agreement = 0.0  # of the estimates' sum with the mixture
        self._total = self._mixture = 0.0  # sums over all samples of both

    def add(self, estimates, mixture):
        """Add a block: [t, S] and [t]."""
        self.num_samples += len(estimates)
        total = estimates.sum(1, dtype=np.float64)
        self._energy += float(total @ total)
        self._agreement += float(total @ mixture)
        self._total += float(total.sum())
        self._mixture += float(mixture.sum(dtype=np.float64))
        self.peak = max(self.peak, float(np.abs(estimates).max(initial=0.0)))

    def gain(self, level):
        """The gain of a level policy.

        Arguments
        ---------
        level : str
            "mixture": with which the estimates' sum comes closest to the mixture without its mean. "peak": with
            which the loudest sample of all estimates is at full scale. "none": 1.

        Returns
        -------
        float
            1 where all estimates are silent.

        Raises
        ------
        InputError
            If the policy is not known.
        """
        check_level(level)
        if level == "mixture" and self._energy > 0:
            return (self._agreement - self._mixture * self._total / self.num_samples) / self._energy
        if level == "peak" and self.peak > 0:
            return 1 / self.peak
        return 1.0


def mapping_gain(estimates, mixture):
    """The gain that brings the estimates of a network without masks to the level of their mixture.

    A mask takes away from the mixture, so its estimates are about as loud as what is in it. A network that applies none
    has a level of its own, whatever the mixture's is, and a chunk's need not be that of the next.

    Arguments
    ---------
    estimates : numpy.ndarray
        [T, S].
    mixture : numpy.ndarray
        [T], without a constant offset.

    Returns
    -------
    float
        With which the estimates' sum comes closest to the mixture, so that noise counts little. Above zero: where the
        two have nothing in common, it is that of equal power, and where all is silent, 1.

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


def check_level(level):
    """Raise InputError if a level policy is not known.

    Example
    -------
    >>> check_level("loud")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: level 'loud' is not known: choose one of mixture, none, peak.
    """
    if level not in LEVELS:
        raise InputError(f"level {level!r} is not known: choose one of {', '.join(LEVELS)}.")
