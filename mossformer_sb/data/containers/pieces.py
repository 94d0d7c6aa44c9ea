"""The result of surveying a container: parts, notes, damage; and virtual files of byte ranges of another file."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any, BinaryIO

_SMALLEST, _LARGEST = 2**12, 2**18  # bytes per read: few for headers, many for a pass through a file
_NEAR = 2**6  # bytes that a search looks at first
# The length of an MP3 without a tag is estimated from the first frame: 320 kbit/s and 8 are the extremes.
_INFLATION = 64
_ZEROS = 128  # bytes at the end in which decoders search for a tag


class Damage(NamedTuple):
    """The reason why a file can't be used.

    Attributes
    ----------
    text : str
        The damage, as the end of a sentence whose subject is the file.
    remedy : str
        The remedy, as complete sentences.
    truncated : bool
        Whether the file holds less audio than its header states.
    """

    text: str
    remedy: str
    truncated: bool = True


WHOLE_COPY = "Copy or download it again, or convert the existing part with `ffmpeg -i IN OUT.wav`."


def missing_bytes(count: int) -> Damage:
    """Damage of a file whose last bytes are missing.

    Example
    -------
    >>> missing_bytes(1000).text
    'is truncated: its last 1000 bytes of audio are missing'
    """
    return Damage(f"is truncated: its last {count} bytes of audio are missing", WHOLE_COPY)


def unpack(layout: str, content: bytes) -> tuple:
    """As `struct.unpack`, with zeros for missing bytes, as at the end of a truncated file.

    Example
    -------
    >>> unpack("<HH", b"\\1\\0\\2")
    (1, 2)
    """
    size = struct.calcsize(layout)
    return struct.unpack(layout, content[:size].ljust(size, b"\0"))


class Part(NamedTuple):
    """A part of a file that libsndfile reads from beginning to end.

    Attributes
    ----------
    pieces : tuple
        Its content in order: (start, stop) of the file, or replacement bytes.
    frames : int, optional
        Number of frames. Default: as reported by libsndfile.
    inflated : bool
        Whether to report a greater size than the real one, since libsndfile would stop at its own estimate.
    """

    pieces: tuple
    frames: int | None = None
    inflated: bool = False


class Survey(NamedTuple):
    """The result of surveying a file.

    Attributes
    ----------
    damage : Damage, optional
        The reason why the file can't be used.
    notes : tuple of str
        Irregularities that don't prevent complete reading, as ends of a sentence.
    parts : tuple of Part, optional
        Parts to read one after the other. Default: the unchanged file.
    preroll : int
        Frames to decode before the first one that is read, for the state of the decoder.
    check_end : bool
        Whether the last sample must be decoded to know that the file is complete.
    """

    damage: Damage | None = None
    notes: tuple = ()
    parts: tuple | None = None
    preroll: int = 0
    check_end: bool = False


class ByteSource:
    """A binary file from an offset on, with random access.

    Arguments
    ---------
    stream : file object
        Binary and seekable.
    start : int
        The offset.

    Example
    -------
    >>> source = ByteSource(io.BytesIO(b"..RIFF"), start=2)
    >>> source.size, source.at(1, 100)
    (4, b'IFF')
    """

    def __init__(self, stream: BinaryIO, start: int = 0) -> None:
        self.stream, self.start = stream, start
        self.size = max(0, stream.seek(0, io.SEEK_END) - start)
        self._position, self._window, self._block = 0, b"", _SMALLEST

    def at(self, position: int, count: int) -> bytes:
        """The bytes at a position, fewer at the end of the file."""
        if position >= self.size:  # positions from damaged headers may be too large to seek
            return b""
        offset = position - self._position
        if offset < 0 or offset + count > len(self._window):
            self.stream.seek(self.start + position)
            self._window = self.stream.read(max(count, self._block))
            self._position, offset = position, 0
            self._block = min(2 * self._block, _LARGEST)
        return self._window[offset : offset + count]

    def find(self, wanted: bytes, start: int) -> int:
        """Next position of some bytes; -1 if there is none."""
        position, count = start, max(_NEAR, len(wanted))  # a search that ends nearby copies little
        while position < self.size:
            found = self.at(position, count).find(wanted)
            if found >= 0:
                return position + found
            position += count - len(wanted) + 1
            count = max(count, min(2 * count, _LARGEST))
        return -1


class PieceFile(io.RawIOBase):
    """A readable virtual file of byte ranges of another one, and of bytes in between.

    Arguments
    ---------
    source : ByteSource
        The file of the byte ranges.
    part : Part
        The byte ranges.

    Example
    -------
    >>> file = PieceFile(ByteSource(io.BytesIO(b"abcdef")), Part((b"XY", (1, 3), (5, 6))))
    >>> file.read(), file.seek(3), file.read(2)
    (b'XYbcf', 3, b'cf')
    """

    def __init__(self, source: ByteSource, part: Part) -> None:
        self._source, self._pieces, self._position = source, part.pieces, 0
        self._bounds = [0]
        for piece in part.pieces:
            self._bounds.append(self._bounds[-1] + (len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]))
        self._size = self._bounds[-1] * (_INFLATION if part.inflated else 1)

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As for any file."""
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence])
        return self._position

    def tell(self) -> int:
        """As for any file."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """As for any file; less than the buffer holds only at the end."""
        view, filled = memoryview(buffer).cast("B"), 0
        for piece, start, stop in zip(self._pieces, self._bounds, self._bounds[1:], strict=False):
            if not start <= self._position < stop or filled == len(view):
                continue
            count = min(len(view) - filled, stop - self._position)
            offset = self._position - start
            content = (
                piece[offset : offset + count]
                if isinstance(piece, bytes)
                else self._source.at(piece[0] + offset, count)
            )
            view[filled : filled + len(content)] = content
            filled += len(content)
            self._position += len(content)
            if len(content) < count:
                break
        if not filled and self._size - _ZEROS <= self._position < self._size:  # of an inflated file
            filled = min(len(view), self._size - self._position)
            view[:filled] = bytes(filled)
            self._position += filled
        return filled
