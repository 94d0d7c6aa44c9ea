"""Source signals of the corpus of many speakers: speech and noise at 8 kHz.

`data_prep.corpora.many_speakers` describes the layout.
"""

from __future__ import annotations

import csv
import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.audio import num_resampled, resample, to_int16_wrapping
from data_prep.choices import SPLITS
from data_prep.corpora.many_speakers_list import LIBRISPEECH
from data_prep.demo_corpus.synthetic_noise import make_noise
from data_prep.generate.engine import Item, Output, Plan, run
from data_prep.generate.reading import read_recording
from data_prep.generate.recordings import frames_of, name_noise
from data_prep.manifests.source_tables import measure_noise
from data_prep.messages import first_of
from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.resampling import SpeedResampler
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import atomic_write, expanded

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "many_speakers"
SAMPLE_RATE = 8000  # Hz, of all generated files
VERSION = 1  # increase when the same list gives other samples
NOISE_SECONDS = 30  # length of a clip
NOISE_PEAK = 0.9
BABBLE_UTTERANCES = 24  # number of utterances for one babble clip
WORTH_WORKERS = 30  # minimum number of files or mixtures for several processes
HELD_OUT_SHARE = 5  # validation and test have this many times fewer rooms and noises


@dataclass(frozen=True)
class SpeechItem(Item):
    """One utterance, to be resampled from LibriSpeech's rate.

    Attributes
    ----------
    path : str
        Path of the recording.
    """

    path: str


@dataclass(frozen=True)
class RecordedNoiseItem(Item):
    """One recording of noise, to be resampled.

    Attributes
    ----------
    source : str
        Path of the recording.
    frames, sample_rate : int
        Its length in samples, and its sample rate in Hz.
    """

    source: str
    frames: int
    sample_rate: int


@dataclass(frozen=True)
class SynthesisedNoiseItem(Item):
    """One clip of noise.

    Attributes
    ----------
    split : str
        Split whose speech is used for babble.
    number : int
        Number of the clip, from 0.
    """

    split: str
    number: int


def run_plan(plan: Plan, data_folder: str | Path, workers: int | None) -> None:
    """Runs a plan; in this process if starting others would take longer."""
    run(plan, data_folder, 1 if len(plan.items) < WORTH_WORKERS else workers)


# Speech


def find_clips(splits: dict, clips_folder: str | Path, data_folder: str | Path) -> dict:
    """The path of each clip, by its name; for LibriSpeech utterances that of their copy."""
    paths = {
        clip.name: _copy_of(clip, data_folder)
        if clip.source == LIBRISPEECH
        else clips_folder / clip.speaker / f"{clip.name}.wav"
        for clips in splits.values()
        for clip in clips
    }
    sources = {clip.name: clip.source for clips in splits.values() for clip in clips}
    missing = [path for name, path in paths.items() if sources[name] != LIBRISPEECH and not path.is_file()]
    if missing:
        raise InputError(
            f"clips_folder '{clips_folder}' lacks {len(missing)} of {len(paths)} clips, the first of them "
            f"{missing[0].relative_to(clips_folder)}: docs/pretrained_model.md says how the clips are cut."
        )
    return paths


def _copy_of(clip, data_folder):
    return data_folder / "speech" / clip.split / f"{clip.name}.wav"


def write_list(data_folder: Path, split: str, clips: list, paths: dict) -> None:
    """Writes the clips of a split as a CSV `path,spk`, for dynamic mixing."""
    target = data_folder / "lists" / f"{split}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("path", "spk"))
    writer.writerows((paths[clip.name].absolute(), clip.speaker) for clip in clips)
    content = text.getvalue().encode()
    if target.is_file() and target.read_bytes() == content:
        return
    with atomic_write(target) as temporary:
        temporary.write_bytes(content)


def copy_librispeech(
    splits: dict, librispeech_folder: str | None, data_folder: str | Path, parameters: Mapping, workers: int | None
) -> None:
    """Writes the LibriSpeech utterances at our rate; needs their folder while some are missing."""
    clips = [clip for clips in splits.values() for clip in clips if clip.source == LIBRISPEECH]
    if librispeech_folder is None:
        missing = [path for path in (_copy_of(clip, data_folder) for clip in clips) if not path.is_file()]
        if missing:
            raise InputError(
                f"librispeech_folder is not given, and data_folder '{data_folder}' lacks {len(missing)} of "
                f"{len(clips)} utterances, the first of them {missing[0].relative_to(data_folder)}: give the folder "
                "that has test-other."
            )
        return
    root = Path(expanded(librispeech_folder))
    missing = [clip.file for clip in clips if not (root / clip.file).is_file()]
    if missing:
        raise InputError(
            f"librispeech_folder '{root}' lacks {len(missing)} of {len(clips)} utterances: {first_of(missing, ' …')}. "
            "Give the folder that has test-other, as unpacked from LibriSpeech's archive."
        )
    frames = frames_of(root, [clip.file for clip in clips])
    items = []
    for clip in clips:
        path = _copy_of(clip, data_folder).relative_to(data_folder).as_posix()
        output = Output(path, num_resampled(frames[clip.file], SAMPLE_RATE), SAMPLE_RATE, "int16")
        items.append(SpeechItem(path, (output,), str(root / clip.file)))
    run_plan(Plan(f"{PREFIX}_speech", items, _read_speech, parameters), data_folder, workers)


def _read_speech(item):
    return {item.outputs[0].path: _rounded(resample(read_recording(item.path), SAMPLE_RATE))}


def _rounded(samples):
    """Converts to 16 bit with clipping: resampling may raise a peak above full scale, which would wrap around."""
    return to_int16_wrapping(np.clip(samples, -1, 1 - 2**-15))


# Noise


def check_noise(folder: str | Path | None) -> None:
    """Raises an InputError if a folder of recorded noise is given and holds no recordings."""
    if folder is not None:
        name_noise(folder, "recorded_noise_folder")


def copy_noise(folder: str | Path | None, data_folder: str | Path, parameters: Mapping, workers: int | None) -> None:
    """Writes recorded noise for training at our rate, into a subfolder of the synthesised noise."""
    if folder is None:
        return
    root = Path(expanded(folder))
    items = []
    for name in name_noise(folder, "recorded_noise_folder"):
        source, frames, sample_rate = measure_noise((str(root / name), None))
        path = Path("noise/tr/recorded", name).with_suffix(".wav").as_posix()
        output = Output(path, _to_our_rate(sample_rate).num_out(frames), SAMPLE_RATE, "int16")
        items.append(RecordedNoiseItem(path, (output,), source, frames, sample_rate))
    run_plan(Plan(f"{PREFIX}_recorded_noise", items, _read_noise, parameters), data_folder, workers)


def _to_our_rate(sample_rate):
    return SpeedResampler.between(sample_rate, SAMPLE_RATE)


def _read_noise(item):
    (output,) = item.outputs
    noise = _to_our_rate(item.sample_rate).read(item.source, item.frames, 0, output.frames)
    return {output.path: _rounded(noise)}


def synthesise_noise(
    splits: dict,
    paths: dict,
    data_folder: str | Path,
    seed: int,
    num_noises: int,
    parameters: Mapping,
    workers: int | None,
) -> None:
    """Writes the clips of synthesised noise of each split, including babble of its speech."""
    items = []
    for split in SPLITS:
        for number in range(share_of(num_noises, split)):
            output = Output(f"noise/{split}/{number:04d}.wav", NOISE_SECONDS * SAMPLE_RATE, SAMPLE_RATE, "int16")
            items.append(SynthesisedNoiseItem(f"noise {number} of {split}", (output,), split, number))
    speech = {split: [str(paths[clip.name]) for clip in splits[split]] for split in SPLITS}
    run_plan(
        Plan(f"{PREFIX}_noise", items, functools.partial(_make_noise, speech, seed), parameters), data_folder, workers
    )


def share_of(number: int, split: str) -> int:
    """Number of rooms or noises of a split, if training has `number` of them."""
    return number if split == "tr" else max(1, number // HELD_OUT_SHARE)


def _make_noise(speech, seed, item):
    rng = np.random.default_rng([VERSION, seed, SPLITS.index(item.split), item.number])
    paths = speech[item.split]
    utterances = [read_audio(paths[index])[0] for index in rng.integers(len(paths), size=BABBLE_UTTERANCES)]
    noise = make_noise(item.number, utterances, rng, NOISE_SECONDS * SAMPLE_RATE, SAMPLE_RATE)
    return {item.outputs[0].path: _rounded(noise * (NOISE_PEAK / np.abs(noise).max()))}
