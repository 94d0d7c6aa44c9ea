"""Lists of recordings in a file: one path per line, or Kaldi's ``wav.scp``."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded


class Listed(NamedTuple):
    """A recording of a list."""

    path: Path
    name: str | None  # name of its output, if the list has an ID for it


def read_input_list(path: str | Path) -> list[Listed]:
    """Read a list of recordings.

    Arguments
    ---------
    path : str or Path
        A text file in UTF-8 with one path per line, relative to the working directory; blank lines are ignored. If its
        name ends in ``.scp``: one ``ID PATH`` per line, as in Kaldi; a line with only a path has no ID.

    Returns
    -------
    list of Listed
        In the order of the file.

    Raises
    ------
    InputError
        If the list can't be read, is empty, has an ID twice, or a command or an archive instead of a path.

    Example
    -------
    >>> path = getfixture("tmp_path") / "wav.scp"
    >>> _ = path.write_text("call1 audio/a.wav\\ncall2 audio/b 2.wav\\n")
    >>> [(name, path.as_posix()) for path, name in read_input_list(path)]
    [('call1', 'audio/a.wav'), ('call2', 'audio/b 2.wav')]
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        if "\0" in text:  # UTF-16 without a mark at its start
            raise UnicodeError
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not in UTF-8"
        raise InputError(f"{path}: this list can't be read ({reason}). Give a text file, one path per line.") from error
    lines = text.split("\n")
    is_scp = str(path).endswith(".scp")
    found = [
        _read_scp(line.strip(), f"{path}, line {number}") if is_scp else Listed(Path(expanded(line.strip())), None)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not found:
        raise InputError(f"{path}: this list is empty. Give one path per line.")
    counts = Counter(name for _, name in found if name is not None)
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None:
        raise InputError(f"{path}: has the ID {twice} twice, and output is named by IDs. Give each line a unique ID.")
    return found


def _read_scp(line, place):
    name, *more = re.split(r"[ \t]+", line, maxsplit=1)
    if not more or os.path.exists(line):
        return Listed(Path(expanded(line)), None)
    rest = more[0]
    if rest.endswith("|"):
        raise InputError(f"{place}: has a command, '{rest}', which is not run here. Write its output to a file first.")
    if not os.path.exists(rest) and rest.rpartition(":")[2].isdigit():
        raise InputError(f"{place}: has an offset in an archive, '{rest}', which can't be read here. Give audio files.")
    if name in (".", "..") or set(name) & set("/\\"):
        raise InputError(f"{place}: has the ID '{name}', which can't name a file. Give IDs without slashes.")
    return Listed(Path(expanded(rest)), name)
