"""Reading audio files: completely, in parts or block by block.

Shapes: T samples, t samples of a block, S speakers.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import sys
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from mossformer_sb.data.audio_reader import AudioReader
from mossformer_sb.data.channels import ChannelComparison
from mossformer_sb.data.media_file import MEDIA_ENDINGS
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator
    from typing import BinaryIO

    import torch

logger = logging.getLogger(__name__)

BLOCK = 2**17  # samples per block
_CANCELLED = 1e-3  # of the channels' mean power: below it, voices with opposite signs cancel each other in the mean
LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000  # Hz, of recordings; beyond them, resampling would exhaust the memory
LITTLE = 0.1  # seconds: files of one mixture may differ by this much, since programs round or delay
# Filename extensions of audio, the usual ones first. libsndfile lists formats, not extensions: the others are
# given here (.sph and .wv1, WSJ0's first microphone, are NIST SPHERE). Raw samples have no sample rate.
_USUAL_ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
_MORE_ENDINGS = set(".aif .aifc .aiffc .bwf .mp1 .mp2 .oga .opus .snd .sph .wave .wv1 .wv2".split())
_LIBSNDFILE_ENDINGS = {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"}
# Audio and video that libsndfile does not read. PyAV reads some of them.
OTHER_MEDIA_ENDINGS = frozenset(".ac3 .ape .dts .mpc .mpeg .mpg .ra".split()) | MEDIA_ENDINGS
AUDIO_ENDINGS = (*_USUAL_ENDINGS, *sorted((_LIBSNDFILE_ENDINGS | _MORE_ENDINGS) - {*_USUAL_ENDINGS}))


def skipped_formats_message(endings: Counter) -> str:
    """The message on files that were skipped because their formats are not supported; "" if there are none.

    Arguments
    ---------
    endings : Counter
        Number of files for each of `OTHER_MEDIA_ENDINGS`.

    Returns
    -------
    str

    Example
    -------
    >>> skipped_formats_message({".mp4": 1, ".m4a": 2})[:55]
    'Skipped 3 files of unsupported formats (2 .m4a, 1 .mp4)'
    """
    if not endings:
        return ""
    kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
    return (
        f"Skipped {sum(endings.values())} files of unsupported formats ({kinds}): convert them, as with "
        f"`ffmpeg -i IN OUT.wav`."
    )


def read_audio(
    path: str | Path, start: int = 0, num_frames: int = -1, total: int | None = None, trim: int = 0
) -> tuple[np.ndarray, int]:
    """Read an audio file, or a part of it.

    Arguments
    ---------
    path : str or Path
        Audio file in any format that libsndfile reads.
    start : int
        First frame.
    num_frames : int
        Number of frames; -1 for all from ``start``.
    total : int, optional
        Required number of frames of the file, see `check_total`.
    trim : int
        Number of frames by which the file may be longer.

    Returns
    -------
    samples : numpy.ndarray
        [T] for one channel, [T, channels] for several; float32, full scale 1.
    sample_rate : int
        Sample rate in Hz.

    Raises
    ------
    InputError
        If the file does not exist, can't be read as audio, is truncated, ends too early, or does not have the expected
        length.

    Example
    -------
    >>> from mossformer_sb.data.audio_writing import write_audio
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "ramp.wav", np.arange(4) / 8, 8000)
    >>> read_audio(folder / "ramp.wav", start=1, num_frames=2)
    (array([0.125, 0.25 ], dtype=float32), 8000)
    """
    with AudioReader(path) as reader:
        check_total(path, reader, total, trim)
        stop = reader.frames if num_frames < 0 else start + num_frames
        if stop > reader.frames:
            raise InputError(
                f"{path}: has {reader.frames} frames, expected {stop}. "
                f"Was it changed after the manifest was written? Prepare the data again."
            )
        reader.seek(start)
        samples = reader.read(stop - start)
        return samples[:, 0] if reader.channels == 1 else samples, reader.sample_rate


def check_total(path: str | Path, header: AudioReader, total: int | None, trim: int = 0) -> None:
    """Raise InputError if a file's number of frames differs from its row in a table.

    Arguments
    ---------
    path : str or Path
        The file, for messages.
    header : AudioReader
        Reader of the file.
    total : int or None
        Expected number of frames; None: any number.
    trim : int
        Number of further frames that the file may have at its end, which are not used.
    """
    if total is None or 0 <= header.frames - total <= trim:
        return
    seconds = f"{total / header.sample_rate:g} s at {header.sample_rate} Hz"
    if header.frames < total:
        advice = "Was it changed after the manifest was written? Prepare the data again."
    elif header.frames - total <= LITTLE * header.sample_rate:
        advice = f"Prepare the data again; --trim {header.frames - total} removes these samples."
    else:
        advice = (
            "Are the durations those of the files? Prepare the data again; or remove the column duration: then lengths "
            "are read from the files."
        )
    raise InputError(
        f"{path}: has {header.frames} frames, expected {total}: its row in the manifest says {seconds}. {advice}"
    )


class Recording:
    """A recording as blocks of one channel, float32, which can be read repeatedly.

    Arguments
    ---------
    source : str, Path, bytes, file object, numpy.ndarray, torch.Tensor or list
        A file in any format that libsndfile reads, by its path, content or open (binary) file; or samples, [T],
        [T, channels] or, as from torchaudio, [channels, T]. Full scale is 1 for floating point and the type's range for
        integers; the middle of unsigned types is zero.
    sample_rate : int, optional
        Sample rate in Hz; required for samples; an error for files, which have their own.
    channel : int, optional
        Channel to use, from 0. Default: the mean of all.

    Raises
    ------
    InputError
        If it can't be read as audio, its sample rate is not from `LOWEST_RATE` to `HIGHEST_RATE`, or an argument does
        not apply to it.

    Example
    -------
    >>> recording = Recording(np.zeros((20000, 2)), sample_rate=8000)
    >>> recording.num_samples, recording.sample_rate, next(recording.blocks(4000)).shape
    (20000, 8000, (4000,))
    """

    def __init__(
        self,
        source: str | Path | bytes | BinaryIO | np.ndarray | torch.Tensor | list,
        sample_rate: int | None = None,
        channel: int | None = None,
    ) -> None:
        self.channel = channel
        self._cancels = self._is_compared = False  # what has been said already
        self.samples = self._file = None
        if is_array(source):
            self.name = "the given samples"
            self.samples = _as_samples(source)
            self.num_samples, num_channels = self.samples.shape
            self.sample_rate = _checked_rate(sample_rate)
        else:
            if sample_rate is not None:
                raise InputError(
                    f"sample_rate {sample_rate} is given for a file, which has its own: give it only for samples."
                )
            self.name, self._file, self._start = _as_file(source)
            with self._open(notify=True) as file:
                self.sample_rate, num_channels, self.num_samples = file.sample_rate, file.channels, file.frames
        if not LOWEST_RATE <= self.sample_rate <= HIGHEST_RATE:
            raise InputError(
                f"{self.name}: has a sample rate of {self.sample_rate} Hz; from {LOWEST_RATE} to {HIGHEST_RATE} Hz are "
                f"supported. Is this rate correct? If so, convert it, as with `ffmpeg -i IN -ar 48000 OUT.wav`."
            )
        if self.num_samples == 0:
            raise InputError(f"{self.name}: holds no samples. Was it cut off while it was written?")
        if channel is not None and not (isinstance(channel, Integral) and 0 <= channel < num_channels):
            raise InputError(
                f"{self.name}: has no channel {channel}: it has {num_channels}, counted from 0. Omit the channel for "
                f"the mean of all."
            )

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """Read the recording from its start.

        Arguments
        ---------
        size : int
            Samples per block.

        Returns
        -------
        iterator of numpy.ndarray
            [t], float32.

        Raises
        ------
        InputError
            If it is damaged, or has NaN or infinite samples.
        """
        position, powers = 0, np.zeros(2)
        comparison = ChannelComparison(self.sample_rate)
        for channels in self._blocks(size):
            block = channels.mean(1) if self.channel is None else channels[:, self.channel]
            powers += [np.square(signal, dtype=np.float64).mean() * len(block) for signal in (channels, block)]
            block = block.astype(np.float32, copy=False)
            finite = np.isfinite(block)
            if not finite.all():
                first = position + int(finite.argmin())
                raise InputError(
                    f"{self.name}: sample {first} (at {first / self.sample_rate:.3f} s) is NaN or infinite. Repair "
                    f"the recording: the output would be NaN."
                )
            position += len(block)
            if self.channel is None and channels.shape[1] == 2 and not self._is_compared:
                comparison.add(channels)
            yield block
        if comparison.have_own_speakers:
            logger.warning(
                "%s: its two channels have nothing in common. If each speaker has one, as in a recorded phone call, "
                "split the channels instead of separating their mean, or choose one of them (channel 0 or 1).",
                self.name,
            )
        self._is_compared = True
        if powers[1] < _CANCELLED * powers[0] and not self._cancels:
            self._cancels = True
            softer = f"{10 * np.log10(powers[0] / powers[1]):.0f} dB softer than they are" if powers[1] else "silent"
            logger.warning(
                "%s: its channels cancel each other out, so their mean is %s. Use one of them (channel, from 0).",
                self.name,
                softer,
            )

    def _blocks(self, size):
        """[t, channels]"""
        if self.samples is not None:
            yield from (self.samples[start : start + size] for start in range(0, len(self.samples), size))
            return
        with self._open() as file:
            while len(block := file.read(size)):
                yield block

    def _open(self, notify=False):
        return AudioReader(self._file, self.name, self._start, notify)


def is_array(source: object) -> bool:
    """Whether a source holds samples: an array, a tensor, or a list. Otherwise it is a file."""
    return isinstance(source, (list, tuple, np.generic)) or hasattr(source, "__array__") or _is_tensor(source)


def _is_tensor(source):
    """Whether it is a torch.Tensor; without importing torch, which a tensor has already imported."""
    return "torch" in sys.modules and isinstance(source, sys.modules["torch"].Tensor)


def as_float32(source: np.ndarray | torch.Tensor | list) -> np.ndarray:
    """Samples of any type as float32.

    Arguments
    ---------
    source : numpy.ndarray, torch.Tensor, list or other array-like
        Floating point, whose full scale is 1; or integers, whose full scale is the type's range: int16 is divided by
        32768, and the middle of uint8, 128, is zero, as in WAV files. A list must be floating point.

    Returns
    -------
    numpy.ndarray
        Of the same shape.

    Raises
    ------
    InputError
        If the source holds no samples.

    Example
    -------
    >>> as_float32(np.array([-32768, 16384], dtype=np.int16)), as_float32(np.array([0, 192], dtype=np.uint8))
    (array([-1. ,  0.5], dtype=float32), array([-1. ,  0.5], dtype=float32))
    """
    samples = _as_numpy(source)
    kind = samples.dtype.kind
    if kind == "i" and isinstance(source, (list, tuple)):
        raise InputError(
            "a list of integers has no full scale: give an array of their type, such as int16, or floating-point "
            "numbers, full scale 1."
        )
    if kind == "i":
        return (samples / np.float32(-float(np.iinfo(samples.dtype).min))).astype(np.float32, copy=False)
    if kind == "u":
        middle = (float(np.iinfo(samples.dtype).max) + 1) / 2
        return ((samples - middle) / middle).astype(np.float32)
    if kind != "f":
        raise InputError(f"samples must be floating point or integers; found {samples.dtype}.")
    with np.errstate(over="ignore"):  # larger values become infinite, which `blocks` reports
        return samples.astype(np.float32, copy=False)


def _as_numpy(source):
    try:
        if _is_tensor(source):
            source = source.detach().cpu()
            return (source.float() if source.is_floating_point() and source.itemsize < 4 else source).numpy()
        return np.asarray(source)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of lists of other lengths; sparse tensors
        reason = str(error).partition("\n")[0]
        raise InputError(f"the given {type(source).__name__} is not an array of samples ({reason}).") from error


def _as_samples(source):
    """[T, channels], as float32."""
    samples = as_float32(source)
    if samples.ndim not in (1, 2):
        raise InputError(f"samples must be [samples] or [samples, channels]; found shape {list(samples.shape)}.")
    if not samples.size:
        raise InputError(f"the given samples have the shape {list(samples.shape)}: there is nothing to separate.")
    if samples.ndim == 1:
        return samples[:, None]
    # More channels than samples: the channels come first, as from torchaudio.
    return samples.T if samples.shape[1] > samples.shape[0] else samples


def _checked_rate(sample_rate):
    try:
        whole = int(sample_rate) == sample_rate and not isinstance(sample_rate, bool)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole or sample_rate < 1:
        raise InputError(f"sample_rate must be a whole number of Hz, for samples; found {sample_rate!r}.")
    return int(sample_rate)


def _as_file(source):
    """The name for messages, the object for soundfile, and the start of the audio in it."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"the given {len(source)} bytes", io.BytesIO(source), 0
    if isinstance(source, (str, os.PathLike)):
        path = source if os.path.lexists(source) else os.path.expanduser(source)
        if not os.path.lexists(path):
            raise InputError(f"{source}: there is no such audio file.{_hint_at_fetching(source)}")
        if stat.S_ISFIFO(os.stat(path).st_mode if os.path.exists(path) else 0):
            return str(path), io.BytesIO(Path(path).read_bytes()), 0  # a named pipe, as a shell's <(…)
        return str(path), path, 0
    if hasattr(source, "read"):
        name = str(getattr(source, "name", "the given file object"))
        if getattr(source, "seekable", lambda: False)():
            return name, source, source.tell()
        return name, io.BytesIO(source.read()), 0  # a pipe: soundfile needs to seek
    raise InputError(
        f"a recording is a path, bytes, a file object, a NumPy array or a tensor; found {type(source).__name__}."
    )


def _hint_at_fetching(path):
    """How to download a file that SpeechBrain's classes would download: from a URL or the Hugging Face hub."""
    if re.match(r"https?://", str(path)):
        return " Download it, and give the path or the content of the file."
    match = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)/(.+)", str(path))
    if match and isinstance(path, str) and not os.path.isdir(os.path.dirname(path)):
        return (
            f" If it is on the Hugging Face hub, fetch it first: "
            f"huggingface_hub.hf_hub_download({match[1]!r}, {match[2]!r}) returns its local path."
        )
    return ""
