"""MPEG audio, mostly MP3: frames without a container, so its length is found by counting them.

libsndfile uses a tag in the first frame (Xing, Info), or estimates the length from the sizes of the file and of that
frame. With a variable bit rate, or if files were concatenated, it stops too early, or states too great a length.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mossformer_sb.data.containers.pieces import WHOLE_COPY, Damage, Part, Survey, unpack

if TYPE_CHECKING:
    from mossformer_sb.data.containers.pieces import ByteSource

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by the version's code
_KBITS = {  # by MPEG 1 or not, and by layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MONO = 3  # code of the mode
_CONFIRMING = 3  # consecutive frames that confirm a beginning
_FIRST_WITHIN = 2**17  # maximum number of other bytes before the first frame
_LARGEST_FRAME = 2**13  # bytes, for a free bit rate
# A frame may refer to up to 511 preceding bytes, which at the lowest bit rates are many frames.
PREROLL_FRAMES = 16
_APE, _ID3V1 = 32, 128  # bytes


class Kind(NamedTuple):
    """Properties that all frames of a stream share."""

    version: int
    layer: int
    sample_rate: int
    channels: int

    @property
    def frame_samples(self) -> int:
        """Samples per frame."""
        if self.layer == 1:
            return 384
        return 576 if self.layer == 3 and self.version != 3 else 1152


class Tag(NamedTuple):
    """Content of the tag in the first frame of a stream."""

    frames: int | None
    bytes: int | None
    place: int | None  # position of the number of frames in the tag's frame, where libsndfile reads it


@dataclass
class Stream:
    """Frames of one kind, with the tag at their start, if any."""

    kind: Kind
    tag: Tag | None = None
    tag_span: tuple | None = None
    spans: list = field(default_factory=list)  # (start, stop) in the file
    frames: int = 0
    free_length: int | None = None  # bytes per frame without padding, if the header has no bit rate

    def add(self, start: int, stop: int) -> None:
        """Add a frame."""
        if self.spans and self.spans[-1][1] == start:
            self.spans[-1] = (self.spans[-1][0], stop)
        else:
            self.spans.append((start, stop))
        self.frames += 1

    @property
    def is_as_tagged(self) -> bool:
        """Whether libsndfile reads the stream completely without help."""
        found = self.tag and self.tag.place is not None and self.tag.frames == self.frames
        return bool(found and len(self.spans) == 1 and self.tag_span[1] == self.spans[0][0])

    def part(self) -> Part:
        """The parts that make libsndfile read the stream to its end."""
        if self.tag and self.tag.place is not None:
            return self._tagged_part()
        return Part(tuple(self.spans), frames=self.frames * self.kind.frame_samples, inflated=True)

    def _tagged_part(self):
        start, stop = self.tag_span
        place = start + self.tag.place
        if self.tag.frames == self.frames:
            return Part((self.tag_span, *self.spans))
        return Part(((start, place), struct.pack(">I", self.frames), (place + 4, stop), *self.spans))

    def missing_frames(self) -> int:
        """Number of frames that the tag states and the file lacks."""
        if not self.tag or not self.tag.frames:
            return 0
        missing = self.tag.frames - self.frames
        if missing == 1:  # some encoders count the tag's own frame
            present = self.spans[-1][1] - self.tag_span[0] if self.spans else 0
            return 1 if self.tag.bytes and self.tag.bytes > present else 0
        return max(0, missing)


@functools.lru_cache(maxsize=2**12)
def _header(first, second, third):
    """Kind and length in bytes (None for a free bit rate) of a frame, from bytes 1 to 3 of its header; None if invalid.

    The last four bits of a header have no effect on it, and must be masked out.
    """
    version, layer = first >> 3 & 3, 4 - (first >> 1 & 3)
    kbits, rate, padding = second >> 4, second >> 2 & 3, second >> 1 & 1
    if first >> 5 != 7 or version == 1 or layer == 4 or kbits == 15 or rate == 3:
        return None
    kind = Kind(version, layer, _RATES[version][rate], 1 if third >> 6 == _MONO else 2)
    if kbits == 0:
        return kind, None
    bits = 1000 * _KBITS[version == 3, layer][kbits - 1]
    if layer == 1:
        return kind, 4 * (12 * bits // kind.sample_rate + padding)
    return kind, kind.frame_samples // 8 * bits // kind.sample_rate + padding


def _frame(source, position, free_length=None):
    """Kind and length of the frame at a position, or None."""
    header = source.at(position, 4)
    if len(header) < 4 or header[0] != 0xFF:
        return None
    found = _header(header[1], header[2], header[3] & 0xC0)
    if found is None or found[1] is not None:
        return found
    padding = (header[2] >> 1 & 1) * (4 if found[0].layer == 1 else 1)
    if free_length is None:
        free_length = _free_length(source, position, header, padding)
    return (found[0], free_length + padding) if free_length else None


def _free_length(source, position, header, padding):
    """Bytes to the next frame of the same kind, without padding: a free bit rate is the same in all frames."""
    content = source.at(position, _LARGEST_FRAME)
    place = 4
    while (place := content.find(header[:2], place)) >= 0:
        other = content[place : place + 4]
        if len(other) == 4 and other[2] & 0xFD == header[2] & 0xFD and other[3] & 0xC0 == header[3] & 0xC0:
            return place - padding
        place += 1
    return None


def _is_beginning(source, position, end):
    """Whether consecutive frames of one kind start at a position."""
    kind = None
    for number in range(_CONFIRMING):
        if position == end and number:
            return True
        found = _frame(source, position)
        if found is None or (kind and found[0] != kind) or position + found[1] > end:
            return False
        kind = found[0]
        position += found[1]
    return True


def first_frame(source: ByteSource, offset: int, within: int = _FIRST_WITHIN) -> int | None:
    """Find the start of MPEG audio.

    Arguments
    ---------
    source : ByteSource
        The file.
    offset : int
        Start of the search.
    within : int
        Maximum number of other bytes before the audio.

    Returns
    -------
    int or None
    """
    return _next_beginning(source, offset, min(source.size, offset + within), source.size)


def _next_beginning(source, position, stop, end):
    while 0 <= (position := source.find(b"\xff", position)) < stop:
        if _is_beginning(source, position, end):
            return position
        position += 1
    return None


def _tag(source, kind, position, length):
    """The tag that a frame holds instead of audio, or None."""
    if kind.layer != 3:
        return None
    content = source.at(position, length)
    side = {(True, 2): 32, (True, 1): 17, (False, 2): 17, (False, 1): 9}[kind.version == 3, kind.channels]
    for place in (4 + side, 6 + side):  # with a checksum
        if content[place : place + 4] in (b"Xing", b"Info") and len(content) >= place + 16:
            flags, first, second = unpack(">III", content[place + 4 : place + 16])
            if not flags & 1:
                return Tag(None, first if flags & 2 else None, None)
            return Tag(first, second if flags & 2 else None, place + 8)
    if content[36:40] == b"VBRI" and len(content) >= 54:  # libsndfile decodes it as audio
        size, frames = unpack(">II", content[46:54])
        return Tag(frames, size, None)
    return None


def _foreign(source, position):
    """Bytes of another tag, such as ID3, at a position; 0 if there is none."""
    start = source.at(position, 10)
    if start[:3] == b"ID3" and len(start) == 10:
        size = 0
        for byte in start[6:]:
            size = size << 7 | byte & 0x7F
        return 10 + size + (10 if start[5] & 0x10 else 0)
    if start[:3] == b"TAG":
        return _ID3V1
    if start[:8] == b"APETAGEX":
        header = source.at(position, _APE)
        size, flags = unpack("<I4xI", header[12:24]) if len(header) == _APE else (0, 0)
        return _APE + (size if flags >> 29 & 1 else 0)
    if start == b"LYRICSBEGI":
        found = source.find(b"LYRICS200", position)
        return found + 9 - position if found >= 0 else 0
    return 0


def _audio_end(source):
    """Start of the tags at the end of the file."""
    end = source.size
    if source.at(max(0, end - _ID3V1), 3) == b"TAG":
        end -= _ID3V1
    footer = source.at(max(0, end - _APE), _APE)
    if footer[:8] == b"APETAGEX":
        size, flags = unpack("<I4xI", footer[12:24])
        end -= min(end, size + (_APE if flags >> 31 else 0))
    return end


class _Scan:
    """One pass through the headers of all frames."""

    def __init__(self, source, position):
        self.source, self.end = source, _audio_end(source)
        self.streams, self.junk, self.rest = [], 0, 0
        in_stream = False
        while position + 4 <= self.end:
            stream = self.streams[-1] if self.streams else None
            found = _frame(source, position, stream.free_length if stream else None)
            known = found is not None and in_stream and found[0] == stream.kind
            if known and position + found[1] > self.end:
                self.rest = self.end - position
                return
            if known or (found is not None and _is_beginning(source, position, self.end)):
                in_stream = True
                self._take(position, *found)
                position += found[1]
            elif foreign := _foreign(source, position):
                position += foreign
            else:
                following = _next_beginning(source, position + 1, self.end, self.end)
                self.junk += (self.end if following is None else following) - position
                position = self.end if following is None else following

    def _take(self, position, kind, length):
        tag = _tag(self.source, kind, position, length)
        if tag or not self.streams or self.streams[-1].kind != kind:
            self.streams.append(Stream(kind, tag, (position, position + length) if tag else None))
            if self.source.at(position + 2, 1)[0] >> 4 == 0:
                padding = (self.source.at(position + 2, 1)[0] >> 1 & 1) * (4 if kind.layer == 1 else 1)
                self.streams[-1].free_length = length - padding
        if not tag:
            self.streams[-1].add(position, position + length)


def survey_mpeg(source: ByteSource, offset: int) -> Survey | None:
    """Count the frames of an MPEG file.

    Arguments
    ---------
    source : ByteSource
        The file.
    offset : int
        Start of the audio, after an ID3 tag.

    Returns
    -------
    Survey, or None if there is no MPEG audio.
    """
    start = first_frame(source, offset)
    if start is None:
        return None
    scan = _Scan(source, start)
    streams = [stream for stream in scan.streams if stream.frames]
    if not streams:
        return Survey(Damage("holds a header and no audio", WHOLE_COPY))
    damage = _damage(scan.streams)
    notes = []
    if scan.rest:
        samples = streams[-1].kind.frame_samples
        notes.append(
            f"ends within an MPEG frame ({scan.rest} bytes of it exist): it is truncated, by {samples} samples or more"
        )
    junk = scan.junk + start - offset
    if junk:
        notes.append(f"has {junk} bytes between its MPEG frames or at its ends that are not audio")
    preroll = PREROLL_FRAMES * streams[0].kind.frame_samples
    plain = len(scan.streams) == 1 and streams[0].is_as_tagged and not junk and not scan.rest
    parts = None if plain else tuple(stream.part() for stream in streams)
    return Survey(damage, tuple(notes), parts, preroll)


def _damage(streams):
    kinds = list(dict.fromkeys((stream.kind.sample_rate, stream.kind.channels) for stream in streams if stream.frames))
    if len(kinds) > 1:
        found = ", then ".join(f"{rate} Hz with {channels} channel(s)" for rate, channels in kinds)
        return Damage(
            f"changes its format in the middle: {found}",
            "Several files were concatenated: convert it with `ffmpeg -i IN OUT.wav`, or split it.",
            truncated=False,
        )
    for stream in streams:
        missing = stream.missing_frames()
        if missing:
            samples = stream.kind.frame_samples
            return Damage(
                f"is truncated: it has {stream.frames * samples} of the {stream.tag.frames * samples} samples that its "
                f"header states",
                WHOLE_COPY,
            )
    return None
