"""Noise that lasts as long as it is needed.

Shapes: T samples.
"""

import numpy as np


def extend_noise(noise, num_frames, fade):
    """Repeat a noise until it is long enough, each time fading into its beginning.

    Arguments
    ---------
    noise : numpy.ndarray
        [T], longer than the fade.
    num_frames : int
        Length that is needed.
    fade : int
        Samples over which the end fades into the beginning.

    Returns
    -------
    numpy.ndarray
        [num_frames]; in double precision where something was appended.

    Example
    -------
    >>> extend_noise(np.ones(900, np.float32), 2000, fade=100).round(9).tolist() == [1.0] * 2000
    True
    """
    rise = np.hanning(2 * fade + 1)[: fade + 1]
    extended = noise
    while len(extended) < num_frames:
        faded = extended[-len(rise) :] * rise[::-1] + noise[: len(rise)] * rise
        extended = np.concatenate([extended[: -len(rise)], faded, noise[len(rise) :]])
    return extended[:num_frames]
