"""The files of a LibriMix mixture, and their samples."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.signal import resample_poly

from data_prep.audio import SAMPLE_RATE, num_resampled, to_int16_libsndfile
from data_prep.generate.engine import (
    Item,
    Output,
)
from data_prep.generate.image_source import images_of
from data_prep.generate.librimix_metadata import Recipe, file_name
from data_prep.generate.librimix_splits import TRAIN
from data_prep.generate.librimix_tables import KINDS, measure_ratios, parts_of
from data_prep.generate.reading import read_noise, read_recording

if TYPE_CHECKING:
    from collections.abc import Sequence


TYPES = ("mix_clean", "mix_both", "mix_single")
ROOM_SPLITS = {TRAIN: "tr", "dev": "cv", "test": "tt"}


@dataclass(frozen=True)
class LibrimixItem(Item):
    """One mixture, at all requested sample rates and modes.

    Attributes
    ----------
    recipe : Recipe
        Components of the mixture.
    tops : tuple
        (sample rate, mode, folder that has `s1/`, `mix_clean/`, …) of each version.
    """

    recipe: Recipe
    tops: tuple


def _top(split, num_spks, sample_rate, mode, rooms):
    split = ROOM_SPLITS.get(split, split) if rooms else split
    return f"Libri{num_spks}Mix/wav{sample_rate // 1000}k/{mode}/{split}"


def plan_mixture(split, recipe, versions, types, frames):
    """The `LibrimixItem` of a recipe, for pairs of sample rate and mode; ``frames``: path → samples at 16 kHz."""
    lengths = [frames[path] for path in recipe.sources]
    name, num_spks = _file_name(recipe), len(recipe.sources)
    tops, outputs = [], []
    for sample_rate, mode in versions:
        top = _top(split, num_spks, sample_rate, mode, recipe.room is not None)
        length = _length(lengths, sample_rate, mode)
        tops.append((sample_rate, mode, top))
        outputs += [
            Output(f"{top}/{folder}/{name}.wav", length, sample_rate, "int16")
            for folder in _folders(num_spks, types, recipe.room is not None)
        ]
    return LibrimixItem(recipe.name, tuple(outputs), recipe, tuple(tops))


def _length(lengths, sample_rate, mode):
    """Length of a mixture, from the lengths of its utterances at 16 kHz."""
    return num_resampled({"min": min, "max": max}[mode](lengths), sample_rate)


def _file_name(recipe):
    return file_name(recipe.name, len(recipe.sources))


def _folders(num_spks, types, rooms):
    """The folders of a split: sources, mixtures, noise."""
    names = [*(f"s{number}" for number in range(1, num_spks + 1)), *types]
    if rooms:
        names = [f"{name}_{kind}" for kind in KINDS for name in names]
    return [*names, "noise"] if types != TYPES[:1] else names


def make(
    mixture: LibrimixItem, speech_folder: str, noise_folder: str, resample: bool | int, types: Sequence[str]
) -> tuple[dict, dict]:
    """Computes the samples of a mixture.

    Arguments
    ---------
    mixture : LibrimixItem
        The planned mixture.
    speech_folder, noise_folder : str
        Folders of the relative paths in its recipe.
    resample : bool
        As for `read_recording`.
    types : sequence of str
        Types of mixtures to compute.

    Returns
    -------
    signals : dict
        path → int16 array.
    ratios : dict
        (folder of the split, type of mixture with the kind of room) → ratio of each part to the rest, in dB.
    """
    recipe = mixture.recipe
    speech = [read_recording(os.path.join(speech_folder, path), resample) for path in recipe.sources]
    longest = max(map(len, speech))
    # A gain as a Python number keeps single precision, as in the published script.
    sources = [samples * gain for samples, gain in zip(speech, recipe.gains, strict=True)]
    noise = None
    if types != TYPES[:1]:
        noise = read_noise(os.path.join(noise_folder, recipe.noise), longest, resample) * recipe.noise_gain
    named = {"": sources}
    if recipe.room is not None:
        images = images_of(recipe.room, np.stack([np.pad(samples, (0, longest - len(samples))) for samples in sources]))
        named = {f"_{kind}": list(signals) for kind, signals in zip(KINDS, images, strict=True)}
    made, ratios = {}, {}
    for sample_rate, mode, top in mixture.tops:
        for suffix, signals in named.items():
            length = _length(map(len, speech), sample_rate, mode)
            mixed = mix(signals, noise, types, sample_rate, length)
            for folder, samples in mixed.items():
                folder = folder if folder == "noise" else f"{folder}{suffix}"
                made[f"{top}/{folder}/{_file_name(recipe)}.wav"] = to_int16_libsndfile(samples)
            for name in types:
                parts = [mixed[part] for part in parts_of(name, len(sources))]
                ratios[top, f"{name}{suffix}"] = measure_ratios(mixed[name], parts)
    return made, ratios


def mix(
    sources: Sequence[np.ndarray], noise: np.ndarray | None, types: Sequence[str], sample_rate: int, length: int
) -> dict:
    """Resamples signals, adjusts their length, and adds them.

    Arguments
    ---------
    sources : sequence of numpy.ndarray
        Scaled signals at 16 kHz.
    noise : numpy.ndarray, optional
        Scaled noise at 16 kHz.
    types : sequence of str
        Types of mixtures to compute.
    sample_rate : int
        Output sample rate in Hz.
    length : int
        Output length in samples.

    Returns
    -------
    signals : dict
        Folder name → array.

    Example
    -------
    >>> signals = mix([np.ones(4), np.ones(6)], np.full(6, 0.5), ("mix_both",), 16000, 5)
    >>> {name: samples.tolist() for name, samples in signals.items() if name in ("s1", "mix_both")}
    {'s1': [1.0, 1.0, 1.0, 1.0, 0.0], 'mix_both': [2.5, 2.5, 2.5, 2.5, 1.5]}
    """
    fitted = [_fit(resample_poly(samples, sample_rate, SAMPLE_RATE), length) for samples in sources]
    signals = {f"s{number}": samples for number, samples in enumerate(fitted, 1)}
    if noise is not None:
        signals["noise"] = _fit(resample_poly(noise, sample_rate, SAMPLE_RATE), length)
    for name in types:
        signals[name] = np.zeros_like(fitted[0])
        for part in parts_of(name, len(sources)):
            signals[name] += signals[part]  # in place, for single precision: extended noise is in double precision
    return signals


def _fit(samples, length):
    return np.pad(samples[:length], (0, max(0, length - len(samples))))
