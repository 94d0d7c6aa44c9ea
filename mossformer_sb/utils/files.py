"""Writing files so that a file of a given name is always complete."""

import contextlib
import os
from pathlib import Path

from mossformer_sb.errors import InputError


def temporary_name(path):
    """The path in the same folder under which a file, or a folder, is made; see `replacing`.

    Example
    -------
    >>> temporary_name("results/table.csv").name == f".table.csv.{os.getpid()}.tmp"
    True
    """
    path = Path(path)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextlib.contextmanager
def replacing(path):
    """Context: a temporary path in the same folder, whose file gets the name of ``path`` if all went well.

    Whatever ends the program half way, ``path`` is what it was before, or complete. The temporary name has the number
    of the process in it, so that several processes don't write into one file.

    Arguments
    ---------
    path : str or Path
        Its folder must exist.

    Yields
    ------
    Path
        Where to write.

    Example
    -------
    >>> path = getfixture("tmp_path") / "table.csv"
    >>> with replacing(path) as temporary:
    ...     _ = temporary.write_text("a,b")
    >>> path.read_text(), [file.name for file in path.parent.iterdir()]
    ('a,b', ['table.csv'])
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file in UTF-8, complete or not at all.

    Arguments
    ---------
    path : str or Path
        Its folder must exist.
    text : str
        Its content, with the line ends that are to be written.
    """
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        file.write(text)


def make_output_folder(folder):
    """Make a folder to write to, if it is not there.

    Arguments
    ---------
    folder : str or Path
        Parents are made too.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If nothing can be written there.
    """
    folder = Path(folder)
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{folder}: can't write to this folder ({error.strerror}). Choose another output folder."
        ) from error
    return folder
