"""Reading an audio file to its end, whatever length its header states, or an error with the reason.

All code that reads audio uses this module, so a file is accepted or refused consistently.

Shapes: T samples, C channels.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from mossformer_sb.data.containers.pieces import WHOLE_COPY, ByteSource, Damage, Part, PieceFile
from mossformer_sb.data.containers.sizes import survey_log
from mossformer_sb.data.containers.survey import survey, survey_file
from mossformer_sb.data.media_file import DamagedMedia, MediaFile, media_format, media_key
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import for_soundfile

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

logger = logging.getLogger(__name__)

_UNKNOWN = 2**62  # frames: libsndfile returns about twice as many for an unknown length
_SKIPPED = 2**16  # frames per decoded block when seeking
_UNREADABLE = (soundfile.SoundFileError, RuntimeError, TypeError)  # exceptions of soundfile


class _Sequential(soundfile.SoundFile):
    """A file in which soundfile doesn't seek between two blocks.

    After each block, soundfile seeks to the current position. That resets an MP3 decoder, which loses the bits that
    later frames refer to: the samples after each block would be wrong.
    """

    def seekable(self):
        """False for soundfile; `seek` works if the format supports it."""
        return False


class DamagedAudio(InputError):
    """A file that holds less audio than its header states, or has a part that can't be read.

    Pickle and PyTorch's data loaders build an error of a worker process again from its message alone.

    Arguments
    ---------
    message : str
        The complete message.
    damage : mossformer_sb.data.containers.pieces.Damage, optional
        Damage of the file. Default: one that has only the message.

    Example
    -------
    >>> raise DamagedAudio.of("a.wav", Damage("is truncated", "Copy it again."))
    Traceback (most recent call last):
        ...
    mossformer_sb.data.audio_reader.DamagedAudio: a.wav: is truncated. Copy it again.
    """

    def __init__(self, message: str, damage: Damage | None = None) -> None:
        super().__init__(message)
        self.damage = damage or Damage(message, "")

    @classmethod
    def of(cls, name: str, damage: Damage) -> DamagedAudio:
        """The error for the damage of a file with this name."""
        return cls(f"{name}: {damage.text}. {damage.remedy}", damage)


class AudioReader:
    """An open audio file, of which all samples can be read.

    Arguments
    ---------
    source : str, Path or file object
        Audio in any format that libsndfile reads, or, with PyAV, m4a, mp4 and the like; a file object is binary and
        seekable.
    name : str, optional
        Name for messages. Default: the path.
    start : int
        Start of the audio in a file object.
    notify : bool
        Whether to log irregularities of a file that can be read completely.

    Attributes
    ----------
    sample_rate : int
        Sample rate in Hz.
    channels : int
        C.
    frames : int
        T.
    notes : tuple of str
        Irregularities that don't prevent complete reading.

    Raises
    ------
    InputError
        If it can't be read as audio; `DamagedAudio` if it is truncated.

    Example
    -------
    >>> path = getfixture("tmp_path") / "ramp.wav"
    >>> soundfile.write(path, np.arange(4) / 8, 8000)
    >>> with AudioReader(path) as reader:
    ...     reader.seek(2)
    ...     reader.frames, reader.read(100).tolist()
    (4, [[0.25], [0.375]])
    """

    def __init__(
        self, source: str | Path | BinaryIO, name: str | None = None, start: int = 0, notify: bool = True
    ) -> None:
        self.name = str(source) if name is None else name
        self._files, self._own = [], None
        try:
            self._open(source, start)
        except BaseException:
            self.close()
            raise
        if notify:
            _notify(self.name, self.notes)

    def _open(self, source, start):
        is_path = isinstance(source, (str, os.PathLike))
        if self._open_media(source, start, is_path):
            return
        if is_path:
            found = self._survey_file(source)
        else:
            found, pieces_of = survey(source, start)
        if found.damage:
            raise DamagedAudio.of(self.name, found.damage)
        self.notes, self._preroll = found.notes, found.preroll
        if found.parts is None:
            opened = for_soundfile(source) if is_path else PieceFile(pieces_of, Part(((0, pieces_of.size),)))
            self._files.append(self._sound_file(opened))
            counts = [self._files[0].frames]
        else:
            if is_path:
                self._own = open(source, "rb")
                pieces_of = ByteSource(self._own)
            self._files = [self._sound_file(PieceFile(pieces_of, part)) for part in found.parts]
            counts = [
                file.frames if part.frames is None else part.frames
                for file, part in zip(self._files, found.parts, strict=True)
            ]
        first = self._files[0]
        self.sample_rate, self.channels = first.samplerate, first.channels
        damage = survey_log(first) if found.parts is None else None
        if damage:
            raise DamagedAudio.of(self.name, damage)
        if any((file.samplerate, file.channels) != (self.sample_rate, self.channels) for file in self._files):
            raise InputError(
                f"{self.name}: changes its sample rate or number of channels in the middle. Several files were "
                f"concatenated: convert it with `ffmpeg -i IN OUT.wav`, or split it."
            )
        self._bounds = list(itertools.accumulate(counts, initial=0))
        self.frames = self._bounds[-1]
        if self.frames >= _UNKNOWN:
            raise InputError(f"{self.name}: does not state its length. Convert it with `ffmpeg -i IN OUT.wav`.")
        self._position = 0  # the next frame to read
        self._stands = [0] * len(self._files)  # position in each file
        if found.check_end and self.frames:
            self._check_end()

    def _open_media(self, source, start, is_path):
        """Open the file with PyAV, and return whether its format is one for PyAV."""
        try:
            stream = open(source, "rb") if is_path else source
        except OSError as error:
            raise InputError(_absent(self.name, error)) from error
        stream.seek(start)
        reader = media_format(stream.read(16))
        if reader is None:
            if is_path:
                stream.close()
            return False
        if not is_path:
            pieces_of = ByteSource(stream, start)
            stream = PieceFile(pieces_of, Part(((0, pieces_of.size),)))
        try:
            file = MediaFile(stream, reader, self.name, media_key(source) if is_path else None)
        except DamagedMedia as error:
            raise DamagedAudio.of(self.name, error.damage) from error
        self._files.append(file)
        self.sample_rate, self.channels, self.frames = file.samplerate, file.channels, file.frames
        self.notes, self._preroll, self._bounds, self._position, self._stands = file.notes, 0, [0, file.frames], 0, [0]
        return True

    def _check_end(self):
        """Decode the last frame, since headers don't show whether it is complete."""
        self.seek(self.frames - 1)
        try:
            self.read(1)
        except InputError as error:
            damage = Damage("is truncated: it ends within its last frame", WHOLE_COPY)
            raise DamagedAudio.of(self.name, damage) from error
        self.seek(0)

    def _survey_file(self, path):
        try:
            if not os.path.getsize(path):
                raise InputError(f"{self.name}: is empty (0 bytes). Copy or download it again.")
            return survey_file(path)
        except OSError as error:
            raise InputError(_absent(self.name, error)) from error

    def _sound_file(self, opened):
        try:
            return _Sequential(opened)
        except _UNREADABLE as error:
            raise InputError(
                f"{self.name}: can't be read as audio ({_reason(error)}). It is damaged, or not an audio file. Copy "
                f"or download it again."
            ) from error

    def seek(self, frame: int) -> None:
        """Set the position of the next `read` to a frame, counted from 0."""
        self._position = frame

    def read(self, num_frames: int) -> np.ndarray:
        """Read the next frames.

        Arguments
        ---------
        num_frames : int
            Number of frames; fewer are returned at the end of the file.

        Returns
        -------
        numpy.ndarray
            [T, C], float32.

        Raises
        ------
        InputError
            If the file is shorter than its header states, or a part can't be decoded.
        """
        blocks, wanted = [], min(num_frames, self.frames - self._position)
        while wanted > 0:
            number = next(i for i, bound in enumerate(self._bounds[1:]) if self._position < bound)
            count = min(wanted, self._bounds[number + 1] - self._position)
            block = self._read_part(number, self._position - self._bounds[number], count)
            if len(block) < count:
                raise InputError(
                    f"{self.name}: ends after {self._position + len(block)} of the {self.frames} samples that its "
                    f"header states. It is truncated or damaged. {WHOLE_COPY}"
                )
            blocks.append(block)
            self._position += count
            wanted -= count
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate(blocks) if blocks else np.empty((0, self.channels), dtype=np.float32)

    def _read_part(self, number, start, count):
        try:
            if self._stands[number] != start:
                self._go_to(number, start)
            self._stands[number] = start + count
            return self._files[number].read(count, dtype="float32", always_2d=True)
        except DamagedMedia as error:
            raise DamagedAudio.of(self.name, error.damage) from error
        except _UNREADABLE as error:
            raise InputError(
                f"{self.name}: can't be read to its end ({_reason(error)}). It is truncated or damaged. {WHOLE_COPY}"
            ) from error

    def _go_to(self, number, start):
        file, skipped = self._files[number], min(start, self._preroll)
        try:
            file.seek(start - skipped)
        except soundfile.SoundFileError:
            if self._stands[number]:
                raise
            skipped = start  # some codecs can only be read from the beginning
        while skipped > 0:
            skipped -= len(file.read(min(skipped, _SKIPPED), dtype="float32", always_2d=True)) or skipped

    def close(self) -> None:
        """Close the file, but not a given file object."""
        for file in self._files:
            file.close()
        if self._own:
            self._own.close()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@functools.lru_cache(maxsize=2**10)
def _notify(name, notes):
    """Log the irregularities of a file once, even if it is read repeatedly."""
    for note in notes:
        logger.warning("%s: %s.", name, note)


def _reason(error):
    """libsndfile's error message without the file's name, which may be that of an object."""
    return getattr(error, "error_string", None) or str(error) or "damaged data"


def _absent(name, error):
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return f"{name}: there is no such audio file."
    if isinstance(error, IsADirectoryError):
        return f"{name}: is a folder, not an audio file."
    return f"{name}: can't be read ({error.strerror})."
