"""Audio in video and mobile containers, decoded by PyAV, whose wheel includes FFmpeg; no program is started.

Only containers that are recognised by their first bytes are opened, each with its specific demuxer, so that no file can
make FFmpeg open another file or a URL.

Shapes: t samples of a block, C channels.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import TYPE_CHECKING

import numpy as np

from mossformer_sb.data.containers.pieces import WHOLE_COPY, Damage
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path
    from typing import BinaryIO

# Filename extensions of supported formats that libsndfile does not read.
MEDIA_ENDINGS = frozenset(
    ".3gp .3g2 .aac .amr .avi .flv .m4a .m4b .m4v .mka .mkv .mov .mp4 .tta .webm .wma .wmv .wv".split()
)
_BY_MAGIC = {
    b"\x1aE\xdf\xa3": "matroska",
    b"#!AMR": "amr",
    b"0&\xb2u\x8ef\xcf\x11": "asf",
    b"FLV\x01": "flv",
    b"wvpk": "wv",
    b"TTA1": "tta",
}
_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"}
# Demuxers whose files state their length; for others, FFmpeg estimates the duration from the bit rate.
_WITH_DURATION = {"mov", "matroska", "asf", "avi", "flv", "wv", "tta"}
_TOLERANCE = 0.15  # seconds by which a container may state more than it holds: a few packets, for rounding
_LATE = 0.1  # seconds after the start of the video, from which a late start of the audio is reported


def media_format(head: bytes) -> str | None:
    """FFmpeg's name of the demuxer for a file, by its first 16 bytes; None for formats of libsndfile.

    Example
    -------
    >>> media_format(b"....ftypM4A ...."), media_format(b"RIFF....WAVEfmt ")
    ('mov', None)
    """
    if head[4:8] in _MP4_BOXES:
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS: as MPEG audio, with an invalid layer
        return "aac"
    return next((reader for magic, reader in _BY_MAGIC.items() if head.startswith(magic)), None)


def can_read_media() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


class DamagedMedia(Exception):
    """A container that holds less than its header states; ``damage`` has the details."""

    def __init__(self, text: str, truncated: bool = True) -> None:
        super().__init__(text)
        self.damage = Damage(text, WHOLE_COPY, truncated)


class MediaFile:
    """The first audio stream of a container, with an interface like `soundfile.SoundFile`.

    It is decoded completely once, to find its exact length, which containers only state roughly, and any damage.

    Arguments
    ---------
    stream : file object
        Binary and seekable; it is closed with this object.
    reader : str
        FFmpeg's name of the demuxer, see `media_format`.
    name : str
        Name for messages.
    key : hashable, optional
        Identifies this content: the survey is cached under it. Default: no cache.

    Attributes
    ----------
    samplerate, channels, frames : int
        As in `soundfile.SoundFile`.
    notes : tuple of str
        Irregularities.

    Raises
    ------
    InputError
        If PyAV is not installed, the container can't be read, or has no audio.
    DamagedMedia
        If it is truncated, or a part can't be decoded.
    """

    def __init__(self, stream: BinaryIO, reader: str, name: str, key: Hashable | None = None) -> None:
        if not can_read_media():
            raise InputError(
                f"{name}: is a container that libsndfile can't read. Install PyAV: pip install "
                f'"mossformer_sb[av]"; or convert it to WAV.'
            )
        self._stream, self._reader, self._name, self._key = stream, reader, name, key
        self._blocks = self._container = None
        find = _kept_facts if key is not None else _facts
        self.samplerate, self.channels, self.frames, self.notes = find(_Key(self, key))
        self._start_over()

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Read the next frames: [t, C], float32, fewer at the end."""
        parts, wanted = [self._rest[:frames]], frames - len(self._rest)
        self._rest = self._rest[frames:]
        while wanted > 0:
            block = next(self._blocks, None)
            if block is None:
                break
            parts.append(block[:wanted])
            self._rest = block[wanted:]
            wanted -= len(block)
        return np.concatenate(parts)

    def seek(self, frame: int) -> None:
        """Go to a frame, by decoding all frames before it, the only exact way in compressed audio."""
        self._start_over()
        while frame > 0 and (skipped := len(self.read(min(frame, 2**16)))):
            frame -= skipped

    def close(self) -> None:
        """Close it."""
        if self._container is not None:
            self._container.close()
        self._stream.close()

    def _start_over(self):
        self._rest = np.empty((0, self.channels), dtype=np.float32)
        self._blocks = (block for block, _ in self._decoded(self._open()))

    def _open(self):
        """Open the container, at its beginning."""
        import av

        if self._container is not None:
            self._container.close()
        self._stream.seek(0)
        try:
            self._container = av.open(self._stream, format=self._reader)
        except (av.error.FFmpegError, ValueError, EOFError) as error:
            raise InputError(
                f"{self._name}: can't be read ({_reason(error)}). It is truncated or damaged: such containers "
                f"can't be read without their index. Copy or download it again."
            ) from error
        if not len(self._container.streams):
            raise DamagedMedia("is truncated or damaged: its index is missing")
        if not self._container.streams.audio:
            raise InputError(
                f"{self._name}: has no audio, or its index is truncated. Give a complete file with an audio stream."
            )
        return self._container

    def _decoded(self, container, streams=None):
        """Yields blocks [t, C] of the first audio stream, with their sample rate."""
        import av

        sound, to_float, decoded = container.streams.audio[0], av.AudioResampler(format="fltp"), 0
        self._end = 0.0  # latest end of the read packets of all streams, in seconds
        try:
            for packet in container.demux(streams or [sound]):
                if packet.is_corrupt:
                    raise DamagedMedia("is truncated or damaged: a packet is incomplete")
                if packet.pts is not None:
                    self._end = max(self._end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index != sound.index:
                    continue
                for frame in packet.decode():
                    for converted in to_float.resample(frame):
                        samples = np.ascontiguousarray(converted.to_ndarray().T)
                        decoded += len(samples)
                        yield samples, converted.sample_rate
            for converted in to_float.resample(None):
                yield np.ascontiguousarray(converted.to_ndarray().T), converted.sample_rate
        except (av.error.FFmpegError, ValueError) as error:
            raise DamagedMedia(
                f"can't be read to its end ({_reason(error)}, after {decoded} samples): it is truncated or damaged"
            ) from error

    def _survey(self):
        """Sample rate, channels, frames and notes, by decoding the complete stream."""
        container = self._open()
        sound, notes = container.streams.audio[0], []
        if len(container.streams.audio) > 1:
            notes.append(f"has {len(container.streams.audio)} audio streams: the first one is used")
        late = float((sound.start_time or 0) * sound.time_base) - (container.start_time or 0) / 1e6
        if late > _LATE:
            notes.append(f"has audio from {late:.2f} s on: the output begins there")
        rate = channels = None
        frames = 0
        # If only the length of the file is known, as in Matroska, the video is included.
        announced, streams = self._announced(container, sound)
        for block, found in self._decoded(container, streams):
            if rate is None:
                rate, channels = found, block.shape[1]
            if (found, block.shape[1]) != (rate, channels):
                raise InputError(
                    f"{self._name}: changes its sample rate or number of channels in the middle. Convert it to WAV."
                )
            frames += len(block)
        if rate is None:
            raise DamagedMedia("holds no audio, though its header states some")
        there = frames / rate if streams is None else self._end - (container.start_time or 0) / 1e6
        if announced is not None and there < announced - max(_TOLERANCE, 0.001 * announced):
            raise DamagedMedia(f"is truncated: {there:.2f} of {announced:.2f} s can be read")
        return rate, channels, frames, tuple(notes)

    def _announced(self, container, sound):
        """Seconds in the container's header, or None; and their streams, or None for only the audio."""
        if self._reader not in _WITH_DURATION:
            return None, None
        if self._reader == "avi":  # FFmpeg computes its duration from the truncated file; the header has a count
            return float(sound.frames * sound.time_base) or None, None
        if sound.duration:
            return float(sound.duration * sound.time_base), None
        if container.duration:
            return container.duration / 1e6, list(container.streams)
        return None, None


class _Key:
    """Cache key of an open file, by its content."""

    def __init__(self, file, key):
        self.file, self.key = file, key

    def __hash__(self):
        return hash(self.key)

    def __eq__(self, other):
        return self.key == other.key


def _facts(key):
    return key.file._survey()


@functools.lru_cache(maxsize=2**8)
def _kept_facts(key):
    facts = key.file._survey()
    key.file = None  # the cache must not keep it open
    return facts


def _reason(error):
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def media_key(path: str | Path) -> tuple:
    """Cache key of a file, which changes when it is written to."""
    found = os.stat(path)
    return os.fspath(path), found.st_size, found.st_mtime_ns
