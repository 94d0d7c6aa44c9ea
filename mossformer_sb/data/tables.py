"""Tables written by users: CSV files of any spreadsheet, read as text.

Variants of the format are detected: the separator (comma, semicolon, tab or bar), the encoding (UTF-8, UTF-16 with or
without a byte order mark, or else Windows-1252), the line ends, quotes, blanks around values, blank lines.
"""

from __future__ import annotations

import codecs
import csv
import io
import logging
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    from collections.abc import Collection

logger = logging.getLogger(__name__)

DATA_ROOT = "$data_root"  # prefix of paths in a manifest
SEPARATORS = ",;\t|"
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# Columns with case-insensitive names.
_KNOWN = re.compile(r"(mix|noise|s\d+|est\d+)_wav|(s\d+)_spk|split|duration|sample_rate|path|spk")
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]")


def read_table(path: str | Path, what: str = "table") -> tuple[list[str], list[dict], list[int]]:
    """Read a table, all its values as text.

    Arguments
    ---------
    path : str or Path
        CSV file with the names of the columns in its first line.
    what : str
        Name for messages.

    Returns
    -------
    columns : list of str
        Names of the columns; columns of manifests and lists of recordings in their usual case.
    rows : list of dict
        For each line that is not blank, column to value, both without surrounding blanks. Missing values at the end of
        a line are empty.
    numbers : list of int
        The number of each of these lines, from 1.

    Raises
    ------
    InputError
        If the file does not exist, is empty or not text, a quote is not closed, a column name is given twice, or a line
        has more values than there are columns.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.csv"
    >>> _ = path.write_bytes("id; split\\r\\nnaïve ;tr\\r\\n\\r\\n".encode("utf-16"))
    >>> read_table(path)
    (['ID', 'split'], [{'ID': 'naïve', 'split': 'tr'}], [2])
    """
    name = f"{what} '{path}'"
    lines = _lines(_text(expanded(path), name), name)
    if not lines:
        raise InputError(f"{name} is empty: expected the names of the columns in its first line.")
    columns = [_column(value) for value in lines[0][1]]
    while columns and not columns[-1]:  # a separator at the end of each line
        columns.pop()
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise InputError(f"{name} has more than one column called {', '.join(map(repr, twice))}: rename or remove one.")
    rows = []
    for number, values in lines[1:]:
        if any(values[len(columns) :]):
            raise InputError(
                f"{name}, line {number}: has {len(values)} values for {len(columns)} columns. Put values that contain "
                f"the separator in double quotes."
            )
        values += [""] * (len(columns) - len(values))
        rows.append(dict(zip(columns, values, strict=False)))
    return columns, rows, [number for number, _ in lines[1:]]


def _text(path, name):
    """The content of a file, decoded."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{name} can't be read ({error.strerror or error}): give the path of a CSV.") from error
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return _decoded(content, encoding, name)
    if b"\0" in content:  # UTF-16 without a mark: every second byte of the first line is zero
        return _decoded(content, "utf-16-be" if content[:1] == b"\0" else "utf-16-le", name)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        text = _decoded(content, "cp1252", name)
        logger.warning("%s is not in UTF-8: read as Windows-1252. Check names with letters beyond ASCII.", name)
        return text


def _decoded(content, encoding, name):
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not text ({error}): give a CSV in UTF-8.") from error
    if "\0" in text:
        raise InputError(f"{name} is not text (it holds zero bytes): give a CSV in UTF-8.")
    return text


def _lines(text, name):
    """The number and the values of each non-blank line."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    first, _, rest = text.partition("\n")
    skipped = 0
    separator = re.fullmatch(r'\s*"?sep=(.)"?\s*', first)  # as written by Excel
    if separator:
        text, skipped = rest, 1
    separator = separator[1] if separator else _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    lines = []
    try:
        for values in reader:
            values = [value.strip() for value in values]
            if any(values):
                lines.append((reader.line_num + skipped, values))
    except csv.Error as error:
        raise InputError(
            f"{name}, line {reader.line_num + skipped}: can't be split into values ({error}). Check that double quotes "
            "are closed. Within quotes, a quote is written twice."
        ) from error
    return lines


def _separator(text):
    """The most frequent separator in the first non-blank line, outside of quotes."""
    header = next((line for line in text.split("\n") if line.strip()), "")
    counts = Counter(re.sub(r'"[^"]*"', "", header))
    return max(SEPARATORS, key=lambda separator: counts[separator])


def _column(name):
    lower = name.lower()
    if lower == "id":
        return "ID"
    return lower if _KNOWN.fullmatch(lower) else name


def other_table(columns: Collection[str]) -> str:
    """A hint at the program that wrote a table, if its columns are not those of a manifest; else an empty string.

    Arguments
    ---------
    columns : collection of str
        Names of the columns.

    Returns
    -------
    str
        The end of a message.

    Example
    -------
    >>> other_table(["mixture_ID", "mixture_path", "source_1_path", "length"])
    " It is one of LibriMix's own tables: give the folder of the corpus to `python -m data_prep librimix`."
    """
    if {"mixture_ID", "mixture_path"} <= set(columns):
        return " It is one of LibriMix's own tables: give the folder of the corpus to `python -m data_prep librimix`."
    if len(columns) == 1:
        return " The values of a line are separated by commas, semicolons or tabs."
    return ""


def resolve_path(cell: str, data_root: str | Path | None, here: str | Path = ".") -> str:
    """Resolve the path in a cell of a table.

    Arguments
    ---------
    cell : str
        A path: absolute, or relative to ``here``, or below ``$data_root`` or ``~``; with slashes or backslashes.
    data_root : str or Path or None
        Value of ``$data_root``.
    here : str or Path
        Folder of relative paths.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If the path is below ``$data_root`` and ``data_root`` is None.

    Example
    -------
    >>> resolve_path("$data_root/tr/a.wav", "/data"), resolve_path("tr\\\\a.wav", None, "/lists")
    ('/data/tr/a.wav', '/lists/tr/a.wav')
    """
    if "\\" in cell and os.sep != "\\" and not os.path.exists(cell):
        cell = cell.replace("\\", "/")
    if cell.startswith(DATA_ROOT):
        if data_root is None:
            raise InputError(f"{cell}: {DATA_ROOT} is not set: give the folder of the data.")
        return f"{expanded(data_root)}{cell[len(DATA_ROOT) :]}"
    cell = expanded(cell)
    return cell if os.path.isabs(cell) or str(here) in ("", ".") else os.path.join(here, cell)


def check_own_folder(table: str | Path, file: str | Path) -> None:
    """Check that a file below ``$data_root`` exists, if ``$data_root`` was not given.

    Arguments
    ---------
    table : str or Path
        The table, whose folder is then the value of ``$data_root``.
    file : str or Path
        The file.

    Raises
    ------
    InputError
        If the file does not exist.

    Example
    -------
    >>> check_own_folder("lists/tt.csv", "lists/tt/mix/a.wav")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: lists/tt.csv: lists/tt/mix/a.wav does not exist, with $data_root as the table's ...
    """
    if not os.path.exists(file):
        raise InputError(
            f"{table}: {file} does not exist, with {DATA_ROOT} as the table's own folder. Give the folder of the "
            f"corpus with --data_root (data_root)."
        )


def likely_cause(path: str | Path, data_root: str | Path | None = None) -> str:
    """The likely reason why a file of a table does not exist, as the end of a message; empty if unknown.

    Arguments
    ---------
    path : str or Path
        The missing file.
    data_root : str or Path, optional
        Current folder of the data.

    Returns
    -------
    str

    Example
    -------
    >>> likely_cause("D:/corpus/a.wav")
    " It is a Windows path: replace its beginning with the data's folder on this machine."
    """
    path = str(path)
    if os.sep == "/" and _WINDOWS_PATH.search(path):
        return " It is a Windows path: replace its beginning with the data's folder on this machine."
    parts = Path(path).parts
    if data_root is not None and not os.path.exists(path):
        for start in range(1, len(parts)):
            moved = os.path.join(expanded(data_root), *parts[start:])
            if len(parts) - start > 1 and os.path.isfile(moved):
                old = os.path.join(*parts[:start])
                return f" It is now in '{moved}': replace '{old}' with '{DATA_ROOT}' in the table."
    return ""
