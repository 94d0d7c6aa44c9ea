"""Normalisation of a network's input to a fixed level, so that loudness and offset have no influence.

Shapes: T samples.
"""

from __future__ import annotations

import numpy as np

from mossformer_sb.network.checks import check_input_level

LEVEL = 0.05  # root mean square of the network's input, relative to full scale
LOUD_LEVEL = 10 ** (-25 / 20)  # root mean square of the louder samples, for "loud_rms"
# The root mean square, -120 dB, up to which a signal is amplified in full; quieter ones get no more gain than this one.
_QUIETEST = 1e-6


def _rms(power):
    return np.sqrt(power.mean())


def _loud_rms(power):
    loud = power > power.mean()
    return _rms(power[loud] if loud.any() else power)


# By value of input_level: how to measure a signal's power, and the level to scale it to.
_MEASURES = {"rms": (_rms, LEVEL), "loud_rms": (_loud_rms, LOUD_LEVEL)}


def normalise(samples: np.ndarray, measure: str = "rms") -> tuple[np.ndarray, float]:
    """Bring a signal to zero mean and to a fixed level.

    A network's output is not proportional to its input: norms add a small constant to the variance, which dominates for
    quiet signals, and an offset changes the output completely.

    Arguments
    ---------
    samples : numpy.ndarray
        [T], floating point.
    measure : str
        "rms": a root mean square of `LEVEL`. "loud_rms": `LOUD_LEVEL` for the root mean square of those samples alone
        whose power is above the mean, as ClearerVoice-Studio has it for its separator.

    Returns
    -------
    normalised : numpy.ndarray
        [T], of the same type. A constant signal becomes zeros, up to rounding.
    gain : float
        The gain that was applied; divide the estimates by it. Above zero, and finite for silence too.

    Raises
    ------
    InputError
        If the measure is not known.

    Example
    -------
    >>> normalised, gain = normalise(np.array([0.21, 0.19, 0.21, 0.19]))
    >>> normalised.round(6).tolist(), round(gain, 6)
    ([0.05, -0.05, 0.05, -0.05], 5.0)
    >>> normalised, gain = normalise(np.array([0.3, -0.3, 0.1, -0.1]), "loud_rms")
    >>> round(20 * float(np.log10(normalised[0])), 6)
    -25.0
    """
    check_input_level(measure)
    measured, level = _MEASURES[measure]
    centred = samples - samples.mean(dtype=np.float64).astype(samples.dtype)
    gain = level / max(float(measured(np.square(centred, dtype=np.float64))), _QUIETEST)
    return centred * samples.dtype.type(gain), gain
