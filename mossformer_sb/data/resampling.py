"""Another sample rate, for whole signals and block by block, to the same samples.

Shapes: T samples, t samples of a block; further axes, such as sources, stay as they are.
"""

import math

import numpy as np
from scipy.signal import resample_poly

# scipy's filter reaches over this many samples of the slower of the two rates, on each side.
_FILTER_REACH = 10


def resample(samples, old_rate, new_rate):
    """Convert the sample rate with scipy's polyphase filter, as the published corpora were converted.

    The filter has linear phase and its delay is taken away, so that the result stays aligned with the input.

    Arguments
    ---------
    samples : numpy.ndarray
        [T] or [T, ...], floating point.
    old_rate, new_rate : int
        Hz.

    Returns
    -------
    numpy.ndarray
        [⌈T · new_rate / old_rate⌉, ...], of the same type.

    Example
    -------
    >>> resample(np.ones((441, 2), dtype=np.float32), 44100, 8000).shape
    (80, 2)
    """
    if old_rate == new_rate or not len(samples):
        return samples
    up, down = _ratio(old_rate, new_rate)
    return resample_poly(samples, up, down, axis=0)


def resample_blocks(blocks, old_rate, new_rate):
    """Convert the sample rate of a signal that comes in blocks; joined, the result is that of `resample`.

    Arguments
    ---------
    blocks : iterable of numpy.ndarray
        [t] or [t, ...] each, of any lengths.
    old_rate, new_rate : int
        Hz.

    Returns
    -------
    iterator of numpy.ndarray
        Blocks at the new rate. What is held in memory is a block and the filter's reach, whatever the whole length.

    Example
    -------
    >>> signal = np.random.randn(1000)
    >>> blocks = resample_blocks([signal[:300], signal[300:]], 16000, 44100)
    >>> bool(np.allclose(np.concatenate(list(blocks)), resample(signal, 16000, 44100)))
    True
    """
    if old_rate == new_rate:
        yield from blocks
        return
    up, down = _ratio(old_rate, new_rate)
    # In whole periods of `down` samples, so that each piece starts on a sample of both rates.
    reach = math.ceil((_FILTER_REACH * max(up, down) / up + 1) / down) * down
    buffer, before = None, 0  # `before`: how many samples at the buffer's start are done, and only reach into the next
    for block in blocks:
        buffer = block if buffer is None else np.concatenate((buffer, block))
        ready = (len(buffer) - before - reach) // down * down
        if ready > 0:
            converted = resample_poly(buffer, up, down, axis=0)
            yield converted[before // down * up : (before + ready) // down * up]
            kept = min(before + ready, reach)
            buffer, before = buffer[before + ready - kept :], kept
    if buffer is not None and len(buffer) > before:
        yield resample_poly(buffer, up, down, axis=0)[before // down * up :]


def _ratio(old_rate, new_rate):
    divisor = math.gcd(old_rate, new_rate)
    return new_rate // divisor, old_rate // divisor
