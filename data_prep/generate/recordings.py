"""Finding recordings in folders or tables."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.choices import check_choice
from data_prep.generate.file_access import check_access, check_name
from data_prep.generate.reading import count_frames
from data_prep.generate.recording_problems import describe_problems
from data_prep.messages import first_of
from data_prep.parallel import thread_map
from mossformer_sb.data.audio_io import AUDIO_ENDINGS, OTHER_MEDIA_ENDINGS, skipped_formats_message
from mossformer_sb.data.tables import read_table, resolve_path
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded, walk_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


logger = logging.getLogger(__name__)

LAYOUTS = ("librispeech", "speakers")
# Parts of WSJ0 and of LibriSpeech, which hold the folders of speakers.
_SUBSET = re.compile(r"si_(tr|dt|et)_\w+|(train|dev|test)-(clean|other)(-\d+)?")
PATTERN_ADVICE = "--speaker_pattern, a regular expression with the speaker in parentheses, such as '^([a-z]+)_'"


@dataclass(frozen=True)
class Clip:
    """A recording for mixtures.

    Attributes
    ----------
    path : str
        Path relative to the given folder, with slashes. A part of a recording follows `#t=`, see `file_and_part`.
    name : str
        Name in the names of mixtures.
    speaker : str
        Speaker, empty for noise.
    frames : int
        Number of samples at 16 kHz.
    """

    path: str
    name: str
    speaker: str
    frames: int


def find_speech(
    source: str | Path,
    layout: str = "librispeech",
    resample: bool | int = False,
    speaker_pattern: str | None = None,
    cut: Callable | None = None,
) -> tuple[Path, list[Clip]]:
    """Lists the utterances of a folder or a table.

    Arguments
    ---------
    source : str or Path
        A folder, or a CSV with the columns `path,spk`, whose paths are absolute or relative to the CSV's folder.
    layout : str
        Layout of a folder. "librispeech": files called `{speaker}-{chapter}-{utterance}`, at any depth; "speakers": one
        folder per speaker, with the speaker's name, with files at any depth.
    resample : bool or int
        As for `read_recording`.
    speaker_pattern : str, optional
        Instead of a layout: a regular expression that is searched for in the paths of a folder's files. Its group is
        the speaker.
    cut : Callable, optional
        Function from the folder and the clips to the final clips, which cuts long recordings.

    Returns
    -------
    folder : Path
        Folder of the relative paths.
    utterances : list of Clip
        Sorted by path.

    Raises
    ------
    InputError
        If there is no utterance, a file is invalid, or two have the same name.
    """
    folder, named = name_speech(source, layout, speaker_pattern)
    clips = _clips(folder, named, resample, "from_speech")
    clips = clips if cut is None else cut(folder, clips)
    paths = {}
    for clip in clips:
        if clip.name in paths:
            raise InputError(
                f"{source}: two recordings have the same name, {clip.name}, and so would their mixtures: "
                f"{paths[clip.name]} and "
                f"{clip.path}. Rename one of them."
            )
        paths[clip.name] = clip.path
    return folder, clips


def name_speech(
    source: str | Path,
    layout: str = "librispeech",
    speaker_pattern: str | None = None,
    keys: Sequence[str] = ("from_speech", "layout"),
) -> tuple[Path, list[tuple[str, ...]]]:
    """Lists the utterances of a folder or a table by name, without reading headers; see `find_speech`.

    Arguments
    ---------
    source, layout, speaker_pattern
        As for `find_speech`.
    keys : sequence of str
        Names of `source` and `layout` in messages.

    Returns
    -------
    folder : Path
        Folder of the relative paths.
    named : list of tuple of str
        Path, name and speaker of each, sorted by path.
    """
    check_choice(keys[1], layout, LAYOUTS)
    source = Path(expanded(source))
    if source.is_file():
        return source.parent, _from_table(source)
    if speaker_pattern is not None:
        return source, _from_pattern(source, speaker_pattern, keys[0])
    return source, _from_folder(source, layout, *keys)


def name_noise(folder: str | Path, key: str = "noise") -> list[str]:
    """Lists the paths of a folder's recordings, at any depth, relative to it; the key is its name in messages."""
    return _audio_files(Path(expanded(folder)), key)


def find_noise(folder: str | Path, resample: bool | int = False) -> list[Clip]:
    """Lists the recordings of a folder of noise, at any depth; see `find_speech`."""
    folder = Path(expanded(folder))
    return _clips(folder, [(path, path, "") for path in _audio_files(folder, "noise")], resample, "noise")


def _audio_files(folder, key):
    if not folder.is_dir():
        raise InputError(f"{key} '{folder}' is not a folder: give the folder of the recordings.")
    check_access(folder)
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in map(Path, walk_files(folder, key))
        if path.suffix.lower() in AUDIO_ENDINGS and path.name[0] != "."
    )
    named = set(files)  # WSJ0's second microphone, across the room, has the same speech again
    files = [path for path in files if not (path.endswith(".wv2") and f"{path[:-1]}1" in named)]
    for path in files:
        check_name(path)
    endings = (path.suffix.lower() for path in folder.rglob("*") if path.name[0] != ".")
    others = skipped_formats_message(Counter(ending for ending in endings if ending in OTHER_MEDIA_ENDINGS))
    if not files:
        needed = f"needed files that end in {', '.join(AUDIO_ENDINGS)}"
        raise InputError(f"{key} '{folder}' holds no recording; {needed}. {others}".rstrip())
    if others:
        logger.warning("%s '%s': %s", key, folder, others)
    return files


def _from_folder(folder, layout, key, layout_key):
    """Lists (path, name, speaker) of the utterances in a folder."""
    named = []
    for path in _audio_files(folder, key):
        stem, parents = Path(path).stem, Path(path).parts[:-1]
        if layout == "speakers":
            if not parents:
                raise InputError(
                    f"{key} '{folder}': {path} is not in a speaker's folder. Move or remove it; or, if file names have "
                    f"the speakers, give {PATTERN_ADVICE}."
                )
            if _SUBSET.fullmatch(parents[0]):
                raise InputError(
                    f"{key} '{folder}': {parents[0]} is a part of a corpus, not a speaker. Give the folder of the part "
                    f"to train on, such as '{folder / parents[0]}'."
                )
            named.append((path, "-".join((*parents, stem)), parents[0]))
        else:
            if not re.fullmatch(r"\w+-\w+-\w+", stem):
                raise InputError(
                    f"{key} '{folder}': {path} is not called speaker-chapter-utterance, as in LibriSpeech. "
                    f"For one folder per speaker, give --{layout_key} speakers; if file names have the speaker in "
                    f"another format, {PATTERN_ADVICE}; otherwise, a CSV with path,spk."
                )
            named.append((path, stem, stem.split("-")[0]))
    return named


def _from_pattern(folder, pattern, key):
    """Lists (path, name, speaker) of the utterances in a folder, with speakers by a regular expression."""
    try:
        expression = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise InputError(
            f"speaker_pattern {pattern!r} is not a regular expression ({error}). Give {PATTERN_ADVICE}."
        ) from error
    named = []
    for path in _audio_files(folder, key):
        found = expression.search(path)
        speaker = found and (found[1] if expression.groups else found[0])
        if not speaker:
            raise InputError(
                f"{key} '{folder}': speaker_pattern {pattern!r} finds no speaker in {path}. Give one that matches all "
                "files, or move or remove this one."
            )
        named.append((path, "-".join((speaker, *Path(path).with_suffix("").parts)).replace("/", "-"), speaker))
    return named


def _from_table(path):
    """Lists (path, name, speaker) of the utterances in a CSV."""
    check_access(path)
    columns, rows, numbers = read_table(path)
    missing = [column for column in ("path", "spk") if column not in columns]
    if missing:
        raise InputError(
            f"{path}: column {', '.join(missing)} is missing; found {', '.join(columns)}; needed path,spk in the first "
            "line."
        )
    named = []
    for number, row in zip(numbers, rows, strict=True):
        if not row["path"] or not row["spk"]:
            raise InputError(f"{path}:{number}: needed {len(columns)} fields, none of path and spk empty.")
        try:
            found = resolve_path(row["path"], None)
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from error
        named.append((found, f"{row['spk']}-{Path(found).stem}".replace("/", "-"), row["spk"]))
    if not named:
        raise InputError(f"{path}: has no rows; needed one for each utterance.")
    times = Counter(name for _, name, _ in named)
    return sorted((found, name if times[name] == 1 else _full_name(found, spk), spk) for found, name, spk in named)


def _full_name(path, speaker):
    """Name of an utterance with those of its folders, where files in several have the same name."""
    path = Path(path).with_suffix("")
    return "-".join((speaker, *(part for part in path.parts if part not in (path.anchor, os.pardir)))).replace("/", "-")


def _clips(folder, named, resample, key):
    paths = [path for path, _, _ in named]
    frames = frames_of(folder, paths, resample, key)
    return [Clip(path, name, speaker, frames[path]) for path, name, speaker in named]


def frames_of(
    folder: str | Path,
    paths: Iterable[str],
    resample: bool | int = False,
    key: str = "folder",
    splits: Mapping | None = None,
) -> dict:
    """Number of samples at 16 kHz of many recordings: one pass over the headers with threads.

    Arguments
    ---------
    folder : str or Path
        Folder of the relative paths.
    paths : iterable of str
        The recordings.
    resample : bool
        As for `read_recording`.
    key : str
        The folder's name in messages.
    splits : Mapping, optional
        Split → its paths, for messages.

    Returns
    -------
    frames : dict
        path → number of samples.

    Raises
    ------
    InputError
        If recordings are invalid; the message lists all of them.
    """
    paths = list(dict.fromkeys(paths))
    counts = thread_map(
        lambda path: _count_or_problem(os.path.join(folder, path), resample), paths, "Reading headers", "file"
    )
    frames = dict(zip(paths, counts, strict=True))
    problems = {path: found for path, found in frames.items() if isinstance(found, InputError)}
    if problems:
        raise InputError(describe_problems(folder, paths, problems, key, splits or {}))
    return frames


def _count_or_problem(path, resample):
    try:
        return count_frames(path, resample)
    except InputError as error:
        return error


def warn_of_single_utterances(utterances: Iterable) -> list[str]:
    """Logs which speakers have only one utterance, which is too little to learn their voices.

    Returns
    -------
    single : list of str
        Names of these speakers.
    """
    counts = {}
    for clip in utterances:
        counts[clip.speaker] = counts.get(clip.speaker, 0) + 1
    single = sorted(speaker for speaker, count in counts.items() if count == 1)
    if single:
        logger.warning("%d of %d speakers have a single utterance: %s", len(single), len(counts), first_of(single))
    return single


def fingerprint(clips: list) -> str:
    """Hash of names, speakers and lengths, which determine the drawn mixtures."""
    text = "\n".join(f"{clip.path} {clip.speaker} {clip.frames}" for clip in clips)
    return hashlib.sha256(text.encode()).hexdigest()
