"""FLAC: the header states the number of samples or 0, and each frame the position of its samples.

libsndfile needs the number in the header: without it, the last samples can't be read.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

from mossformer_sb.data.containers.pieces import WHOLE_COPY, Damage, Part, Survey

if TYPE_CHECKING:
    from mossformer_sb.data.containers.pieces import ByteSource

_INFO = 8  # start of the content of the first block, which describes the stream
_TOTAL_AT, _HEADER_SIZE = _INFO + 13, _INFO + 34
_JOINED = b"fLaC\x00\x00\x00\x22"
_MOST_HEADER = 16  # maximum bytes of a frame's header
_TAILS = (2**16, 2**22)  # bytes at the end of the file in which to search for the last frame
_EXTREME = 0.02  # share of all samples; the frame in the middle of the file should not be this close to an end


class _Frame(NamedTuple):
    place: int
    first: int  # sample
    samples: int

    @property
    def end(self):
        return self.first + self.samples


def survey_flac(source: ByteSource, offset: int) -> Survey:
    """Survey a FLAC file by its header and its last frame.

    Arguments
    ---------
    source : ByteSource
        The file.
    offset : int
        Start of the FLAC data.

    Returns
    -------
    Survey
    """
    header = source.at(offset, _HEADER_SIZE)
    if len(header) < _HEADER_SIZE or header[4] & 0x7F:
        return Survey()  # libsndfile refuses it
    total = int.from_bytes(header[_TOTAL_AT : _TOTAL_AT + 5], "big") & (2**36 - 1)
    block = int.from_bytes(header[_INFO + 2 : _INFO + 4], "big")
    frames = _last_frames(source, offset, block, total)
    if not frames:
        return Survey(Damage("is truncated: it has a header and no complete frame", WHOLE_COPY))
    odd = frames[-1].end != total
    if (odd or _is_lopsided(source, offset, block, total)) and source.find(_JOINED, offset + 4) > 0:
        return Survey(
            Damage(
                "holds another FLAC file after the first",
                "Several files were concatenated: join them with `sox IN1 IN2 OUT.flac`, or split them.",
                truncated=False,
            )
        )
    if not odd:
        return Survey(check_end=True)
    found = frames[-1].end
    if found < total:
        return Survey(
            Damage(f"is truncated: it has at most {found} of the {total} samples that its header states", WHOLE_COPY)
        )
    start = offset + _TOTAL_AT
    first = header[_TOTAL_AT] & 0xF0 | found >> 32
    count = bytes([first]) + (found & (2**32 - 1)).to_bytes(4, "big")
    notes = (f"states {total} samples in its header and has {found}; all of them are read",) if total else ()
    pieces = ((0, start), count, (start + 5, source.size))
    return Survey(notes=notes, parts=(Part(pieces),), check_end=True)


def _last_frames(source, offset, block, total):
    """The frames near the end of the file, in order."""
    for tail in _TAILS:
        start = max(offset + _HEADER_SIZE, source.size - tail)
        found = list(_frames(source.at(start, source.size - start), start, block))
        ends = {frame.end for frame in found} | {0}
        found = [frame for frame in found if frame.first in ends] or found  # others are false positives
        if found and (found[-1].end == total or start == offset + _HEADER_SIZE):
            return found
    return found


def _is_lopsided(source, offset, block, total):
    """Whether the frame in the middle of the file holds samples from near the beginning or the end."""
    middle = (offset + source.size) // 2
    frame = next(_frames(source.at(middle, _TAILS[0]), middle, block), None)
    return bool(frame and total and not _EXTREME < frame.first / total < 1 - _EXTREME)


def _frames(content, start, block):
    """Yields candidates for headers of frames."""
    place = -1
    while (place := content.find(b"\xff", place + 1)) >= 0:
        frame = _parse(content[place : place + _MOST_HEADER], start + place, block)
        if frame:
            yield frame


def _parse(header, place, block):
    """The frame that begins with these bytes, or None. `block`: samples per frame if it is constant."""
    if len(header) < 6 or header[1] not in (0xF8, 0xF9):
        return None
    size, rate = header[2] >> 4, header[2] & 15
    if not size or rate == 15 or header[3] >> 4 > 10 or header[3] & 1:
        return None
    number, position = _number(header, 4)
    if number is None:
        return None
    if size in (6, 7):
        samples = int.from_bytes(header[position : position + size - 5], "big") + 1
        position += size - 5
    else:
        samples = 192 if size == 1 else 576 << size - 2 if size < 6 else 256 << size - 8
    position += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if position >= len(header) or _checksum(header[:position]) != header[position]:
        return None
    first = number if header[1] == 0xF9 else number * block
    return _Frame(place, first, samples)


def _number(header, position):
    """A number of up to 36 bits, coded as in UTF-8, and its end."""
    first = header[position]
    if first < 0x80:
        return first, position + 1
    length = 8 - (first ^ 0xFF).bit_length()  # number of leading ones
    rest = header[position + 1 : position + length]
    if not 2 <= length <= 7 or len(rest) < length - 1 or any(byte >> 6 != 2 for byte in rest):
        return None, position
    number = first & (2 ** (7 - length) - 1)
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, position + length


@functools.cache
def _checksums():
    """CRC-8 of each byte, with the polynomial x^8 + x^2 + x + 1."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte << 1 ^ 0x107) if byte & 0x80 else byte << 1
        table.append(byte)
    return table


def _checksum(content):
    table, value = _checksums(), 0
    for byte in content:
        value = table[value ^ byte]
    return value
