"""WHAM! from raw WSJ0 or from WSJ0-2mix, and its noise (Wichern et al., 2019), sample by sample as published.

`data_prep.generate.wham_metadata` describes the metadata, in the formats of the published scripts. Noise:
NOISE_FOLDER/{tr,cv,tt}/ID.wav. WSJ0-2mix: WSJ0MIX_FOLDER/2speakers/wav{8k,16k}/{min,max}/….
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.audio import SAMPLE_RATE, num_resampled, resample, to_int16_wrapping
from data_prep.choices import SPLITS, check_versions
from data_prep.generate.engine import Item, Output, Plan, checksum, run
from data_prep.generate.wham_metadata import find_scaling, read_corpus, read_scaling
from data_prep.generate.wsj0 import RawRecording, check_recordings, find_wsj0, read_recording
from data_prep.generate.wsj0mix import WSJ0_HELP, add_version_arguments
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from data_prep.generate.engine import Amount

VERSION = 1  # increase when the same metadata gives other samples
SIGNALS = ("mix_clean", "mix_single", "mix_both", "s1", "s2", "noise")


@dataclass(frozen=True)
class WhamItem(Item):
    """One mixture, at all requested sample rates and modes.

    Attributes
    ----------
    versions : tuple
        (sample rate, mode, folder that has `mix_both/`, `s1/`, …, Scaling) of each version.
    speech : tuple of RawRecording
        The two utterances.
    noise : RawRecording
        The noise.
    start : int
        Sample of the noise where the speech begins, at 16 kHz.
    """

    versions: tuple
    speech: tuple
    noise: RawRecording
    start: int


@dataclass(frozen=True)
class RemixedItem(Item):
    """One mixture of sources of WSJ0-2mix, at all requested sample rates and modes.

    Attributes
    ----------
    versions : tuple
        As in `WhamItem`.
    sources : tuple of tuple of RawRecording
        The two sources of each version.
    noise, start
        As in `WhamItem`.
    """

    versions: tuple
    sources: tuple
    noise: RawRecording
    start: int


def generate(
    wsj0_folder: str | None = None,
    noise_folder: str | None = None,
    metadata_folder: str | None = None,
    output_folder: str | None = None,
    sample_rates: Sequence[int] = (8000,),
    modes: Sequence[str] = ("min",),
    splits: Sequence[str] = SPLITS,
    workers: int | None = None,
    dry_run: bool = False,
    wsj0mix_folder: str | None = None,
) -> Amount:
    """Writes `output_folder/wav{8k,16k}/{min,max}/{split}/{mix_clean,mix_single,mix_both,s1,s2,noise}/ID.wav`.

    The files are 32-bit float, mono.

    Arguments
    ---------
    wsj0_folder : str, optional
        Folder that holds `wsj0/`. Needs `metadata_folder`; alternative to `wsj0mix_folder`.
    noise_folder : str
        `wham_noise`, which has `tr/`, `cv/`, `tt/` and `metadata/`.
    metadata_folder : str, optional
        Folder of the lists of mixtures, or of the published scripts.
    output_folder : str
        Folder of the corpus.
    sample_rates : sequence of int
        Some of 8000 and 16000.
    modes : sequence of str
        "min": mixtures are cut to the shorter utterance; "max": padded to the noise.
    splits : sequence of str
        Some of "tr", "cv" and "tt".
    workers : int, optional
        Number of processes. Default: one per CPU.
    dry_run : bool
        Whether only to report how much would be written.
    wsj0mix_folder : str, optional
        Folder of WSJ0-2mix, which holds `2speakers/`: its sources are used unchanged.

    Returns
    -------
    amount : data_prep.generate.engine.Amount
        Amount of data that was written, or would be.

    Raises
    ------
    InputError
        If an argument, a metadata file or a recording is invalid, noise is shorter than its mixture, or the files can't
        be written.
    """
    check_versions(sample_rates, modes, splits)
    _check_folders(wsj0_folder, noise_folder, metadata_folder, output_folder, wsj0mix_folder)
    versions = [(sample_rate, mode) for sample_rate in sample_rates for mode in modes]
    if wsj0mix_folder is not None:
        plan = _plan_from_wsj0mix(wsj0mix_folder, noise_folder, splits, versions)
    else:
        plan = _plan_from_wsj0(wsj0_folder, noise_folder, metadata_folder, splits, versions)
    return run(plan, output_folder, workers, dry_run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `generate`, without those of every corpus."""
    parser.add_argument("--wsj0_folder", help=f"{WSJ0_HELP}; this or --wsj0mix_folder")
    parser.add_argument("--wsj0mix_folder", help="folder of WSJ0-2mix, with 2speakers/, to use its sources instead")
    parser.add_argument("--noise_folder", required=True, help="wham_noise, with tr/, cv/, tt/ and metadata/")
    parser.add_argument(
        "--metadata_folder",
        help="with --wsj0_folder: the published wham_scripts, or a folder of mix_2_spk_filenames_*.csv",
    )
    add_version_arguments(parser)


def _check_folders(wsj0_folder, noise_folder, metadata_folder, output_folder, wsj0mix_folder):
    if (wsj0_folder is None) == (wsj0mix_folder is None):
        raise InputError("Give either wsj0_folder, raw WSJ0, or wsj0mix_folder, WSJ0-2mix, not both.")
    if wsj0_folder is not None and metadata_folder is None:
        raise InputError("metadata_folder is missing: give the folder of the published scripts, wham_scripts.")
    if wsj0mix_folder is not None and metadata_folder is not None:
        raise InputError("metadata_folder has no effect with wsj0mix_folder: remove it.")
    for key, folder in (("noise_folder", noise_folder), ("output_folder", output_folder)):
        if folder is None:
            raise InputError(f"{key} is missing: give it.")


# Plan


def _plan_from_wsj0(wsj0_folder, noise_folder, metadata_folder, splits, versions):
    rows, files = read_corpus(metadata_folder, noise_folder, splits, versions)
    speech = find_wsj0(wsj0_folder, (name for _, _, row in rows for name in row.sources))
    noise = find_noise(noise_folder, ((split, mixture_id) for split, mixture_id, _ in rows))
    items = [_plan_mixture(split, mixture_id, row, speech, noise) for split, mixture_id, row in rows]
    return Plan("wham", items, make, {"version": VERSION} | {path.name: checksum(path) for path in files})


def _plan_from_wsj0mix(wsj0mix_folder, noise_folder, splits, versions):
    files = {split: find_scaling(noise_folder, split) for split in splits}
    gains = {split: read_scaling(path, versions) for split, path in files.items()}
    rows = [(split, mixture_id, *row) for split, table in gains.items() for mixture_id, row in table.items()]
    sources = _find_sources(wsj0mix_folder, [row[:2] for row in rows], versions)
    noise = find_noise(noise_folder, (row[:2] for row in rows))
    items = [
        _plan_remixed(split, mixture_id, start, scalings, sources, noise[split, mixture_id])
        for split, mixture_id, start, scalings in rows
    ]
    parameters = {"version": f"{VERSION} from WSJ0-2mix"} | {path.name: checksum(path) for path in files.values()}
    return Plan("wham", items, make_remixed, parameters)


def _find_sources(wsj0mix_folder, mixtures, versions):
    """Finds the sources of WSJ0-2mix, and checks the headers: (version, split, ID) → the two recordings."""
    folder = Path(expanded(wsj0mix_folder))
    folder = folder / "2speakers" if os.path.isdir(folder / "2speakers") else folder
    found = {}
    for sample_rate, mode in versions:
        top = f"wav{sample_rate // 1000}k/{mode}"
        names = [f"{top}/{split}/s{n}/{mixture_id}.wav" for split, mixture_id in mixtures for n in (1, 2)]
        found |= check_recordings(
            {name: folder / name for name in names},
            "WSJ0-2mix",
            _is_mono,
            sample_rate,
            "Give wsj0mix_folder, the folder that holds 2speakers/, and sample_rates and modes that it has",
        )
    return found


def _is_mono(path, header):
    return f"has {header.channels} channels; needed 1 (mono): '{path}'" if header and header.channels != 1 else None


def _plan_remixed(split, mixture_id, start, scalings, found, clip):
    versions, sources, outputs = [], [], []
    for (sample_rate, mode), scaling in scalings.items():
        top = f"wav{sample_rate // 1000}k/{mode}/{split}"
        s1, s2 = (found[f"{top}/s{n}/{mixture_id}.wav"] for n in (1, 2))
        if s1.frames != s2.frames:
            raise InputError(
                f"{s2.path}: has {s2.frames} samples, and {s1.path} {s1.frames}; needed the same number. Generate or "
                "copy WSJ0-2mix again."
            )
        noise_frames = num_resampled(clip.frames, sample_rate)
        check_noise(mixture_id, clip.path, noise_frames, start * sample_rate // SAMPLE_RATE, s1.frames)
        versions.append((sample_rate, mode, top, scaling))
        sources.append((s1, s2))
        outputs += _outputs(top, mixture_id, s1.frames if mode == "min" else noise_frames, sample_rate)
    return RemixedItem(mixture_id, tuple(outputs), tuple(versions), tuple(sources), clip, start)


def _outputs(top, mixture_id, frames, sample_rate):
    return [Output(f"{top}/{signal}/{mixture_id}.wav", frames, sample_rate, "float32") for signal in SIGNALS]


def find_noise(noise_folder: str, mixtures: Iterable[tuple]) -> dict:
    """Finds the noise of mixtures, and checks the headers.

    Arguments
    ---------
    noise_folder : str
        `wham_noise`.
    mixtures : Iterable of tuple
        (split, ID) of each.

    Returns
    -------
    recordings : dict
        (split, ID) → RawRecording.

    Raises
    ------
    InputError
        If a file is missing or invalid.
    """
    folder = Path(expanded(noise_folder))
    files = {f"{split}/{mixture_id}.wav": (split, mixture_id) for split, mixture_id in mixtures}
    recordings = check_recordings({name: folder / name for name in files}, "noise of WHAM!")
    return {files[name]: recording for name, recording in recordings.items()}


def check_noise(mixture_id: str, path: str, noise_frames: int, start: int, speech_frames: int) -> None:
    """Raises an InputError unless the noise covers the speech of a mixture.

    Arguments
    ---------
    mixture_id : str
        ID for messages.
    path : str
        Path of the noise.
    noise_frames : int
        Number of samples of the noise.
    start : int
        Sample where the speech begins.
    speech_frames : int
        Number of samples of speech, at the same sample rate.
    """
    if start < 0 or start + speech_frames > noise_frames:
        raise InputError(
            f"{path}: the noise has {noise_frames} samples; mixture {mixture_id} needs {speech_frames} from "
            f"sample {start} on. Check that noise, utterances and scaling file are the published ones."
        )


def _plan_mixture(split, mixture_id, row, speech, noise):
    recordings, clip = tuple(speech[name] for name in row.sources), noise[split, mixture_id]
    versions, outputs = [], []
    for (sample_rate, mode), scaling in row.scalings.items():
        shortest_or_longest = {"min": min, "max": max}[mode]
        frames = shortest_or_longest(recording.frames for recording in recordings)
        check_noise(mixture_id, clip.path, clip.frames, row.start, frames)
        top = f"wav{sample_rate // 1000}k/{mode}/{split}"
        frames = num_resampled(frames if mode == "min" else clip.frames, sample_rate)
        versions.append((sample_rate, mode, top, scaling))
        outputs += _outputs(top, mixture_id, frames, sample_rate)
    return WhamItem(mixture_id, tuple(outputs), tuple(versions), recordings, clip, row.start)


# Samples


def make(mixture: WhamItem) -> dict:
    """Computes the samples of a mixture.

    Arguments
    ---------
    mixture : WhamItem
        The planned mixture.

    Returns
    -------
    signals : dict
        path → float32 array.
    """
    speech = [read_recording(recording).astype(np.float64) for recording in mixture.speech]
    clip = read_recording(mixture.noise).astype(np.float64)
    made = {}
    for sample_rate, mode, top, scaling in mixture.versions:
        sources = [
            scale_speech(samples, gain, scaling.speech, sample_rate)
            for samples, gain in zip(speech, scaling.wsj0mix, strict=True)
        ]
        noise = resample(clip, sample_rate) * scaling.noise
        signals = mix(*sources, noise, mixture.start * sample_rate // SAMPLE_RATE, mode)
        made |= {f"{top}/{signal}/{mixture.name}.wav": samples for signal, samples in signals.items()}
    return made


def make_remixed(mixture: RemixedItem) -> dict:
    """Computes the samples of a mixture of sources of WSJ0-2mix.

    Arguments
    ---------
    mixture : RemixedItem
        The planned mixture.

    Returns
    -------
    signals : dict
        path → float32 array.
    """
    clip = read_recording(mixture.noise).astype(np.float64)
    made = {}
    for (sample_rate, mode, top, scaling), recordings in zip(mixture.versions, mixture.sources, strict=True):
        sources = [read_recording(recording).astype(np.float64) * scaling.speech for recording in recordings]
        noise = resample(clip, sample_rate) * scaling.noise
        signals = mix(*sources, noise, mixture.start * sample_rate // SAMPLE_RATE, mode)
        made |= {f"{top}/{signal}/{mixture.name}.wav": samples for signal, samples in signals.items()}
    return made


def scale_speech(samples: np.ndarray, wsj0mix_gain: float, gain: float, sample_rate: int) -> np.ndarray:
    """Scales a raw utterance to a source of WHAM!, via a 16-bit source of WSJ0-2mix.

    Arguments
    ---------
    samples : numpy.ndarray
        The utterance at 16 kHz, float64.
    wsj0mix_gain, gain : float
        Gains before and after the rounding.
    sample_rate : int
        8000 or 16000.

    Returns
    -------
    source : numpy.ndarray
        float64, the complete utterance.
    """
    return to_int16_wrapping(resample(samples, sample_rate) * wsj0mix_gain).astype(np.float64) / 2**15 * gain


def mix(s1: np.ndarray, s2: np.ndarray, noise: np.ndarray, start: int, mode: str) -> dict:
    """Aligns the sources with the noise, and adds them.

    Arguments
    ---------
    s1, s2 : numpy.ndarray
        Complete sources.
    noise : numpy.ndarray
        Complete noise.
    start : int
        Sample of the noise where the speech begins.
    mode : str
        "min" or "max".

    Returns
    -------
    signals : dict
        Folder name → float32 array.

    Example
    -------
    >>> signals = mix(np.ones(3), np.ones(2), np.arange(6.0), 2, "max")
    >>> signals["s1"], signals["mix_both"]
    (array([0., 0., 1., 1., 1., 0.], dtype=float32), array([0., 1., 4., 5., 5., 5.], dtype=float32))
    >>> mix(np.ones(3), np.ones(2), np.arange(6.0), 2, "min")["noise"]
    array([2., 3.], dtype=float32)
    """
    if mode == "min":
        length = min(len(s1), len(s2))
        s1, s2, noise = s1[:length], s2[:length], noise[start : start + length]
    else:
        s1, s2 = (np.pad(s, (start, len(noise) - start - len(s))) for s in (s1, s2))
    signals = (s1 + s2, noise + s1, noise + s1 + s2, s1, s2, noise)
    return {name: signal.astype(np.float32) for name, signal in zip(SIGNALS, signals, strict=True)}
