"""Pitch of an utterance: how high a speaker's voice is.

Speakers of similar pitch are the hardest to separate, see
`mossformer_sb.data.source_pools.SpeechPool.with_similar_pitch`.

Shapes: T samples.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from speechbrain.processing.vocal_features import autocorrelate

FRAME_SECONDS, HOP_SECONDS = 0.04, 0.02
PITCH_RANGE = (60.0, 400.0)  # Hz; of speech, sung notes and shouts left out
OCTAVE_COST = 0.02  # for each octave, since a voice repeats after two periods as well as after one
VOICED = 0.6  # lowest autocorrelation, relative to that at lag 0, of a frame in which the voice is heard
ACTIVE = 1e-3  # lowest power of such a frame, relative to the loudest one: -30 dB


def median_pitch(signal: np.ndarray, sample_rate: int) -> float:
    """Median fundamental frequency of an utterance's voiced frames.

    By the greatest autocorrelation of frames of 40 ms, with a cost for lower octaves, as in Boersma, "Accurate
    short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled sound", 1993.

    Arguments
    ---------
    signal : numpy.ndarray
        [T].
    sample_rate : int
        Sample rate in Hz.

    Returns
    -------
    float
        Hz, from 60 to 400; NaN if no frame is voiced.

    Example
    -------
    >>> time = np.arange(8000) / 8000
    >>> voice = sum(np.sin(2 * np.pi * 125 * harmonic * time) / harmonic for harmonic in range(1, 9))
    >>> median_pitch(voice, sample_rate=8000), median_pitch(np.zeros(8000), sample_rate=8000)
    (125.0, nan)
    """
    size, hop = round(FRAME_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
    if len(signal) < size:
        return math.nan
    frames = torch.from_numpy(np.ascontiguousarray(signal, np.float32)).unfold(0, size, hop)
    powers = frames.square().mean(1)
    shortest, longest = (math.ceil(sample_rate / bound) for bound in PITCH_RANGE[::-1])
    lags = torch.arange(shortest, longest + 1)
    correlation = autocorrelate(frames[None])[0][:, shortest : longest + 1]
    best = (correlation - OCTAVE_COST * lags.log2()).argmax(1)
    voiced = (correlation.gather(1, best[:, None])[:, 0] >= VOICED) & (powers > ACTIVE * powers.max())
    return float(sample_rate / lags[best[voiced]].double().median()) if voiced.any() else math.nan
