"""Finding the files of sources, estimates and mixtures by the file names of common separation toolkits.

Three layouts, each with several case-insensitive names for a signal; ID may contain folders:

    s1/ID.wav         a folder per speaker, as in corpora and ESPnet (spk1/ID.wav)
    ID_spk1.wav       one folder: ours; Asteroid's _est1, ClearerVoice's _s1, SpeechBrain's _source1hat
    ID/spk1.wav       a folder per mixture, as in TIGER
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mossformer_sb.data.audio_io import AUDIO_ENDINGS
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import walk_files

if TYPE_CHECKING:
    from collections.abc import Sequence

# Names of signals in order of precedence. If sources and estimates are in one folder, their names differ.
ESTIMATES = (
    *(r"estimate(\d+)", r"est(\d+)", r"source(\d+)hat", r"s(\d+)_estimate"),
    *(r"spk(\d+)", r"s(\d+)", r"speaker(\d+)", r"source(\d+)"),
)
REFERENCES = (r"source(\d+)", r"s(\d+)", r"spk(\d+)", r"speaker(\d+)", r"ref(\d+)")
MIXTURE = r"mix|mixture"
BETWEEN = r"[_\-. ]"  # an ID and what follows it


def find_signals(folder: str | Path, kinds: Sequence[str]) -> dict:
    """Find the files of sources or of estimates.

    Arguments
    ---------
    folder : str or Path
        Folder of the files.
    kinds : sequence of str
        `ESTIMATES` or `REFERENCES`.

    Returns
    -------
    dict
        ID to the files, a tuple of Path, in the order of their numbers.

    Raises
    ------
    InputError
        If the folder does not exist, or holds no such files.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("talk_est1.wav", "talk_est2.wav"):
    ...     (folder / name).touch()
    >>> [[path.name for path in paths] for paths in find_signals(folder, ESTIMATES).values()]
    [['talk_est1.wav', 'talk_est2.wav']]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder. Give that of the estimates, or of the references.")
    files = audio_below(folder)
    for layout in (_in_folders_of_speakers, _by_name):
        for kind in kinds:
            signals = layout(folder, files, kind)
            if signals:
                return {name: tuple(numbers[number] for number in sorted(numbers)) for name, numbers in signals.items()}
    endings = ", ".join(f"<ID>_{_plain(kind)}.wav" for kind in kinds)
    raise InputError(
        f"{folder}: holds neither subfolders s1, s2 and so on, nor files {endings}, _2 and so on, nor such files "
        f"without <ID>_ in a folder per mixture. For other names, give a --table of all files."
    )


def find_mixtures(references: str | Path, folder: str | Path | None = None) -> dict:
    """Find the files of mixtures.

    Arguments
    ---------
    references : str or Path
        The folder of the references.
    folder : str or Path, optional
        The folder of the mixtures. Default: ``<ID>_mix.wav`` or ``<ID>/mix.wav`` among the references (or
        ``mixture``), or the only folder next to ``s1`` whose name begins with ``mix``.

    Returns
    -------
    dict
        ID to the file.

    Raises
    ------
    InputError
        If there is no such folder, or several match.
    """
    if folder is not None:
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder of mixtures.")
        named = _single(folder, audio_below(folder))
        return named or _by_path(folder)
    references = Path(references)
    files = audio_below(references)
    if not any(_in_folders_of_speakers(references, files, kind) for kind in REFERENCES):
        return _single(references, files)
    folders = sorted(path for path in references.glob("mix*") if path.is_dir())
    if len(folders) != 1:
        found = ", ".join(path.name for path in folders) or "none"
        raise InputError(f"{references}: must hold one folder of mixtures; found {found}. Give it with --mixtures.")
    return _by_path(folders[0])


def audio_below(folder: Path) -> list:
    """The audio files of a folder and its subfolders, also of linked ones, sorted."""
    paths = map(Path, walk_files(folder, "folder"))
    return sorted(path for path in paths if path.suffix.lower() in AUDIO_ENDINGS and path.is_file())


def identify(path: Path, folder: str | Path) -> str:
    """The ID of a file that is named after it: its path relative to the folder, without extension."""
    return path.relative_to(folder).with_suffix("").as_posix()


def _in_folders_of_speakers(folder, files, kind):
    signals = {}
    for path in files:
        top, *rest = path.relative_to(folder).parts
        match = re.fullmatch(kind, top, re.IGNORECASE)
        if match and rest:
            _put(signals.setdefault(identify(path, folder / top), {}), int(match[1]), path)
    return signals


def _by_name(folder, files, kind):
    signals = {}
    for path in files:
        match = re.fullmatch(rf"(?:(.+){BETWEEN})?{kind}", path.stem, re.IGNORECASE)
        name = match and _name(path, folder, match[1])
        if name:
            _put(signals.setdefault(name, {}), int(match[2]), path)
    return signals


def _put(signals, key, path):
    """Add a signal's file; an InputError if there is another one."""
    if key in signals:
        raise InputError(f"{path}: is the same signal as {signals[key]}. Remove one, or give a --table.")
    signals[key] = path


def _single(folder, files):
    mixtures = {}
    for path in files:
        match = re.fullmatch(rf"(?:(.+){BETWEEN})?(?:{MIXTURE})", path.stem, re.IGNORECASE)
        name = match and _name(path, folder, match[1])
        if name:
            _put(mixtures, name, path)
    return mixtures


def _by_path(folder):
    """The audio files below a folder by their IDs."""
    found = {}
    for path in audio_below(folder):
        _put(found, identify(path, folder), path)
    return found


def _name(path, folder, stem):
    """The ID of a file: the beginning of its name, or its folder; None without both."""
    if stem:
        return path.relative_to(folder).with_name(stem).as_posix()
    parent = path.parent.relative_to(folder).as_posix()
    return None if parent == "." else parent


def _plain(kind):
    return kind.replace(r"(\d+)", "1")
