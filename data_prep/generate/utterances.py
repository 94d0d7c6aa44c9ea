"""Cutting long recordings, such as interviews, into utterances at their pauses.

In a pause the energy stays low: more than `DEPTH` dB below the loudest frames or, in noise, close to the quietest ones.
No files are written: an utterance is a part of its recording.

Shapes: F frames.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from data_prep.audio import SAMPLE_RATE
from data_prep.generate.reading import count_frames
from data_prep.parallel import thread_map
from mossformer_sb.data.audio_reader import AudioReader
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from data_prep.generate.recordings import Clip

logger = logging.getLogger(__name__)

FRAME = 0.02  # seconds, rounded to samples
DEPTH, ABOVE_FLOOR, LEAST_DEPTH = 30.0, 6.0, 10.0  # dB
PAUSE = 0.3  # seconds; shorter gaps are within words or between them
LONG_PAUSE = 1.0  # seconds; the longest pause within an utterance
SHORTEST = 0.1  # seconds; shorter sounds between pauses are clicks
MARGIN = 0.1  # seconds of the pause that are kept with the utterance


def cut_long(folder: Path, clips: list[Clip], max_seconds: float, min_seconds: float) -> list[Clip]:
    """Replaces recordings that are too long with their utterances.

    Arguments
    ---------
    folder : Path
        Folder of the relative paths.
    clips : list of Clip
        Recordings.
    max_seconds : float
        Longer recordings are cut into utterances of at most this length.
    min_seconds : float
        Shorter utterances are skipped.

    Returns
    -------
    clips : list of Clip
        Clips in the same order; names of utterances consist of their recording and the second of their start.

    Raises
    ------
    InputError
        If `max_seconds` is below `min_seconds`, or a recording can't be read.
    """
    if not max_seconds >= max(min_seconds, FRAME):
        raise InputError(f"max_seconds is {max_seconds}, and min_seconds {min_seconds}: give more for the first.")
    long = [clip for clip in clips if clip.frames > max_seconds * SAMPLE_RATE]
    if not long:
        return clips
    find = functools.partial(_parts, folder, max_seconds=max_seconds, min_seconds=min_seconds)
    found = thread_map(find, long, "Looking for pauses", "file")
    parts = {clip.path: utterances for clip, utterances in zip(long, found, strict=True)}
    cut = [part for clip in clips for part in parts.get(clip.path, [clip])]
    hours = [sum(clip.frames for clip in some) / SAMPLE_RATE / 3600 for some in (sum(parts.values(), []), long)]
    logger.info(
        "%d recordings of more than %g s were cut at their pauses into %d utterances, %.2f of %.2f hours. "
        "--max_seconds sets how long utterances may be.",
        len(long),
        max_seconds,
        sum(map(len, parts.values())),
        *hours,
    )
    return cut


def _parts(folder, clip, max_seconds, min_seconds):
    spans = find_utterances(os.path.join(folder, clip.path), max_seconds, min_seconds)
    paths = [f"{clip.path}#t={start:.2f},{end:.2f}" for start, end in spans]
    return [
        replace(
            clip,
            path=path,
            name=f"{clip.name}-{start:07.2f}".replace(".", "_"),
            frames=count_frames(os.path.join(folder, path), resample=1),  # of any rate: it has been checked
        )
        for path, (start, _) in zip(paths, spans, strict=True)
    ]


def find_utterances(path: str | Path, max_seconds: float, min_seconds: float) -> list[tuple[float, ...]]:
    """Finds the utterances of a recording.

    Arguments
    ---------
    path : str or Path
        The recording.
    max_seconds, min_seconds : float
        Longest and shortest utterance.

    Returns
    -------
    utterances : list of tuple of float
        Start and end of each, in seconds, rounded to hundredths.

    Raises
    ------
    InputError
        If the recording can't be read.
    """
    levels, frame = _levels(path)
    segments = _speech(levels, frame)
    longest = round(max_seconds / frame)
    pieces = [piece for segment in segments for piece in _halves(levels, *segment, longest)]
    return _spans(_joined(pieces, frame, max_seconds), frame, len(levels), max_seconds, min_seconds)


def _levels(path):
    """[F]: the energy of each frame in dB, of the first channel, read block by block; seconds of a frame."""
    energies = []
    with AudioReader(path) as file:
        frame = max(1, round(FRAME * file.sample_rate))
        while len(block := file.read(frame * 4096)):
            whole = block[: len(block) // frame * frame, 0].reshape(-1, frame)
            energies.append(np.square(whole, dtype=np.float64).mean(axis=1))
        seconds = frame / file.sample_rate
    return 10 * np.log10(np.concatenate([*energies, np.zeros(0)]) + 1e-12), seconds


def _speech(levels, frame):
    """First frame, and the one after the last, of each segment of speech between two pauses."""
    if not len(levels):
        return []
    loud, floor = np.percentile(levels, 95), np.percentile(levels, 10)
    threshold = max(loud - DEPTH, min(floor + ABOVE_FLOOR, loud - LEAST_DEPTH))
    active = np.flatnonzero(levels > threshold)
    if not len(active):
        return []
    gaps = np.flatnonzero(np.diff(active) > PAUSE / frame)
    starts, ends = active[np.r_[0, gaps + 1]], active[np.r_[gaps, len(active) - 1]] + 1
    return [(int(start), int(end)) for start, end in zip(starts, ends, strict=True) if end - start >= SHORTEST / frame]


def _halves(levels, start, end, longest):
    """Splits a segment into parts of at most `longest` frames, at the quietest point in the second half of each."""
    while end - start > longest:
        cut = start + longest // 2 + int(levels[start + longest // 2 : start + longest].argmin())
        yield start, cut
        start = cut
    yield start, end


def _joined(pieces, frame, max_seconds):
    """Joins consecutive parts into utterances that are not too long and have no long pause."""
    joined = []
    for start, end in pieces:
        fits = joined and (end - joined[-1][0]) * frame + 2 * MARGIN <= max_seconds
        if fits and (start - joined[-1][1]) * frame <= LONG_PAUSE:
            joined[-1][1] = end
        else:
            joined.append([start, end])
    return joined


def _spans(utterances, frame, num_frames, max_seconds, min_seconds):
    """Start and end in seconds, with a margin at pauses."""
    spans = []
    for number, (start, end) in enumerate(utterances):
        before = utterances[number - 1][1] if number else 0
        after = utterances[number + 1][0] if number + 1 < len(utterances) else num_frames
        first = start * frame - min(MARGIN, (start - before) * frame / 2)
        last = end * frame + min(MARGIN, (after - end) * frame / 2)
        last = min(last, first + max_seconds)
        if last - first >= min_seconds:
            spans.append((round(first, 2), _rounded_within(last, num_frames * frame)))
    return spans


def _rounded_within(seconds, longest):
    """Rounded to hundredths, and down rather than beyond the recording."""
    rounded = round(seconds, 2)
    return rounded if rounded <= longest + 1e-6 else math.floor(seconds * 100) / 100
