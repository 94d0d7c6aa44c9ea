"""Text files and arrays of the published metadata: finding and reading them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.generate.file_access import access_problem
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    from collections.abc import Sequence

SUBFOLDERS = ("", "metadata", "data")  # folders of metadata in the published repositories


def metadata_places(folder: str | Path, subfolders: Sequence[str] = ("",)) -> list[Path]:
    """Folders to search for metadata: the given one, and those of a clone of the published repository.

    Arguments
    ---------
    folder : str or Path
        The given folder.
    subfolders : sequence of str
        Folders in these that may hold the file.

    Returns
    -------
    places : list of Path

    Example
    -------
    >>> [place.as_posix() for place in metadata_places("clone", ("", "activlev"))][:3]
    ['clone', 'clone/activlev', 'clone/metadata']
    """
    folder = Path(expanded(folder))
    return [folder / place / subfolder for place in SUBFOLDERS for subfolder in subfolders]


def find_metadata(folders: Sequence[str | Path], name: str, advice: str) -> Path:
    """Finds a metadata file.

    Arguments
    ---------
    folders : sequence of str or Path
        Folders to search; the first one with the file is used.
    name : str
        Name of the file.
    advice : str
        Remedy for messages.

    Returns
    -------
    path : Path
        The file.

    Raises
    ------
    InputError
        If the file is missing or can't be read.
    """
    paths = [Path(expanded(folder)) / name for folder in folders]
    found = next((path for path in paths if os.path.isfile(path)), None)
    problem = next((problem for path in ([found] if found else paths) if (problem := access_problem(path))), None)
    if problem:
        raise InputError(f"Metadata file {name} {problem}. Allow reading it, or copy the metadata to a readable place.")
    if found is None:
        looked = ", ".join(f"'{path.parent}'" for path in paths)
        raise InputError(f"Metadata file {name} does not exist in {looked}: {advice}.")
    return found


def read_published(path: str | Path) -> str:
    """The text of a published file, in UTF-8; editors may have added a byte order mark.

    Raises
    ------
    InputError
        If the file can't be read, or is not text.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as text ({error}). Is it the published file?") from error


def read_fields(path: str | Path, needed: Sequence[str], separator: str | None = None) -> list[tuple]:
    """Reads a text file with the same number of fields in every line.

    Arguments
    ---------
    path : str or Path
        The file; empty lines are ignored.
    needed : sequence of str
        Names of the fields, for messages.
    separator : str, optional
        Separator of the fields; any white space if None.

    Returns
    -------
    lines : list of tuple
        For each line, its place for messages and its fields.

    Raises
    ------
    InputError
        If the file is not text, a line has another number of fields, or there is no line.

    Example
    -------
    >>> path = getfixture("tmp_path") / "levels.txt"
    >>> _ = path.write_text("20va010q 2.5717652515284110e-04\\n")
    >>> [fields for place, fields in read_fields(path, ("utterance", "level"))]
    [['20va010q', '2.5717652515284110e-04']]
    """
    lines = []
    for number, line in enumerate(read_published(path).splitlines(), 1):
        fields = line.split(separator)
        if not line.strip():
            continue
        if len(fields) != len(needed):
            raise InputError(
                f"{path}:{number}: has {len(fields)} fields; needed {len(needed)}: {', '.join(needed)}. "
                "Is it the complete published file?"
            )
        lines.append((f"{path}:{number}", fields))
    if not lines:
        raise InputError(f"{path}: is empty; needed lines with the fields {', '.join(needed)}. Copy it again.")
    return lines


def read_number(place: str, what: str, text: str) -> float:
    """Reads a finite number; otherwise raises an InputError with its place.

    Example
    -------
    >>> read_number("mix_2_spk_tr.txt:1", "gain", "-1.9857")
    -1.9857
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{place}: {what} is {text!r}; needed a finite number. Is it the published file?")
    return number
