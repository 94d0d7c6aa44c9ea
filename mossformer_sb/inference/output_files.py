"""Output of a separated recording: its files, and their description.

Shapes: t samples of a block, S speakers.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mossformer_sb.data.audio_writing import check_format, clips, writing
from mossformer_sb.errors import InputError
from mossformer_sb.inference.activity_files import ENDINGS
from mossformer_sb.inference.output_names import DEFAULT_PATTERN, check_pattern, companion_path, speaker_path
from mossformer_sb.utils.files import expanded, make_output_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mossformer_sb.data.audio_io import Recording

logger = logging.getLogger(__name__)

# Level of the other outputs relative to the loudest, fitted to the recording, below which one speaker is assumed.
ONE_SPEAKER_DB = -12.0


@dataclass(frozen=True)
class Output:
    """Files to write for a separated recording, and their format.

    Arguments
    ---------
    format : str
        "wav", "flac", "ogg" or "mp3".
    subtype : str, optional
        "FLOAT" (wav), "PCM_16" or "PCM_24" (wav, flac): how samples are stored. Default: floating point in wav, 24 bits
        in flac.
    pattern : str
        Names of the files, see `mossformer_sb.inference.output_names`.
    only : int, optional
        Write only this speaker, counted from 1. Default: all.
    rest : bool
        Whether to write the recording minus all speakers as one more file.
    activity : bool
        Whether to write the speech activity of each speaker as RTTM, JSON and Audacity labels. It needs the extra
        ``activity``.

    Raises
    ------
    InputError
        If a value is invalid, or conflicts with another one.

    Example
    -------
    >>> Output(format="flac", pattern="{stem}/s{n}", rest=True).audio_paths("out", "talk", num_spks=2)[-1].as_posix()
    'out/talk/rest.flac'
    """

    format: str = "wav"
    subtype: str | None = None
    pattern: str = DEFAULT_PATTERN
    only: int | None = None
    rest: bool = False
    activity: bool = False

    def __post_init__(self):
        check_format(self.format, subtype=self.subtype)
        check_pattern(self.pattern)
        if self.only is not None and (not isinstance(self.only, int) or self.only < 1):
            raise InputError(f"only speaker {self.only!r}: speakers are counted from 1. Give such a number.")

    @property
    def clips(self) -> bool:
        """Whether the format clips samples beyond full scale."""
        return clips(self.format, self.subtype)

    def speakers(self, num_spks: int) -> list[int]:
        """The numbers of the speakers that are written, from 1.

        Raises
        ------
        InputError
            If there is no such speaker.
        """
        if self.only is not None and self.only > num_spks:
            raise InputError(f"there is no speaker {self.only}: the model separates {num_spks}. Give a lower number.")
        return list(range(1, num_spks + 1)) if self.only is None else [self.only]

    def audio_paths(self, folder: str | Path, stem: str, num_spks: int) -> list[Path]:
        """The audio files: those of the speakers, then that of the rest, as a list of Path."""
        paths = [speaker_path(folder, stem, number, self.format, self.pattern) for number in self.speakers(num_spks)]
        return paths + ([companion_path(folder, stem, "rest", self.format, self.pattern)] if self.rest else [])

    def activity_paths(self, folder: str | Path, stem: str) -> dict:
        """The files of speech activity, as a dict of ending to Path; empty without ``activity``."""
        endings = ENDINGS if self.activity else ()
        return {ending: companion_path(folder, stem, "activity", ending, self.pattern) for ending in endings}

    def paths(self, folder: str | Path, stem: str, num_spks: int) -> list[Path]:
        """All files, as a list of Path."""
        return self.audio_paths(folder, stem, num_spks) + list(self.activity_paths(folder, stem).values())


@dataclass(frozen=True)
class SeparatedRecording:
    """The result of separating a recording.

    Attributes
    ----------
    recording : str
        Name of the recording.
    sample_rate : int
        Sample rate of the recording and the output in Hz.
    num_samples : int
        Number of samples of each file.
    speakers : tuple of dict
        For each file of a speaker: ``speaker``, from 1, ``path`` and ``level_db``, its root mean square in dB relative
        to full scale, None for silence.
    rest : Path, optional
        The recording minus all speakers.
    softer_db : float
        Attenuation of all outputs in dB, below the level policy's, to avoid clipping.
    one_speaker_suspected : bool
        Whether all outputs but one are far below the loudest.
    activity : dict
        "rttm", "json" and "txt": the files of speech activity.
    segments : list, optional
        Speech activity of each speaker: lists of (start, end) in seconds.
    """

    recording: str
    sample_rate: int
    num_samples: int
    speakers: tuple
    rest: Path | None = None
    softer_db: float = 0.0
    one_speaker_suspected: bool = False
    activity: dict = field(default_factory=dict)
    segments: list | None = None

    @property
    def audio_paths(self) -> list[Path]:
        """The files of the speakers, then that of the rest."""
        return [speaker["path"] for speaker in self.speakers] + ([self.rest] if self.rest else [])

    def to_dict(self) -> dict:
        """As a dict of JSON types."""
        found = {
            "recording": self.recording,
            "sample_rate": self.sample_rate,
            "num_samples": self.num_samples,
            "seconds": round(self.num_samples / self.sample_rate, 3),
            "speakers": [{**speaker, "path": str(speaker["path"])} for speaker in self.speakers],
            "softer_db": round(self.softer_db, 2),
            "one_speaker_suspected": self.one_speaker_suspected,
        }
        if self.rest:
            found["rest"] = str(self.rest)
        if self.activity:
            found["activity"] = {kind: str(path) for kind, path in self.activity.items()}
        return found


def level_db(energy: float, num_samples: int, gain: float = 1.0) -> float | None:
    """Root mean square in dB relative to full scale; None for silence.

    Example
    -------
    >>> level_db(energy=4000, num_samples=4000, gain=0.1), level_db(0, 4000)
    (-20.0, None)
    """
    power = energy / max(1, num_samples) * gain**2
    return round(10 * math.log10(power), 2) if power > 0 else None


def suspects_one_speaker(energies: Sequence[float]) -> bool:
    """Whether all outputs but one are far below the loudest.

    Arguments
    ---------
    energies : sequence of float
        [S], energy of each output, at its level in the recording.

    Returns
    -------
    bool
        False where all are silent.

    Example
    -------
    >>> suspects_one_speaker([1.0, 0.01]), suspects_one_speaker([1.0, 0.2]), suspects_one_speaker([0.0, 0.0])
    (True, False, False)
    """
    *others, loudest = sorted(float(energy) for energy in energies)
    return bool(others) and loudest > 0 and others[-1] <= loudest * 10 ** (ONE_SPEAKER_DB / 10)


def reduction_without_clipping(peak: float, output: Output, name: str | Path) -> float:
    """The factor by which to attenuate all outputs so that the format clips no peaks; logged if below 1.

    Arguments
    ---------
    peak : float
        Peak of all outputs, relative to full scale.
    output : Output
        The files to write.
    name : str
        Name of the recording.

    Returns
    -------
    float
        At most 1.
    """
    if not output.clips or peak <= 1:
        return 1.0
    logger.warning(
        "%s: the estimates reach %.2f times full scale, which %s would clip: all are attenuated by %.1f dB. wav with "
        "floating point does not clip.",
        name,
        peak,
        output.subtype or output.format,
        20 * np.log10(peak),
    )
    return 1 / peak


def with_mixture(blocks: Iterable[np.ndarray], recording: Recording) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of estimates [t, S] with the recording's samples of the same time [t]; the recording is read again."""
    mixture, behind = recording.blocks(), np.empty(0, dtype=np.float32)
    for block in blocks:
        parts, count = [behind], len(behind)
        while count < len(block):
            parts.append(next(mixture))
            count += len(parts[-1])
        behind = np.concatenate(parts) if len(parts) > 1 else behind
        yield block, behind[: len(block)]
        behind = behind[len(block) :]


def _check_kept(recording, paths):
    """Raise InputError if a file of the output is the recording itself."""
    source = os.path.realpath(expanded(recording))
    for path in paths:
        if os.path.realpath(path) == source:
            raise InputError(
                f"{recording}: is also a file of its output, {path}, which would replace it. Choose another output "
                "folder or name."
            )


@contextlib.contextmanager
def made_folders(folder: str | Path, paths: list[Path], recording: object = None) -> Iterator[None]:
    """Context: create the folders of some files; remove the new ones if an error occurs.

    Arguments
    ---------
    folder : str or Path
        Output folder, which is kept.
    paths : list of Path
        Files in it.
    recording : str, Path or other object, optional
        The recording to separate. A file must not be one of those that will be written.

    Raises
    ------
    InputError
        If nothing can be written there, or the recording would be replaced.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> with contextlib.suppress(ValueError), made_folders(folder, [folder / "talk" / "spk1.wav"]):
    ...     raise ValueError
    >>> list(folder.iterdir())
    []
    """
    if isinstance(recording, (str, os.PathLike)):
        _check_kept(recording, paths)
    folder = make_output_folder(folder)
    needed = {parent for path in paths for parent in path.parents if folder in parent.parents}
    made = [parent for parent in sorted(needed, key=lambda parent: -len(parent.parts)) if not parent.exists()]
    try:
        for parent in {path.parent for path in paths}:
            make_output_folder(parent)
        for path in paths:
            with writing(path), contextlib.suppress(FileNotFoundError):
                os.lstat(path)  # fails for a name that is too long
        yield
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise
