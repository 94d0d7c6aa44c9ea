"""Containers whose header states the number of bytes of audio: WAV, RF64, W64, AIFF, SVX, AU, CAF, NIST, AVR.

libsndfile reads a truncated file without an error, so an interrupted copy would look like a short recording.
"""

from __future__ import annotations

import math
import re
import struct
from typing import TYPE_CHECKING

from mossformer_sb.data.containers.pieces import WHOLE_COPY, Damage, Part, Survey, missing_bytes, unpack

if TYPE_CHECKING:
    import soundfile

    from mossformer_sb.data.containers.pieces import ByteSource

# Programs that write to a pipe don't know the size. They write one of the largest possible sizes: SoX 0x7FFFF000,
# arecord 0x80000000, FFmpeg 0xFFFFFFFF, others some header's length away from these.
_PLACEHOLDERS, _NEAR = (2**31, 2**32), 2**12 + 2**8
_W64_DATA = b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a")
_W64_HEADER = 24  # bytes of a chunk's name and size, which are part of its size
_SPHERE_HEADER = 1024
_LARGE_REST = 2**12  # bytes after the audio of a WAV; some programs append fewer
_WIDTHS = {"PCM_U8": 1, "PCM_16": 2, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}  # bytes per sample in MATLAB's files


def survey_riff(source: ByteSource, offset: int) -> Survey:
    """Survey a WAV or RF64 file.

    Arguments
    ---------
    source : ByteSource
        The file.
    offset : int
        Start of its header.

    Returns
    -------
    Survey
    """
    order = ">" if source.at(offset, 4) == b"RIFX" else "<"
    riff_size = unpack(order + "I", source.at(offset + 4, 4))[0]
    large = None
    for name, size, start in _chunks(source, offset + 12, order):
        if name == b"ds64" and size >= 16:
            large = unpack("<QQ", source.at(start, 16))
        if name == b"data":
            if large and size == 2**32 - 1:
                riff_size, size = large
            return _survey_data(source, offset, order, riff_size, size, start)
    return Survey()  # libsndfile refuses a WAV without samples


def _survey_data(source, offset, order, riff_size, size, start):
    present = source.size - start
    if size > present and is_placeholder(size):
        return Survey()  # libsndfile reads all following bytes
    if size > present:
        if 0 <= source.size - offset - riff_size - 8 <= 1:  # complete, with a wrong size in its header
            return Survey(notes=(f"has {present} bytes of audio and {size} in its header; all of them are read",))
        return Survey(missing_bytes(size - present))
    return _survey_rest(source, offset, order, size, start)


def _survey_rest(source, offset, order, size, start):
    """Check that chunks, each with its size, follow the audio."""
    position = start + size + size % 2
    while (content := source.at(position, 8)) and len(content) == 8:
        name, length = unpack(order + "4sI", content)
        if name in (b"RIFF", b"RIFX", b"RF64"):
            return Survey(
                Damage(
                    f"holds another WAV file after its first {size} bytes of audio",
                    "Several files were concatenated: join them with `sox IN1 IN2 OUT.wav`, or split them.",
                    truncated=False,
                )
            )
        if not re.fullmatch(rb"[ -~\0]{4}", name) or not name.strip(b"\0 ") or position + 8 + length > source.size + 1:
            break
        position += 8 + length + length % 2
    rest = source.size - position
    if rest <= 8:
        return Survey()
    wraps = (source.size - start - size) // 2**32  # overflows of a 32-bit size
    if size == 0 or (wraps and order == "<"):
        header = (source.at(offset, 12), (offset + 12, start - 4))
        if wraps:
            header = (_rf64(size + wraps * 2**32), header[1])
        pieces = (*header, b"\xff\xff\xff\xff", (start, source.size))
        note = f"has a wrong size of {size} bytes in its header; all audio is read"
        return Survey(notes=(note,), parts=(Part(pieces),))
    if rest >= _LARGE_REST and rest > size // 100:
        text = f"has {rest} bytes after the audio of its header that are not a chunk of a WAV: they may be audio too"
        return Survey(Damage(text, "`sox --ignore-length IN OUT.wav` reads them.", truncated=False))
    return Survey(notes=(f"has {rest} bytes after its audio that are not a chunk of a WAV, and are skipped",))


def _rf64(size):
    """The header of a file that may be larger than 4 GiB, with this many bytes of audio."""
    return struct.pack("<4sI4s4sIQQQI", b"RF64", 2**32 - 1, b"WAVE", b"ds64", 28, size + 2**10, size, 0, 0)


def _chunks(source, position, order):
    """Yields name, size and start of the content of RIFF's or IFF's chunks, which are padded to even sizes."""
    while len(content := source.at(position, 8)) == 8:
        name, size = unpack(order + "4sI", content)
        yield name, size, position + 8
        position += 8 + size + size % 2


def is_placeholder(size: int) -> bool:
    """Whether a size of 32 bits is a placeholder of a program that doesn't know the size.

    Example
    -------
    >>> [is_placeholder(size) for size in (0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFDB, 3 * 10**9)]
    [True, True, True, True, False]
    """
    return any(abs(size - placeholder) <= _NEAR for placeholder in _PLACEHOLDERS)


def survey_w64(source: ByteSource, offset: int) -> Survey:
    """Survey a Sony Wave64 file; see `survey_riff`."""
    position = offset + 40
    while len(content := source.at(position, _W64_HEADER)) == _W64_HEADER:
        size = unpack("<Q", content[16:])[0]
        if content[:16] == _W64_DATA:
            return _of_bytes(source, size - _W64_HEADER, position + _W64_HEADER, unknown=size > 2**62 or size <= 24)
        position += max(_W64_HEADER, -(-size // 8) * 8)
    return Survey()


def survey_iff(source: ByteSource, offset: int) -> Survey:
    """Survey an AIFF, AIFF-C or SVX file; see `survey_riff`."""
    form_size = unpack(">I", source.at(offset + 4, 4))[0]
    for name, size, start in _chunks(source, offset + 12, ">"):
        if name in (b"SSND", b"BODY"):
            unknown = size == 0 or is_placeholder(size) or 0 <= source.size - offset - form_size - 8 <= 1
            return _of_bytes(source, size, start, unknown)
    return Survey()


def survey_au(source: ByteSource, offset: int) -> Survey:
    """Survey a Sun AU file; see `survey_riff`."""
    order = ">" if source.at(offset, 4) == b".snd" else "<"
    start, size = unpack(order + "II", source.at(offset + 4, 8).ljust(8, b"\0"))
    return _of_bytes(source, size, offset + start, unknown=size == 0 or is_placeholder(size))


def survey_caf(source: ByteSource, offset: int) -> Survey:
    """Survey a Core Audio file; see `survey_riff`."""
    position = offset + 8
    while len(content := source.at(position, 12)) == 12:
        name, size = unpack(">4sq", content)
        if name == b"data":
            return _of_bytes(source, size, position + 12, unknown=size < 0)
        if size < 0:
            break
        position += 12 + size
    return Survey()


def survey_sphere(source: ByteSource, offset: int) -> Survey:
    """Survey a NIST SPHERE file; see `survey_riff`."""
    start = source.at(offset, _SPHERE_HEADER)
    fields = start.split(None, 2)
    if len(fields) < 3 or not fields[1].isdigit():
        return Survey()
    if b"shorten" in start:
        return Survey(
            Damage(
                "is compressed with shorten, which can't be read here",
                "Convert it with LDC's sph2pipe: `sph2pipe -f wav IN OUT.wav`.",
                truncated=False,
            )
        )
    numbers = {name: int(value) for name, value in re.findall(rb"(\w+) -(?:i|s\d+) (\d+)\b", start)}
    size = math.prod(numbers.get(key, 0) for key in (b"sample_count", b"channel_count", b"sample_n_bytes"))
    return _of_bytes(source, size, offset + int(fields[1]), unknown=False)


def survey_avr(source: ByteSource, offset: int) -> Survey:
    """Survey an Audio Visual Research file; see `survey_riff`."""
    header = source.at(offset, 128).ljust(128, b"\0")
    stereo, bits = unpack(">hh", header[12:16])
    frames = unpack(">I", header[26:30])[0]
    return _of_bytes(source, frames * (2 if stereo else 1) * bits // 8, offset + 128, unknown=False)


def _of_bytes(source, size, start, unknown):
    lost = size - max(0, source.size - start)
    return Survey() if unknown or lost <= 0 else Survey(missing_bytes(lost))


_WITH_LOG = ("VOC", "MAT4", "WVE", "MPC2K", "SDS", "MAT5")


def survey_log(file: soundfile.SoundFile) -> Damage | None:
    """The damage in libsndfile's own log of an open file, for formats that are not surveyed here, or None.

    Arguments
    ---------
    file : soundfile.SoundFile
        A file that was just opened.

    Returns
    -------
    Damage or None
    """
    if file.format not in _WITH_LOG:
        return None  # its log takes libsndfile longer than its header
    log, short = file.extra_info, None
    if file.format in ("VOC", "MAT4", "WVE"):
        short = re.search(r"truncated|should be", log)
    elif file.format in ("MPC2K", "SDS"):
        frames = re.search(r"^ *Frames +: (\d+)", log, re.MULTILINE)
        short = frames and (int(frames[1]) > file.frames if file.format == "MPC2K" else int(frames[1]) < file.frames)
    elif file.format == "MAT5":
        sizes = re.findall(r"Size : (\d+)", log)
        short = sizes and int(sizes[-1]) > file.frames * file.channels * _WIDTHS.get(file.subtype, 0)
    return Damage("is truncated: its header states more audio than it holds", WHOLE_COPY) if short else None
