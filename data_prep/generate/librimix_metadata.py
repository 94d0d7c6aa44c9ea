"""Metadata of LibriMix in the published format: the recordings and gains of each mixture."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.generate.file_access import check_access
from data_prep.generate.metadata import read_published
from data_prep.generate.rooms import Room, read_rooms
from mossformer_sb.data.tables import read_table
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import LONGEST_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MANY_SPEAKERS = 10  # from this number on, names of mixtures are too long for files, and replaced by a hash


@dataclass(frozen=True)
class Recipe:
    """One line of the metadata: the components of a mixture.

    Attributes
    ----------
    name : str
        Name of the mixture.
    sources : tuple of str
        Recordings, relative to the folder of speech.
    gains : tuple of float
        Factors of the recordings.
    noise : str, optional
        Noise recording, relative to the folder of noise.
    noise_gain : float, optional
        Factor of the noise.
    room : Room, optional
        Room of the speakers.
    speakers : tuple of str
        Names of the speakers, if known.
    """

    name: str
    sources: tuple
    gains: tuple
    noise: str | None = None
    noise_gain: float | None = None
    room: Room | None = None
    speakers: tuple = ()


def columns(num_spks: int, noise: bool = True) -> list:
    """Columns of the published tables.

    Example
    -------
    >>> columns(1)
    ['mixture_ID', 'source_1_path', 'source_1_gain', 'noise_path', 'noise_gain']
    """
    sources = [f"source_{number}_{what}" for number in range(1, num_spks + 1) for what in ("path", "gain")]
    return ["mixture_ID", *sources, *(["noise_path", "noise_gain"] if noise else [])]


def read_metadata(path: str | Path, num_spks: int, rooms: Mapping | None = None) -> list[Recipe]:
    """Reads a published table, or one from `metadata_text`.

    Arguments
    ---------
    path : str or Path
        `libri2mix_train-clean-100.csv` and the like.
    num_spks : int
        Number of sources.
    rooms : Mapping, optional
        Name of the mixture → Room.

    Returns
    -------
    recipes : list of Recipe

    Raises
    ------
    InputError
        If the file is missing, or has an invalid line.
    """
    path = Path(path)
    check_access(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; needed LibriMix's metadata. Copy it there.")
    with io.StringIO(read_published(path), newline="") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        noise = "noise_path" in header
        if header != columns(num_spks, noise):
            raise InputError(
                f"{path}: has the columns {', '.join(header) or '(none)'}; needed {', '.join(columns(num_spks))}. "
                f"Check that num_spks {num_spks} is right for this file."
            )
        recipes = []
        for fields in reader:
            place = f"{path}:{reader.line_num}"
            if len(fields) != len(header):
                raise InputError(f"{place}: has {len(fields)} fields; needed {len(header)}. Copy the file again.")
            recipes.append(_recipe(place, fields, num_spks, noise, rooms))
    if not recipes:
        raise InputError(f"{path}: has a header and no mixtures. Copy the file again, or omit its split.")
    return recipes


def _recipe(place, fields, num_spks, noise, rooms):
    name, *pairs = fields
    try:
        gains = [float(text) for text in pairs[1::2]]
    except ValueError as error:
        raise InputError(f"{place}: {error}; needed a gain, as a factor. Copy the file again.") from None
    if not all(math.isfinite(gain) for gain in gains):
        raise InputError(f"{place}: has a gain that is not finite. Remove this line.")
    if rooms is not None and name not in rooms:
        raise InputError(f"{place}: {name} has no room in the table of rooms. Copy both files again.")
    return Recipe(
        name=name,
        sources=tuple(pairs[0 : 2 * num_spks : 2]),
        gains=tuple(gains[:num_spks]),
        noise=pairs[-2] if noise else None,
        noise_gain=gains[-1] if noise else None,
        room=rooms[name] if rooms is not None else None,
    )


def metadata_text(recipes: Sequence[Recipe]) -> str:
    """The published table of some recipes, all with the same number of sources."""
    first = recipes[0]
    rows = [columns(len(first.sources), first.noise is not None)]
    for recipe in recipes:
        pairs = [item for pair in zip(recipe.sources, recipe.gains, strict=True) for item in pair]
        rows.append([recipe.name, *pairs, *([recipe.noise, recipe.noise_gain] if recipe.noise is not None else [])])
    return csv_text(rows)


def info_text(recipes: Sequence[Recipe]) -> str:
    """The table of speakers. The published one also has their sex, which is unknown here."""
    numbers = range(1, len(recipes[0].speakers) + 1)
    return csv_text(
        [["mixture_ID", *(f"speaker_{number}_ID" for number in numbers)]]
        + [[recipe.name, *recipe.speakers] for recipe in recipes]
    )


def known_speakers(folder: Path, num_spks: int) -> dict:
    """Reads the speakers of a corpus's mixtures, from tables of `info_text` or of LibriMix.

    Arguments
    ---------
    folder : Path
        Folder of the metadata, which need not exist.
    num_spks : int
        Number of sources.

    Returns
    -------
    speakers : dict
        Name of a mixture's files, without extension → names of its speakers. Empty if unknown.
    """
    columns = [f"speaker_{number}_ID" for number in range(1, num_spks + 1)]
    speakers = {}
    for path in sorted(folder.glob(f"libri{num_spks}mix_*_info.csv")):
        found, rows, _ = read_table(path)
        if {"mixture_ID", *columns} <= set(found):
            for row in rows:
                names = tuple(row[column] for column in columns)
                if all(names):
                    speakers[file_name(row["mixture_ID"], num_spks)] = names
    return speakers


def file_name(mixture: str, num_spks: int) -> str:
    """Name of a mixture's files, without extension: that of the mixture, or its hash where it would be too long.

    Example
    -------
    >>> file_name("a_b", 2), file_name("a_b", 10)
    ('a_b', 'dbf08e00b01fd58a4a5967753b43784f')
    """
    short = num_spks < MANY_SPEAKERS and len(os.fsencode(f"{mixture}.wav")) <= LONGEST_NAME
    return mixture if short else hashlib.md5(os.fsencode(mixture), usedforsecurity=False).hexdigest()


def csv_text(rows: Iterable[Sequence]) -> str:
    """Rows as the text of a CSV; numbers have all digits.

    Example
    -------
    >>> csv_text([["a", "b"], [1, 0.1]])
    'a,b\\n1,0.1\\n'
    """
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def read_recipes(path, num_spks, rooms):
    """The `Recipe` of each row of a table; with ``rooms``, including the table of rooms next to it."""
    if not rooms:
        return read_metadata(path, num_spks)
    return read_metadata(path, num_spks, read_rooms(path.with_name(f"{path.stem}_rooms.csv"), num_spks))
