"""WHAM! from raw WSJ0 and its noise (Wichern et al., 2019), sample by sample as published.

Metadata, in the formats of the published scripts:

    METADATA_FOLDER/[data/]mix_2_spk_filenames_{tr,cv,tt}.csv   output_filename,s1_path,s2_path
    NOISE_FOLDER/metadata/scaling_{tr,cv,tt}.npz                gains of speech and noise, and where the speech begins

The .npz files may also lie in METADATA_FOLDER. Noise: NOISE_FOLDER/{tr,cv,tt}/ID.wav.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.audio import SAMPLE_RATE, num_resampled, resample, to_int16_wrapping
from data_prep.choices import SPLITS, check_versions
from data_prep.generate.engine import Item, Output, Plan, checksum, run
from data_prep.generate.wsj0 import (
    RawRecording,
    check_recordings,
    find_metadata,
    find_wsj0,
    read_fields,
    read_recording,
)
from data_prep.generate.wsj0mix import add_version_arguments
from mossformer_sb.errors import InputError

VERSION = 1  # to be increased when the same metadata gives other samples
SIGNALS = ("mix_clean", "mix_single", "mix_both", "s1", "s2", "noise")


class Scaling(NamedTuple):
    """Gains of one mixture at one sample rate and in one mode, all linear.

    Attributes
    ----------
    wsj0mix : tuple of float
        From the raw utterances to the sources of WSJ0-2mix.
    speech : float
        From there to the sources of WHAM!.
    noise : float
        From the raw noise to that of WHAM!.
    """

    wsj0mix: tuple
    speech: float
    noise: float


class Parameters(NamedTuple):
    """What the metadata says about one mixture.

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


@dataclass(frozen=True)
class WhamItem(Item):
    """One mixture, at all the sample rates and in all the modes that are asked for.

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


def generate(
    wsj0_folder,
    noise_folder,
    metadata_folder,
    output_folder,
    sample_rates=(8000,),
    modes=("min",),
    splits=SPLITS,
    workers=None,
    dry_run=False,
):
    """Writes `output_folder/wav{8k,16k}/{min,max}/{split}/{mix_clean,mix_single,mix_both,s1,s2,noise}/ID.wav`.

    The files are 32-bit float, mono.

    Arguments
    ---------
    wsj0_folder : str
        Folder that holds `wsj0/`.
    noise_folder : str
        `wham_noise`, which has `tr/`, `cv/`, `tt/` and `metadata/`.
    metadata_folder : str
        Folder of the lists of mixtures.
    output_folder : str
        Folder of the corpus.
    sample_rates : sequence of int
        Some of 8000 and 16000.
    modes : sequence of str
        "min": mixtures are cut to the shorter utterance; "max": padded to the noise.
    splits : sequence of str
        Some of "tr", "cv" and "tt".
    workers : int, optional
        Number of processes; one for each CPU if None.
    dry_run : bool
        Whether only to say how much would be written.

    Returns
    -------
    amount : data_prep.generate.engine.Amount
        What was written, or would be.

    Raises
    ------
    InputError
        If an argument, a metadata file or a recording can't be used, noise is shorter than its mixture, or the files
        can't be written.
    """
    check_versions(sample_rates, modes, splits)
    versions = [(sample_rate, mode) for sample_rate in sample_rates for mode in modes]
    rows, files = read_corpus(metadata_folder, noise_folder, splits, versions)
    speech = find_wsj0(wsj0_folder, (name for _, _, row in rows for name in row.sources))
    noise = find_noise(noise_folder, ((split, mixture_id) for split, mixture_id, _ in rows))
    items = [_plan_mixture(split, mixture_id, row, speech, noise) for split, mixture_id, row in rows]
    parameters = {"version": VERSION} | {path.name: checksum(path) for path in files}
    return run(Plan("wham", items, make, parameters), output_folder, workers, dry_run)


def add_arguments(parser):
    """Declares the options of `generate`, without those of every corpus."""
    parser.add_argument("--wsj0_folder", required=True, help="folder that holds wsj0/, the raw recordings")
    parser.add_argument("--noise_folder", required=True, help="wham_noise, with tr/, cv/, tt/ and metadata/")
    parser.add_argument("--metadata_folder", required=True, help="folder of mix_2_spk_filenames_*.csv")
    add_version_arguments(parser)


# Metadata


def read_corpus(metadata_folder, noise_folder, splits, versions):
    """Reads all the metadata of WHAM!.

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
        The files that were read.

    Raises
    ------
    InputError
        If a file is missing or can't be used, or the two files of a split have different mixtures.
    """
    rows, files = [], []
    for split in splits:
        names = find_metadata([metadata_folder, Path(metadata_folder) / "data"], f"mix_2_spk_filenames_{split}.csv")
        scaling = find_metadata([Path(noise_folder) / "metadata", metadata_folder], f"scaling_{split}.npz")
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


def read_filenames(path):
    """Reads which utterances the mixtures of a split are made of.

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
        If the file is not of this form, or two mixtures have one name.
    """
    needed = ("output_filename", "s1_path", "s2_path")
    (_, header), *lines = read_fields(path, needed, ",")
    if tuple(header) != needed:
        raise InputError(f"{path}:1: has the columns {','.join(header)}; needed {','.join(needed)}.")
    sources = {}
    for place, (name, *paths) in lines:
        mixture_id = name.removesuffix(".wav")
        if mixture_id in sources:
            raise InputError(f"{place}: a second mixture has the name {mixture_id}. Take one of them out.")
        sources[mixture_id] = tuple(paths)
    return sources


def read_scaling(path, versions):
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
        If the file can't be read, lacks an array, or has arrays of other shapes or with other than finite numbers.
    """
    arrays = _read_arrays(path, ["utterance_id", "speech_start_sample_16k", *_keys(versions)])
    ids = [name.decode() if isinstance(name, bytes) else str(name) for name in arrays["utterance_id"].tolist()]
    for key, array in arrays.items():
        shape = (len(ids), 2) if "wsjmix" in key else (len(ids),)
        if array.shape != shape:
            raise InputError(f"{path}: {key} has the shape {array.shape}; needed {shape}. Is it the published file?")
        if key != "utterance_id" and not (array.dtype.kind in "iuf" and np.isfinite(array).all()):
            raise InputError(f"{path}: {key} has entries that are not finite numbers. Is it the published file?")
    mixtures = {}
    for index, name in enumerate(ids):
        mixture_id = name.removesuffix(".wav")
        if mixture_id in mixtures:
            raise InputError(f"{path}: two mixtures have the name {mixture_id}. Is it the published file?")
        scalings = {version: _scaling(arrays, version, index) for version in versions}
        mixtures[mixture_id] = (int(arrays["speech_start_sample_16k"][index]), scalings)
    return mixtures


def _version_keys(version):
    sample_rate, mode = version
    return tuple(f"scaling_{what}_{sample_rate // 1000}k_{mode}" for what in ("wsjmix", "wham_speech", "wham_noise"))


def _keys(versions):
    return [key for version in versions for key in _version_keys(version)]


def _scaling(arrays, version, index):
    wsj0mix, speech, noise = (arrays[key][index] for key in _version_keys(version))
    return Scaling(tuple(wsj0mix.tolist()), float(speech), float(noise))


def _read_arrays(path, keys):
    try:
        with np.load(path) as archive:  # without pickles, which could run any program
            missing = [key for key in keys if key not in archive]
            if missing:
                raise InputError(f"{path}: lacks the array {missing[0]}; found {', '.join(archive.files)}.")
            return {key: archive[key] for key in keys}
    except InputError:
        raise
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: can't be read as an .npz file ({error}). Copy it again.") from error


def find_noise(noise_folder, mixtures):
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
        If a file is absent or can't be used.
    """
    folder = Path(noise_folder).expanduser()
    files = {f"{split}/{mixture_id}.wav": (split, mixture_id) for split, mixture_id in mixtures}
    recordings = check_recordings({name: folder / name for name in files}, "noise of WHAM!")
    return {files[name]: recording for name, recording in recordings.items()}


def check_noise(mixture_id, noise, start, speech_frames):
    """Raises an InputError unless noise lasts from before the speech of a mixture to its end.

    Arguments
    ---------
    mixture_id : str
        For messages.
    noise : RawRecording
        The noise.
    start : int
        Sample where the speech begins.
    speech_frames : int
        Number of samples of speech, at the same 16 kHz.
    """
    if start < 0 or start + speech_frames > noise.frames:
        raise InputError(
            f"{noise.path}: the noise has {noise.frames} samples; mixture {mixture_id} needs {speech_frames} from "
            f"sample {start} on. Are noise, utterances and scaling file the published ones?"
        )


def _plan_mixture(split, mixture_id, row, speech, noise):
    recordings, clip = tuple(speech[name] for name in row.sources), noise[split, mixture_id]
    versions, outputs = [], []
    for (sample_rate, mode), scaling in row.scalings.items():
        shortest_or_longest = {"min": min, "max": max}[mode]
        frames = shortest_or_longest(recording.frames for recording in recordings)
        check_noise(mixture_id, clip, row.start, frames)
        top = f"wav{sample_rate // 1000}k/{mode}/{split}"
        frames = num_resampled(frames if mode == "min" else clip.frames, sample_rate)
        versions.append((sample_rate, mode, top, scaling))
        outputs += [Output(f"{top}/{signal}/{mixture_id}.wav", frames, sample_rate, "float32") for signal in SIGNALS]
    return WhamItem(mixture_id, tuple(outputs), tuple(versions), recordings, clip, row.start)


# Samples


def make(mixture):
    """Makes the samples of a mixture.

    Arguments
    ---------
    mixture : WhamItem
        What to make.

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


def scale_speech(samples, wsj0mix_gain, gain, sample_rate):
    """From a raw utterance to a source of WHAM!, which has been a 16-bit source of WSJ0-2mix on the way.

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
        float64, the whole utterance.
    """
    return to_int16_wrapping(resample(samples, sample_rate) * wsj0mix_gain).astype(np.float64) / 2**15 * gain


def mix(s1, s2, noise, start, mode):
    """Aligns the sources with the noise, and adds them.

    Arguments
    ---------
    s1, s2 : numpy.ndarray
        Sources, whole.
    noise : numpy.ndarray
        Noise, whole.
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
