"""Ogg: numbered pages with their stream's serial number, so missing pages are found without decoding.

libsndfile reads the first of several concatenated streams, and a truncated file up to its last complete page.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from mossformer_sb.data.containers.pieces import WHOLE_COPY, Damage, Part, Survey

if TYPE_CHECKING:
    from mossformer_sb.data.containers.pieces import ByteSource

_HEADER = struct.Struct("<4sBBqIIIB")
_CONTINUED, _FIRST, _LAST = 1, 2, 4  # flags of a page


class _Walk:
    """One pass through the headers of all pages."""

    def __init__(self, source, position):
        self.starts = []  # starts of consecutive streams
        self.gaps = self.junk = self.missing = 0
        self.unended = set()  # numbers of streams without a last page
        expected, beginning = {}, False
        while position < source.size:
            header = source.at(position, _HEADER.size)
            if len(header) < _HEADER.size and header[:4] == b"OggS":
                self.missing = _HEADER.size - len(header)
                return
            if header[:4] != b"OggS":
                following = source.find(b"OggS", position + 1)
                following = source.size if following < 0 else following
                self.junk += following - position
                position = following
                continue
            _, _, flags, _, serial, number, _, segments = _HEADER.unpack(header)
            table = source.at(position + _HEADER.size, segments)
            length = _HEADER.size + segments + sum(table)
            if flags & _FIRST:
                if not beginning:
                    self.starts.append(position)
                    expected = {}
                self.unended.add(serial)
            elif number != expected.get(serial, number):
                self.gaps += 1
            beginning = bool(flags & _FIRST)
            expected[serial] = number + 1
            if flags & _LAST:
                self.unended.discard(serial)
            position += length
            if position > source.size or len(table) < segments:
                self.missing = max(1, position - source.size)
                return


def survey_ogg(source: ByteSource, offset: int) -> Survey:
    """Survey an Ogg file by its pages.

    Arguments
    ---------
    source : ByteSource
        The file.
    offset : int
        Start of its first page.

    Returns
    -------
    Survey
    """
    walk = _Walk(source, offset)
    notes = []
    if walk.unended:
        notes.append("has no last page: it is truncated between two pages, by an unknown length")
    if walk.junk:
        notes.append(f"has {walk.junk} bytes between its pages or at its end that are not audio")
    damage = None
    if walk.missing:
        damage = Damage(
            f"is truncated: its last page lacks {walk.missing} bytes, and more may have followed", WHOLE_COPY
        )
    elif walk.gaps:
        damage = Damage(f"lacks pages in {walk.gaps} place(s) in the middle", WHOLE_COPY)
    if len(walk.starts) < 2:
        return Survey(damage, tuple(notes))
    bounds = (*walk.starts, source.size)
    return Survey(
        damage, tuple(notes), tuple(Part(((start, stop),)) for start, stop in zip(bounds, bounds[1:], strict=False))
    )
