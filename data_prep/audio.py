"""Resampling and rounding to 16 bit, as in the published corpora.

Shapes: T samples.
"""

from __future__ import annotations

import io

import numpy as np
import soundfile
from scipy.signal import resample_poly

SAMPLE_RATE = 16000  # Hz, of WSJ0, LibriSpeech and the noise of WHAM!


def resample(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Resamples a signal from 16 kHz to 8 or 16 kHz, in its own precision.

    Example
    -------
    >>> resample(np.ones(1601, np.float32), 8000).dtype, len(resample(np.ones(1601), 8000))
    (dtype('float32'), 801)
    """
    return resample_poly(samples, sample_rate, SAMPLE_RATE)


def num_resampled(frames: int, sample_rate: int) -> int:
    """Length of the result of `resample`.

    Example
    -------
    >>> num_resampled(1601, 8000), num_resampled(1601, 16000)
    (801, 1601)
    """
    return -(-frames * sample_rate // SAMPLE_RATE)


def to_int16_wrapping(samples: np.ndarray) -> np.ndarray:
    """Rounds to 16 bit like the published scripts: to the nearest, ties to even.

    Values beyond full scale wrap around, as in these.

    Example
    -------
    >>> to_int16_wrapping(np.array([0.5, 1.5, 2.5, -0.6, 32768]) / 2**15)
    array([     0,      2,      2,     -1, -32768], dtype=int16)
    """
    return np.rint(2**15 * samples).astype(np.int64).astype(np.int16)


def to_int16_libsndfile(samples: np.ndarray) -> np.ndarray:
    """Converts floating point to 16 bit like libsndfile, which mostly rounds down.

    Example
    -------
    >>> to_int16_libsndfile(np.array([0.9, -0.1, 40000], np.float32) / 2**15)
    array([    0,    -1, 32767], dtype=int16)
    """
    # With libsndfile itself: its rounding of single and double precision sometimes differs by one step.
    stream = io.BytesIO()
    soundfile.write(stream, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    stream.seek(0)
    return soundfile.read(stream, dtype="int16")[0]
