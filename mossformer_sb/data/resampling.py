"""Resampling and speed change: of complete signals, block by block, and of segments of files.

Shapes: T samples, t samples of a block; P periods of ``up`` results, each of G groups of N, which depend on W samples.
Further axes of blocks, such as sources, are kept.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch

from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_ZERO_CROSSINGS = 10  # of scipy's filter on each side, in samples of the lower of the two rates
SPEED_STEP = 1000  # speeds are multiples of 1/1000, for integer resampling factors
MOST_PERIOD = 8192  # of these factors at another speed; usual pairs of rates stay below it
_LARGEST_FACTOR = 200_000  # of rates without common factors; the filter for it takes 300 MB
_MAX_GROUP = 32  # maximum number of results per matrix multiplication


def resample(samples: np.ndarray, old_rate: int, new_rate: int) -> np.ndarray:
    """Convert the sample rate with scipy's polyphase filter, as in the published corpora.

    The filter has linear phase and its delay is compensated, so that the result stays aligned with the input.

    Arguments
    ---------
    samples : numpy.ndarray
        [T] or [T, ...], floating point.
    old_rate, new_rate : int
        Hz.

    Returns
    -------
    numpy.ndarray
        [⌈T · new_rate / old_rate⌉, ...], of the same type.

    Example
    -------
    >>> resample(np.ones((441, 2), dtype=np.float32), 44100, 8000).shape
    (80, 2)
    """
    if old_rate == new_rate or not len(samples):
        return samples
    from scipy.signal import resample_poly  # a slow import, 0.2 s, not needed for recordings at the model's rate

    up, down = _ratio(old_rate, new_rate)
    return resample_poly(samples, up, down, axis=0)


def resample_blocks(blocks: Iterable[np.ndarray], old_rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Convert the sample rate of a signal in blocks; concatenated, the result equals that of `resample`.

    Arguments
    ---------
    blocks : iterable of numpy.ndarray
        [t] or [t, ...] each, of any lengths.
    old_rate, new_rate : int
        Hz.

    Returns
    -------
    iterator of numpy.ndarray
        Blocks at the new rate. Memory is independent of the length: one block and the filter's length.

    Example
    -------
    >>> signal = np.random.randn(1000)
    >>> blocks = resample_blocks([signal[:300], signal[300:]], 16000, 44100)
    >>> bool(np.allclose(np.concatenate(list(blocks)), resample(signal, 16000, 44100)))
    True
    """
    if old_rate == new_rate:
        yield from blocks
        return
    from scipy.signal import resample_poly  # as in `resample`

    up, down = _ratio(old_rate, new_rate)
    # In complete periods of `down` samples, so that each piece starts on a sample of both rates.
    reach = math.ceil((_ZERO_CROSSINGS * max(up, down) / up + 1) / down) * down
    buffer, before = None, 0  # `before`: processed samples at the buffer's start, kept as context of the next ones
    for block in blocks:
        buffer = block if buffer is None else np.concatenate((buffer, block))
        ready = (len(buffer) - before - reach) // down * down
        if ready > 0:
            converted = resample_poly(buffer, up, down, axis=0)
            yield converted[before // down * up : (before + ready) // down * up]
            kept = min(before + ready, reach)
            buffer, before = buffer[before + ready - kept :], kept
    if buffer is not None and len(buffer) > before:
        yield resample_poly(buffer, up, down, axis=0)[before // down * up :]


def check_rates(name: str, old_rate: int, new_rate: int) -> None:
    """Raise InputError if the filter between two rates would take too much memory.

    Its length is the rates' least common multiple, divided by the lower rate. All rates up to 200 kHz can be converted,
    and, above, those that have a common factor with the other rate, as usual rates have.

    Arguments
    ---------
    name : str
        Name of the recording, for the message.
    old_rate, new_rate : int
        Hz.

    Example
    -------
    >>> check_rates("talk.wav", 768000, 8000)
    >>> check_rates("talk.wav", 999983, 8000)
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: talk.wav: its 999983 Hz can't be converted to 8000 Hz in little memory, since the \
rates have hardly a common factor. Convert it first, as with `ffmpeg -i IN -ar 48000 OUT.wav`.
    """
    if max(_ratio(old_rate, new_rate)) > _LARGEST_FACTOR:
        raise InputError(
            f"{name}: its {old_rate} Hz can't be converted to {new_rate} Hz in little memory, since the rates have "
            f"hardly a common factor. Convert it first, as with `ffmpeg -i IN -ar 48000 OUT.wav`."
        )


def _ratio(old_rate, new_rate):
    divisor = math.gcd(old_rate, new_rate)
    return new_rate // divisor, old_rate // divisor


@dataclass(frozen=True)
class SpeedResampler:
    """Resampler that changes sample rate and speed at once: ``down`` samples become ``up``.

    A speed of 1.05 makes a recording shorter and its pitch higher, as SoX's effect ``speed``, and as in "speed
    perturbation".

    Arguments
    ---------
    up, down : int
        Coprime factors.
    """

    up: int
    down: int

    @classmethod
    def between(cls, source_rate: int, target_rate: int, speed: float = 1.0) -> SpeedResampler:
        """From a recording's rate to the target rate, in Hz, at a speed (rounded to 1/1000).

        Rates such as 44.1 and 8 kHz have little in common: then the speed is rounded by at most 0.005 % more, so
        that neither factor exceeds `MOST_PERIOD`, on which memory and context depend.

        Example
        -------
        >>> SpeedResampler.between(16000, 8000, speed=1.05)
        SpeedResampler(up=10, down=21)
        """
        ratio = Fraction(target_rate, source_rate) / Fraction(round(speed * SPEED_STEP), SPEED_STEP)
        if speed != 1 and max(ratio.numerator, ratio.denominator) > MOST_PERIOD:
            limit = MOST_PERIOD // 2
            ratio = ratio.limit_denominator(limit) if ratio < 1 else 1 / (1 / ratio).limit_denominator(limit)
        return cls(ratio.numerator, ratio.denominator)

    def num_out(self, num_in: int) -> int:
        """Number of output samples for ``num_in`` input samples."""
        return num_in * self.up // self.down

    def num_in(self, num_out: int) -> int:
        """Number of input samples for ``num_out`` output samples."""
        return -(-num_out * self.down // self.up)

    def read(
        self,
        path: str,
        total: int,
        start: int,
        num_samples: int,
        trim: int = 0,
        check: Callable[[str, np.ndarray, int], None] | None = None,
    ) -> np.ndarray:
        """Read a segment of a recording, with the context of the filter before and after it.

        Arguments
        ---------
        path : str
            A recording; of several channels, the first is used.
        total : int
            Length of the recording, in its own samples.
        start : int
            Start of the segment, in samples of the recording.
        num_samples : int
            Length of the segment, in samples of the result, at most ``num_out(total - start)``.
        trim : int
            Number of samples by which the file may be longer than ``total``.
        check : callable, optional
            Called with the path, the samples [T] or [T, channels], and their rate in Hz, to refuse a recording.

        Returns
        -------
        numpy.ndarray
            [num_samples], float32.

        Raises
        ------
        InputError
            As for `mossformer_sb.data.audio_io.read_audio`.
        """
        if self.up == self.down:
            return _read_channel(path, start, num_samples, total, trim, check)
        # A multiple of `down`, so that the segment begins on a sample of the result.
        margin = -(-self._reach // self.down) * self.down
        first, last = start - margin, start + self.num_in(num_samples) + margin
        begin, end = max(0, first), min(total, last)
        samples = _read_channel(path, begin, end - begin, total, trim, check)
        if first < 0 or last > total:
            samples = np.pad(samples, (max(0, -first), max(0, last - total)))
        return self._interpolate(samples[margin - self._reach :], num_samples)

    def convert(self, samples: np.ndarray) -> torch.Tensor:
        """Convert a complete signal: [T] → [T'], float32.

        Example
        -------
        >>> SpeedResampler.between(16000, 8000).convert(np.ones(1000, np.float32))[100:103].round(3).tolist()
        [1.0, 1.0, 1.0]
        """
        samples = np.asarray(samples, dtype=np.float32)
        if self.up == self.down:
            return samples
        margin = -(-self._reach // self.down) * self.down
        padded = np.pad(samples, (margin, margin))
        return self._interpolate(padded[margin - self._reach :], self.num_out(len(samples)))

    @property
    def _reach(self):
        """Number of samples on each side of a point that its interpolation uses."""
        return -(-_ZERO_CROSSINGS * max(self.up, self.down) // self.up)

    def _interpolate(self, samples, num_samples):
        """As resample_poly, by matrix multiplications: a group of consecutive results from the surrounding samples.

        With torch, since NumPy's matrix multiplication would start threads in each worker of a data loader.
        """
        if not num_samples:
            return samples[:0]
        starts, weights = _interpolation(self.up, self.down, self._reach)  # [G], [G, W, N]; up = G·N
        periods, width = -(-num_samples // self.up), weights.shape[1]  # P, W
        places = starts[:, None] + np.arange(periods) * self.down  # [G, P], where the windows begin
        needed = int(places[-1, -1]) + width
        if len(samples) < needed:
            samples = np.pad(samples, (0, needed - len(samples)))
        # All windows as a view, from which whole rows are copied: faster than an index for each sample.
        shape = (len(samples) - width + 1, width)
        windows = np.lib.stride_tricks.as_strided(samples, shape, 2 * samples.strides, writeable=False)
        results = torch.from_numpy(windows[places]) @ weights  # [G, P, N]
        return results.transpose(0, 1).flatten().numpy()[:num_samples]


@functools.lru_cache(maxsize=512)
def _interpolation(up, down, reach):
    """Start of the window of each group of a period's results, [G], and its weights, [G, W, N].

    The filter is the default one of scipy's resample_poly. Position 0 is ``reach`` samples before the period.
    """
    from scipy.signal import firwin  # as in `resample`

    size = max(n for n in range(1, _MAX_GROUP + 1) if up % n == 0)  # N
    widest = max(up, down)
    taps = firwin(2 * _ZERO_CROSSINGS * widest + 1, 1 / widest, window=("kaiser", 5.0)) * up
    results = np.arange(up).reshape(-1, 1, size)  # [G, 1, N]
    starts = results[:, 0, 0] * down // up  # [G]
    width = -(-size * down // up) + 2 * reach + 1
    places = starts[:, None, None] + np.arange(width)[:, None] - reach  # [G, W, 1]
    index = len(taps) // 2 + results * down - places * up
    inside = (index >= 0) & (index < len(taps))
    weights = np.where(inside, taps[np.clip(index, 0, len(taps) - 1)], 0.0)
    return starts, torch.from_numpy(weights.astype(np.float32))


def _read_channel(path, start, num_frames, total, trim, check):
    samples, rate = read_audio(path, start, num_frames, total, trim)
    if check is not None:
        check(path, samples, rate)
    return samples if samples.ndim == 1 else samples[:, 0]
