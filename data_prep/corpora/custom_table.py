"""Custom data in a table: one row for each mixture, with the paths of its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.choices import SPLIT_NAMES, split_of
from data_prep.corpora.custom_folders import NAME, PREFIX
from data_prep.manifests.corpus_index import MIXTURE, CorpusIndex, MissingSplits, MixtureFiles, Problem
from data_prep.manifests.folders import existing_folder
from data_prep.messages import first_of
from mossformer_sb.data.tables import other_table, read_table, resolve_path
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    from collections.abc import Sequence


def list_table(
    csv_file: str, data_folder: str | None, columns: dict, sample_rate: int, mixture_is_sum: bool, splits: Sequence[str]
) -> CorpusIndex:
    """Lists the mixtures of a CSV, like `data_prep.corpora.custom_folders.list_folders`.

    Arguments
    ---------
    csv_file : str
        The table; see `mossformer_sb.data.tables` for its format.
    data_folder : str, optional
        Folder of relative paths. Default: the table's folder, and the paths in the result are absolute.
    columns, sample_rate, mixture_is_sum, splits
        As for `list_folders`.

    Returns
    -------
    listing : CorpusIndex

    Raises
    ------
    MissingSplits
        If a split has no row, and others have some.
    InputError
        If the table can't be used.
    """
    csv_file = expanded(csv_file)
    root = Path(os.path.abspath(csv_file)).parent if data_folder is None else existing_folder(data_folder)
    listing = CorpusIndex(NAME, PREFIX, sample_rate, root, splits={split: {} for split in splits})
    for line, row in _read(csv_file, columns):
        where = f"line {line} of {csv_file}"
        empty = [column for column in ("ID", "split", *columns) if not row[column]]
        if empty:
            raise InputError(f"{where}: {', '.join(empty)} is empty or missing; give every row a value for each.")
        split = split_of(row["split"])
        if split is None:
            known = "; ".join(" or ".join(names) for names in SPLIT_NAMES.values())
            raise InputError(f"{where}: split {row['split']!r} is not known: give {known}.")
        if split in splits:
            _add(listing, split, row, columns, mixture_is_sum, where, absolute=data_folder is None)
    absent = [split for split, mixtures in listing.splits.items() if not mixtures]
    if absent and len(absent) < len(splits):
        named = ", ".join(f"{split!r} ({' or '.join(SPLIT_NAMES[split])})" for split in absent)
        raise MissingSplits(f"csv_file '{csv_file}' has no row of split {named}: add some.", absent)
    for split, mixtures in listing.splits.items():
        _check_speakers(csv_file, split, mixtures)
        listing.splits[split] = dict(sorted(mixtures.items()))
        if not mixtures:
            listing.problems.append(Problem("no mixtures", split, "", str(csv_file), f"has no row of split '{split}'"))
    return listing


def _add(listing, split, row, columns, mixture_is_sum, where, absolute):
    mixtures = listing.splits[split]
    files = {column: _file(row[column], listing.root, absolute, where) for column in columns}
    if row["ID"] in mixtures:
        text = f"is the second mixture of this ID ({where}); needed one ID for each"
        listing.problems.append(Problem("IDs given twice", split, row["ID"], files[MIXTURE], text))
        return
    parts = [file for column, file in files.items() if column != MIXTURE] if mixture_is_sum else []
    mixtures[row["ID"]] = MixtureFiles(files, tuple(parts), _speakers(row, columns, where))


def _read(csv_file, columns):
    """The number of each line and its row as a dict; an InputError unless the columns are the required ones."""
    found, rows, numbers = read_table(csv_file, "csv_file")
    needed = ["ID", "split", *columns]
    missing = [column for column in needed if column not in found]
    if missing:
        raise InputError(
            f"csv_file '{csv_file}' lacks the columns {', '.join(missing)}; found {', '.join(found) or 'none'}."
            f"{other_table(found) or _foreign(found) or ' Do num_spks and noise fit this data?'}"
        )
    speakers = [column.replace("_wav", "_spk") for column in columns if column not in (MIXTURE, "noise_wav")]
    unknown = [name for name in found if name.endswith(("_wav", "_spk")) and name not in (*needed, *speakers)]
    if unknown:
        raise InputError(
            f"csv_file '{csv_file}' has columns that would not be used: {', '.join(unknown)}; needed "
            f"{', '.join(needed)}, and if known {', '.join(speakers)}. Do num_spks and noise fit this data?"
        )
    return zip(numbers, rows, strict=True)


def _foreign(found):
    """The advice for a manifest, ours or SpeechBrain's, whose only split is in its file name."""
    if {"ID", "duration", MIXTURE} <= set(found):
        return (
            " It is a manifest, of one split: add a column split to it; or keep one manifest for each split, called "
            "train.csv, valid.csv and test.csv, in manifest_folder and give --skip_prep True."
        )
    return ""


def _file(cell, root, absolute, where):
    """A path relative to the corpus, for the manifest's `$data_root`; or an absolute one."""
    try:
        path = resolve_path(cell, None if absolute else root, root)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    inside = os.path.relpath(path, root)
    # Elsewhere, `..` would be that of the folder that root links to.
    outside = absolute or inside.split(os.sep)[0] == os.pardir
    return Path(os.path.abspath(path) if outside else inside).as_posix()


def _speakers(row, columns, where):
    """Names of the speakers, or None if none are given."""
    names = {
        column: row.get(column)
        for column in (column.replace("_wav", "_spk") for column in columns if column not in (MIXTURE, "noise_wav"))
    }
    empty = [column for column, name in names.items() if not name]
    if empty and len(empty) < len(names):
        raise InputError(f"{where}: {', '.join(empty)} is empty; give the row all its speakers, or none.")
    return None if empty else tuple(names.values())


def _check_speakers(csv_file, split, mixtures):
    """Raises an InputError if only some mixtures of a split have speakers: the manifest could not have them."""
    without = [name for name, mixture in mixtures.items() if not mixture.speakers]
    if without and len(without) < len(mixtures):
        raise InputError(
            f"csv_file '{csv_file}': {len(without)} of {len(mixtures)} mixtures of split '{split}' have no speakers: "
            f"{first_of(without)}. Give those of all or of none."
        )
