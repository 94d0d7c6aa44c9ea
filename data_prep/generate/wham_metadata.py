"""The published metadata of WHAM!: the components and gains of its mixtures.

    METADATA_FOLDER/[data/]mix_2_spk_filenames_{tr,cv,tt}.csv   mixture and its two utterances
    NOISE_FOLDER/metadata/scaling_{tr,cv,tt}.npz                gains of each mixture, and where its speech begins
    NOISE_FOLDER/metadata/mix_param_meta_{tr,cv,tt}.csv         mixtures in the order of the gains

NOISE_FOLDER is the unzipped wham_noise, METADATA_FOLDER the published scripts or their folder `data`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_prep.generate.metadata import find_metadata, metadata_places, read_fields
from data_prep.generate.npz import read_arrays, read_names
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

IDS = "utterance_id"  # array of a scaling file, and column of its CSV
LISTS_ADVICE = "give the folder of the published scripts, wham_scripts, as metadata_folder"
SCALING_ADVICE = "give the unzipped wham_noise, with tr/, cv/, tt/ and metadata/, as noise_folder"


class Scaling(NamedTuple):
    """Gains of one mixture at one sample rate and in one mode, all linear.

    Attributes
    ----------
    wsj0mix : tuple of float
        Gains from the raw utterances to the sources of WSJ0-2mix.
    speech : float
        Gain from these to the sources of WHAM!.
    noise : float
        Gain from the raw noise to that of WHAM!.
    """

    wsj0mix: tuple
    speech: float
    noise: float


class Parameters(NamedTuple):
    """Metadata of one mixture.

    Attributes
    ----------
    sources : tuple of str
        Names of the two utterances.
    start : int
        Sample of the noise where the speech begins, at 16 kHz.
    scalings : dict
        (sample rate, mode) → Scaling.
    """

    sources: tuple
    start: int
    scalings: dict


def read_corpus(
    metadata_folder: str, noise_folder: str, splits: Sequence[str], versions: Sequence[tuple]
) -> tuple[list[tuple], list[Path]]:
    """Reads the metadata of WHAM!.

    Arguments
    ---------
    metadata_folder, noise_folder : str
        As for `generate`.
    splits : sequence of str
        Some of "tr", "cv" and "tt".
    versions : sequence of tuple
        (sample rate, mode) of each version.

    Returns
    -------
    rows : list of tuple
        (split, ID, Parameters) of each mixture.
    files : list of Path
        The files read.

    Raises
    ------
    InputError
        If a file is missing or invalid, or the two files of a split have different mixtures.
    """
    rows, files = [], []
    for split in splits:
        names = find_metadata(metadata_places(metadata_folder), f"mix_2_spk_filenames_{split}.csv", LISTS_ADVICE)
        scaling = find_scaling(noise_folder, split, metadata_folder)
        sources, gains = read_filenames(names), read_scaling(scaling, versions)
        for ours, mine, theirs, other in ((sources, names, gains, scaling), (gains, scaling, sources, names)):
            lacking = [mixture_id for mixture_id in ours if mixture_id not in theirs]
            if lacking:
                raise InputError(
                    f"{other}: lacks {len(lacking)} mixtures that {mine} has, {lacking[0]} among them. "
                    "Are they the published files, of the same split?"
                )
        rows += [
            (split, mixture_id, Parameters(sources[mixture_id], start, scalings))
            for mixture_id, (start, scalings) in gains.items()
        ]
        files += [names, scaling]
    return rows, files


def find_scaling(noise_folder: str, split: str, metadata_folder: str | None = None) -> Path:
    """Finds the file with the gains of a split, in the folder of noise; an InputError if there is none."""
    places = [Path(noise_folder) / "metadata", *([] if metadata_folder is None else metadata_places(metadata_folder))]
    return find_metadata(places, f"scaling_{split}.npz", SCALING_ADVICE)


def read_filenames(path: str | Path) -> dict:
    """Reads the utterances of the mixtures of a split.

    Arguments
    ---------
    path : str or Path
        `mix_2_spk_filenames_{split}.csv`.

    Returns
    -------
    sources : dict
        ID → names of the two utterances.

    Raises
    ------
    InputError
        If the file has another format, or two mixtures have the same name.
    """
    needed = ("output_filename", "s1_path", "s2_path")
    (_, header), *lines = read_fields(path, needed, ",")
    if tuple(header) != needed:
        raise InputError(f"{path}:1: has the columns {','.join(header)}; needed {','.join(needed)}.")
    sources = {}
    for place, (name, *paths) in lines:
        mixture_id = name.removesuffix(".wav")
        if mixture_id in sources:
            raise InputError(f"{place}: a second mixture has the name {mixture_id}. Remove one of them.")
        sources[mixture_id] = tuple(paths)
    if not sources:
        raise InputError(f"{path}: has a header and no mixtures. Copy it again.")
    return sources


def read_scaling(path: str | Path, versions: Sequence[tuple]) -> dict:
    """Reads the gains of the mixtures of a split.

    Arguments
    ---------
    path : str or Path
        `scaling_{split}.npz`.
    versions : sequence of tuple
        (sample rate, mode) of each version.

    Returns
    -------
    mixtures : dict
        ID → (start, scalings), as in `Parameters`.

    Raises
    ------
    InputError
        If the file can't be read, lacks an array, has no mixtures, or has arrays of other shapes or with non-finite
        numbers.
    """
    ids = read_names(path, IDS, Path(path).with_name(f"mix_param_meta_{_split(path)}.csv"))
    arrays = read_arrays(path, ["speech_start_sample_16k", *_keys(versions)])
    for key, array in arrays.items():
        shape = (len(ids), 2) if "wsjmix" in key else (len(ids),)
        if array.shape != shape:
            raise InputError(f"{path}: {key} has the shape {array.shape}; needed {shape}. Is it the published file?")
        if not (array.dtype.kind in "iuf" and np.isfinite(array).all()):
            raise InputError(f"{path}: {key} has entries that are not finite numbers. Is it the published file?")
    if not ids:
        raise InputError(f"{path}: has no mixtures. Is it the published file?")
    mixtures = {}
    for index, name in enumerate(ids):
        mixture_id = name.removesuffix(".wav")
        if mixture_id in mixtures:
            raise InputError(f"{path}: two mixtures have the name {mixture_id}. Is it the published file?")
        scalings = {version: _scaling(arrays, version, index) for version in versions}
        mixtures[mixture_id] = (int(arrays["speech_start_sample_16k"][index]), scalings)
    return mixtures


def _split(path):
    return Path(path).stem.removeprefix("scaling_")


def _version_keys(version):
    sample_rate, mode = version
    return tuple(f"scaling_{what}_{sample_rate // 1000}k_{mode}" for what in ("wsjmix", "wham_speech", "wham_noise"))


def _keys(versions):
    return [key for version in versions for key in _version_keys(version)]


def _scaling(arrays, version, index):
    wsj0mix, speech, noise = (arrays[key][index] for key in _version_keys(version))
    return Scaling(tuple(wsj0mix.tolist()), float(speech), float(noise))
