"""Rooms: impulse responses of boxes by the image-source method, as published for WHAMR! (Maciejewski et al., 2020).

The published responses were made with pyroomacoustics 0.3.1. Later releases differ from it in ways that can't be
undone from outside, by 1e-3 of the peak, so the sum is computed here:

- The absorption `a` comes from the reverberation time by Sabine's formula, as an energy. But each reflection multiplies
  the *amplitude* by 1 - a, where √(1 - a) would be physics: the rooms decay faster than their T60 says. In a few rooms
  `a` exceeds 1, and the sign changes with each reflection. That is how the corpus is.
- An image at distance d arrives at d/c with amplitude (1 - a)^reflections / (4πd), as a sinc of 81 taps under a Hann
  window that is centred on the nearest sample; all are 40 samples late, so that the taps begin at time zero.
- Images with at most ceil(T60·c / smallest dimension) reflections count; the response is cut after ceil(T60·16000).
- Anechoic means the direct path alone, with the same delay.

Shapes: S sources, M microphones, T samples, I images.
"""

import csv
import functools
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from scipy.signal import fftconvolve

from data_prep.choices import check_choice
from mossformer_sb.errors import InputError

SAMPLE_RATE = 16000  # of all responses, in Hz
SPEED_OF_SOUND = 343.0  # m/s
NUM_TAPS = 81
OFFSET = NUM_TAPS // 2  # samples
DEGREE = 16  # of the polynomials that stand for the sinc between two samples: exact to 1e-13

# Reverberation times in seconds. The published ones follow the label of each noise recording; the weights stand for
# labels where there are none, and give the published mean of 0.56 s.
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
    def amplitude_factor(self):
        """1 - a: what a reflection does to the amplitude; below zero in rooms that Sabine's formula does not fit."""
        x, y, z = self.size
        surface = 2 * (x * y + x * z + y * z)
        return 1 - 24 * (x * y * z) * math.log(10) / (SPEED_OF_SOUND * surface * self.t60)

    @property
    def max_reflections(self):
        """Images with more reflections are left out."""
        return math.ceil(self.t60 * SPEED_OF_SOUND / min(self.size))

    @property
    def num_samples(self):
        """Length of the responses."""
        return math.ceil(self.t60 * SAMPLE_RATE)


def impulse_responses(room, microphones=(0,), anechoic=False):
    """Responses from every source to some microphones, at 16 kHz.

    Arguments
    ---------
    room : Room
        The room.
    microphones : sequence of int
        Which: 0 left, 1 right.
    anechoic : bool
        Whether only the direct path counts.

    Returns
    -------
    responses : numpy.ndarray
        [S, M, T], float64.

    Example
    -------
    >>> room = Room((5, 5, 3), ((2.5, 2.5, 1.5), (2.6, 2.5, 1.5)), ((2.5, 3.5, 1.5),), 0.1)
    >>> response = impulse_responses(room, anechoic=True)
    >>> response.shape, int(response.argmax())  # the direct path after 1 m, and 40 samples
    ((1, 1, 1600), 87)
    """
    return np.stack(
        [
            [impulse_response(room, source, room.microphones[microphone], anechoic) for microphone in microphones]
            for source in room.sources
        ]
    )


def impulse_response(room, source, microphone, anechoic=False):
    """Response from one position to another; see `impulse_responses`.

    Within a sample, the sinc is a smooth function of the delay: a polynomial serves for each tap. So it is enough to
    sum, in each sample, the powers of all delays that fall there, and to convolve each sum with its coefficients: a
    dozen sums instead of 81 taps for each of up to two million images.

    Arguments
    ---------
    room : Room
        The room.
    source, microphone : sequence of float
        Positions, in metres.
    anechoic : bool
        Whether only the direct path counts.

    Returns
    -------
    response : numpy.ndarray
        [T], float64.
    """
    max_reflections = 0 if anechoic else room.max_reflections
    delay, amplitude = _images(room, source, microphone, max_reflections)  # [I]
    sample = np.rint(delay).astype(np.int64)
    fraction = 2 * (delay - sample)  # in [-1, 1]
    response = np.zeros(room.num_samples)
    for coefficients in _sinc_coefficients():
        sums = np.bincount(sample, amplitude, minlength=room.num_samples)
        response += np.convolve(sums, coefficients)[: room.num_samples]
        amplitude *= fraction
    return response


@functools.lru_cache(maxsize=1)
def _sinc_coefficients():
    """Coefficients [degree + 1, taps] of the windowed sinc, as polynomials of twice the fraction of a sample."""
    taps = np.arange(NUM_TAPS) - OFFSET
    polynomials = [
        Chebyshev.interpolate(lambda twice, tap=tap: np.sinc(tap - twice / 2), DEGREE).convert(kind=Polynomial)
        for tap in taps
    ]
    return np.stack([polynomial.coef for polynomial in polynomials], axis=1) * np.hanning(NUM_TAPS)


def _images(room, source, microphone, max_reflections):
    """Delays in samples and amplitudes of all images that arrive within the response, each [I]."""
    (distance_x, order_x), (distance_y, order_y), (distance_z, order_z) = (
        _axis(*values, max_reflections) for values in zip(room.size, source, microphone, strict=True)
    )
    farthest = (room.num_samples - 0.5) / SAMPLE_RATE * SPEED_OF_SOUND
    squares_yz = (distance_y[:, None] ** 2 + distance_z**2).ravel()
    orders_yz = (order_y[:, None] + order_z).ravel()
    squares, orders = [], []
    for square, order in zip(distance_x**2, order_x, strict=True):  # a slice at a time, to save memory
        chosen = (orders_yz <= max_reflections - order) & (squares_yz < farthest**2 - square)
        squares.append(square + squares_yz[chosen])
        orders.append(order + orders_yz[chosen])
    distance = np.sqrt(np.concatenate(squares))
    factors = room.amplitude_factor ** np.arange(max_reflections + 1)
    amplitude = factors[np.concatenate(orders)] / (4 * np.pi * distance)
    return distance * (SAMPLE_RATE / SPEED_OF_SOUND), amplitude


def _axis(size, source, microphone, max_reflections):
    """Distances along one axis between the microphone and the images of a source, and their numbers of reflections."""
    index = np.arange(-max_reflections, max_reflections + 1)
    position = index * size + np.where(index % 2 == 0, source, size - source)
    return position - microphone, np.abs(index)


def reverberate(room, signals, microphones=(0,)):
    """Lets signals sound in a room.

    Arguments
    ---------
    room : Room
        The room.
    signals : numpy.ndarray
        [S, T] at 16 kHz, one signal a source.
    microphones : sequence of int
        Which: 0 left, 1 right.

    Returns
    -------
    anechoic, reverberant : numpy.ndarray
        [S, M, T and the length of a response less one], float64: the direct paths alone, and everything.

    Example
    -------
    >>> room = Room((5, 5, 3), ((2.5, 2.5, 1.5), (2.6, 2.5, 1.5)), ((2.5, 3.5, 1.5),), 0.1)
    >>> anechoic, reverberant = reverberate(room, np.eye(1, 800), microphones=(0, 1))
    >>> anechoic.shape
    (1, 2, 2399)
    """
    return tuple(
        fftconvolve(signals[:, None], impulse_responses(room, microphones, anechoic), axes=-1)
        for anechoic in (True, False)
    )


def matching_factors(signals, anechoic):
    """Factors that give the direct paths at the first microphone the energy of the signals themselves.

    Arguments
    ---------
    signals : sequence of numpy.ndarray
        S signals of whatever length.
    anechoic : numpy.ndarray
        [S, M, T].

    Returns
    -------
    factors : numpy.ndarray
        [S, 1, 1]; zero for silence.
    """
    wanted = np.array([np.sum(np.square(signal, dtype=np.float64)) for signal in signals])
    found = np.sum(anechoic[:, 0] ** 2, axis=-1)
    return np.sqrt(np.divide(wanted, found, out=np.zeros_like(wanted), where=found > 0))[:, None, None]


def images_of(room, signals):
    """Images of sources at the left microphone, with the tails cut; the direct paths have the sources' energy.

    Arguments
    ---------
    room : Room
        Where they are.
    signals : numpy.ndarray
        [S, T] at 16 kHz.

    Returns
    -------
    anechoic, reverberant : numpy.ndarray
        [S, T], float64.
    """
    images = reverberate(room, signals)
    factors = matching_factors(signals, images[0])
    return tuple((factors * image)[:, 0, : signals.shape[1]] for image in images)


def draw_room(rng, num_spks=2, reverberation="any"):
    """Draws a room as those of WHAMR! were drawn.

    Arguments
    ---------
    rng : numpy.random.Generator
        Where everything random comes from.
    num_spks : int
        Number of sources.
    reverberation : str
        "high", "medium" or "low", as the label of a noise recording says; "any" draws one of them.

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


# The published table of rooms: one line a mixture, microphones at one height


def columns(num_spks):
    """Columns of the published table.

    Example
    -------
    >>> columns(1)[-4:]
    ['s1_x', 's1_y', 's1_z', 'T60']
    """
    room = ["room_x", "room_y", "room_z", "micL_x", "micL_y", "micR_x", "micR_y", "mic_z"]
    sources = [f"s{number}_{axis}" for number in range(1, num_spks + 1) for axis in "xyz"]
    return ["utterance_id", *room, *sources, "T60"]


def read_rooms(path, num_spks=2):
    """Reads the rooms of mixtures, `reverb_params_{split}.csv`.

    Arguments
    ---------
    path : str or Path
        The published file, or one that `rooms_text` made.
    num_spks : int
        Number of sources.

    Returns
    -------
    rooms : dict
        Name of the mixture's file → Room.

    Raises
    ------
    InputError
        If the file is absent, or a line is not as needed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; needed the rooms of WHAMR!'s mixtures. Copy it there.")
    needed, rooms = columns(num_spks), {}
    with open(path, newline="", encoding="utf-8") as stream:
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
                raise InputError(f"{place}: {row['utterance_id']} is there for the second time. Remove one of them.")
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


def rooms_text(rooms):
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
