"""Processing of a visitor's recording: checks, separation, writing, plots.

Shapes: T samples, t samples of a block, S speakers.
"""

from __future__ import annotations

import json
import shlex
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mossformer_sb.data.audio_io import Recording
from mossformer_sb.data.audio_writing import FORMATS, write_recordings
from mossformer_sb.errors import InputError
from mossformer_sb.inference.output_gain import LEVELS
from mossformer_sb.web.spectrogram import png, power_spectrogram
from mossformer_sb.web.timeline import active_times

if TYPE_CHECKING:
    from mossformer_sb.inference.serving import Limits
    from mossformer_sb.web.models import Models

MIXTURE_FILE = "mixture.wav"


class Cancelled(Exception):
    """The visitor stopped the separation, or left."""


@dataclass
class Progress:
    """Progress of a separation, written by one thread and read by another."""

    stage: str = "Starting"
    fraction: float | None = None  # None: unknown
    cancelled: bool = False

    def enter(self, stage: str) -> None:
        """Begin a stage."""
        if self.cancelled:
            raise Cancelled
        self.stage, self.fraction = stage, None

    def waiting(self, num_ahead: int) -> None:
        """Callback for `mossformer_sb.web.models.Models.turn`."""
        self.enter(f"Waiting for {num_ahead} other {'separation' if num_ahead == 1 else 'separations'} with this model")

    def separated(self, num_done: int, num_samples: int) -> None:
        """Callback for `MossFormerSeparation.separate`."""
        if self.cancelled:
            raise Cancelled
        self.fraction = num_done / num_samples if num_samples else None


@dataclass(frozen=True)
class Options:
    """Options that a visitor can choose, as for `MossFormerSeparation.separate_file`."""

    format: str = "wav"
    level: str = LEVELS[0]
    channel: int | None = None

    def __post_init__(self):
        for name, value, known in (("format", self.format, FORMATS), ("level", self.level, LEVELS)):
            if value not in known:
                raise InputError(f"{name} {value!r} is not known: choose one of {', '.join(known)}.")


@dataclass(frozen=True)
class Track:
    """A displayed signal: the mixture, or one speaker."""

    name: str
    file: str  # file name in the result's folder
    picture: bytes = field(repr=False)  # spectrogram, PNG
    times: list | None = None  # speech activity, (start, end) in seconds; None for the mixture


@dataclass(frozen=True)
class Result:
    """The result of a separation."""

    name: str  # of the recording
    model: str  # label of the model
    seconds: float  # of the recording
    sample_rate: int  # Hz, of the recording
    model_rate: int  # Hz
    highest: float  # Hz, the upper end of the spectrograms
    token: str  # name of the folder
    tracks: list  # the mixture first
    archive: str  # the name of the file with all speakers
    elapsed: float  # duration of the separation in seconds


def separate_recording(
    path: Path, folder: Path, models: Models, label: str, options: Options, progress: Progress, limits: Limits
) -> Result:
    """Separate a recording into a folder, with all displayed data.

    Arguments
    ---------
    path : Path
    folder : Path
        An empty folder; no file is written elsewhere.
    models : mossformer_sb.web.models.Models
    label : str
        Label of the model.
    options : Options
    progress : Progress
    limits : mossformer_sb.inference.serving.Limits
        Limits for the recording.

    Returns
    -------
    Result

    Raises
    ------
    InputError
        As on the command line; messages have only the recording's name.
    Cancelled
        Soon after ``progress.cancelled`` was set.
    """
    try:
        return _separate(path, folder, models, label, options, progress, limits)
    except InputError as error:
        # The visitor does not need the path of the page's files.
        raise InputError(str(error).replace(str(path), path.name).replace(f"{folder}/", "")) from error


def _separate(path, folder, models, label, options, progress, limits):
    progress.enter("Reading the recording")
    seconds = limits.check_length(path)
    with models.turn(label, progress.waiting):
        progress.enter("Loading the model")
        model = models.load(label)
        progress.enter("Separating")
        start = time.monotonic()
        paths = model.separate_file(
            path,
            folder,
            options.format,
            return_estimates=False,
            level=options.level,
            channel=options.channel,
            progress=progress.separated,
        )
        elapsed = time.monotonic() - start
    progress.enter("Drawing")
    mixture = Recording(path, channel=options.channel)
    write_recordings(
        [folder / MIXTURE_FILE], (block[:, None] for block in mixture.blocks()), mixture.sample_rate, "wav"
    )
    archive = f"{path.stem}_speakers.zip"
    with zipfile.ZipFile(folder / archive, "w", zipfile.ZIP_STORED) as file:
        for written in paths:
            file.write(written, written.name)
    tracks, highest = _tracks([folder / MIXTURE_FILE, *paths], model.hparams.sample_rate, progress)
    return Result(
        name=path.name,
        model=label,
        seconds=seconds,
        sample_rate=mixture.sample_rate,
        model_rate=model.hparams.sample_rate,
        highest=highest,
        token=folder.name,
        tracks=tracks,
        archive=archive,
        elapsed=elapsed,
    )


def _tracks(paths, model_rate, progress):
    """The tracks of mixture and speakers, with spectrograms on one scale; and their upper end in Hz."""
    spectrograms = []
    for path in paths:
        progress.enter("Drawing")
        recording = Recording(path)
        power, highest = power_spectrogram(recording.blocks(), recording.num_samples, recording.sample_rate)
        spectrograms.append(power)
    loudest = max(power.max() for power in spectrograms)
    times = [None, *active_times(paths[1:], paths[0], model_rate)]
    names = ["Mixture", *(f"Speaker {number}" for number in range(1, len(paths)))]
    tracks = [
        Track(name, path.name, png(power, loudest), track_times)
        for name, path, power, track_times in zip(names, paths, spectrograms, times, strict=True)
    ]
    return tracks, highest


def python_lines(source: str | None, name: str, options: Options) -> str:
    """Python code that does the same as the page.

    Arguments
    ---------
    source : str or None
        The model; None: the packaged model.
    name : str
        Name of the recording's file.
    options : Options

    Returns
    -------
    str

    Example
    -------
    >>> print(python_lines("export", "talk.wav", Options(format="flac")))
    from mossformer_sb.inference import MossFormerSeparation
    <BLANKLINE>
    model = MossFormerSeparation.from_hparams("export")
    paths = model.separate_file("talk.wav", "separated", format="flac", return_estimates=False)
    """
    chosen = [
        f"{key}={_quoted(value)}" for key, value in vars(options).items() if value != getattr(Options, key)
    ]  # options that differ from the default
    arguments = ", ".join([_quoted(name), '"separated"', *chosen, "return_estimates=False"])
    return (
        "from mossformer_sb.inference import MossFormerSeparation\n\n"
        f"model = MossFormerSeparation.from_hparams({'' if source is None else _quoted(source)})\n"
        f"paths = model.separate_file({arguments})"
    )


def command_line(source: str | None, name: str, options: Options) -> str:
    """The command that does the same as the page.

    Example
    -------
    >>> command_line(None, "my talk.wav", Options(channel=1))
    "mossformer-sb separate 'my talk.wav' --channel 1"
    """
    name = f"./{name}" if name.startswith("-") else name  # which would be an option
    words = ["mossformer-sb", "separate", name, *(["--model", source] if source is not None else [])]
    for key, value in vars(options).items():
        if value != getattr(Options, key):
            words += [f"--{key}", str(value)]
    return shlex.join(words)


def _quoted(value):
    """A Python literal, with double quotes for a string."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def name_of(path: str | Path | None) -> str:
    """Name of a recording in the Python code: its file's name, or a placeholder."""
    return Path(path).name if path else "talk.wav"
