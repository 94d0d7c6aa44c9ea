"""Writing audio files: formats, subtypes, complete signals and blocks."""

from __future__ import annotations

import contextlib
import errno
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import soundfile

from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import atomic_write, atomic_write_all, for_soundfile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch

_LARGEST_WRITE = 2**14  # samples: libsndfile 1.2 needs four bytes of the stack for each, to encode Vorbis
_LARGEST_WAV = 2**32 - 2**12  # bytes: a WAV's sizes have 32 bits; larger files are written as RF64


class NotWritten(InputError):
    """A file can't be written, as on a full disk: no fault of the input."""


class Format(NamedTuple):
    """libsndfile's name of a file format."""

    name: str
    subtypes: tuple  # possible sample formats, the default first
    highest_rate: float = math.inf  # Hz; the library says so itself, unless it is given here


FORMATS = {
    "wav": Format("WAV", ("FLOAT", "PCM_16", "PCM_24")),
    "flac": Format("FLAC", ("PCM_24", "PCM_16")),
    "ogg": Format("OGG", ("VORBIS",), 200_000),  # above it, libsndfile 1.2.2 ends the process by a segmentation fault
    "mp3": Format("MP3", ("MPEG_LAYER_III",)),
}
SUBTYPES = ("FLOAT", "PCM_16", "PCM_24")  # the selectable ones
_BYTES = {"FLOAT": 4, "PCM_16": 2, "PCM_24": 3}  # bytes per sample


def write_audio(path: str | Path, samples: np.ndarray | torch.Tensor, sample_rate: int) -> None:
    """Write a float32 WAV atomically: first under a temporary name, so a file of this name is always complete.

    Arguments
    ---------
    path : str or Path
        File to write, in an existing folder.
    samples : numpy.ndarray or torch.Tensor
        [T] or [T, channels], full scale 1. Values beyond full scale are not clipped.
    sample_rate : int
        Sample rate in Hz.
    """
    with atomic_write(path) as temporary:
        samples = np.asarray(samples, dtype=np.float32)
        soundfile.write(for_soundfile(temporary), samples, sample_rate, subtype="FLOAT", format="WAV")


def clips(format: str, subtype: str | None = None) -> bool:
    """Whether a format clips samples beyond full scale.

    Arguments
    ---------
    format, subtype : str
        As for `check_format`.

    Returns
    -------
    bool

    Example
    -------
    >>> clips("wav"), clips("wav", "PCM_16"), clips("ogg")
    (False, True, True)
    """
    return (subtype or FORMATS[format].subtypes[0]) != "FLOAT"


def check_format(format: str, sample_rate: int | None = None, subtype: str | None = None) -> None:
    """Raise InputError if recordings can't be written in a format.

    Arguments
    ---------
    format : str
        One of `FORMATS`.
    sample_rate : int, optional
        Sample rate in Hz.
    subtype : str, optional
        Sample format, one of `SUBTYPES`. Default: the first of the file format.

    Example
    -------
    >>> check_format("mp3", sample_rate=96000)
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: mp3 files can't have 96000 Hz: choose another format (wav, flac, ogg).
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r} is not known: choose one of {', '.join(FORMATS)}.")
    kind = FORMATS[format]
    if subtype not in (None, *kind.subtypes):
        raise InputError(f"{format} files can't have the subtype {subtype!r}: {_subtype_advice(kind)}.")
    if sample_rate is None:
        return
    if not _has_rate(kind, sample_rate, subtype):
        others = ", ".join(name for name in FORMATS if name != format)
        raise InputError(f"{format} files can't have {sample_rate} Hz: choose another format ({others}).")


def _has_rate(kind, sample_rate, subtype):
    """Whether files of a format can have a sample rate."""
    if sample_rate > kind.highest_rate:
        return False
    try:
        with soundfile.SoundFile(io.BytesIO(), "w", sample_rate, 1, subtype or kind.subtypes[0], format=kind.name):
            return True
    except soundfile.LibsndfileError:
        return False


def _subtype_advice(kind):
    if len(kind.subtypes) > 1:
        return f"choose {', '.join(kind.subtypes[:-1])} or {kind.subtypes[-1]}"
    return "remove it, since this format has its own, or choose wav or flac"


def write_recordings(
    paths: list[Path],
    blocks: Iterable[np.ndarray],
    sample_rate: int,
    format: str = "wav",
    num_samples: int | None = None,
    subtype: str | None = None,
    texts: Mapping | None = None,
) -> None:
    """Write files of one channel each, atomically: all of them or none.

    Arguments
    ---------
    paths : list of Path
        S files. Their folders are created.
    blocks : iterable of numpy.ndarray
        [t, S] each, full scale 1.
    sample_rate : int
        Sample rate in Hz.
    format : str
        One of `FORMATS`.
    num_samples : int, optional
        Number of samples, if known: files that are too large for WAV are written as RF64.
    subtype : str, optional
        As for `check_format`.
    texts : mapping, optional
        Path → str, text files that are written together with the audio.

    Raises
    ------
    NotWritten
        If the files can't be written completely, as on a full disk.
    InputError
        If a name is too long.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_recordings([folder / "a.wav", folder / "b.wav"], [np.zeros((400, 2)), np.zeros((100, 2))], 8000)
    >>> soundfile.info(folder / "b.wav").frames
    500
    """
    kind = FORMATS[format]
    subtype = subtype or kind.subtypes[0]
    large = format == "wav" and _BYTES[subtype] * (num_samples or 0) > _LARGEST_WAV
    texts = texts or {}
    written = 0
    # Another process, which shares a folder of the names' pattern, may have removed it after its recording has failed.
    with writing(paths[0]):
        for path in [*paths, *texts]:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    with writing(paths[0]), atomic_write_all([*paths, *texts]) as temporaries:
        temporaries, text_temporaries = temporaries[: len(paths)], temporaries[len(paths) :]
        for path, text in zip(text_temporaries, texts.values(), strict=True):
            # A recording's name may have bytes that are not UTF-8: they are written as they are.
            path.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(
                    soundfile.SoundFile(
                        for_soundfile(path), "w", sample_rate, 1, subtype, format="RF64" if large else kind.name
                    )
                )
                for path in temporaries
            ]
            for block in blocks:
                block = np.asarray(block, dtype=np.float32)
                for file, samples in zip(files, block.T, strict=True):
                    for start in range(0, len(samples), _LARGEST_WRITE):
                        file.write(np.ascontiguousarray(samples[start : start + _LARGEST_WRITE]))
                written += len(block)
        # On a full disk, flushing the encoder's buffer at closing may have failed without an error.
        for path in temporaries:
            if soundfile.info(for_soundfile(path)).frames != written:
                raise OSError("the file is shorter than the written data")


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Context: turn errors of writing into `NotWritten`, or, for a name that is too long, an `InputError`."""
    try:
        yield
    except (OSError, soundfile.LibsndfileError, AssertionError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        kind, advice = NotWritten, "Is the disk full, or the folder not writable?"
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            kind, advice = InputError, "Give the recording a shorter name."
        raise kind(f"{path}: can't be written ({reason}). {advice} No incomplete file is left.") from error
