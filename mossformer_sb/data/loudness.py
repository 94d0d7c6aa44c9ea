"""Loudness and level measures of the published corpora.

Shapes: T samples.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy.ndimage import maximum_filter1d
from scipy.signal import lfilter, sosfilt

from mossformer_sb.errors import InputError

LOUDNESS_BLOCK = 0.4  # seconds; BS.1770 does not define shorter signals

_PARTS = 4  # hops per block
_OFFSET = -0.691  # LUFS of a power of one
_ABSOLUTE_GATE = 10 ** ((-70.0 - _OFFSET) / 10)  # power of -70 LUFS: quieter blocks are ignored
_RELATIVE_GATE = 10 ** (-10.0 / 10)  # blocks below this share of the mean of the others are ignored too

# ITU-T P.56, method B
_TIME_CONSTANT = 0.03  # seconds, of each of the two smoothing stages of the envelope
_HANGOVER = 0.2  # seconds that speech counts as active after its envelope has fallen below a threshold
_MARGIN = 15.9  # dB between the active level and its threshold
_THRESHOLDS = 2.0 ** -np.arange(15, -1, -1)  # rising, full scale 1


def active_speech_level(signal: np.ndarray, sample_rate: int) -> float:
    """Active speech level: mean power of the segments with speech, in dB against full scale.

    Source: ITU-T recommendation P.56, method B, without the optional band-pass filter. WSJ0-mix defines the levels of
    utterances by it.

    Arguments
    ---------
    signal : numpy.ndarray
        [T], full scale 1.
    sample_rate : int
        Sample rate in Hz.

    Returns
    -------
    float
        Level in dB; 20·log10 of the root mean square for a signal without pauses. -inf for silence, or a signal below
        the lowest threshold, 2⁻¹⁵.

    Example
    -------
    >>> tone = 0.5 * np.sin(np.arange(16000))
    >>> pauses = np.concatenate([tone, np.zeros(48000)])
    >>> round(active_speech_level(tone, 8000), 1), round(active_speech_level(pauses, 8000), 1)
    (-9.0, -9.6)
    """
    signal = np.asarray(signal, dtype=np.float64)
    energy = np.square(signal).sum()
    active = _active_samples(np.abs(signal), sample_rate)  # for each threshold
    if energy == 0 or not active[0]:
        return -math.inf
    levels = 10 * np.log10(energy / np.maximum(active, 1))  # increasing, as the activity decreases
    excess = levels - 20 * np.log10(_THRESHOLDS) - _MARGIN
    above = np.flatnonzero((excess > 0) & (active > 0))
    if not len(above):
        return float(levels[0])
    last = above[-1]
    if last + 1 == len(levels) or not active[last + 1]:
        return float(levels[last])
    share = excess[last] / (excess[last] - excess[last + 1])
    return float(levels[last] + share * (levels[last + 1] - levels[last]))


def _active_samples(magnitude, sample_rate):
    """Number of active samples for each threshold."""
    decay = math.exp(-1 / (sample_rate * _TIME_CONSTANT))
    envelope = magnitude
    for _ in range(2):
        envelope = lfilter([1 - decay], [1, -decay], envelope)
    hangover = round(sample_rate * _HANGOVER)
    # A sample is active if the envelope was above the threshold within the hangover: the maximum over the last samples.
    recent = maximum_filter1d(envelope, hangover + 1, mode="constant", origin=hangover // 2)
    return len(recent) - np.searchsorted(np.sort(recent), _THRESHOLDS)


def loudness(signal: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness.

    Source: ITU-R recommendation BS.1770-4. Same values as pyloudnorm, which defines the levels of WHAM! and LibriMix,
    in a fraction of its time.

    Arguments
    ---------
    signal : numpy.ndarray
        [T], full scale 1.
    sample_rate : int
        Sample rate in Hz.

    Returns
    -------
    float
        Loudness in LUFS. -inf for signals shorter than 0.4 s or below the absolute gate of -70 LUFS.

    Raises
    ------
    InputError
        If pyloudnorm is not installed.

    Example
    -------
    >>> round(loudness(np.sin(2 * np.pi * 997 / 8000 * np.arange(16000)), 8000))
    -3
    """
    if len(signal) < LOUDNESS_BLOCK * sample_rate:
        return -math.inf
    power = np.square(k_weighted(signal, sample_rate))
    quarters = quarter_bounds(len(signal), sample_rate)
    energies = np.add.reduceat(power, quarters[:-1])
    energies[-1] -= power[quarters[-1] :].sum()  # reduceat continues to the end
    return integrated(energies, sample_rate)


def k_weighted(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """Apply the K-weighting of BS.1770: [T] → [T].

    Example
    -------
    >>> k_weighted(np.ones(4), 8000).shape
    (4,)
    """
    return sosfilt(_k_weighting(sample_rate), signal)


def quarter_bounds(num_samples: int, sample_rate: int) -> np.ndarray:
    """Boundaries of the quarters of blocks, which overlap by three quarters: each quarter is summed only once.

    Example
    -------
    >>> quarter_bounds(4000, 8000).tolist()
    [0, 800, 1600, 2400, 3200, 4000]
    """
    length = round(LOUDNESS_BLOCK * sample_rate)
    quarters = np.arange(1 + round(num_samples / length * _PARTS)) * (length / _PARTS)
    return np.minimum(quarters.astype(int), num_samples)


def integrated(energies: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness in LUFS, or -inf, from the K-weighted energies of the quarters of blocks.

    Example
    -------
    >>> integrated(np.full(7, 800.0), 8000)
    -0.691
    """
    blocks = np.convolve(energies, np.ones(_PARTS), "valid") / round(LOUDNESS_BLOCK * sample_rate)
    blocks = blocks[blocks >= _ABSOLUTE_GATE]
    if not len(blocks):
        return -math.inf
    return float(_OFFSET + 10 * np.log10(blocks[blocks > blocks.mean() * _RELATIVE_GATE].mean()))


@functools.lru_cache
def _k_weighting(sample_rate):
    """The two filters of the K-weighting, as second-order sections, in pyloudnorm's design."""
    try:
        import pyloudnorm
    except ImportError:
        raise InputError(
            'Loudness is measured with pyloudnorm\'s filters, which is not installed: pip install "mossformer_sb[data]"'
        ) from None
    filters = pyloudnorm.Meter(sample_rate)._filters.values()
    return np.array([[*stage.passband_gain * stage.b, *stage.a] for stage in filters])


def mean_amplitude(signal: np.ndarray) -> float:
    """Level of the mean absolute value, in dB: the measure of SpeechBrain's dynamic mixing.

    Arguments
    ---------
    signal : numpy.ndarray
        [T].

    Returns
    -------
    float
        Level in dB; -inf for silence.

    Example
    -------
    >>> mean_amplitude(np.array([0.1, -0.1]))
    -20.0
    """
    mean = float(np.abs(signal).mean())
    return 20 * math.log10(mean) if mean > 0 else -math.inf
