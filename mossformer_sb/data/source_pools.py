"""Source pools of speech and noise for dynamic mixing: tables that the preparation writes.

A table is a CSV with one row per recording, sorted by path: ``path, num_samples, sample_rate`` for noise, and for
speech also ``spk, active_level, loudness``, the levels of the complete recording in dB and LUFS (see
`mossformer_sb.data.loudness`). A file next to the noise table may hold the energies of its recordings, for the loudness
of segments: `mossformer_sb.data.noise_energies`; one next to the speech table its speakers' pitch, see
`mossformer_sb.data.pitch`. Paths are absolute, since a table belongs to one machine.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mossformer_sb.data.manifests import recordings_fingerprint
from mossformer_sb.data.noise_energies import NoiseEnergies
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

SPEECH_TABLE, NOISE_TABLE = "mixing_speech.csv", "mixing_noise.csv"  # file names in the folder of the manifests
ENERGIES_SUFFIX = ".energies.npy"  # replaces that of the noise table
PITCH_SUFFIX = ".pitch.npy"  # replaces that of the speech table
SIMILAR_PITCH = 0.1  # greatest difference of the logarithms of similar pitches: 10 %, or 1.7 semitones
NOISE_COLUMNS = ("path", "num_samples", "sample_rate")
SPEECH_COLUMNS = (*NOISE_COLUMNS, "spk", "active_level", "loudness")


@dataclass(frozen=True)
class SpeechPool:
    """Pool of utterances, with their speakers, lengths and levels.

    Attributes
    ----------
    paths, names, speakers : list of str
        The files, their names without folder and extension, and their speakers.
    num_samples, sample_rates : list of int
        Lengths, and sample rates in Hz.
    measured : dict
        Name of a measure to the levels of all utterances, in dB.
    codes : numpy.ndarray
        For each utterance, a number that identifies its speaker.
    pitches : numpy.ndarray or None
        Median pitch of each utterance in Hz, NaN if it has none; None if it has not been measured.
    """

    paths: list
    names: list
    speakers: list
    num_samples: list
    sample_rates: list
    measured: dict
    codes: np.ndarray
    pitches: np.ndarray | None = None

    @classmethod
    def read(
        cls, path: str | Path, measures: Sequence[str], num_spks: int, min_seconds: float, with_pitch: bool = False
    ) -> SpeechPool:
        """Read a table.

        Arguments
        ---------
        path : str or Path
            The table.
        measures : sequence of str
            Required levels. A silent utterance, which has none, is skipped, also if none is required.
        num_spks : int
            Minimum number of speakers.
        min_seconds : float
            Shorter utterances are skipped.
        with_pitch : bool
            Whether the pitch is needed.

        Returns
        -------
        SpeechPool

        Raises
        ------
        InputError
            If the table does not exist, lacks a column, or holds too few speakers; or if the pitch is needed, and has
            not been measured.
        """
        table = _read_table(path, SPEECH_COLUMNS)
        pitches = _read_pitches(pitch_file(path), len(table)) if with_pitch else None
        usable = table["num_samples"] >= min_seconds * table["sample_rate"]
        for measure in {*measures, "active_level"}:
            usable &= np.isfinite(table[measure])
        if not usable.all():
            logger.info(
                "%s: %d of %d utterances are too short or silent, and skipped", path, (~usable).sum(), len(usable)
            )
        table = table[usable]
        found = table["spk"].nunique()
        if found < num_spks:
            raise InputError(
                f"{path}: holds utterances of at least {min_seconds:g} s of {found} speakers; needed {num_spks} or "
                "more, since all speakers of a mixture differ. Give more speech, or a lower min_seconds."
            )
        return cls(
            paths=table["path"].tolist(),
            names=[os.path.splitext(os.path.basename(name))[0] for name in table["path"]],
            speakers=table["spk"].tolist(),
            num_samples=table["num_samples"].tolist(),
            sample_rates=table["sample_rate"].tolist(),
            measured={measure: table[measure].to_numpy() for measure in measures},
            codes=pd.factorize(table["spk"])[0],
            pitches=None if pitches is None else pitches[usable.to_numpy()],
        )

    @property
    def fingerprint(self) -> str:
        """Fingerprint of utterances and speakers, see `mossformer_sb.data.manifests.recordings_fingerprint`."""
        names = [f"{speaker}/{name}" for speaker, name in zip(self.speakers, self.names, strict=True)]
        return recordings_fingerprint(names, self.paths, self.num_samples, self.sample_rates)

    def draw(self, rng: np.random.Generator, num_spks: int) -> np.ndarray:
        """Draw utterances of different speakers with equal probability: their numbers [S], int."""
        chosen = []
        while len(chosen) < num_spks:
            number = int(rng.integers(len(self.codes)))
            if all(self.codes[number] != self.codes[other] for other in chosen):
                chosen.append(number)
        return np.array(chosen)

    def with_similar_pitch(self, rng: np.random.Generator, chosen: np.ndarray, speeds: Sequence[float]) -> np.ndarray:
        """Replace all utterances but the first by ones of similar pitch, whose speakers are the hardest to separate.

        Arguments
        ---------
        rng : numpy.random.Generator
            Random generator.
        chosen : numpy.ndarray
            Numbers of utterances of different speakers [S], int.
        speeds : sequence of float
            Speed of each, which its pitch is multiplied by.

        Returns
        -------
        numpy.ndarray
            Numbers of utterances of different speakers [S], int. Their pitches, at their speeds, are within 10 % of the
            first one's. Where none is, what was chosen stays.
        """
        similar = [int(chosen[0])]
        logarithms = np.log(self.pitches)
        for place in range(1, len(chosen)):
            wanted = logarithms[chosen[0]] + np.log(speeds[0] / speeds[place])
            candidates = np.flatnonzero(np.abs(logarithms - wanted) <= SIMILAR_PITCH)
            taken = self.codes[[*similar, *chosen[place + 1 :]]]
            candidates = candidates[~np.isin(self.codes[candidates], taken)]
            similar.append(int(rng.choice(candidates)) if len(candidates) else int(chosen[place]))
        return np.array(similar)

    def same_speaker(self, number: int) -> list[int]:
        """Numbers of all utterances of an utterance's speaker, its own first."""
        others = np.flatnonzero(self.codes == self.codes[number])
        return [int(number), *(int(other) for other in others if other != number)]


@dataclass(frozen=True)
class NoisePool:
    """Pool of noise recordings, drawn with a probability proportional to their length.

    Attributes
    ----------
    paths : list of str
        The files.
    num_samples, sample_rates : list of int
        Lengths, and sample rates in Hz.
    bounds : numpy.ndarray
        Cumulative sum of the durations in seconds.
    energies : NoiseEnergies or None
        Energies for the loudness of segments; None if it is measured for each segment.
    """

    paths: list
    num_samples: list
    sample_rates: list
    bounds: np.ndarray
    energies: NoiseEnergies | None = None

    @classmethod
    def read(cls, path: str | Path) -> NoisePool | None:
        """Read a table: None if it is empty, an InputError if it does not exist or lacks a column."""
        table = _read_table(path, NOISE_COLUMNS)
        if table.empty:
            return None
        num_samples, sample_rates = table["num_samples"].tolist(), table["sample_rate"].tolist()
        energies = energies_file(path)
        return cls(
            paths=table["path"].tolist(),
            num_samples=num_samples,
            sample_rates=sample_rates,
            energies=NoiseEnergies(energies, num_samples, sample_rates) if energies.is_file() else None,
            bounds=(table["num_samples"] / table["sample_rate"]).cumsum().to_numpy(),
        )

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the recordings, see `mossformer_sb.data.manifests.recordings_fingerprint`."""
        names = [os.path.splitext(os.path.basename(path))[0] for path in self.paths]
        return recordings_fingerprint(names, self.paths, self.num_samples, self.sample_rates)

    def draw(self, rng: np.random.Generator) -> int:
        """Draw the number of a recording."""
        return int(np.searchsorted(self.bounds, rng.uniform(0, self.bounds[-1]), side="right"))


def energies_file(noise_table):
    """Path of the energies of a noise table's recordings, if they have been computed.

    Example
    -------
    >>> energies_file("tables/mixing_noise.csv").name
    'mixing_noise.energies.npy'
    """
    return Path(noise_table).with_suffix(ENERGIES_SUFFIX)


def pitch_file(speech_table):
    """Path of the pitch of a speech table's utterances, if it has been measured.

    Example
    -------
    >>> pitch_file("tables/mixing_speech.csv").name
    'mixing_speech.pitch.npy'
    """
    return Path(speech_table).with_suffix(PITCH_SUFFIX)


def _read_pitches(path, needed):
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file, and similar_pitch_rate needs the pitch of all utterances. Prepare the "
            "data again (without --skip_prep)."
        )
    try:
        pitches = np.load(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: can't be read as pitches ({error}). Delete it, and prepare the data again."
        ) from error
    if pitches.shape != (needed,):
        raise InputError(
            f"{path}: holds an array of shape {pitches.shape}; needed one pitch for each of the table's {needed} "
            "utterances. Delete it, and prepare the data again."
        )
    return pitches


def _read_table(path, columns):
    if not os.path.isfile(path):
        raise InputError(f"{path}: there is no such table of recordings. Prepare the data first (without --skip_prep).")
    table = pd.read_csv(path, dtype={"path": str, "spk": str}, keep_default_na=False)
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"{path}: column {', '.join(missing)} is missing; found {', '.join(table.columns)}.")
    return table


def extend_noise(noise: np.ndarray, num_frames: int, fade: int) -> np.ndarray:
    """Repeat a noise until it is long enough, with cross-fades.

    Arguments
    ---------
    noise : numpy.ndarray
        [T], longer than the fade.
    num_frames : int
        Required length.
    fade : int
        Length of the cross-fades in samples.

    Returns
    -------
    numpy.ndarray
        [num_frames]; in double precision if it was extended.

    Example
    -------
    >>> extend_noise(np.ones(900, np.float32), 2000, fade=100).round(9).tolist() == [1.0] * 2000
    True
    """
    rise = np.hanning(2 * fade + 1)[: fade + 1]
    extended = noise
    while len(extended) < num_frames:
        faded = extended[-len(rise) :] * rise[::-1] + noise[: len(rise)] * rise
        extended = np.concatenate([extended[: -len(rise)], faded, noise[len(rise) :]])
    return extended[:num_frames]
