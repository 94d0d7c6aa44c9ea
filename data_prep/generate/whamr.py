"""WHAMR! from raw WSJ0, the noise of WHAM! and simulated rooms (Maciejewski et al., 2020), with the published steps.

Metadata, in the formats of the published scripts: those of `data_prep.generate.wham_metadata`, and

    METADATA_FOLDER/[data/]reverb_params_{tr,cv,tt}.csv   room, microphones, speakers and T60 of each mixture

The dry utterances are reverberated, and then scaled so that the direct paths at the left microphone have the energy of
WHAM!'s sources. The noise is WHAM!'s. Room impulse responses are those of pyroomacoustics 0.3.1 as pip installs it, to
the precision that `data_prep.generate.image_source` states.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.audio import SAMPLE_RATE, num_resampled, resample, to_int16_wrapping
from data_prep.choices import SPLITS, check_choice, check_versions
from data_prep.generate import wham
from data_prep.generate.engine import Item, Output, Plan, checksum, run
from data_prep.generate.image_source import matching_factors, reverberate
from data_prep.generate.metadata import find_metadata, metadata_places
from data_prep.generate.rooms import Room, read_rooms
from data_prep.generate.wham_metadata import read_corpus
from data_prep.generate.wsj0 import RawRecording, check_recordings, find_wsj0, read_recording
from data_prep.generate.wsj0mix import WSJ0_HELP, add_version_arguments
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from data_prep.generate.engine import Amount

logger = logging.getLogger(__name__)

VERSION = 2  # increase when the same metadata gives other samples
ADVICE = "give the folder of the published scripts of WHAMR! as metadata_folder"
CHANNELS = {"left": (0,), "both": (0, 1)}
KINDS = ("anechoic", "reverb")
SIGNALS = (*(f"{name}_{kind}" for kind in KINDS for name in wham.SIGNALS if name != "noise"), "noise")


@dataclass(frozen=True)
class WhamrItem(Item):
    """One mixture, at all requested sample rates and modes.

    Attributes
    ----------
    versions : tuple
        (sample rate, mode, folder that has `mix_both_reverb/`, …, Scaling) of each version.
    speech : tuple of RawRecording
        The two utterances.
    noise : RawRecording
        The noise.
    start : int
        Sample of the noise where the speech begins, at 16 kHz.
    room : Room
        The room.
    channels : tuple of int
        Microphones and channels of the noise: 0 left, 1 right.
    """

    versions: tuple
    speech: tuple
    noise: RawRecording
    start: int
    room: Room
    channels: tuple


def generate(
    wsj0_folder: str,
    noise_folder: str,
    metadata_folder: str,
    output_folder: str,
    sample_rates: Sequence[int] = (8000,),
    modes: Sequence[str] = ("min",),
    splits: Sequence[str] = SPLITS,
    channels: str = "left",
    workers: int | None = None,
    dry_run: bool = False,
) -> Amount:
    """Writes `output_folder/wav{8k,16k}/{min,max}/{split}/{FOLDER}/ID.wav`, 32-bit float.

    FOLDER is `noise`, or one of `s1`, `s2`, `mix_clean`, `mix_single` and `mix_both` with `_anechoic` or `_reverb`.

    Arguments
    ---------
    wsj0_folder : str
        Folder that holds `wsj0/`.
    noise_folder : str
        `wham_noise`, which has `tr/`, `cv/`, `tt/` and `metadata/`.
    metadata_folder : str
        Folder of the lists of mixtures and of the rooms.
    output_folder : str
        Folder of the corpus.
    sample_rates : sequence of int
        Some of 8000 and 16000.
    modes : sequence of str
        "min": mixtures are cut to the shorter utterance; "max": padded to the noise.
    splits : sequence of str
        Some of "tr", "cv" and "tt".
    channels : str
        "left": mono, the left microphone and the left channel of the noise; "both": two channels.
    workers : int, optional
        Number of processes. Default: one per CPU.
    dry_run : bool
        Whether only to report how much would be written.

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
    check_choice("channels", channels, CHANNELS)
    versions = [(sample_rate, mode) for sample_rate in sample_rates for mode in modes]
    rows, files = read_corpus(metadata_folder, noise_folder, splits, versions)
    places = metadata_places(metadata_folder)
    tables = {split: find_metadata(places, f"reverb_params_{split}.csv", ADVICE) for split in splits}
    rooms = {split: _rooms(path) for split, path in tables.items()}
    speech = find_wsj0(wsj0_folder, (name for _, _, row in rows for name in row.sources))
    noise = _find_noise(noise_folder, rows, CHANNELS[channels])
    items = [
        _plan_mixture(
            split, mixture_id, row, speech, noise, _room(rooms, tables, split, mixture_id), CHANNELS[channels]
        )
        for split, mixture_id, row in rows
    ]
    parameters = {"version": VERSION, "channels": channels}
    parameters |= {path.name: checksum(path) for path in (*files, *tables.values())}
    if channels == "both":
        logger.warning("WHAMR! with two channels: training and `python -m data_prep whamr` need --channels left, mono")
    return run(Plan("whamr", items, make, parameters), output_folder, workers, dry_run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `generate`, without those of every corpus."""
    parser.add_argument("--wsj0_folder", required=True, help=WSJ0_HELP)
    parser.add_argument("--noise_folder", required=True, help="wham_noise, with tr/, cv/, tt/ and metadata/")
    parser.add_argument(
        "--metadata_folder",
        required=True,
        help="the published whamr_scripts, or a folder of mix_2_spk_filenames_*.csv and reverb_params_*.csv",
    )
    parser.add_argument(
        "--channels", help="left (default): mono, as training needs it; both: two channels, for other uses"
    )
    add_version_arguments(parser)


# Metadata


def _rooms(path):
    return {name.removesuffix(".wav"): room for name, room in read_rooms(path).items()}


def _room(rooms, tables, split, mixture_id):
    if mixture_id not in rooms[split]:
        raise InputError(
            f"{tables[split]}: lacks the room of {mixture_id}, which the lists of mixtures have. "
            "Are they the published files, of the same split?"
        )
    return rooms[split][mixture_id]


def _find_noise(noise_folder, rows, channels):
    """Finds the noise of all mixtures; two microphones need two channels."""
    if len(channels) == 1:
        return wham.find_noise(noise_folder, ((split, mixture_id) for split, mixture_id, _ in rows))
    folder = Path(expanded(noise_folder))
    files = {f"{split}/{mixture_id}.wav": (split, mixture_id) for split, mixture_id, _ in rows}
    found = check_recordings({name: folder / name for name in files}, "noise of WHAM!", _lacks_channel)
    return {files[name]: recording for name, recording in found.items()}


def _lacks_channel(path, header):
    if header is not None and header.channels != 2:
        return f"has {header.channels} channels; needed 2, or remove --channels both: '{path}'"
    return None


def _plan_mixture(split, mixture_id, row, speech, noise, room, channels):
    recordings, clip = tuple(speech[name] for name in row.sources), noise[split, mixture_id]
    # In both modes, the reverberation is computed over the complete length of the noise.
    wham.check_noise(mixture_id, clip.path, clip.frames, row.start, max(recording.frames for recording in recordings))
    versions, outputs = [], []
    for (sample_rate, mode), scaling in row.scalings.items():
        top = f"wav{sample_rate // 1000}k/{mode}/{split}"
        shortest = min(recording.frames for recording in recordings)
        frames = num_resampled(shortest if mode == "min" else clip.frames, sample_rate)
        versions.append((sample_rate, mode, top, scaling))
        outputs += [
            Output(f"{top}/{signal}/{mixture_id}.wav", frames, sample_rate, "float32", len(channels))
            for signal in SIGNALS
        ]
    return WhamrItem(mixture_id, tuple(outputs), tuple(versions), recordings, clip, row.start, room, channels)


# Samples


def make(mixture: WhamrItem) -> dict:
    """Computes the samples of a mixture.

    Arguments
    ---------
    mixture : WhamrItem
        The planned mixture.

    Returns
    -------
    signals : dict
        path → float32 array.
    """
    speech = [read_recording(recording).astype(np.float64) for recording in mixture.speech]
    noise = [read_recording(mixture.noise, channel).astype(np.float64) for channel in mixture.channels]
    dry = _dry(speech, len(noise[0]))
    images = reverberate(mixture.room, dry, mixture.channels, sinc="table")  # each [sources, channels, time]
    made = {}
    for sample_rate, mode, top, scaling in mixture.versions:
        sources = [
            wham.scale_speech(samples, gain, scaling.speech, sample_rate)
            for samples, gain in zip(speech, scaling.wsj0mix, strict=True)
        ]
        signals = mix(
            sources,
            [_resample_images(image, sample_rate) for image in images],
            np.stack([resample(channel, sample_rate) * scaling.noise for channel in noise]),
            mixture.start * sample_rate // SAMPLE_RATE,
            mode,
        )
        made |= {f"{top}/{name}/{mixture.name}.wav": samples for name, samples in signals.items()}
    return made


def _dry(speech, length):
    """The utterances as 16-bit values [sources, time], with zeros up to the length of the noise for the tails."""
    return np.stack([np.pad(to_int16_wrapping(samples) / 2**15, (0, length - len(samples))) for samples in speech])


def _resample_images(images, sample_rate):
    return np.apply_along_axis(resample, -1, images, sample_rate)


def mix(sources: Sequence[np.ndarray], images: Sequence[np.ndarray], noise: np.ndarray, start: int, mode: str) -> dict:
    """Scales the images, aligns them with the noise, and adds them.

    Arguments
    ---------
    sources : sequence of numpy.ndarray
        WHAM!'s complete sources.
    images : sequence of numpy.ndarray
        Anechoic and reverberant, [sources, channels, time].
    noise : numpy.ndarray
        [channels, time], complete.
    start : int
        Sample of the noise where the speech begins.
    mode : str
        "min" or "max".

    Returns
    -------
    signals : dict
        Folder name → float32 array, [time] or [time, channels].
    """
    factors = matching_factors(sources, images[0])
    # In max mode, the tails end with the noise.
    length = min(map(len, sources)) if mode == "min" else noise.shape[-1] - start
    signals = {}
    for kind, image in zip(KINDS, images, strict=True):
        s1, s2 = (factors * image)[..., :length]
        channels = [wham.mix(*parts, start, mode) for parts in zip(s1, s2, noise, strict=True)]
        for name in wham.SIGNALS:
            samples = [channel[name] for channel in channels]
            samples = samples[0] if len(samples) == 1 else np.stack(samples, axis=-1)
            signals[name if name == "noise" else f"{name}_{kind}"] = samples
    return signals
