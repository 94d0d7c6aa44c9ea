"""Cuts the clips of the corpus of many speakers out of the published corpora.

    python -m data_prep.clips --corpora /path/to/LibriSpeech /path/to/cv-corpus /path/to/speechocean762 --output clips

`many_speakers.csv.gz` names the recording of each clip. Recordings are found by their names, at any depth in the
folders. Each becomes `OUTPUT/SPEAKER/CLIP.wav`: one channel of 8 kHz and 16 bit, silence at the ends and in pauses cut,
at one level for all. Existing clips are kept, so an interrupted run resumes.

The clips that the package's model was trained on came from lossy copies, with ends that differ by some hundredths of a
second: the same speech, not the same samples.

Shapes: T samples.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from tqdm import tqdm

from data_prep.command import run
from data_prep.corpora.many_speakers_list import LIBRISPEECH, LIST_FILE, read_list
from data_prep.corpora.many_speakers_sources import SAMPLE_RATE
from data_prep.messages import NUM_SHOWN, first_of
from data_prep.parallel import process_map
from mossformer_sb.data.audio_io import AUDIO_ENDINGS, read_audio
from mossformer_sb.data.resampling import SpeedResampler
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import atomic_write, expanded, walk_files

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVEL = 0.06  # root mean square of a clip
FRAME_SECONDS = 0.02  # in which the level is measured
# Frames this many dB below the recording's level are silence, and frames at most this many dB above its quietest
# tenth.
QUIET, ABOVE_FLOOR = 25.0, 3.0
PAUSE_DEPTH = 10.0  # minimum difference in dB between the loudest frames and the threshold of pauses
MARGIN_SECONDS = 0.08  # silence that is kept at each end
PAUSE_SECONDS = 0.5  # longer pauses are shortened to this
WORTH_WORKERS = 50  # minimum number of recordings for several processes


def cut_clips(
    corpora: Sequence[str | Path], output: str | Path, list_file: str | Path = LIST_FILE, workers: int | None = None
) -> None:
    """Cuts all listed clips that do not exist yet.

    Arguments
    ---------
    corpora : sequence of str or Path
        Folders of the recordings, searched recursively.
    output : str or Path
        Folder for the clips, created if absent.
    list_file : str or Path
        As for `data_prep.corpora.many_speakers_list.read_list`.
    workers : int, optional
        Number of processes. Default: one per CPU.

    Raises
    ------
    InputError
        If a recording is missing or can't be read. All other clips are written.
    """
    output = Path(expanded(output))
    clips = [clip for clips in read_list(list_file).values() for clip in clips if clip.source != LIBRISPEECH]
    wanted = {clip: output / clip.speaker / f"{clip.name}.wav" for clip in clips}
    found = _recordings(corpora, {Path(clip.file).stem for clip in clips})
    missing = [clip for clip in clips if Path(clip.file).stem not in found and not wanted[clip].is_file()]
    jobs = [
        (found[Path(clip.file).stem], target)
        for clip, target in wanted.items()
        if Path(clip.file).stem in found and not target.is_file()
    ]
    with process_map(_cut, 1 if len(jobs) < WORTH_WORKERS else workers) as mapped:
        done = mapped(jobs)
        problems = [problem for problem in tqdm(done, "Cutting clips", len(jobs), unit="clip", disable=None) if problem]
    if problems:
        raise InputError(f"{len(problems)} recordings can't be used: {'; '.join(problems[:NUM_SHOWN])}")
    if missing:
        raise InputError(
            f"corpora: {len(missing)} of {len(clips)} recordings were not found in {', '.join(map(str, corpora))}: "
            f"{first_of([clip.file for clip in missing], ' …')}. Also give the folders of these corpora; for a part of "
            f"the clips, give another list_file."
        )


def _recordings(corpora, stems):
    """Finds the recordings: name without ending → path."""
    found = {}
    for folder in corpora:
        folder = Path(expanded(folder))
        if not folder.is_dir():
            raise InputError(f"corpora: '{folder}' is not a folder: give the folders of the published corpora.")
        for path in walk_files(folder, "corpora"):
            stem, suffix = os.path.splitext(os.path.basename(path))
            if stem in stems and suffix.lower() in AUDIO_ENDINGS:
                found.setdefault(stem, path)
    return found


def _cut(job):
    """Cuts one clip, and returns the problem of its recording, or None."""
    source, target = job
    try:
        samples, sample_rate = read_audio(source)
    except InputError as error:
        return str(error)
    if not np.isfinite(samples).all():
        return f"{source}: has samples of NaN or infinity"
    clip = trim(to_clip_rate(samples, sample_rate), SAMPLE_RATE)
    if not len(clip):
        return f"{source}: is silent, or shorter than {FRAME_SECONDS:g} s"
    clip = np.clip(np.rint(clip * (LEVEL / np.sqrt(np.mean(np.square(clip)))) * 2**15), -(2**15), 2**15 - 1)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as temporary:
        soundfile.write(temporary, clip.astype(np.int16), SAMPLE_RATE, subtype="PCM_16", format="WAV")
    return None


def to_clip_rate(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """The mean of all channels at 8 kHz: [T] or [T, channels] → [T'], float32."""
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    change = SpeedResampler.between(sample_rate, SAMPLE_RATE)
    return mono if change.up == change.down else change.convert(mono)


def trim(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Removes silence: at the ends all but a margin, in longer pauses all but half a second.

    Arguments
    ---------
    samples : numpy.ndarray
        [T].
    sample_rate : int
        Hz.

    Returns
    -------
    numpy.ndarray
        [T'], empty for silence.

    Example
    -------
    >>> tone = np.sin(np.arange(8000))
    >>> recording = np.concatenate([np.zeros(4000), tone, np.zeros(16000), tone, np.zeros(4000)])
    >>> len(recording) / 8000, len(trim(recording, 8000)) / 8000
    (5.0, 2.66)
    """
    frame = round(FRAME_SECONDS * sample_rate)
    levels = np.sqrt(np.mean(np.square(samples[: len(samples) // frame * frame].reshape(-1, frame)), axis=1))
    if not levels.any():
        return samples[:0]
    quiet = np.sqrt(np.mean(np.square(samples))) * 10 ** (-QUIET / 20)
    floor = np.quantile(levels, 0.1) * 10 ** (ABOVE_FLOOR / 20)
    has_pauses = floor < np.quantile(levels, 0.95) * 10 ** (-PAUSE_DEPTH / 20)
    spoken = np.flatnonzero(levels >= (max(quiet, floor) if has_pauses else quiet))
    margin, pause = (round(seconds / FRAME_SECONDS) for seconds in (MARGIN_SECONDS, PAUSE_SECONDS))
    keep = np.zeros(len(levels), dtype=bool)
    keep[max(0, spoken[0] - margin) : spoken[-1] + 1 + margin] = True
    for before, after in zip(spoken[:-1], spoken[1:], strict=True):
        if after - before - 1 > pause:
            keep[before + 1 + pause // 2 : after - (pause - pause // 2)] = False
    return samples[: len(levels) * frame].reshape(-1, frame)[keep].ravel()


def main(arguments: list[str] | None = None) -> int:
    """Cuts the clips; 0, or 2 after an input error."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.clips",
        description="Cut the clips of the corpus of many speakers out of the published corpora.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--corpora", nargs="+", required=True, help="folders of the published corpora")
    parser.add_argument("--output", required=True, help="folder for the clips")
    parser.add_argument("--list_file", help="another list of clips than many_speakers.csv.gz")
    parser.add_argument("--workers", type=int, help="number of processes (default: one per CPU)")
    parser.set_defaults(function=functools.partial(cut_clips))
    return run(parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
