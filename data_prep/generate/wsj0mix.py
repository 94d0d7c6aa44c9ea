"""WSJ0-2mix and WSJ0-3mix from raw WSJ0 (Hershey et al., "Deep clustering", 2016), sample by sample as published.

WSJ0-4mix and WSJ0-5mix are generated in the same way (Nachmani et al., "Voice separation with an unknown number of
multiple speakers", 2020). The metadata has the formats of the published scripts, and may also be in `metadata/` of the
given folder, as in a clone of github.com/mpariente/pywsj0-mix:

    METADATA_FOLDER/mix_{2,3,4,5}_spk_{tr,cv,tt}.txt              utterance gain utterance gain …, gains in dB
    METADATA_FOLDER/[activlev/]activlev_si_{tr_s,dt_05,et_05}.txt utterance and its active level, a power
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from data_prep.audio import num_resampled, resample, to_int16_wrapping
from data_prep.choices import NUMS_SPKS, SPLITS, check_choice, check_versions
from data_prep.generate.engine import Item, Output, Plan, checksum, run
from data_prep.generate.metadata import find_metadata, metadata_places, read_fields, read_number
from data_prep.generate.wsj0 import find_wsj0, read_recording
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from data_prep.generate.engine import Amount

WSJ0_HELP = "folder that holds wsj0/, the raw recordings, or the discs with it; or the folder that contains csr_1"
VERSION = 1  # increase when the same metadata gives other samples
PEAK = 0.9
ADVICE = (
    "give the folder of the published metadata files, such as a clone of github.com/mpariente/pywsj0-mix, as "
    "metadata_folder"
)
LEVELS = {"tr": ("si_tr_s",), "cv": ("si_tr_s",), "tt": ("si_dt_05", "si_et_05")}  # parts of WSJ0 in a split


@dataclass(frozen=True)
class Wsj0mixItem(Item):
    """One mixture, at all requested sample rates and modes.

    Attributes
    ----------
    tops : tuple
        (sample rate, mode, folder that has `mix/`, `s1/`, …) of each version.
    recordings : tuple of Recording
        The utterances.
    gains : tuple of float
        Gain of each utterance in dB.
    levels : tuple of float
        Active speech level of each utterance, a power.
    """

    tops: tuple
    recordings: tuple
    gains: tuple
    levels: tuple


def generate(
    wsj0_folder: str,
    metadata_folder: str,
    output_folder: str,
    num_spks: int = 2,
    sample_rates: Sequence[int] = (8000,),
    modes: Sequence[str] = ("min",),
    splits: Sequence[str] = SPLITS,
    workers: int | None = None,
    dry_run: bool = False,
) -> Amount:
    """Writes `output_folder/{N}speakers/wav{8k,16k}/{min,max}/{tr,cv,tt}/{mix,s1,…,sN}/ID.wav`, 16-bit mono.

    Arguments
    ---------
    wsj0_folder : str
        Folder that holds `wsj0/`.
    metadata_folder : str
        Folder of the metadata files, or of a clone of pywsj0-mix.
    output_folder : str
        Folder of the corpus, the same for any number of speakers.
    num_spks : int
        2, 3, 4 or 5.
    sample_rates : sequence of int
        Some of 8000 and 16000.
    modes : sequence of str
        "min": mixtures are cut to the shortest utterance; "max": padded to the longest one.
    splits : sequence of str
        Some of "tr", "cv" and "tt".
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
        If an argument, a metadata file or an utterance is invalid, or the files can't be written.
    """
    check_choice("num_spks", num_spks, NUMS_SPKS)
    check_versions(sample_rates, modes, splits)
    places = metadata_places(metadata_folder)
    lists = {split: find_metadata(places, f"mix_{num_spks}_spk_{split}.txt", ADVICE) for split in splits}
    places = metadata_places(metadata_folder, ("", "activlev"))
    parts = dict.fromkeys(part for split in splits for part in LEVELS[split])
    level_files = [find_metadata(places, f"activlev_{part}.txt", ADVICE) for part in parts]

    levels = {utterance: level for path in level_files for utterance, level in read_levels(path).items()}
    rows = [(split, *row) for split, path in lists.items() for row in read_mixtures(path, num_spks)]
    recordings = find_wsj0(wsj0_folder, (name for _, _, names, _ in rows for name in names))
    versions = [(sample_rate, mode) for sample_rate in sample_rates for mode in modes]
    items = [_plan_mixture(*row, versions, recordings, levels) for row in rows]
    parameters = {"version": VERSION} | {path.name: checksum(path) for path in (*lists.values(), *level_files)}
    return run(Plan(f"wsj0-{num_spks}mix", items, make, parameters), output_folder, workers, dry_run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `generate`, without those of every corpus."""
    parser.add_argument("--wsj0_folder", required=True, help=WSJ0_HELP)
    parser.add_argument(
        "--metadata_folder",
        required=True,
        help="clone of github.com/mpariente/pywsj0-mix, or a folder of mix_*_spk_*.txt and activlev/",
    )
    parser.add_argument("--num_spks", type=int, help="2 (default), 3, 4 or 5")
    add_version_arguments(parser)


def add_version_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options that select parts of a corpus, common to all corpora from WSJ0."""
    parser.add_argument("--sample_rates", type=int, nargs="+", help="some of 8000 (default) and 16000")
    parser.add_argument("--modes", nargs="+", help="some of min (default) and max")
    parser.add_argument("--splits", nargs="+", help="some of tr, cv, tt (default: all)")


# Metadata


def read_mixtures(path: str | Path, num_spks: int) -> list[tuple]:
    """Reads the list of the mixtures of a split.

    Arguments
    ---------
    path : str or Path
        `mix_{2,3,4,5}_spk_{split}.txt`.
    num_spks : int
        Number of utterances in a line.

    Returns
    -------
    mixtures : list of tuple
        (ID, names of the utterances, gains in dB).

    Raises
    ------
    InputError
        If a line has another format; the message has its number.

    Example
    -------
    >>> path = getfixture("tmp_path") / "mix_2_spk_tr.txt"
    >>> line = "wsj0/si_tr_s/40n/40na010x.wav 1.9857 wsj0/si_tr_s/01x/01xo031a.wav -1.9857 "
    >>> _ = path.write_text(line)
    >>> read_mixtures(path, 2)[0][0]
    '40na010x_1.9857_01xo031a_-1.9857'
    """
    needed = [field for i in range(1, num_spks + 1) for field in (f"utterance {i}", f"gain {i}")]
    mixtures = []
    for place, fields in read_fields(path, needed):
        names = tuple(fields[::2])
        gains = tuple(read_number(place, "a gain", field) for field in fields[1::2])
        parts = [f"{PurePosixPath(name).stem}_{gain:.8g}" for name, gain in zip(names, gains, strict=True)]
        mixtures.append(("_".join(parts), names, gains))
    return mixtures


def read_levels(path: str | Path) -> dict:
    """Reads active speech levels.

    Arguments
    ---------
    path : str or Path
        `activlev_{part}.txt`.

    Returns
    -------
    levels : dict
        utterance → level, a power.

    Raises
    ------
    InputError
        If a line has another format, or a level is not above zero.
    """
    levels = {}
    for place, (utterance, text) in read_fields(path, ("utterance", "level")):
        level = read_number(place, "the level", text)
        if level <= 0:
            raise InputError(f"{place}: the level is {text}; needed a power above 0. Is it the published file?")
        levels[utterance] = level
    return levels


def _plan_mixture(split, mixture_id, names, gains, versions, recordings, levels):
    utterances = [PurePosixPath(name).stem for name in names]
    missing = [utterance for utterance in utterances if utterance not in levels]
    if missing:
        raise InputError(
            f"Mixture {mixture_id} of split '{split}': no activlev file has a level of utterance {missing[0]}. "
            f"Needed in activlev_{' or activlev_'.join(LEVELS[split])}.txt: check that they are the published files."
        )
    found = tuple(recordings[name] for name in names)
    tops, outputs = [], []
    for sample_rate, mode in versions:
        top = f"{len(names)}speakers/wav{sample_rate // 1000}k/{mode}/{split}"
        shortest_or_longest = {"min": min, "max": max}[mode]
        frames = shortest_or_longest(num_resampled(recording.frames, sample_rate) for recording in found)
        tops.append((sample_rate, mode, top))
        outputs += [
            Output(f"{top}/{signal}/{mixture_id}.wav", frames, sample_rate, "int16") for signal in _signals(len(names))
        ]
    scales = tuple(levels[utterance] for utterance in utterances)
    return Wsj0mixItem(mixture_id, tuple(outputs), tuple(tops), found, gains, scales)


def _signals(num_spks):
    return ("mix", *(f"s{i}" for i in range(1, num_spks + 1)))


# Samples


def make(mixture: Wsj0mixItem) -> dict:
    """Computes the samples of a mixture.

    Arguments
    ---------
    mixture : Wsj0mixItem
        The planned mixture.

    Returns
    -------
    signals : dict
        path → int16 array.
    """
    speech = [read_recording(recording) for recording in mixture.recordings]
    made = {}
    for sample_rate, mode, top in mixture.tops:
        signals = mix([resample(s, sample_rate) for s in speech], mixture.gains, mixture.levels, mode)
        for signal, samples in zip(_signals(len(speech)), signals, strict=True):
            made[f"{top}/{signal}/{mixture.name}.wav"] = to_int16_wrapping(samples)
    return made


def mix(speech: Sequence[np.ndarray], gains: Sequence[float], levels: Sequence[float], mode: str) -> list[np.ndarray]:
    """Scales utterances and adds them.

    Arguments
    ---------
    speech : sequence of numpy.ndarray
        Utterances.
    gains : sequence of float
        Gains in dB.
    levels : sequence of float
        Active speech levels, powers.
    mode : str
        "min" or "max".

    Returns
    -------
    signals : list of numpy.ndarray
        The mixture and the sources, float64, with a peak of 0.9 or less over all of them.

    Example
    -------
    >>> mixture, s1, s2 = mix([np.ones(4), np.ones(3)], (20, 0), (1, 1), "min")
    >>> mixture.round(3), s2.round(3)
    (array([0.9, 0.9, 0.9]), array([0.082, 0.082, 0.082]))
    """
    length = max(map(len, speech))
    padded = [np.pad(s.astype(np.float64), (0, length - len(s))) for s in speech]
    sources = np.stack(
        [s / np.sqrt(level) * 10 ** (gain / 20) for s, level, gain in zip(padded, levels, gains, strict=True)]
    )
    mixture = np.sum(sources, axis=0)
    if mode == "min":
        length = min(map(len, speech))
        sources, mixture = sources[:, :length], mixture[:length]
    gain = max(1.0, np.max(np.abs(mixture)), np.max(np.abs(sources))) / PEAK
    return [mixture / gain, *sources / gain]
