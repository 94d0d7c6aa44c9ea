"""Reading recordings, or parts of them, at 16 kHz, and noise of a given length.

Shapes: T samples.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from scipy.signal import resample_poly

from data_prep.audio import SAMPLE_RATE
from data_prep.choices import SAMPLE_RATES
from data_prep.generate.file_access import check_access
from data_prep.generate.recording_problems import AbsentRecording
from mossformer_sb.data.audio_reader import AudioReader
from mossformer_sb.data.source_pools import extend_noise
from mossformer_sb.data.tables import likely_cause
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_PART = re.compile(r"(.+)#t=(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)")
FADE = SAMPLE_RATE // 2  # samples of the cross-fade from a noise's end to its beginning


def read_recording(path: str | Path, resample: bool | int = False, num_frames: int | None = None) -> np.ndarray:
    """Reads the first channel of a recording at 16 kHz.

    Arguments
    ---------
    path : str or Path
        The recording.
    resample : bool or int
        Whether a recording of another sample rate is converted; otherwise it is an error. A number: recordings of at
        least this rate in Hz are converted, since they have the corpus's full bandwidth.
    num_frames : int, optional
        Maximum number of samples, from the start.

    Returns
    -------
    samples : numpy.ndarray
        [T], float32.

    Raises
    ------
    InputError
        If the file is missing or damaged, or has another sample rate.
    """
    with _open(path, resample) as recording:
        rate, (start, wanted) = recording.sample_rate, _frames_of_part(path, recording)
        if num_frames is not None and rate == SAMPLE_RATE:
            wanted = min(wanted, num_frames)
        recording.seek(start)
        samples = recording.read(wanted)[:, 0]
    if rate != SAMPLE_RATE:
        samples = resample_poly(samples, SAMPLE_RATE, rate)[:num_frames]
    return samples


def count_frames(path: str | Path, resample: bool | int = False) -> int:
    """Number of samples of a recording at 16 kHz, only from its header; errors as for `read_recording`."""
    with _open(path, resample) as recording:
        return math.ceil(_frames_of_part(path, recording)[1] * SAMPLE_RATE / recording.sample_rate)


def file_and_part(path: str | Path) -> tuple[str, tuple[float, float] | None]:
    """Splits a path into the path of a file and a part of it.

    Arguments
    ---------
    path : str or Path
        A path, with a part in the format of W3C media fragments: `talk.wav#t=12.5,20`, from 12.5 s to 20 s.

    Returns
    -------
    file : str
    part : tuple of float, or None
        Start and end in seconds.

    Example
    -------
    >>> file_and_part("ann/talk.wav#t=12.5,20"), file_and_part("ann/talk.wav")
    (('ann/talk.wav', (12.5, 20.0)), ('ann/talk.wav', None))
    """
    path = str(path)
    found = _PART.fullmatch(path)
    return (found[1], (float(found[2]), float(found[3]))) if found else (path, None)


def _frames_of_part(path, recording):
    """First frame and number of frames of a path's part, at the recording's own rate."""
    _, part = file_and_part(path)
    if part is None:
        return 0, recording.frames
    start, end = (round(seconds * recording.sample_rate) for seconds in part)
    if not start < end <= recording.frames:
        raise InputError(
            f"{path}: the recording has {recording.frames / recording.sample_rate:.3f} s, so this part does not exist. "
            f"It may have changed after the metadata was drawn."
        )
    return start, end - start


def _open(path, resample):
    """An `AudioReader` of a path's file, if its sample rate is allowed."""
    path, _ = file_and_part(path)
    check_access(path)
    if not os.path.isfile(path):
        raise AbsentRecording(f"{path}: there is no such recording.{likely_cause(path) or _advice(path)}")
    recording = AudioReader(path)
    rate = recording.sample_rate
    if rate == SAMPLE_RATE or (resample and rate >= resample):
        return recording
    recording.close()
    if resample:
        raise InputError(
            f"{path}: has a sample rate of {rate} Hz; needed {resample} Hz or more, as the corpus has: frequencies "
            f"above {rate // 2} Hz would be missing. Give --sample_rates {rate} if that is one of "
            f"{', '.join(map(str, SAMPLE_RATES))}, or --resample to convert it anyway."
        )
    raise InputError(
        f"{path}: has a sample rate of {rate} Hz; needed {SAMPLE_RATE} Hz, as LibriSpeech and wham_noise have. "
        "Give --resample to convert other rates."
    )


def _advice(path):
    if re.search(r"sp(08|12)\.wav$", str(path)):
        return (
            " Such noise is made from wham_noise's by changing the speed to 0.8 and 1.2 with SoX: "
            "LibriMix's scripts/augment_train_noise.py does it."
        )
    return ""


def check_noise(path: str | Path, found: int, needed: int) -> None:
    """Raises an InputError if a noise of `found` samples is too short to be extended to `needed` ones."""
    if found < needed and found <= FADE + 1:
        raise InputError(
            f"{path}: has {found / SAMPLE_RATE:.2f} s; needed more than {FADE / SAMPLE_RATE} s, so that it can be "
            f"repeated with a cross-fade to {needed / SAMPLE_RATE:.2f} s. Remove it."
        )


def read_noise(path: str | Path, num_frames: int, resample: bool | int = False) -> np.ndarray:
    """Reads a noise to an exact length, extended if it is too short.

    Arguments
    ---------
    path : str or Path
        The recording.
    num_frames : int
        Required length.
    resample : bool
        As for `read_recording`.

    Returns
    -------
    noise : numpy.ndarray
        [num_frames].

    Raises
    ------
    InputError
        As for `read_recording`, and if it is too short to be repeated.
    """
    noise = read_recording(path, resample, num_frames)
    check_noise(path, len(noise), num_frames)
    return extend_noise(noise, num_frames, FADE)
