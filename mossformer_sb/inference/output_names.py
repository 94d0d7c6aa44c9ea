"""Names of the output files, by a pattern such as ``{stem}_spk{n}``."""

from __future__ import annotations

import re
import string
from pathlib import Path

from mossformer_sb.errors import InputError

DEFAULT_PATTERN = "{stem}_spk{n}"

_FIELDS = "{stem}, the recording's name without its ending, and {n}, the number of the speaker"
_NUMBER_SPEC = re.compile(r"0?\d{0,2}d?")
# {n} with the letters before it: "spk{n}". Files of no single speaker have another word in its place.
_NUMBERED = re.compile(r"[A-Za-z]*\{n(:[^}]*)?\}")
_LEADS_OUT = re.compile(r"[/\\~]|[A-Za-z]:")  # absolute paths and home folders, of Windows and POSIX


class _AnySpeaker(str):
    """Stays ``{n}``, whatever the pattern's number format is."""

    def __format__(self, spec):
        return "{n}"


ANY_SPEAKER = _AnySpeaker()  # instead of a number, for names that are only displayed


def check_pattern(pattern: str) -> None:
    """Raise InputError if a pattern can't name the files of all speakers.

    Arguments
    ---------
    pattern : str
        File name with the fields ``{stem}`` and ``{n}``, without the ending; ``{n:02d}`` gives 01. A slash makes a
        folder.

    Raises
    ------
    InputError
        If it has other fields, lacks ``{n}``, or leads out of the output folder.

    Example
    -------
    >>> check_pattern("{stem}/speaker{n:02d}")
    >>> check_pattern("{stem}")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: the name pattern '{stem}' has no {n}, so that all speakers would have the same \
file: add it, as in {stem}_spk{n}.
    """
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise InputError(f"the name pattern '{pattern}' can't be read ({error}). Its fields are {_FIELDS}.") from error
    fields = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
    for name, spec, conversion in fields:
        allowed = {"n": _NUMBER_SPEC, "stem": re.compile("")}.get(name)
        if allowed is None or conversion or not allowed.fullmatch(spec):
            field = f"{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}"
            raise InputError(
                f"the name pattern '{pattern}' has the field {field}, which is not known: possible are {_FIELDS}, also "
                f"as {{n:02d}}."
            )
    if "n" not in {name for name, *_ in fields}:
        raise InputError(
            f"the name pattern '{pattern}' has no {{n}}, so that all speakers would have the same file: add it, as in "
            f"{DEFAULT_PATTERN}."
        )
    _check_relative(pattern, f"the name pattern '{pattern}'")
    if pattern.endswith("/"):
        raise InputError(
            f"the name pattern '{pattern}' ends with a folder: add the file's name, as in {{stem}}/spk{{n}}."
        )


def speaker_path(
    folder: str | Path, stem: str, number: int | _AnySpeaker, ending: str, pattern: str = DEFAULT_PATTERN
) -> Path:
    """The file of a speaker.

    Arguments
    ---------
    folder : str or Path
        Output folder of a recording.
    stem : str
        The recording's name without its ending, see `harmless`.
    number : int
        Number of the speaker, from 1; or `ANY_SPEAKER`.
    ending : str
        File name extension without the dot.
    pattern : str
        As for `check_pattern`.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If the recording's name would lead out of the folder.

    Example
    -------
    >>> speaker_path("out", "talk", 2, "wav").as_posix()
    'out/talk_spk2.wav'
    >>> speaker_path("out", "talk", ANY_SPEAKER, "wav", "{stem}/s{n:02d}").as_posix()
    'out/talk/s{n}.wav'
    """
    return _below(folder, pattern.format(stem=harmless(stem), n=number), ending)


def companion_path(folder: str | Path, stem: str, word: str, ending: str, pattern: str = DEFAULT_PATTERN) -> Path:
    """A file that belongs to all speakers: a word replaces the number and the letters before it.

    Arguments
    ---------
    folder, stem, ending, pattern
        As for `speaker_path`.
    word : str
        Word that replaces the number.

    Returns
    -------
    Path

    Example
    -------
    >>> companion_path("out", "talk", "rest", "wav").as_posix()
    'out/talk_rest.wav'
    >>> companion_path("out", "talk", "rest", "wav", "{stem}/SPEAKER_{n:02d}").as_posix()
    'out/talk/SPEAKER_rest.wav'
    """
    return _below(folder, _NUMBERED.sub(lambda _: word, pattern).format(stem=harmless(stem)), ending)


def harmless(stem: str) -> str:
    """A recording's name in its output: a first ``~`` and a drive's colon become underscores.

    Such names are rare but valid, as in ``A: intro.wav``. Those that have slashes as well stay, and are refused.

    Arguments
    ---------
    stem : str
        The recording's name without its ending.

    Returns
    -------
    str

    Example
    -------
    >>> harmless("~backup"), harmless("A: intro"), harmless("~/talk"), harmless("Part 1: intro")
    ('_backup', 'A_ intro', '~/talk', 'Part 1: intro')
    """
    return stem if set(stem) & set("/\\") else re.sub(r"^(?:~|([A-Za-z]):)", r"\1_", stem)


def _below(folder, name, ending):
    _check_relative(name, f"the output's name '{name}'")
    return Path(folder) / f"{name}.{ending}"


def _check_relative(name, what):
    """Refuse absolute and parent paths of Windows and POSIX on both, so that a command works the same everywhere."""
    if _LEADS_OUT.match(name) or ".." in re.split(r"[/\\]", name):
        raise InputError(
            f"{what} leads out of the output folder: give a name below it, as in {{stem}}/spk{{n}}, and the folder by "
            f"--output_folder (output_folder in Python)."
        )
