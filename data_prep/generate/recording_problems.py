"""One message for all unusable recordings, with their number and the remedy."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from data_prep.messages import NUM_SHOWN, first_of
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class AbsentRecording(InputError):
    """A recording does not exist."""


def describe_problems(folder: str | Path, paths: Sequence[str], problems: Mapping, key: str, splits: Mapping) -> str:
    """The message on unusable recordings: their names, their number, and the remedy.

    Arguments
    ---------
    folder : str or Path
        Folder of the relative paths.
    paths : sequence of str
        All required recordings.
    problems : Mapping
        Path → InputError.
    key : str
        The folder's name in messages.
    splits : Mapping
        Split → its paths; empty without splits.

    Returns
    -------
    message : str

    Example
    -------
    >>> problems = {"dev-clean/1.flac": AbsentRecording("dev-clean/1.flac: there is no such recording.")}
    >>> splits = {"dev": {"dev-clean/1.flac"}, "test": {"test-clean/2.flac"}}
    >>> print(describe_problems("speech", ["dev-clean/1.flac", "test-clean/2.flac"], problems, "folder", splits))
    folder 'speech': 1 of 2 recordings can't be used.
      dev-clean/1.flac: there is no such recording.
    Absent: 1 of 1 of dev-clean.
    Complete or repair them, or omit the splits that need them with --splits test. Then start again.
    """
    messages = [str(problem) for problem in problems.values()]
    if len(paths) == 1 and not splits:
        return messages[0]
    lines = [f"{key} '{folder}': {len(problems)} of {len(paths)} recordings can't be used."]
    lines += [f"  {message}" for message in messages[:NUM_SHOWN]]
    if len(messages) > NUM_SHOWN:
        lines.append(f"  … and {len(messages) - NUM_SHOWN} more")
    parts = collections.Counter(path.split("/")[0] for path in paths)
    absent = [path for path, problem in problems.items() if isinstance(problem, AbsentRecording)]
    if absent:
        lacking = collections.Counter(path.split("/")[0] for path in absent)
        lines.append(f"Absent: {', '.join(f'{count} of {parts[part]} of {part}' for part, count in lacking.items())}.")
    if len(absent) == len(paths):
        held = first_of(list(parts))
        return "\n".join([*lines, f"Give the folder of the relative paths as {key}: it holds {held}."])
    whole = [split for split, needed in splits.items() if problems.keys().isdisjoint(needed)]
    advice = "Complete or repair them"
    if whole:
        advice += f", or omit the splits that need them with --splits {' '.join(whole)}"
    return "\n".join([*lines, f"{advice}. Then start again."])
