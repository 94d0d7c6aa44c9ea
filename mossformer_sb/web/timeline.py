"""Speech activity: segments for each speaker, from the separated signals.

Shapes: T samples, t samples of a block, F frames, S speakers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mossformer_sb.data.audio_io import Recording
from mossformer_sb.errors import InputError
from mossformer_sb.inference.output_gain import LevelMeter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FRAME = 0.02  # seconds
_BELOW_LOUDEST = 40.0  # dB below the recording's loud frames: silence
_BELOW_OTHERS = 20.0  # dB below the loudest speaker of the frame: leakage
_LONGEST_GAP, _SHORTEST = 0.3, 0.1  # seconds: pauses within speech, and the shortest speech


def active_times(speakers: list[Path], mixture: Path, model_rate: int) -> list[list[tuple[float, ...]]]:
    """Speech activity of each speaker: by voice activity detection if it is installed, else by the signals' energy.

    Arguments
    ---------
    speakers : list of Path
        S files with the same sample rate and length.
    mixture : Path
        The recording, with the same sample rate and length.
    model_rate : int
        Sample rate of the model in Hz.

    Returns
    -------
    list of list of tuple of float
        For each speaker, start and end in seconds, in order.
    """
    rate = Recording(mixture).sample_rate
    detector = _speech_detector(len(speakers), rate, min(rate, model_rate))
    if detector is None:
        return speaking_times(np.stack([frame_powers(Recording(path).blocks(), rate) for path in speakers], axis=1))
    meter = LevelMeter()
    for estimates, block in zip(_together(speakers), Recording(mixture).blocks(), strict=True):
        meter.add(estimates, block)
    return detector.segments(_together(speakers), meter)


def _speech_detector(num_spks, sample_rate, analysed_rate):
    """The voice activity detector, or None if it is not installed."""
    try:
        from mossformer_sb.inference.activity import ActivityDetector

        return ActivityDetector(num_spks, sample_rate, analysed_rate=analysed_rate)
    except (ImportError, InputError):
        return None


def _together(paths):
    """Blocks [t, S] of some files."""
    for blocks in zip(*(Recording(path).blocks() for path in paths), strict=True):
        yield np.stack(blocks, axis=1)


def speaking_times(powers: np.ndarray, frame: float = FRAME) -> list[list[tuple[float, ...]]]:
    """Segments in which each speaker is active.

    Arguments
    ---------
    powers : numpy.ndarray
        [F, S], mean squares of the frames.
    frame : float
        Length of a frame in seconds.

    Returns
    -------
    list of list of tuple of float
        For each speaker, start and end in seconds, in order.

    Example
    -------
    >>> powers = np.zeros((100, 2))
    >>> powers[:50, 0] = powers[40:, 1] = 0.01
    >>> speaking_times(powers)
    [[(0.0, 1.0)], [(0.8, 2.0)]]
    """
    loudest = powers.max(1, initial=0.0)
    if not loudest.any():
        return [[] for _ in range(powers.shape[1])]
    reference = np.quantile(loudest[loudest > 0], 0.95)
    active = powers > reference * 10 ** (-_BELOW_LOUDEST / 10)
    active &= powers > loudest[:, None] * 10 ** (-_BELOW_OTHERS / 10)
    return [_segments(column, frame) for column in active.T]


def _segments(active, frame):
    edges = np.flatnonzero(np.diff(np.concatenate(([0], active.astype(np.int8), [0]))))
    joined = []
    for start, end in edges.reshape(-1, 2):
        if joined and (start - joined[-1][1]) * frame <= _LONGEST_GAP:
            joined[-1][1] = end
        else:
            joined.append([start, end])
    return [
        (round(float(start * frame), 3), round(float(end * frame), 3))
        for start, end in joined
        if (end - start) * frame >= _SHORTEST
    ]


def frame_powers(blocks: Iterable[np.ndarray], sample_rate: int) -> np.ndarray:
    """Mean squares of frames of `FRAME` seconds.

    Arguments
    ---------
    blocks : iterable of numpy.ndarray
        [t].
    sample_rate : int
        Sample rate in Hz.

    Returns
    -------
    numpy.ndarray
        [F]; an incomplete last frame is dropped.

    Example
    -------
    >>> frame_powers([np.ones(300), 2 * np.ones(100)], sample_rate=10000).tolist()
    [1.0, 2.5]
    """
    length = max(1, round(FRAME * sample_rate))
    powers, rest = [], np.empty(0)
    for block in blocks:
        rest = np.concatenate((rest, np.square(block, dtype=np.float64)))
        whole = len(rest) // length * length
        powers.append(rest[:whole].reshape(-1, length).mean(1))
        rest = rest[whole:]
    return np.concatenate(powers) if powers else np.empty(0)
