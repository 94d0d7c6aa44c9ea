"""Recordings of any origin: finding them in a folder or a table, and reading them at 16 kHz.

Shapes: T samples.
"""

import csv
import hashlib
import logging
import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from scipy.signal import resample_poly

from data_prep.audio import SAMPLE_RATE
from data_prep.choices import check_choice
from data_prep.messages import first_of
from data_prep.parallel import thread_map
from mossformer_sb.data.audio_io import AUDIO_ENDINGS, OTHER_MEDIA_ENDINGS, tell_passed_over
from mossformer_sb.data.audio_reader import AudioReader
from mossformer_sb.data.source_pools import extend_noise
from mossformer_sb.errors import InputError

logger = logging.getLogger(__name__)

LAYOUTS = ("librispeech", "speakers")
FADE = SAMPLE_RATE // 2  # samples over which a noise fades into its own beginning


@dataclass(frozen=True)
class Clip:
    """A recording to draw from.

    Attributes
    ----------
    path : str
        Relative to the folder that was given, with slashes.
    name : str
        Its part in the names of mixtures.
    speaker : str
        Empty for noise.
    frames : int
        Samples at 16 kHz.
    """

    path: str
    name: str
    speaker: str
    frames: int


# Finding


def find_speech(source, layout="librispeech", resample=False):
    """Lists the utterances of a folder or a table.

    Arguments
    ---------
    source : str or Path
        A folder, or a CSV with the columns `path,spk`, whose paths are absolute or relative to the CSV's folder.
    layout : str
        Of a folder. "librispeech": files called `{speaker}-{chapter}-{utterance}`, however deep; "speakers": one folder
        a speaker, named after them, with files however deep.
    resample : bool
        As for `read_recording`.

    Returns
    -------
    folder : Path
        What the paths are relative to.
    utterances : list of Clip
        Sorted by path.

    Raises
    ------
    InputError
        If there is none, a file can't be used, or two have one name.
    """
    folder, named = name_speech(source, layout)
    clips = _clips(folder, named, resample)
    paths = {}
    for clip in clips:
        if clip.name in paths:
            raise InputError(
                f"{source}: two recordings have one name, {clip.name}, so their mixtures would: {paths[clip.name]} and "
                f"{clip.path}. Rename one of them."
            )
        paths[clip.name] = clip.path
    return folder, clips


def name_speech(source, layout="librispeech", keys=("from_speech", "layout")):
    """Lists the utterances of a folder or a table by name alone, without looking into them; see `find_speech`.

    Arguments
    ---------
    source, layout
        As for `find_speech`.
    keys : sequence of str
        What messages call these two.

    Returns
    -------
    folder : Path
        What the paths are relative to.
    named : list of tuple of str
        Path, name and speaker of each, sorted by path.
    """
    check_choice(keys[1], layout, LAYOUTS)
    source = Path(source).expanduser()
    if source.is_file():
        return source.parent, _from_table(source)
    return source, _from_folder(source, layout, *keys)


def name_noise(folder, key="noise"):
    """Lists the paths of a folder's recordings, however deep, relative to it; messages call it by the key."""
    return _audio_files(Path(folder).expanduser(), key)


def find_noise(folder, resample=False):
    """Lists the recordings of a folder of noise, however deep; see `find_speech`."""
    folder = Path(folder).expanduser()
    return _clips(folder, [(path, path, "") for path in _audio_files(folder, "noise")], resample)


def _audio_files(folder, key):
    if not folder.is_dir():
        raise InputError(f"{key} '{folder}' is not a folder: give the folder that the recordings lie in.")
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_ENDINGS and path.name[0] != "."
    )
    endings = (path.suffix.lower() for path in folder.rglob("*") if path.name[0] != ".")
    others = tell_passed_over(Counter(ending for ending in endings if ending in OTHER_MEDIA_ENDINGS))
    if not files:
        needed = f"needed files that end in {', '.join(AUDIO_ENDINGS)}"
        raise InputError(f"{key} '{folder}' holds no recording; {needed}. {others}".rstrip())
    if others:
        logger.warning("%s '%s': %s", key, folder, others)
    return files


def _from_folder(folder, layout, key, layout_key):
    """Lists (path, name, speaker) of the utterances in a folder."""
    named = []
    for path in _audio_files(folder, key):
        stem, parents = Path(path).stem, Path(path).parts[:-1]
        if layout == "speakers":
            if not parents:
                raise InputError(f"{key} '{folder}': {path} lies in no speaker's folder. Move or remove it.")
            named.append((path, "-".join((*parents, stem)), parents[0]))
        else:
            if not re.fullmatch(r"\w+-\w+-\w+", stem):
                raise InputError(
                    f"{key} '{folder}': {path} is not called speaker-chapter-utterance, as in LibriSpeech. "
                    f"For one folder a speaker, give --{layout_key} speakers; for anything else, a CSV with path,spk."
                )
            named.append((path, stem, stem.split("-")[0]))
    return named


def _from_table(path):
    """Lists (path, name, speaker) of the utterances in a CSV."""
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in ("path", "spk") if column not in (reader.fieldnames or [])]
        if missing:
            raise InputError(f"{path}: column {', '.join(missing)} is missing; needed path,spk in the first line.")
        named = []
        for row in reader:
            if None in row or None in row.values() or not row["path"] or not row["spk"]:
                needed = len(reader.fieldnames)
                raise InputError(f"{path}:{reader.line_num}: needed {needed} fields, none of path and spk empty.")
            named.append((row["path"], f"{row['spk']}-{Path(row['path']).stem}".replace("/", "-"), row["spk"]))
    if not named:
        raise InputError(f"{path}: has no rows; needed one for each utterance.")
    return sorted(named)


def _clips(folder, named, resample):
    paths = [path for path, _, _ in named]
    frames = frames_of(folder, paths, resample)
    return [Clip(path, name, speaker, frames[path]) for path, name, speaker in named]


def frames_of(folder, paths, resample=False):
    """Samples at 16 kHz of each of many recordings: one pass over the headers with threads.

    Returns
    -------
    frames : dict
        path → number of samples.
    """
    paths = list(dict.fromkeys(paths))
    counts = thread_map(
        lambda path: count_frames(os.path.join(folder, path), resample), paths, "Reading headers", "file"
    )
    return dict(zip(paths, counts, strict=True))


def warn_of_single_utterances(utterances):
    """Logs which speakers have one utterance only: with the others they can't teach what a voice is like.

    Returns
    -------
    single : list of str
        Their names.
    """
    counts = {}
    for clip in utterances:
        counts[clip.speaker] = counts.get(clip.speaker, 0) + 1
    single = sorted(speaker for speaker, count in counts.items() if count == 1)
    if single:
        logger.warning("%d of %d speakers have a single utterance: %s", len(single), len(counts), first_of(single))
    return single


def fingerprint(clips):
    """A hash over names, speakers and lengths: other recordings draw other mixtures."""
    text = "\n".join(f"{clip.path} {clip.speaker} {clip.frames}" for clip in clips)
    return hashlib.sha256(text.encode()).hexdigest()


# Reading


def read_recording(path, resample=False, num_frames=None):
    """Reads the first channel of a recording at 16 kHz.

    Arguments
    ---------
    path : str or Path
        The recording.
    resample : bool
        Whether one of another sample rate is converted; it is an error otherwise.
    num_frames : int, optional
        At most so many samples, from the start.

    Returns
    -------
    samples : numpy.ndarray
        [T], float32.

    Raises
    ------
    InputError
        If the file is absent or damaged, or has another sample rate.
    """
    with _open(path, resample) as recording:
        rate = recording.sample_rate
        wanted = recording.frames
        if num_frames is not None and rate == SAMPLE_RATE:
            wanted = min(wanted, num_frames)
        samples = recording.read(wanted)[:, 0]
    if rate != SAMPLE_RATE:
        samples = resample_poly(samples, SAMPLE_RATE, rate)[:num_frames]
    return samples


def count_frames(path, resample=False):
    """Number of samples that a recording has at 16 kHz, from its header alone; errors as for `read_recording`."""
    with _open(path, resample) as recording:
        return math.ceil(recording.frames * SAMPLE_RATE / recording.sample_rate)


def _open(path, resample):
    """An `AudioReader`, if the recording has a sample rate that is wanted."""
    if not os.path.isfile(path):
        raise InputError(f"{path}: there is no such recording.{_advice(path)}")
    recording = AudioReader(path)
    rate = recording.sample_rate
    if rate != SAMPLE_RATE and not resample:
        recording.close()
        raise InputError(
            f"{path}: has a sample rate of {rate} Hz; needed {SAMPLE_RATE} Hz, as LibriSpeech and wham_noise have. "
            "Give --resample to convert what has another."
        )
    return recording


def _advice(path):
    if re.search(r"sp(08|12)\.wav$", str(path)):
        return (
            " Such noise is made from wham_noise's by changing the speed to 0.8 and 1.2 with SoX: "
            "LibriMix's scripts/augment_train_noise.py does it."
        )
    return " Give the folder that the paths in the metadata are relative to."


def check_noise(path, found, needed):
    """Raises an InputError if a noise of `found` samples is too short to be extended to `needed` ones."""
    if found < needed and found <= FADE + 1:
        raise InputError(
            f"{path}: has {found / SAMPLE_RATE:.2f} s; needed more than {FADE / SAMPLE_RATE} s, so that it can be "
            f"repeated with a cross-fade to {needed / SAMPLE_RATE:.2f} s. Take it out."
        )


def read_noise(path, num_frames, resample=False):
    """Reads a noise to an exact length, extended if it is too short.

    Arguments
    ---------
    path : str or Path
        The recording.
    num_frames : int
        Length that is needed.
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
