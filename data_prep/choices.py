"""Choices that several corpora share, and the check that a value is one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

SAMPLE_RATES = (8000, 16000)
MODES = ("min", "max")  # mixtures cut to the shortest source, or padded to the longest
SPLITS = ("tr", "cv", "tt")
# Other names of the splits.
SPLIT_NAMES = {
    "tr": ("tr", "train", "training"),
    "cv": ("cv", "valid", "val", "validation", "dev"),
    "tt": ("tt", "test", "testing", "eval"),
}
NUMS_SPKS = (2, 3, 4, 5)  # of WSJ0-mix
MOST_SPKS = 100  # maximum, to detect mistyped numbers


def check_choice(key: str, value: object, allowed: Collection) -> None:
    """Raises an InputError unless `value` is one of `allowed`.

    Example
    -------
    >>> check_choice("mode", "min", ("min", "max"))
    >>> check_choice("mode", "mid", ("min", "max"))
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: mode 'mid' is not known: choose one of 'min', 'max'.
    """
    if value not in allowed:
        raise InputError(f"{key} {value!r} is not known: choose one of {', '.join(map(repr, allowed))}.")


def check_versions(
    sample_rates: Sequence[int], modes: Sequence[str], splits: Sequence[str], known_splits: Sequence[str] = SPLITS
) -> None:
    """Raises an InputError unless all sample rates, modes and splits are known.

    Example
    -------
    >>> check_versions([8000], ["min"], ["tr", "dev"])
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: split 'dev' is not known: choose one of 'tr', 'cv', 'tt'.
    """
    for key, values, allowed in (
        ("sample_rate", sample_rates, SAMPLE_RATES),
        ("mode", modes, MODES),
        ("split", splits, known_splits),
    ):
        for value in values:
            check_choice(key, value, allowed)


def check_num_spks(num_spks: int, least: int, example: str = "") -> None:
    """Raises an InputError unless a number of speakers is possible.

    Arguments
    ---------
    num_spks : int
        Number of speakers.
    least : int
        Minimum number.
    example : str
        Text after the minimum in the message.

    Example
    -------
    >>> check_num_spks(1, 2, ", as in Libri2Mix,")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: num_spks is 1: give 2, as in Libri2Mix, or more, at most 100.
    """
    if isinstance(num_spks, bool) or not isinstance(num_spks, int) or not least <= num_spks <= MOST_SPKS:
        raise InputError(f"num_spks is {num_spks}: give {least}{example} or more, at most {MOST_SPKS}.")


def split_of(name: str) -> str | None:
    """The split "tr", "cv" or "tt" for another name of it, or None.

    Example
    -------
    >>> split_of("Train"), split_of("dev"), split_of("tt"), split_of("other")
    ('tr', 'cv', 'tt', None)
    """
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)
