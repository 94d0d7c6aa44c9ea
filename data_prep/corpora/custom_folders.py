"""Custom data in folders: one per kind of signal, or one per mixture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from data_prep.choices import SPLIT_NAMES
from data_prep.generate.file_access import check_access
from data_prep.manifests.corpus_index import MIXTURE, CorpusIndex, MissingSplits, MixtureFiles, Problem
from data_prep.manifests.folders import CorpusLayout, existing_folder, known_layouts, list_mixtures
from data_prep.messages import first_of
from mossformer_sb.data.audio_io import AUDIO_ENDINGS
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME, PREFIX, NOISE = "custom data", "custom", "noise"
_NOISE_ADVICE = (
    "mixtures would not be the sum of their sources. Give noise True (--noise for `python -m data_prep`) to use it; "
    "mixture_is_sum False (--mixture_is_not_sum) if it is only to be removed; or move it out of the data"
)


def list_folders(
    data_folder: str, columns: dict, sample_rate: int, mixture_is_sum: bool, splits: Sequence[str]
) -> CorpusIndex:
    """Lists the mixtures of custom folders.

    Arguments
    ---------
    data_folder : str
        Folder of the data.
    columns : dict
        The manifest's column → the name of the signal, "mix" first.
    sample_rate : int
        Hz.
    mixture_is_sum : bool
        Whether mixtures are the sum of the others.
    splits : sequence of str
        Some of "tr", "cv" and "tt".

    Returns
    -------
    listing : CorpusIndex

    Raises
    ------
    MissingSplits
        If a split has no folder, and others have one.
    InputError
        If folders are missing, or there are more sources than `columns` has.
    """
    root = existing_folder(data_folder)
    names = {split: _first_existing(root, SPLIT_NAMES[split]) for split in splits}
    absent = [split for split, name in names.items() if name is None]
    if absent and len(absent) < len(names):
        _check_corpus(root, [name for name in names.values() if name])
        found = ", ".join(f"'{name}'" for name in names.values() if name)
        raise MissingSplits(
            f"data_folder '{root}' has no folder for split {', '.join(map(repr, absent))} (called "
            f"{' or '.join(SPLIT_NAMES[absent[0]])}); found {found}. For `python -m data_prep`, --splits "
            f"{' '.join(split for split in names if split not in absent)} uses the existing ones.",
            absent,
        )
    names = {split: name or split for split, name in names.items()}
    for split in splits:
        _check_number(root / names[split], columns)
    if all(_has_mixture_folders(root / name) for name in names.values()):
        return _list_mixture_folders(root, names, columns, sample_rate, mixture_is_sum)
    if mixture_is_sum:
        for name in names.values():
            _check_noise(root / name, columns)
    folders = {
        split: {column: f"{name}/{_folder_of(root / name, signal)}" for column, signal in columns.items()}
        for split, name in names.items()
    }
    parts = None if mixture_is_sum else dict.fromkeys(splits, ())
    corpus = CorpusLayout(NAME, PREFIX, sample_rate, folders, parts=parts, extensions=AUDIO_ENDINGS)
    return list_mixtures(corpus, data_folder)


def _check_corpus(root, names):
    """Raises an InputError if the existing splits are those of a published corpus."""
    if not any(_first_existing(root / name, _aliases("mix")) for name in names):
        for advice in known_layouts(root).values():
            raise InputError(f"data_folder '{root}' is not laid out as {NAME}. {advice}.")


def _first_existing(folder, names):
    found = [name for name in names if os.path.isdir(folder / name)]  # False without permission
    if len(found) > 1:
        raise InputError(f"'{folder}' has the folders {' and '.join(found)}, which mean the same: rename or move one.")
    return found[0] if found else None


def _aliases(signal):
    """Possible names of the files or folders of a signal."""
    if signal == "mix":
        return ("mix", "mixture")
    number = signal[1:]
    return (signal, f"spk{number}", f"source{number}", f"speaker{number}") if number.isdigit() else (signal,)


def _folder_of(folder, signal):
    return _first_existing(folder, _aliases(signal)) or signal


def _check_number(folder, columns):
    """Raises an InputError if there are more sources than the experiment has."""
    sources = [signal for signal in columns.values() if signal[1:].isdigit()]
    more = _first_existing(folder, _aliases(f"s{len(sources) + 1}"))
    if more:
        raise InputError(f"'{folder}' has a folder '{more}', but num_spks is {len(sources)}: give that of the data.")


def _check_noise(folder, columns):
    """Raises an InputError if there is noise that would not be used, in mixtures that are the sum of their sources."""
    if NOISE not in columns.values() and os.path.isdir(folder / NOISE):
        raise InputError(f"'{folder}' has a folder '{NOISE}', so {_NOISE_ADVICE}.")


# One folder per mixture


def _subfolders(folder):
    check_access(folder)
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")


def _has_mixture_folders(folder):
    """Whether a folder has one subfolder per mixture, not one per kind of signal."""
    if not folder.is_dir() or _first_existing(folder, _aliases("mix")):
        return False
    return any(_find(_signals(folder / name), "mix") for name in _subfolders(folder))


def _signals(folder):
    """The audio files of a mixture's folder: name without extension, in lower case → names."""
    check_access(folder)
    found = {}
    for name in sorted(entry.name for entry in os.scandir(folder) if entry.name[0] != "."):
        stem, extension = os.path.splitext(name)
        if extension.lower() in AUDIO_ENDINGS:
            found.setdefault(stem.lower(), []).append(name)
    return found


def _find(found, signal):
    """The names of a signal's files; more than one is a problem."""
    return [name for alias in _aliases(signal) for name in found.get(alias, ())]


def _list_mixture_folders(root, names, columns, sample_rate, mixture_is_sum):
    listing = CorpusIndex(NAME, PREFIX, sample_rate, root)
    for split, name in names.items():
        mixtures = listing.splits[split] = {}
        for mixture_id in _subfolders(root / name):
            found = _signals(root / name / mixture_id)
            files = {column: _find(found, signal) for column, signal in columns.items()}
            listing.problems += _problems(split, f"{name}/{mixture_id}", mixture_id, files, found, columns)
            if mixture_is_sum:
                listing.problems += _unused_noise(split, f"{name}/{mixture_id}", mixture_id, found, columns)
            paths = {column: f"{name}/{mixture_id}/{found[0]}" for column, found in files.items() if found}
            if MIXTURE in paths:
                parts = [path for column, path in paths.items() if column != MIXTURE] if mixture_is_sum else []
                mixtures[mixture_id] = MixtureFiles(paths, tuple(parts))
        if not mixtures:
            listing.problems.append(Problem("no mixtures", split, "", name, "holds no mixture; needed at least one"))
    return listing


def _problems(split, folder, mixture_id, files, found, columns):
    """Yields problems of the names in a mixture's folder."""
    for column, names in files.items():
        signal = columns[column]
        if not names:
            text = f"does not exist; found {first_of(sorted(found)) or 'no audio file'} there"
            yield Problem("missing files", split, mixture_id, f"{folder}/{signal}", text)
        if len(names) > 1:
            text = f"has the same name as {', '.join(names[1:])}; needed one file for each signal"
            yield Problem("files of one name", split, mixture_id, f"{folder}/{names[0]}", text)
    sources = [signal for signal in columns.values() if signal[1:].isdigit()]
    more = _find(found, f"s{len(sources) + 1}")
    if more:
        text = f"is one source more than num_spks, {len(sources)}"
        yield Problem("sources too many", split, mixture_id, f"{folder}/{more[0]}", text)


def _unused_noise(split, folder, mixture_id, found, columns):
    """Yields a problem if the mixture's folder has noise that would not be used."""
    noise = _find(found, NOISE)
    if noise and NOISE not in columns.values():
        yield Problem(
            "noise that is not used", split, mixture_id, f"{folder}/{noise[0]}", f"is noise, so {_NOISE_ADVICE}"
        )
