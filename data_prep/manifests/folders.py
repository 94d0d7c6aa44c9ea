"""Corpora in folders: one folder per kind of signal, with the same file names in each.

A `CorpusLayout` describes a corpus: the folder of each column and split.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.generate.file_access import check_access
from data_prep.manifests.corpus_index import MIXTURE, CorpusIndex, MissingSplits, MixtureFiles, Problem
from data_prep.messages import first_of
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

# Patterns that identify each known corpus, and the command that prepares it. LibriMix has mix_clean, mix_both and
# mix_single; if they end in "reverb" or "anechoic", it was mixed as in WHAMR!
LAYOUTS = {
    "WSJ0-2mix": ("2speakers/wav*/*/*/mix", "`python -m data_prep wsj0mix` or hparams/mossformer_wsj0mix.yaml"),
    **{
        f"WSJ0-{n}mix": (
            f"{n}speakers/wav*/*/*/mix",
            f"`python -m data_prep wsj0mix --num_spks {n}` or hparams/mossformer_wsj0mix.yaml with num_spks {n}",
        )
        for n in (3, 4, 5)
    },
    "WHAM!": ("wav*/*/*/mix_both", "`python -m data_prep wham` or hparams/mossformer_wham.yaml"),
    "WHAMR!": ("wav*/*/*/mix_both_reverb", "`python -m data_prep whamr` or hparams/mossformer_whamr.yaml"),
    "MiniLibriMix": (
        "train/mix_both | MiniLibriMix/train/mix_both",
        "`python -m data_prep minilibrimix` or hparams/mossformer_librimix.yaml with --corpus minilibrimix",
    ),
    "a reverberant corpus by data_prep.generate": (
        "Libri*Mix/wav*/*/*/mix_*_reverb",
        "hparams/mossformer_whamr.yaml with --corpus librimix_rooms",
    ),
    "Libri2Mix": (
        "Libri2Mix/wav*/*/*/mix_*[nhe]",
        "`python -m data_prep librimix` or hparams/mossformer_librimix.yaml",
    ),
    "Libri3Mix": (
        "Libri3Mix/wav*/*/*/mix_*[nhe]",
        "`python -m data_prep librimix --num_spks 3` or hparams/mossformer_librimix.yaml with num_spks 3",
    ),
}


@dataclass(frozen=True)
class CorpusLayout:
    """Folder layout of a corpus.

    In each split, the files of one mixture have the same name in every folder.

    Attributes
    ----------
    name : str
        Name for messages, such as "WHAM!".
    prefix : str
        The manifests are called `{prefix}_{split}.csv`.
    sample_rate : int
        Sample rate that every file must have, in Hz.
    folders : Mapping
        For each split, a mapping from the manifest's column to a folder relative to the corpus, with `mix_wav` first:
        `{"tr": {"mix_wav": "wav8k/min/tr/mix_both", "s1_wav": "wav8k/min/tr/s1", …}}`.
    speakers : Callable, optional
        From the ID of a mixture to the names of its speakers in the order of the sources, or None if the ID has none.
        The manifests have speaker columns if every ID has speakers.
    parts : Mapping, optional
        For each split, the folders whose signals add up to the mixture. Default: those of the other columns.
    extensions : Sequence of str
        Filename extensions of audio files.
    train : Sequence of str
        The training splits.
    test : str
        The test split, whose speakers must not be in a training split.
    known_splits : Sequence of str
        All possible splits of the corpus, also those that are not requested; their folders have the same names.
    """

    name: str
    prefix: str
    sample_rate: int
    folders: Mapping[str, Mapping[str, str]]
    speakers: Callable | None = None
    parts: Mapping[str, Sequence[str]] | None = None
    extensions: Sequence[str] = (".wav",)
    train: Sequence[str] = ("tr",)
    test: str = "tt"
    known_splits: Sequence[str] = ()

    def parts_of(self, split: str) -> tuple:
        """The folders whose signals add up to the mixtures of a split."""
        if self.parts is not None:
            return tuple(self.parts[split])
        return tuple(folder for column, folder in self.folders[split].items() if column != MIXTURE)

    def folders_of(self, split: str) -> tuple:
        """Each folder of a split once, that of the mixtures first."""
        return tuple(dict.fromkeys((*self.folders[split].values(), *self.parts_of(split))))


def list_mixtures(corpus: CorpusLayout, data_folder: str) -> CorpusIndex:
    """Lists the mixtures of a corpus with the files of each.

    Arguments
    ---------
    corpus : CorpusLayout
        Description of the folders.
    data_folder : str
        Folder of the corpus.

    Returns
    -------
    listing : CorpusIndex
        Its problems are files without their mixture, mixtures without a file, and splits without any mixture.

    Raises
    ------
    MissingSplits
        If some splits are missing, and others are complete.
    InputError
        If a folder is missing or can't be read, or there are more sources than `corpus` has.
    """
    root = existing_folder(data_folder)
    for split in corpus.folders:
        for folder in corpus.folders_of(split):
            check_access(root / folder)
    _check_layout(corpus, root)
    _check_number(corpus, root)
    listing = CorpusIndex(corpus.name, corpus.prefix, corpus.sample_rate, root, corpus.train, corpus.test)
    for split in corpus.folders:
        _list_split(corpus, split, listing)
    return listing


def existing_folder(data_folder: str) -> Path:
    """The folder as a Path; an InputError unless it exists.

    Example
    -------
    >>> existing_folder("/no/such/folder")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: data_folder '/no/such/folder' does not exist: give the folder of ...
    """
    root = Path(expanded(data_folder))
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise InputError(f"data_folder '{data_folder}' {found}: give the folder of the corpus.")
    return root


def wsj0_speakers(mixture_id: str) -> tuple[str, ...] | None:
    """Speakers of a mixture whose ID is built from WSJ0 utterances, as in WSJ0-mix, WHAM! and WHAMR!

    Arguments
    ---------
    mixture_id : str
        `{utterance}_{gain}_{utterance}_{gain}…`, with 8-character utterance ids that begin with the speaker's 3.

    Returns
    -------
    speakers : tuple of str, or None
        None if the ID does not have this format.

    Example
    -------
    >>> wsj0_speakers("40na010x_1.9857_01xo031a_-1.9857")
    ('40n', '01x')
    >>> wsj0_speakers("4077-13754-0001_5142-33396-0065") is None
    True
    """
    if not re.fullmatch(rf"{_WSJ0_SOURCE}(_{_WSJ0_SOURCE})*", mixture_id):
        return None
    return tuple(utterance[:3] for utterance in mixture_id.split("_")[::2])


_WSJ0_SOURCE = r"[0-9a-z]{8}_-?\d+(\.\d+)?(e-?\d+)?"  # utterance_gain; a few gains are like 6.9829e-05


def _check_layout(corpus, root):
    """Raises an InputError that names the missing folders of a corpus, and the likely cause."""
    needed = [folder for split in corpus.folders for folder in corpus.folders_of(split)]
    missing = [folder for folder in needed if not (root / folder).is_dir()]
    if missing:
        named = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        absent = [split for split in corpus.folders if all(folder in missing for folder in corpus.folders_of(split))]
        partly = [split for split in corpus.folders if split not in absent and {*corpus.folders_of(split)} & {*missing}]
        if absent != [*corpus.folders] and not partly:
            raise MissingSplits(_missing_splits(corpus, root, absent), absent)
        raise InputError(
            f"data_folder '{root}' is not laid out as {corpus.name}: it lacks {named}. {_advice(corpus, root, missing)}"
        )


def _check_number(corpus, root):
    """Raises an InputError if mixtures of several sources have one more than the corpus: it would act as noise."""
    for folders in corpus.folders.values():
        sources = [folder for column, folder in folders.items() if re.fullmatch(r"s\d+_wav", column)]
        place, _, name = sources[-1].rpartition("/")
        more = f"{place}/{name.replace(f's{len(sources)}', f's{len(sources) + 1}', 1)}"
        if len(sources) > 1 and more != sources[-1] and (root / more).is_dir():
            raise InputError(
                f"data_folder '{root}' has a folder '{more}', but num_spks is {len(sources)}: give that of the data."
            )


def _missing_splits(corpus, root, absent):
    """The message if some splits exist and others do not."""
    present = [split for split in corpus.folders if split not in absent]
    first = corpus.folders_of(present[0])[0]
    others = [
        split
        for split in corpus.known_splits
        if split not in corpus.folders and (root / first.replace(f"/{present[0]}/", f"/{split}/")).is_dir()
    ]
    text = (
        f"data_folder '{root}' has {corpus.name}, but not split {', '.join(map(repr, absent))}: it lacks "
        f"{corpus.folders_of(absent[0])[0]}."
    )
    train = [split for split in others if split in corpus.train]
    if train and set(absent) & set(corpus.train):
        text += f" There is {', '.join(train)}: give --train_split {train[0]}, or --splits to python -m data_prep."
    text += f" {_describe_content(root, corpus.folders_of(absent[0])[0])}"
    return f"{text} For `python -m data_prep`, --splits {' '.join(present + others)} uses the existing ones."


def _advice(corpus, root, missing):
    layouts = known_layouts(root)
    if layouts and corpus.name not in layouts:  # several corpora may share a folder, with this one incomplete
        return f"{next(iter(layouts.values()))}, or give the folder that has {missing[0]}."
    for other in (*root.resolve().parents[:4], *sorted(root.iterdir())):
        if os.path.isdir(other / missing[0]):  # not Path.is_dir, which raises without permission
            return f"Found it in '{other}': give that as data_folder."
    return _describe_content(root, missing[0])


def known_layouts(root):
    """The published corpora whose layout a folder has: name → evidence and remedy, without a full stop."""
    layouts = {}
    for name, (telltale, remedy) in LAYOUTS.items():
        found = next((found for pattern in telltale.split(" | ") for found in root.glob(pattern)), None)
        if found:
            found = found.relative_to(root).as_posix()
            layouts[name] = f"Found {found}: this is the layout of {name}. Use {remedy}"
    return layouts


def _describe_content(root, folder):
    """The content of the deepest existing parent of a missing folder."""
    parent = root / folder
    while not parent.is_dir():
        wanted, parent = parent.name, parent.parent
    names = sorted(child.name for child in parent.iterdir() if child.is_dir())
    found = first_of(names) or "no folder at all"
    return f"'{parent}' should have a folder '{wanted}', and has: {found}."


def _list_split(corpus, split, listing):
    """Adds the mixtures of one split, and problems of their names."""
    mix_folder, *_ = folders = corpus.folders_of(split)
    found = {folder: _audio_files(listing.root / folder, corpus.extensions) for folder in folders}
    mixtures = sorted(found[mix_folder])
    listing.splits[split] = {mixture_id: _mixture(corpus, split, mixture_id, found) for mixture_id in mixtures}
    if not mixtures:
        kinds = ", ".join(corpus.extensions[:3]) + (" …" if len(corpus.extensions) > 3 else "")
        text = f"holds no {kinds} file; needed at least one"
        listing.problems.append(Problem("no mixtures", split, "", mix_folder, text))
    columns = {folder: column for column, folder in corpus.folders[split].items()}
    for folder in folders:
        faults = _name_faults(folder, columns.get(folder, "part"), mix_folder, found)
        listing.problems += [Problem(kind, split, key, file, text) for kind, key, file, text in faults]


def _name_faults(folder, column, mix_folder, found):
    """Yields (kind, ID, file, text) for missing and superfluous names in a folder."""
    for mixture_id, (name, *_) in sorted(found[mix_folder].items()):
        if mixture_id not in found[folder]:
            text = f"does not exist; needed as the {column} of {mix_folder}/{name}"
            yield "missing files", mixture_id, f"{folder}/{name}", text
    for mixture_id, (name, *others) in sorted(found[folder].items()):
        if others:
            text = f"has the same name as {', '.join(others)}; needed one file for each mixture"
            yield "files of one name", mixture_id, f"{folder}/{name}", text
        if mixture_id not in found[mix_folder]:
            text = f"belongs to no mixture; needed {mix_folder}/{name}"
            yield "files without a mixture", mixture_id, f"{folder}/{name}", text


def _mixture(corpus, split, mixture_id, found):
    """The existing files of one mixture."""

    def files(folders):
        return {key: f"{f}/{found[f][mixture_id][0]}" for key, f in folders.items() if mixture_id in found[f]}

    speakers = corpus.speakers(mixture_id) if corpus.speakers else None
    parts = files({folder: folder for folder in corpus.parts_of(split)})
    return MixtureFiles(files(corpus.folders[split]), tuple(parts.values()), speakers)


def _audio_files(folder, extensions):
    """The audio files of a folder: name without extension → names, sorted."""
    files = {}
    # Names that begin with a dot are leftovers of file managers, such as "._a.wav".
    for name in sorted(entry.name for entry in os.scandir(folder) if entry.name[0] != "."):
        stem, extension = os.path.splitext(name)
        if extension.lower() in extensions:
            files.setdefault(stem, []).append(name)
    return files
