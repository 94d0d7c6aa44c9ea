"""The index of a corpus: its mixtures by split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mossformer_sb.errors import InputError

MIXTURE = "mix_wav"  # the column of the mixture itself


class MissingSplits(InputError):
    """A corpus has only some of the requested splits.

    Arguments
    ---------
    message : str
        The message.
    splits : sequence of str
        The missing splits.
    """

    def __init__(self, message: str, splits: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.splits = tuple(splits)


class Problem(NamedTuple):
    """One problem of one file; without an ID if the file belongs to no mixture."""

    kind: str
    split: str
    mixture_id: str
    file: str
    text: str


@dataclass(frozen=True)
class MixtureFiles:
    """The files of one mixture, relative to the corpus's folder, or absolute if it has none.

    Attributes
    ----------
    files : dict
        The manifest's column → file.
    parts : Sequence of str
        Files whose sum is the mixture; empty if it isn't a sum of files.
    speakers : Sequence of str, optional
        Names of the speakers in the order of the sources.
    """

    files: dict
    parts: Sequence[str] = ()
    speakers: Sequence[str] | None = None

    @property
    def all_files(self) -> list[str]:
        """Every file once, the mixture first."""
        return list(dict.fromkeys((*self.files.values(), *self.parts)))


@dataclass
class CorpusIndex:
    """The mixtures of a corpus.

    Attributes
    ----------
    name : str
        Name for messages, such as "WHAM!".
    prefix : str
        The manifests are called `{prefix}_{split}.csv`.
    sample_rate : int
        Sample rate that every file must have, in Hz.
    root : Path
        Folder that the files are relative to; or the folder of relative paths if the corpus has none.
    train : Sequence of str
        The training splits.
    test : str
        The test split, whose speakers must not be in a training split.
    splits : dict
        split → ID → MixtureFiles, sorted by ID.
    problems : list of Problem
        Problems found while listing, such as missing files.
    """

    name: str
    prefix: str
    sample_rate: int
    root: Path
    train: Sequence[str] = ("tr",)
    test: str = "tt"
    splits: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)

    @property
    def rows(self) -> list:
        """All mixtures as (split, ID, MixtureFiles)."""
        return [(split, key, mixture) for split, mixtures in self.splits.items() for key, mixture in mixtures.items()]
