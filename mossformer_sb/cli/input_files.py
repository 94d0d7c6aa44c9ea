"""Which recordings a command line means, and where what comes of each goes."""

import glob
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mossformer_sb.data.audio_io import AUDIO_ENDINGS
from mossformer_sb.errors import InputError


@dataclass(frozen=True)
class Job:
    """A recording to separate."""

    path: Path
    folder: Path  # of its output
    name: str  # what the names of its output begin with


def list_recordings(inputs, output_folder):
    """List the recordings that files, folders and patterns stand for.

    Output goes to the same folders below the output folder as the recordings have below what all inputs have in common:
    files of one name don't collide. Two that differ in their ending alone keep it.

    Arguments
    ---------
    inputs : list of str
        Files; folders, of which all audio files are taken, also from those inside; patterns such as ``calls/**/*.wav``.
    output_folder : str or Path
        What lies in it is never an input.

    Returns
    -------
    list of Job
        Each recording once, sorted by path.

    Raises
    ------
    InputError
        If an input stands for nothing, or the output folder is one of the inputs.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("monday", "tuesday"):
    ...     (folder / name).mkdir()
    ...     (folder / name / "call.wav").touch()
    >>> [job.folder.name for job in list_recordings([str(folder)], folder / "separated")]
    ['monday', 'tuesday']
    """
    output_folder = Path(output_folder).resolve()
    found, anchors = set(), []
    for given in inputs:
        paths, anchor = _find(given, output_folder)
        if not paths:
            raise InputError(f"{given}: matches no audio file. Give audio files, folders of them, or a pattern.")
        found.update(paths)
        anchors.append(anchor)
    root = Path(os.path.commonpath(anchors))
    outputs = {path: output_folder / path.relative_to(root).parent for path in sorted(found)}
    same_name = Counter((folder, path.stem) for path, folder in outputs.items())
    return [
        Job(path, folder, path.name if same_name[folder, path.stem] > 1 else path.stem)
        for path, folder in outputs.items()
    ]


def _find(given, output_folder):
    """The files that one input stands for, and the folder below which they lie."""
    path = Path(given)
    if path.is_dir():
        anchor = path.resolve()
        if anchor == output_folder:
            raise InputError(
                f"{given}: is both an input and the output folder, so the next run would separate what this one "
                f"writes. Choose another output folder."
            )
        candidates = (Path(folder) / name for folder, _, names in os.walk(anchor) for name in names)
        return _audio(candidates, output_folder), anchor
    if path.exists():
        return [path.resolve()], path.resolve().parent
    if not glob.has_magic(given):
        raise InputError(f"{given}: there is no such file or folder.")
    fixed = Path(*[part for part in _until_magic(path.parts)]).resolve()
    return _audio(map(Path, glob.glob(given, recursive=True)), output_folder), fixed


def _audio(paths, output_folder):
    return [
        path.resolve()
        for path in paths
        if path.suffix.lower() in AUDIO_ENDINGS
        and not path.name.startswith(".")
        and path.is_file()
        and not path.resolve().is_relative_to(output_folder)
    ]


def _until_magic(parts):
    for part in parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def shard(jobs, environment=os.environ):
    """The part of a list that this process of several takes, as ``torchrun`` numbers them.

    Example
    -------
    >>> shard(["a", "b", "c", "d", "e"], {"RANK": "1", "WORLD_SIZE": "2"})
    ['b', 'd']
    """
    rank, size = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
    return jobs[rank::size]
