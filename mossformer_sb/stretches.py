"""Stretches of recordings, at another sample rate or another speed: reading only what is needed of a file.

Shapes: T samples.
"""

import functools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.signal import firwin, resample_poly

from mossformer_sb.dataio import read_audio

SPEED_STEP = 1000  # speeds are multiples of 1/1000, so that resampling is by whole numbers
_ZERO_CROSSINGS = 10  # of the interpolating filter, on each side: what scipy's resample_poly has


@dataclass(frozen=True)
class Stretching:
    """A change of sample rate and speed in one: ``up`` samples come of ``down``.

    A speed of 1.05 makes a recording shorter and its pitch higher, as SoX's effect ``speed`` does, and as
    "speed perturbation" is understood everywhere.

    Arguments
    ---------
    up, down : int
        Without a common divisor.
    """

    up: int
    down: int

    @classmethod
    def between(cls, source_rate, target_rate, speed=1.0):
        """From a recording's rate to the wanted one, in Hz, at a speed (rounded to 1/1000).

        Example
        -------
        >>> Stretching.between(16000, 8000, speed=1.05)
        Stretching(up=10, down=21)
        """
        ratio = Fraction(target_rate, source_rate) / Fraction(round(speed * SPEED_STEP), SPEED_STEP)
        return cls(ratio.numerator, ratio.denominator)

    def num_out(self, num_in):
        """How many samples come of a recording of ``num_in``."""
        return num_in * self.up // self.down

    def num_in(self, num_out):
        """How many samples ``num_out`` are made of."""
        return -(-num_out * self.down // self.up)

    def read(self, path, total, start, num_samples):
        """Read a stretch of a recording; what lies before and after it is there for the filter.

        Arguments
        ---------
        path : str
            A recording; of several channels, the first is taken.
        total : int
            Its length, in its own samples.
        start : int
            Where the stretch begins, in its own samples.
        num_samples : int
            How long it is, in samples of the result, at most ``num_out(total - start)``.

        Returns
        -------
        numpy.ndarray
            [num_samples], float32.

        Raises
        ------
        InputError
            As for `mossformer_sb.dataio.read_audio`.
        """
        if self.up == self.down:
            return _first_channel(read_audio(path, start, num_samples)[0])
        # A multiple of `down`, so that the stretch begins on a sample of the result.
        reach = -(-_ZERO_CROSSINGS * max(self.up, self.down) // self.up)
        margin = -(-reach // self.down) * self.down
        first, last = start - margin, start + self.num_in(num_samples) + margin
        samples = _first_channel(read_audio(path, max(0, first), min(total, last) - max(0, first))[0])
        samples = np.pad(samples, (max(0, -first), max(0, last - total)))
        stretched = resample_poly(samples, self.up, self.down, window=_filter(self.up, self.down))
        offset = margin * self.up // self.down
        return stretched[offset : offset + num_samples]


@functools.lru_cache(maxsize=2048)
def _filter(up, down):
    """The taps that resample_poly would compute anew each time."""
    widest = max(up, down)
    return firwin(2 * _ZERO_CROSSINGS * widest + 1, 1 / widest, window=("kaiser", 5.0)).astype(np.float32)


def _first_channel(samples):
    return samples if samples.ndim == 1 else samples[:, 0]
