"""Writing files and folders atomically: under a temporary name, then renamed. Used by all writers."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

LONGEST_NAME = 255  # bytes, in nearly all file systems


def expanded(value: Any) -> Any:
    """Replace ``~`` at the start of a path, or of the paths in a list or a mapping, with the home folder.

    A shell only expands ``~`` at the start of a word: not in ``--data_folder=~/wham``, nor in a file. Programs apply
    this to all values of their command line and YAML file; functions apply it to their paths.

    Arguments
    ---------
    value : object
        Any value; values other than paths that begin with ``~`` are returned unchanged.

    Returns
    -------
    object

    Raises
    ------
    InputError
        If a path has a character that no path can have: a null character, or one that the file system can't encode.

    Example
    -------
    >>> expanded("~/wham") == os.path.expanduser("~/wham"), expanded(["a~b", 3, None])
    (True, ['a~b', 3, None])
    """
    if isinstance(value, str):
        _encoded(value)
        return os.path.expanduser(value) if value.startswith("~") else value
    if isinstance(value, os.PathLike):
        return Path(expanded(os.fspath(value)))
    if isinstance(value, Mapping):
        return {key: expanded(item) for key, item in value.items()}
    return [expanded(item) for item in value] if isinstance(value, (list, tuple)) else value


def temporary_name(path: str | Path) -> Path:
    """Temporary path in the same folder for a file or a folder; see `atomic_write`.

    It contains the process ID, so that several processes don't write to the same file. A name that would be too long is
    replaced by a hash.

    Raises
    ------
    InputError
        If the name is not valid for a file.

    Example
    -------
    >>> temporary_name("results/table.csv").name == f".table.csv.{os.getpid()}.tmp"
    True
    """
    path = Path(path)
    name = f".{path.name}.{os.getpid()}.tmp"
    if len(_encoded(name)) > LONGEST_NAME:
        digest = hashlib.sha256(_encoded(path.name)).hexdigest()
        name = f".{digest}.{os.getpid()}.tmp"
    return path.with_name(name)


def _encoded(name):
    """The bytes of a path, or of a file's name; an InputError if it is not valid."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError as error:
        raise InputError(f"{ascii(name)}: no file can have this name ({error.reason}). Choose another one.") from error
    if b"\0" in encoded:
        raise InputError(f"{name!r}: no file can have a name with a null character. Choose another one.")
    return encoded


@contextlib.contextmanager
def refusing_long_names() -> Iterator[None]:
    """Context, or decorator, of a program: a path that is too long for the file system raises InputError.

    Any access to such a path raises OSError, even the question whether it exists.

    Raises
    ------
    InputError
        If a path is too long.

    Example
    -------
    >>> with refusing_long_names():
    ...     Path("x" * 300).stat()
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: xxx...: is too long for the name of a file or folder. Give a shorter one.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise InputError(
            f"{error.filename}: is too long for the name of a file or folder. Give a shorter one."
        ) from error


def for_soundfile(path: str | Path) -> str | bytes:
    """A path as an argument of soundfile, which refuses text with bytes that are not UTF-8.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    str or bytes

    Example
    -------
    >>> for_soundfile("café.wav"), for_soundfile("caf\\udce9.wav")
    ('café.wav', b'caf\\xe9.wav')
    """
    name = os.fspath(path)
    try:
        name.encode(sys.getfilesystemencoding())
    except UnicodeEncodeError:
        return name if os.name == "nt" else os.fsencode(name)
    return name


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Context: a temporary path in the same folder, whose file is renamed to ``path`` if no error occurs.

    If the program is interrupted, ``path`` is unchanged or complete.

    Arguments
    ---------
    path : str or Path
        Its folder must exist.

    Yields
    ------
    Path
        Temporary path to write to.

    Example
    -------
    >>> path = getfixture("tmp_path") / "table.csv"
    >>> with atomic_write(path) as temporary:
    ...     _ = temporary.write_text("a,b")
    >>> path.read_text(), [file.name for file in path.parent.iterdir()]
    ('a,b', ['table.csv'])
    """
    with atomic_write_all([path]) as (temporary,):
        yield temporary


@contextlib.contextmanager
def atomic_write_all(paths: Iterable[str | Path]) -> Iterator[list[Path]]:
    """As `atomic_write` for several files: all are renamed when all are written, or none.

    Arguments
    ---------
    paths : iterable of str or Path
        Their folders must exist.

    Yields
    ------
    list of Path
        Temporary paths to write to, in the same order.

    Example
    -------
    >>> paths = [getfixture("tmp_path") / name for name in ("a.txt", "b.txt")]
    >>> with atomic_write_all(paths) as temporaries:
    ...     sizes = [temporary.write_text("text") for temporary in temporaries]
    >>> [path.read_text() for path in paths]
    ['text', 'text']
    """
    paths = [expanded(Path(path)) for path in paths]
    temporaries = [temporary_name(path) for path in paths]
    try:
        yield temporaries
        for temporary, path in zip(temporaries, paths, strict=True):
            os.replace(temporary, path)
    finally:
        for temporary in temporaries:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """As `atomic_write` for a folder: context, a new empty folder that replaces it if no error occurs.

    An existing folder is deleted last, and restored if the new one can't be renamed. If ``path`` is a link, the folder
    that it points to is replaced.

    Arguments
    ---------
    path : str or Path
        The folder; its parents are created.

    Yields
    ------
    Path
        The folder to write into.

    Raises
    ------
    InputError
        If ``path`` is a mount point, such as a volume of a container, which can't be replaced, or can't be created.

    Example
    -------
    >>> path = getfixture("tmp_path") / "model"
    >>> with atomic_folder(path) as temporary:
    ...     _ = (temporary / "card.md").write_text("text")
    >>> [file.name for file in path.iterdir()], [file.name for file in path.parent.iterdir()]
    (['card.md'], ['model'])
    """
    path = Path(os.path.realpath(expanded(path)))
    if os.path.ismount(path):
        raise InputError(f"{path}: is a mount point, which can't be replaced. Give the name of a folder in it.")
    # In containers, process IDs are often the same: neither leftovers nor another one's folder may be in the way.
    temporary = temporary_name(path).with_suffix(f".{secrets.token_hex(4)}.tmp")
    aside = temporary.with_suffix(".old")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{path}: can't be created ({error.strerror}). Choose another output folder.") from error
    try:
        yield temporary
        if path.exists():
            os.replace(path, aside)
        try:
            os.replace(temporary, path)
        except OSError:
            if aside.exists():
                os.replace(aside, path)
            raise
        if aside.exists():
            shutil.rmtree(aside)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, atomically.

    Arguments
    ---------
    path : str or Path
        Its folder must exist.
    text : str
        Its content; line ends are written unchanged.
    """
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        file.write(text)


def make_output_folder(folder: str | Path) -> Path:
    """Create a folder to write to, if it does not exist.

    Arguments
    ---------
    folder : str or Path
        Parents are created too.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If no file can be written there.
    """
    folder = Path(expanded(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # whose name is no other writer's
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder}: can't write to this folder ({reason}). Choose another output folder.") from error
    return folder


def check_output_file(path: str | Path) -> Path:
    """Check the path of an output file early, and create its folder.

    Arguments
    ---------
    path : str or Path
        An existing file will be replaced.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If no file can be written there, or it is a folder.

    Example
    -------
    >>> check_output_file(getfixture("tmp_path"))
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: ...: is a folder; expected a file to write. Give the name of a file.
    """
    path = Path(expanded(path))
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        is_folder = False
    except (OSError, ValueError) as error:  # too long, or with an invalid character
        raise InputError(f"{str(path)!r}: can't be written ({error}). Give the name of another file.") from error
    if is_folder:
        raise InputError(f"{path}: is a folder; expected a file to write. Give the name of a file.")
    make_output_folder(path.parent)
    return path


def locate(training_folder: Path, path: str, output_folder: str | None = None) -> Path:
    """Find a folder of the YAML of a training, also if the output folder has been moved.

    Arguments
    ---------
    training_folder : Path
        The current output folder.
    path : str
        The value of a key such as ``save_folder``.
    output_folder : str, optional
        The value of ``output_folder``.

    Returns
    -------
    Path
        The folder, which need not exist.

    Example
    -------
    >>> locate(Path("moved"), "results/a/save/best", "results/a").as_posix()
    'moved/save/best'
    """
    if isinstance(output_folder, str) and Path(path).is_relative_to(output_folder):
        return training_folder / Path(path).relative_to(output_folder)
    inside = training_folder / Path(path).name
    return Path(path) if Path(path).is_dir() and not inside.is_dir() else inside


def _is_in(path, folder):
    """Whether a path, both without links, is a folder or in it."""
    return (path + os.sep).startswith(folder.rstrip(os.sep) + os.sep)


def walk_files(folder: str | Path, key: str) -> Iterator[str]:
    """List the files below a folder, in a fixed order. Links to other folders are followed.

    Arguments
    ---------
    folder : str or Path
        Folder to search.
    key : str
        Its name in messages.

    Yields
    ------
    path : str

    Raises
    ------
    InputError
        If a folder in it can't be read: its files would be missed.
    """
    top = os.path.realpath(folder)
    seen = {top}

    def refuse(error):
        raise InputError(f"{key} '{folder}': '{error.filename}' can't be read ({error.strerror}). Allow reading it.")

    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders.sort()  # of two links to the same folder the same one is followed everywhere
        yield from (os.path.join(place, name) for name in sorted(files))
        links = {name: os.path.realpath(path) for name in folders if os.path.islink(path := os.path.join(place, name))}
        # Folders inside are listed under their own names, and links to those above would list all of them again.
        skipped = {name for name, real in links.items() if real in seen or _is_in(real, top) or _is_in(top, real)}
        folders[:] = [name for name in folders if name not in skipped]
        seen |= set(links.values())
