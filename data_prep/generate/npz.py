"""Arrays of .npz files, without running code of a pickle in them.

NumPy stores an array of Python objects as a pickle, and reading a pickle can run any code. The published scaling files
of WHAM! have names in such an array. So names are read from a CSV table if there is one, else from the pickle with
only the classes of an array of strings allowed.
"""

from __future__ import annotations

import csv
import os
import pickle
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from data_prep.generate.file_access import check_access
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAMAGED = (OSError, ValueError, EOFError, TypeError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)


def read_arrays(path: str | Path, keys: Sequence[str]) -> dict:
    """Reads arrays of numbers.

    Arguments
    ---------
    path : str or Path
        The .npz file.
    keys : sequence of str
        Names of the arrays.

    Returns
    -------
    arrays : dict
        Name → array.

    Raises
    ------
    InputError
        If the file can't be read, or lacks an array.

    Example
    -------
    >>> path = getfixture("tmp_path") / "gains.npz"
    >>> np.savez(path, gain=np.ones(2))
    >>> read_arrays(path, ["gain"])["gain"]
    array([1., 1.])
    """
    with _opened(path) as archive:
        _check_keys(path, archive, keys)
        return {key: archive[key] for key in keys}


def read_names(path: str | Path, key: str, table: Path) -> list[str]:
    """Reads an array of strings that NumPy stored as text, bytes or Python objects.

    Arguments
    ---------
    path : str or Path
        The .npz file.
    key : str
        Name of the array.
    table : Path
        A CSV that has the same names in its column of the same name; it is read instead of an array of objects, if it
        exists.

    Returns
    -------
    names : list of str

    Raises
    ------
    InputError
        If the file or the table can't be read, or lacks the names.

    Example
    -------
    >>> path = getfixture("tmp_path") / "gains.npz"
    >>> np.savez(path, name=np.array(["a", "b"], dtype=object))
    >>> read_names(path, "name", path.with_name("names.csv"))
    ['a', 'b']
    """
    with _opened(path) as archive:
        _check_keys(path, archive, [key])
        with archive.zip.open(f"{key}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read_header[version](stream)
            if not dtype.hasobject:
                names = archive[key]
            elif os.path.isfile(table):
                return _column(table, key)
            else:
                names = _StringArrays(stream, encoding="latin1").load()
    listed = names.tolist() if isinstance(names, np.ndarray) and names.ndim == 1 and names.shape == shape else [None]
    if not all(isinstance(name, str | bytes) for name in listed):
        raise InputError(f"{path}: {key} is not a list of names. Copy the file again.")
    return [name.decode() if isinstance(name, bytes) else name for name in listed]


class _opened:  # noqa: N801, a context manager
    """Context: opens an archive; any error, also during reading, becomes an InputError."""

    def __init__(self, path):
        self.path = path
        check_access(path)
        try:
            self.archive = np.load(path)
            if not isinstance(self.archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
        except DAMAGED as error:
            raise self._damaged(error) from error

    def _damaged(self, error):
        return InputError(f"{self.path}: can't be read as an .npz file ({error}). Copy it again.")

    def __enter__(self):
        return self.archive

    def __exit__(self, kind, error, traceback):
        self.archive.close()
        if isinstance(error, InputError):
            return
        if isinstance(error, DAMAGED):
            raise self._damaged(error) from error


def _check_keys(path, archive, keys):
    missing = [key for key in keys if key not in archive]
    if missing:
        raise InputError(f"{path}: lacks the array {missing[0]}; found {', '.join(archive.files)}.")


def _column(path, key):
    """One column of a CSV, as a list of strings."""
    check_access(path)
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if key not in (reader.fieldnames or []):
            raise InputError(f"{path}: column {key} is missing; found {', '.join(reader.fieldnames or ['nothing'])}.")
        return [row[key] for row in reader]


def _latin1(text, encoding):
    """The function that pickles of protocol 2 call to encode text, for this one encoding."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it names the encoding {encoding!r}")
    return text.encode("latin1")


class _StringArrays(pickle.Unpickler):
    """Unpickler for arrays of strings, which refuses all other classes."""

    def find_class(self, module, name):
        reconstruct = np.array(["a"], dtype=object).__reduce__()[0]  # it has moved from numpy.core to numpy._core
        admitted = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("_codecs", "encode"): _latin1,
        }
        if (module, name) not in admitted:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and holds more than an array of strings")
        return admitted[module, name]
