"""The level at which a network gets a recording. It is always the same, so that loudness and offset change nothing.

Shapes: T samples.
"""

import numpy as np

LEVEL = 0.05  # root mean square of what the network gets, against full scale
# The root mean square, -120 dB, up to which a signal is amplified in full; quieter ones get no more gain than this one.
_QUIETEST = 1e-6


def normalise(samples):
    """Bring a signal to zero mean and to a root mean square of `LEVEL`.

    What a network gives is not proportional to its input: norms add a small constant to the variance, which decides
    for quiet signals, and an offset changes it altogether.

    Arguments
    ---------
    samples : numpy.ndarray
        [T], floating point.

    Returns
    -------
    normalised : numpy.ndarray
        [T], of the same type. A constant signal becomes zeros, or as good as that.
    gain : float
        What it was amplified by; the estimates are to be divided by it. Above zero, and finite for silence too.

    Example
    -------
    >>> normalised, gain = normalise(np.array([0.21, 0.19, 0.21, 0.19]))
    >>> normalised.round(6).tolist(), round(gain, 6)
    ([0.05, -0.05, 0.05, -0.05], 5.0)
    """
    centred = samples - samples.mean(dtype=np.float64).astype(samples.dtype)
    power = np.square(centred, dtype=np.float64).mean()
    gain = LEVEL / max(float(np.sqrt(power)), _QUIETEST)
    return centred * samples.dtype.type(gain), gain
