"""Surveying an audio file: whether it has the length that its header states, and how to read all of it."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from mossformer_sb.data.containers import flac, mpeg, ogg, sizes
from mossformer_sb.data.containers.pieces import ByteSource, Part, Survey

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

_BY_MAGIC = {
    b"RIFF": sizes.survey_riff,
    b"RIFX": sizes.survey_riff,
    b"RF64": sizes.survey_riff,
    b"riff": sizes.survey_w64,
    b"FORM": sizes.survey_iff,
    b".snd": sizes.survey_au,
    b"dns.": sizes.survey_au,
    b"caff": sizes.survey_caf,
    b"NIST": sizes.survey_sphere,
    b"2BIT": sizes.survey_avr,
    b"fLaC": flac.survey_flac,
    b"OggS": ogg.survey_ogg,
}
_KEPT = 2**10  # number of cached surveys: a long noise is read repeatedly


def survey(stream: BinaryIO, start: int = 0) -> tuple[Survey, ByteSource]:
    """Survey an open audio file.

    Arguments
    ---------
    stream : file object
        Binary and seekable.
    start : int
        Start of the audio file in the stream.

    Returns
    -------
    survey : Survey
    source : ByteSource
        The file that the positions in its parts refer to.
    """
    source = ByteSource(stream, start)
    return _survey(source), source


def survey_file(path: str | Path) -> Survey:
    """As `survey`, of a file by its path; the result is cached while the file doesn't change.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    Survey

    Raises
    ------
    OSError
        If the file does not exist or can't be read.
    """
    found = os.stat(path)
    return _survey_path(os.path.abspath(path), found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=_KEPT)
def _survey_path(path, size, time):
    with open(path, "rb") as stream:
        return survey(stream)[0]


def _survey(source):
    offset = _behind_id3(source)
    look = _BY_MAGIC.get(source.at(offset, 4), mpeg.survey_mpeg)
    found = look(source, offset) or Survey()
    if found.parts is None and offset:  # after an ID3 tag, libsndfile stops early in some formats
        found = found._replace(parts=(Part(((offset, source.size),)),))
    return found


def _behind_id3(source):
    offset = 0
    while (content := source.at(offset, 10))[:3] == b"ID3" and len(content) == 10:
        offset += 10 + sum((byte & 0x7F) << 7 * (3 - place) for place, byte in enumerate(content[6:]))
        offset += 10 if content[5] & 0x10 else 0
    return offset
