"""Input files: the recordings that a command line lists, and the output folder of each."""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mossformer_sb.data.audio_io import AUDIO_ENDINGS, OTHER_MEDIA_ENDINGS, skipped_formats_message
from mossformer_sb.data.media_file import MEDIA_ENDINGS, can_read_media
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mossformer_sb.cli.input_list import Listed

logger = logging.getLogger(__name__)

STDIN = "-"
_NAMED = 5  # maximum number of files in a message


@dataclass(frozen=True)
class Job:
    """A recording to separate."""

    path: Path | str  # STDIN for the standard input
    folder: Path  # of its output
    name: str  # beginning of the names of its output
    problem: str | None = None  # why it can't be read, if the folder shows it


def list_recordings(
    inputs: list[str], output_folder: str | Path, listed: Iterable[Listed] = (), passed_over: list | None = None
) -> list[Job]:
    """List the recordings that files, folders and patterns match.

    The output folder gets the subfolders of the recordings below the common parent of all inputs, so that files of one
    name don't collide. Two files that differ only in their ending keep it. A link has its own name; linked folders are
    searched once. A file or folder that can't be read is listed with its problem. Files of unsupported formats are
    counted in a warning.

    Arguments
    ---------
    inputs : list of str
        Files; folders, which are searched recursively for audio files; patterns such as ``calls/**/*.wav``; ``-`` for
        the standard input.
    output_folder : str or Path
        Folder for the output. Files in it are no inputs, unless they are listed singly or it is a parent of the
        searched folder.
    listed : iterable of mossformer_sb.cli.input_list.Listed
        More files, from a list. A missing file is listed with its problem.
    passed_over : list, optional
        The paths of files of unsupported formats are added to it.

    Returns
    -------
    list of Job
        Each recording once, sorted by path.

    Raises
    ------
    InputError
        If an input matches no file, output would be written where recordings are searched, or the inputs are on several
        drives of Windows.

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
    found, anchors, others, searched = {}, [], [], {}
    for given in inputs:
        if given == STDIN:
            continue
        recordings, skipped, anchor = _find(given, output_folder)
        if os.path.isdir(given) or not os.path.lexists(given):
            places = {anchor, *(Path(os.path.realpath(folder)) for folder in {path.parent for path in recordings})}
            searched.update((place, given) for place in places if place.is_relative_to(output_folder))
        if not recordings:
            advice = f"Give audio files, folders of them, or a pattern. {_skipped_message(skipped)}".rstrip()
            raise InputError(f"{given}: matches no audio file. {advice}")
        found.update(recordings)
        others += skipped
        anchors.append(anchor)
    for path, name in listed:
        if name is None:
            path = path.parent.resolve() / path.name
            found[path] = _absent(path)
            anchors.append(path.parent)
    if others:
        logger.warning("%s", _skipped_message(others))
    if passed_over is not None:
        passed_over += others
    found = _unique(found)
    root = _common_parent(anchors)
    outputs = {path: output_folder / path.relative_to(root).parent for path in sorted(found)}
    _check_not_searched(set(outputs.values()), searched)
    names = _names(outputs)
    jobs = [Job(path, folder, names[path], found[path]) for path, folder in outputs.items()]
    jobs += [
        Job(path.parent.resolve() / path.name, output_folder, name, _absent(path))
        for path, name in listed
        if name is not None
    ]
    return jobs + ([Job(STDIN, output_folder, "stdin")] if STDIN in inputs else [])


def _find(given, output_folder):
    """The recordings of one input with their problems, other media, and their common parent folder."""
    path = Path(given)
    if os.path.isdir(path):
        anchor = path.resolve()
        if anchor == output_folder:
            raise InputError(
                f"{given}: is both an input and the output folder, so the next run would separate what this one "
                f"writes. Choose another output folder."
            )
        return *_classify(_walk(anchor), output_folder, anchor), anchor
    if os.path.lexists(path):
        anchor = path.parent.resolve()
        named = anchor / path.name
        return {named: _dangling(named)}, [], anchor  # a single file may have any ending
    if not glob.has_magic(given):
        raise InputError(f"{given}: there is no such file or folder.")
    before = Path(*_until_magic(path.parts))
    fixed = before.resolve()
    if fixed == output_folder:
        _check_not_searched([output_folder], {fixed: given})
    pattern = path.parts[len(before.parts) :]
    if "**" in pattern:  # glob would follow links in circles
        found = [(file.relative_to(fixed).parts, file, problem) for file, problem in _walk(fixed)]
        files = [(file, problem) for parts, file, problem in found if problem or _matches(parts, pattern)]
    else:
        matches = [fixed / Path(match).relative_to(before) for match in glob.glob(given)]
        files = [(match, None) for match in matches if not os.path.isdir(match)]
    return *_classify(files, output_folder, fixed), fixed


def _common_parent(anchors):
    """The folder whose subfolders the output gets; None without recordings."""
    try:
        return Path(os.path.commonpath(anchors)) if anchors else None
    except ValueError as error:
        drives = ", ".join(sorted({Path(anchor).drive for anchor in anchors}))
        raise InputError(
            f"the recordings are on several drives ({drives}), so they have no common folder whose subfolders the "
            f"output could get. Separate those of one drive at a time."
        ) from error


def _check_not_searched(folders, searched):
    """Raise InputError if one of the output's folders is, or is below, one in which recordings are searched.

    ``searched``: folder → input, only folders within the output folder. Elsewhere, files of the output are skipped.
    """
    for folder in folders:
        real = Path(os.path.realpath(folder))
        given = next((searched[place] for place in (real, *real.parents) if place in searched), None)
        if given is not None:
            raise InputError(
                f"{given}: output would be written into {folder}, which is searched for recordings, so the next run "
                f"would separate what this one writes. Choose another output folder."
            )


def _matches(parts, pattern):
    """Whether a path matches a pattern, both as parts: ``**`` matches any number of folders, except hidden ones."""
    if not pattern:
        return not parts
    if pattern[0] == "**" and _matches(parts, pattern[1:]):
        return True
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    if pattern[0] == "**":
        return _matches(parts[1:], pattern)
    return fnmatch.fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _classify(files, output_folder, anchor):
    """The recordings among some files, each with its problem or None; and other media."""
    recordings, others = {}, []
    all_are_below = anchor.is_relative_to(output_folder)
    for path, problem in files:
        if not all_are_below and _is_below(path, output_folder):
            continue
        if problem or (_is_recording(path) and (problem := _dangling(path))):
            recordings[path] = problem
        elif _is_recording(path) and os.path.isfile(path):
            recordings[path] = None
        elif path.suffix.lower() in OTHER_MEDIA_ENDINGS and not path.name.startswith("."):
            others.append(path)
    return recordings, others


def _walk(anchor):
    """Yields the files of a folder and its subfolders, and folders that can't be read, with their problems.

    Links to folders come last, and only if their target is new.
    """
    folders, links, seen = [anchor], [], set()
    while folders or links:
        folder = folders.pop() if folders else links.pop()
        real = Path(os.path.realpath(folder))
        if real in seen or (real != anchor and anchor.is_relative_to(real)):
            continue
        seen.add(real)
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            yield folder, f"{folder}: this folder can't be read ({error.strerror}), so its files are skipped."
            continue
        for entry in entries:
            path = Path(entry.path)
            if os.path.isdir(path):
                (links if entry.is_symlink() else folders).append(path)
            else:
                yield path, None


def _dangling(path):
    """The problem of a broken link, or None."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"{path}: is a link to {os.readlink(path)}, which does not exist."
    return None


def _absent(path):
    """The problem of a listed file that does not exist, or None."""
    if os.path.exists(path):
        return None
    return _dangling(path) or f"{path}: there is no such file; the list names it."


def _is_recording(path):
    ending = path.suffix.lower()
    known = ending in AUDIO_ENDINGS or (ending in MEDIA_ENDINGS and can_read_media())
    return known and not path.name.startswith(".")


def _is_below(path, folder):
    return Path(os.path.realpath(path)).is_relative_to(folder)


def _unique(found):
    """Remove duplicates, as through links to folders: the shortest path is kept."""
    unique = {}
    for path in sorted(found, key=lambda path: (len(path.parts), path)):
        unique.setdefault((os.path.realpath(path.parent), path.name), path)
    return {path: found[path] for path in unique.values()}


def _names(outputs):
    """Beginning of the names of each recording's output, unique within each folder."""
    names = {path: path.stem for path in outputs}
    while True:
        counts = Counter((outputs[path], name) for path, name in names.items())
        shared = [path for path, name in names.items() if counts[outputs[path], name] > 1 and name != path.name]
        if not shared:
            return names
        names.update((path, path.name) for path in shared)


def _skipped_message(others):
    """The message on files of unsupported formats; "" if there are none."""
    if not others:
        return ""
    endings = Counter(path.suffix.lower() for path in others)
    names = ", ".join(str(path) for path in sorted(others)[:_NAMED]) + (", …" if len(others) > _NAMED else "")
    for_media = (
        ' Or pip install "mossformer_sb[av]" for video and mobile formats.' if MEDIA_ENDINGS & set(endings) else ""
    )
    return f"{skipped_formats_message(endings)}{for_media} They are {names}."


def _until_magic(parts):
    for part in parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def shard(jobs: list, environment: Mapping[str, str] = os.environ) -> list:
    """The part of a list for this process, one of several that ``torchrun`` numbers.

    Example
    -------
    >>> shard(["a", "b", "c", "d", "e"], {"RANK": "1", "WORLD_SIZE": "2"})
    ['b', 'd']
    """
    rank, size = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
    return jobs[rank::size]
