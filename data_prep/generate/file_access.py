"""Files without read permission, and names whose case is unknown."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def access_problem(path: str | Path) -> str | None:
    """The reason why an existing path can't be read.

    Arguments
    ---------
    path : str or Path
        A file or a folder, which need not exist.

    Returns
    -------
    problem : str, or None
        "can't be read (Permission denied): …" with the file or folder; None for paths that can be read or do not exist.

    Example
    -------
    >>> access_problem("/no/such/file") is None
    True
    """
    path = Path(path)
    try:
        if os.path.isdir(path):
            os.scandir(path).close()
        else:
            open(path, "rb").close()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"can't be read ({error.strerror}): '{_refusing(path)}'"
    return None


def check_access(path: str | Path) -> None:
    """Raises an InputError if a file or folder exists and can't be read."""
    problem = access_problem(path)
    if problem:
        raise InputError(f"{path}: {problem}. Allow reading it, or copy it to a readable place.")


def check_name(path: str) -> None:
    """Raises an InputError if a path is not UTF-8, as in archives of old systems: no table can hold it.

    Example
    -------
    >>> check_name("caf\\udce9.wav")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: 'caf\\udce9.wav': the name is not UTF-8, so no table can hold it. Rename it, ...
    """
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path!r}: the name is not UTF-8, so no table can hold it. Rename it, for example with convmv."
        ) from error


def _refusing(path):
    """The file or folder that can't be read: below an unreadable folder nothing can be checked."""
    while path != path.parent:
        try:
            os.stat(path)
            return path
        except OSError:
            path = path.parent
    return path


class FolderListings:
    """Finds paths case-insensitively. Each folder is listed once.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "WSJ0" / "SI_TR_S").mkdir(parents=True)
    >>> FolderListings().find(folder, "wsj0/si_tr_s") == folder / "WSJ0" / "SI_TR_S"
    True
    """

    def __init__(self) -> None:
        self.listings = {}

    def find(self, folder: str | Path, name: str, suffixes: Sequence[str] = ()) -> Path | None:
        """Finds a file or folder.

        Arguments
        ---------
        folder : str or Path
            Folder to search.
        name : str
            Path relative to the folder, with slashes.
        suffixes : sequence of str
            Extensions to try instead of that of the name, in order of precedence. If empty, only that of the name.

        Returns
        -------
        path : Path, or None
        """
        *folders, last = PurePosixPath(name).parts
        place = Path(folder)
        for part in folders:
            place = self._child(place, part)
            if place is None:
                return None
        names = [str(PurePosixPath(last).with_suffix(suffix)) for suffix in suffixes] or [last]
        return next((found for found in (self._child(place, name) for name in names) if found), None)

    def _child(self, folder, name):
        listing = self._listing(folder)
        if listing is None:  # a folder that can be entered but not listed
            return folder / name if os.path.exists(folder / name) else None
        actual = listing.get(name) or listing.get(name.lower())
        return folder / actual if actual else None

    def _listing(self, folder):
        if folder not in self.listings:
            try:
                names = sorted(os.listdir(folder), reverse=True)
            except (FileNotFoundError, NotADirectoryError):
                names = []
            except OSError:
                names = None
            by_name = None if names is None else {name.lower(): name for name in names} | {name: name for name in names}
            self.listings[folder] = by_name
        return self.listings[folder]
