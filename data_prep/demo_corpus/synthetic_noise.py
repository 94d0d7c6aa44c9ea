"""Synthetic noise without licence restrictions: coloured noise, hum, clicks, and babble of given speech.

Shapes: T samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from data_prep.demo_corpus.mixture_tree import rms

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = ("plain", "hum", "clicks", "babble")
NUM_TALKERS = 6


def make_noise(
    index: int, utterances: Sequence[np.ndarray], rng: np.random.Generator, length: int, sample_rate: int
) -> np.ndarray:
    """Generates a clip of coloured noise with a varying level, optionally with hum, clicks or babble.

    Arguments
    ---------
    index : int
        Number of the clip, which selects one of the four kinds in turn.
    utterances : sequence of numpy.ndarray
        [T] each: speech for babble.
    rng : numpy.random.Generator
        Random generator.
    length : int
        Length in samples.
    sample_rate : int
        Sample rate in Hz.

    Returns
    -------
    noise : numpy.ndarray
        [length], float32; its level is arbitrary.

    Example
    -------
    >>> make_noise(1, [], np.random.default_rng(0), 4000, 8000).shape
    (4000,)
    """
    bed = _coloured(length, rng, sample_rate) * _swell(length, rng, sample_rate)
    kind = KINDS[index % len(KINDS)]
    if kind == "hum":
        event = _hum(length, rng, sample_rate)
    elif kind == "clicks":
        event = _clicks(length, rng, sample_rate)
    elif kind == "babble":
        event = _babble(length, rng, utterances)
    else:
        return bed.astype(np.float32)
    balance = 10 ** (rng.uniform(0, 10) / 20)
    return (bed / rms(bed) + balance * event / rms(event)).astype(np.float32)


def _coloured(length, rng, sample_rate):
    """Gaussian noise whose spectrum falls by 0 to 9 dB per octave above 60 Hz."""
    frequencies = np.fft.rfftfreq(length, 1 / sample_rate)
    slope = rng.uniform(0, 1.5)
    spectrum = np.fft.rfft(rng.standard_normal(length)) * np.maximum(frequencies, 60.0) ** -slope
    return np.fft.irfft(spectrum * (frequencies > 20), length)


def _swell(length, rng, sample_rate):
    """A gain that varies by some 4 dB within seconds."""
    points = rng.normal(0, 4, 2 + length // (2 * sample_rate))
    return 10 ** (np.interp(np.linspace(0, len(points) - 1, length), np.arange(len(points)), points) / 20)


def _hum(length, rng, sample_rate):
    """A machine: harmonics of 50 to 150 Hz, a little unsteady."""
    drift = np.cumsum(rng.standard_normal(length)) / length**0.5
    phase = 2 * np.pi * rng.uniform(50, 150) * (np.arange(length) + 0.002 * sample_rate * drift) / sample_rate
    return sum(rng.uniform(0.2, 1) / n * np.sin(n * phase + rng.uniform(0, 2 * np.pi)) for n in range(1, 12))


def _clicks(length, rng, sample_rate):
    """Short decaying oscillations at random times, some four per second: dishes, keys, steps."""
    clicks = np.zeros(length)
    time = np.arange(sample_rate // 10) / sample_rate
    for start in rng.integers(0, length - len(time), 4 * length // sample_rate):
        ring = np.sin(2 * np.pi * rng.uniform(300, 3000) * time) * np.exp(-time / rng.uniform(0.003, 0.02))
        clicks[start : start + len(time)] += rng.uniform(0.2, 1) * ring
    return clicks


def _babble(length, rng, utterances):
    """Babble: several speakers, each saying one sentence after another."""
    babble = np.zeros(length)
    for _ in range(NUM_TALKERS):
        talk = np.zeros(0)
        while len(talk) < 2 * length:
            utterance = utterances[rng.integers(len(utterances))]
            talk = np.append(talk, utterance / rms(utterance))
        start = rng.integers(length)
        babble += talk[start : start + length]
    return babble
