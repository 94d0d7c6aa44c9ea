"""Rooms from the distribution and in the table format of WHAMR! (Maciejewski et al., 2020).

`data_prep.generate.image_source` computes their impulse responses.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.choices import check_choice
from data_prep.generate.file_access import check_access
from data_prep.generate.metadata import read_published
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

SAMPLE_RATE = 16000  # of all impulse responses, in Hz
SPEED_OF_SOUND = 343.0  # m/s

# Reverberation times in seconds. The published ones follow the label of each noise recording; without labels, the
# weights give the published mean of 0.56 s.
T60_RANGES = {"high": (0.4, 1.0), "medium": (0.2, 0.6), "low": (0.1, 0.3)}
T60_WEIGHTS = (0.6, 0.3, 0.1)
REVERBERATIONS = (*T60_RANGES, "any")
MIC_SPACINGS = (0.15, 0.16, 0.17)  # metres
MIC_SPACING_WEIGHTS = (0.53, 0.135, 0.335)  # as in WHAMR!'s validation and test sets


@dataclass(frozen=True)
class Room:
    """A box with two microphones and some sources.

    Attributes
    ----------
    size : tuple of float
        Extent in x, y and z, in metres; one corner is the origin.
    microphones : tuple of tuple of float
        Positions, left one first.
    sources : tuple of tuple of float
        Positions of the speakers.
    t60 : float
        Nominal reverberation time in seconds.
    """

    size: tuple
    microphones: tuple
    sources: tuple
    t60: float

    @property
    def amplitude_factor(self) -> float:
        """1 - a, the factor of each reflection; negative in rooms outside the range of Sabine's formula."""
        x, y, z = self.size
        surface = 2 * (x * y + x * z + y * z)
        return 1 - 24 * (x * y * z) * math.log(10) / (SPEED_OF_SOUND * surface * self.t60)

    @property
    def max_reflections(self) -> int:
        """Maximum number of reflections; images with more are ignored."""
        return math.ceil(self.t60 * SPEED_OF_SOUND / min(self.size))

    @property
    def num_samples(self) -> int:
        """Length of the impulse responses in samples."""
        return math.ceil(self.t60 * SAMPLE_RATE)


def draw_room(rng: np.random.Generator, num_spks: int = 2, reverberation: str = "any") -> Room:
    """Draws a room from the distribution of WHAMR!.

    Arguments
    ---------
    rng : numpy.random.Generator
        Random generator.
    num_spks : int
        Number of sources.
    reverberation : str
        "high", "medium" or "low", as in the labels of noise recordings; "any" draws one of them.

    Returns
    -------
    room : Room

    Example
    -------
    >>> room = draw_room(np.random.default_rng(0), num_spks=3)
    >>> len(room.sources), len(room.microphones), 0.1 < room.t60 < 1.0
    (3, 2, True)
    """
    check_choice("reverberation", reverberation, REVERBERATIONS)
    size = (*rng.uniform(5, 10, 2), rng.uniform(3, 4))
    centre = (*(np.array(size[:2]) / 2 + rng.uniform(-0.2, 0.2, 2)), rng.uniform(0.9, 1.8))
    arm = rng.choice(MIC_SPACINGS, p=MIC_SPACING_WEIGHTS) / 2
    azimuth = rng.uniform(0, 2 * np.pi)
    microphones = (_around(centre, arm, azimuth, centre[2]), _around(centre, -arm, azimuth, centre[2]))
    sources = tuple(
        _around(centre, rng.uniform(0.66, 2), rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.8)) for _ in range(num_spks)
    )
    if reverberation == "any":
        reverberation = list(T60_RANGES)[rng.choice(len(T60_RANGES), p=T60_WEIGHTS)]
    return Room(tuple(map(float, size)), microphones, sources, float(rng.uniform(*T60_RANGES[reverberation])))


def _around(centre, distance, azimuth, height):
    """The position at a horizontal distance and angle from another."""
    return tuple(map(float, (centre[0] + distance * np.cos(azimuth), centre[1] + distance * np.sin(azimuth), height)))


# The published table of rooms: one line per mixture, with microphones at one height


def columns(num_spks: int) -> list:
    """Columns of the published table.

    Example
    -------
    >>> columns(1)[-4:]
    ['s1_x', 's1_y', 's1_z', 'T60']
    """
    room = ["room_x", "room_y", "room_z", "micL_x", "micL_y", "micR_x", "micR_y", "mic_z"]
    sources = [f"s{number}_{axis}" for number in range(1, num_spks + 1) for axis in "xyz"]
    return ["utterance_id", *room, *sources, "T60"]


def read_rooms(path: str | Path, num_spks: int = 2) -> dict:
    """Reads the rooms of mixtures, `reverb_params_{split}.csv`.

    Arguments
    ---------
    path : str or Path
        The published file, or one from `rooms_text`.
    num_spks : int
        Number of sources.

    Returns
    -------
    rooms : dict
        Name of the mixture's file → Room.

    Raises
    ------
    InputError
        If the file is missing, or has an invalid line.
    """
    path = Path(path)
    check_access(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; needed the rooms of WHAMR!'s mixtures. Copy it there.")
    needed, rooms = columns(num_spks), {}
    with io.StringIO(read_published(path), newline="") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        missing = [column for column in needed if column not in header]
        if missing:
            raise InputError(f"{path}: column {', '.join(missing)} is missing; found {', '.join(header) or 'nothing'}.")
        for fields in reader:
            place = f"{path}:{reader.line_num}"
            if len(fields) != len(header):
                raise InputError(f"{place}: has {len(fields)} fields; needed {len(header)}. Copy the file again.")
            row = dict(zip(header, fields, strict=True))
            if row["utterance_id"] in rooms:
                raise InputError(f"{place}: {row['utterance_id']} occurs twice. Remove one of them.")
            rooms[row["utterance_id"]] = _room(place, {key: row[key] for key in needed[1:]}, num_spks)
    return rooms


def _room(place, row, num_spks):
    """The room of one line of the table."""
    try:
        values = {key: float(text) for key, text in row.items()}
    except ValueError as error:
        raise InputError(f"{place}: {error}; needed numbers in all columns but the first.") from None
    position = lambda *keys: tuple(values[key] for key in keys)  # noqa: E731
    room = Room(
        size=position("room_x", "room_y", "room_z"),
        microphones=(position("micL_x", "micL_y", "mic_z"), position("micR_x", "micR_y", "mic_z")),
        sources=tuple(position(*(f"s{number}_{axis}" for axis in "xyz")) for number in range(1, num_spks + 1)),
        t60=values["T60"],
    )
    points = np.array(room.microphones + room.sources)
    inside = np.all((points > 0) & (points < room.size))
    if not inside or not 0 < room.t60 < 10:
        raise InputError(f"{place}: needed positions within the room and a T60 of 0 to 10 s; found {room}.")
    return room


def rooms_text(rooms: Mapping) -> str:
    """Rooms as the text of a table that `read_rooms` reads, with all digits.

    Arguments
    ---------
    rooms : Mapping
        Name of the mixture's file → Room; all with the same number of sources.

    Returns
    -------
    text : str
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns(len(next(iter(rooms.values())).sources)))
    for name, room in rooms.items():
        (left_x, left_y, height), (right_x, right_y, _) = room.microphones
        sources = [at for source in room.sources for at in source]
        writer.writerow([name, *room.size, left_x, left_y, right_x, right_y, height, *sources, room.t60])
    return stream.getvalue()
