"""Room impulse responses (RIR) by the image-source method, as published for WHAMR! (Maciejewski et al., 2020).

The published RIRs were computed with pyroomacoustics 0.3.1. Later releases differ from it by 1e-3 of the peak, which no
option changes, so this module computes the sum itself:

- The absorption `a` comes from the reverberation time by Sabine's formula, as an energy. But each reflection multiplies
  the *amplitude* by 1 - a, where √(1 - a) would be correct: the rooms decay faster than their T60 states. In a few
  rooms `a` exceeds 1, and the sign changes with each reflection, as in the published corpus.
- An image at distance d arrives at d/c with amplitude (1 - a)^reflections / (4πd), as a sinc of 81 taps under a Hann
  window that is centred on a sample; all are 40 samples late, so that the taps begin at time zero.
- Images with at most ceil(T60·c / smallest dimension) reflections are used; the RIR is cut after ceil(T60·16000).
- Anechoic means only the direct path, with the same delay.

There are two ways to place the sinc between two samples:

- "table" is that of pyroomacoustics 0.3.1 as pip installs it, with its compiled parts, and so that of WHAMR!: the
  window is centred on the sample before, the sinc comes from a table of 20 points per sample with linear
  interpolation, and positions and delays are rounded to single precision. Over 40 drawn rooms of all reverberation
  times, anechoic RIRs differ from those of pyroomacoustics by at most 5e-16 of the peak, reverberant ones by 4e-8.
- "exact" evaluates the sinc itself, under a window that is centred on the nearest sample, as pyroomacoustics 0.3.1 does
  without its compiled parts. It differs from "table" by up to 2.5e-3 of the peak.

Shapes: S sources, M microphones, T samples, I images.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from scipy.signal import fftconvolve

from data_prep.choices import check_choice
from data_prep.generate.rooms import SAMPLE_RATE, SPEED_OF_SOUND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_prep.generate.rooms import Room

NUM_TAPS = 81
OFFSET = NUM_TAPS // 2  # samples
DEGREE = 16  # of the polynomials that approximate the sinc between two samples, to 1e-13
POINTS = 20  # of the table of the sinc, per sample
SINCS = ("exact", "table")


def impulse_responses(
    room: Room, microphones: Sequence[int] = (0,), anechoic: bool = False, sinc: str = "exact"
) -> np.ndarray:
    """RIRs from all sources to some microphones, at 16 kHz.

    Arguments
    ---------
    room : Room
        The room.
    microphones : sequence of int
        Numbers of the microphones: 0 left, 1 right.
    anechoic : bool
        Whether to compute only the direct path.
    sinc : str
        "exact" or "table"; see the top of this module.

    Returns
    -------
    responses : numpy.ndarray
        [S, M, T], float64.

    Example
    -------
    >>> from data_prep.generate.rooms import Room
    >>> room = Room((5, 5, 3), ((2.5, 2.5, 1.5), (2.6, 2.5, 1.5)), ((2.5, 3.5, 1.5),), 0.1)
    >>> response = impulse_responses(room, anechoic=True)
    >>> response.shape, int(response.argmax())  # the direct path after 1 m, and 40 samples
    ((1, 1, 1600), 87)
    """
    return np.stack(
        [
            [impulse_response(room, source, room.microphones[microphone], anechoic, sinc) for microphone in microphones]
            for source in room.sources
        ]
    )


def impulse_response(
    room: Room, source: Sequence[float], microphone: Sequence[float], anechoic: bool = False, sinc: str = "exact"
) -> np.ndarray:
    """RIR from one position to another; see `impulse_responses`.

    Arguments
    ---------
    room : Room
        The room.
    source, microphone : sequence of float
        Positions, in metres.
    anechoic : bool
        Whether to compute only the direct path.
    sinc : str
        "exact" or "table".

    Returns
    -------
    response : numpy.ndarray
        [T], float64.
    """
    check_choice("sinc", sinc, SINCS)
    # The published program stores positions in single precision.
    precision = np.float32 if sinc == "table" else np.float64
    distance, amplitude = _images(room, source, microphone, 0 if anechoic else room.max_reflections, precision)
    place = {"exact": _place_exactly, "table": _place_from_table}[sinc]
    return place(distance, amplitude, room.num_samples)


def _place_exactly(distance, amplitude, num_samples):
    """The RIR [T] of images [I], each a windowed sinc.

    Within a sample, the sinc is a smooth function of the delay: a polynomial approximates each tap. So for each sample,
    the powers of all delays in it are summed, and each sum is convolved with its coefficients: a dozen sums instead of
    81 taps for each of up to two million images.
    """
    delay = distance * (SAMPLE_RATE / SPEED_OF_SOUND)
    sample = np.rint(delay).astype(np.int64)
    fraction = 2 * (delay - sample)  # in [-1, 1]
    response = np.zeros(num_samples)
    for coefficients in _sinc_coefficients():
        sums = np.bincount(sample, amplitude, minlength=num_samples)[:num_samples]
        response += np.convolve(sums, coefficients)[:num_samples]
        amplitude *= fraction
    return response


def _place_from_table(distance, amplitude, num_samples):
    """The RIR [T] of images [I], with the sinc from a table of `POINTS` per sample and linear interpolation.

    An image is thus a sum of two sincs, at the points of the table before and after it. So for each sample and point,
    the amplitudes are summed, and each point's sums are convolved with its sinc.
    """
    # In the order and precision of the published program.
    delay = (SAMPLE_RATE * (distance / SPEED_OF_SOUND + OFFSET / SAMPLE_RATE)).astype(np.float32)
    sample = np.floor(delay)
    position = ((1.0 - (delay - sample).astype(np.float64)) * POINTS).astype(np.float32)  # in the table
    before = np.floor(position)
    weight = (position - before).astype(np.float64)  # of the point after it
    first_tap = sample.astype(np.int64) - OFFSET
    heard = first_tap < num_samples
    index = (before.astype(np.int64) * num_samples + first_tap)[heard]
    size = (POINTS + 2) * num_samples
    sums = np.bincount(index, (amplitude * (1 - weight))[heard], size)
    sums += np.bincount(index + num_samples, (amplitude * weight)[heard], size)
    response = np.zeros(num_samples)
    for amplitudes, taps in zip(sums.reshape(POINTS + 2, num_samples), _sinc_table(), strict=True):
        response += np.convolve(amplitudes, taps)[:num_samples]
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


@functools.lru_cache(maxsize=1)
def _sinc_table():
    """Windowed sincs [points, taps], from one that is a sample late to one that is a point early."""
    points = np.sinc(np.linspace(-OFFSET - 1, OFFSET + 1, (NUM_TAPS + 1) * POINTS + 1))
    return np.stack([points[first::POINTS][:NUM_TAPS] for first in range(POINTS + 2)]) * np.hanning(NUM_TAPS)


def _images(room, source, microphone, max_reflections, precision):
    """Distances and amplitudes of all images that arrive within the RIR, each [I], float64.

    The precision is that of the images' positions.
    """
    (distance_x, order_x), (distance_y, order_y), (distance_z, order_z) = (
        _axis(*values, max_reflections, precision) for values in zip(room.size, source, microphone, strict=True)
    )
    farthest = (room.num_samples + 1) / SAMPLE_RATE * SPEED_OF_SOUND
    squares_yz = (distance_y[:, None] ** 2 + distance_z**2).ravel()
    orders_yz = (order_y[:, None] + order_z).ravel()
    squares, orders = [], []
    for square, order in zip(distance_x**2, order_x, strict=True):  # a slice at a time, to save memory
        chosen = (orders_yz <= max_reflections - order) & (squares_yz < farthest**2 - square)
        squares.append(square + squares_yz[chosen])
        orders.append(order + orders_yz[chosen])
    distance = np.sqrt(np.concatenate(squares))
    factors = room.amplitude_factor ** np.arange(max_reflections + 1)
    return distance, factors[np.concatenate(orders)] / (4 * np.pi * distance)


def _axis(size, source, microphone, max_reflections, precision):
    """Distances along one axis between the microphone and the images of a source, and their numbers of reflections."""
    index = np.arange(-max_reflections, max_reflections + 1)
    size, source = precision(size), precision(source)
    position = index.astype(precision) * size + np.where(index % 2 == 0, source, size - source)
    return position.astype(np.float64) - microphone, np.abs(index)


def reverberate(
    room: Room, signals: np.ndarray, microphones: Sequence[int] = (0,), sinc: str = "exact"
) -> tuple[np.ndarray, np.ndarray]:
    """Convolves signals with the RIRs of a room.

    Arguments
    ---------
    room : Room
        The room.
    signals : numpy.ndarray
        [S, T] at 16 kHz, one signal per source.
    microphones : sequence of int
        Numbers of the microphones: 0 left, 1 right.
    sinc : str
        "exact" or "table".

    Returns
    -------
    anechoic, reverberant : numpy.ndarray
        [S, M, T + length of an RIR - 1], float64: only the direct paths, and the complete reverberation.

    Example
    -------
    >>> from data_prep.generate.rooms import Room
    >>> room = Room((5, 5, 3), ((2.5, 2.5, 1.5), (2.6, 2.5, 1.5)), ((2.5, 3.5, 1.5),), 0.1)
    >>> anechoic, reverberant = reverberate(room, np.eye(1, 800), microphones=(0, 1))
    >>> anechoic.shape
    (1, 2, 2399)
    """
    return tuple(
        fftconvolve(signals[:, None], impulse_responses(room, microphones, anechoic, sinc), axes=-1)
        for anechoic in (True, False)
    )


def matching_factors(signals: Sequence[np.ndarray], anechoic: np.ndarray) -> np.ndarray:
    """Factors that give the direct paths at the first microphone the energy of the signals themselves.

    Arguments
    ---------
    signals : sequence of numpy.ndarray
        S signals of any lengths.
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


def images_of(room: Room, signals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images of sources at the left microphone, without the tails; the direct paths have the sources' energy.

    Arguments
    ---------
    room : Room
        Room of the sources.
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
