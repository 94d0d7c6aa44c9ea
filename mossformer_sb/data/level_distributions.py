"""Level distributions of the speakers and the noise of a mixture, by name.

Each is a class with one method, `gains`, which draws the factors for dry speech and noise. Levels are measured as the
corpus defines them: those of speech on the complete utterance, since a crop may hold little speech; that of noise on
the drawn segment.

Shapes: S sources, T samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from mossformer_sb.data.loudness import loudness, mean_amplitude
from mossformer_sb.errors import InputError


class Levels(ABC):
    """A distribution of levels."""

    # Required columns of the speech table.
    measures = ()
    # Whether the distribution has a level for noise.
    has_noise = True

    @abstractmethod
    def gains(
        self,
        rng: np.random.Generator,
        sources: np.ndarray,
        measured: dict,
        noise: np.ndarray | None,
        sample_rate: int,
        offsets: np.ndarray,
        noise_loudness: float | None = None,
    ) -> tuple[np.ndarray, float]:
        """Draw the factors for one mixture.

        Arguments
        ---------
        rng : numpy.random.Generator
            Random generator.
        sources : numpy.ndarray
            [S, T], dry speech.
        measured : dict
            Each of `measures` to its values for the complete utterances, [S], dB.
        noise : numpy.ndarray or None
            [T].
        sample_rate : int
            Sample rate in Hz.
        offsets : numpy.ndarray
            [S], dB to add to the drawn level of each speaker; -inf: silent.
        noise_loudness : float, optional
            Loudness of the noise in LUFS, if known. Default: it is measured if the distribution needs it.

        Returns
        -------
        speech : numpy.ndarray
            [S].
        noise : float
        """


class Wsj0MixLevels(Levels):
    """WSJ0-2mix and -3mix: active speech levels g and -g dB, g from U(0, 2.5), and 0 dB for a third speaker; peak 0.9.

    More speakers get further such pairs. Source: the mixing lists of WSJ0-mix, where g1 lies in that range with mean
    1.25, g2 = -g1 and g3 = 0.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> measured = {"active_level": np.array([-20.0, -30.0])}
    >>> speech, _ = Wsj0MixLevels().gains(rng, rng.standard_normal((2, 800)), measured, None, 8000, np.zeros(2))
    >>> first, second = 20 * np.log10(speech) + measured["active_level"]
    >>> print(0 <= first - second <= 5)
    True
    """

    measures = ("active_level",)
    has_noise = False
    max_gain = 2.5  # dB
    peak = 0.9

    def gains(
        self,
        rng: np.random.Generator,
        sources: np.ndarray,
        measured: dict,
        noise: np.ndarray,
        sample_rate: int,
        offsets: np.ndarray,
        noise_loudness: float | None = None,
    ) -> tuple:
        """See `Levels.gains`."""
        gains = _amplitude(self._levels(rng, offsets) - measured["active_level"])
        peak = max(1.0, _peak(*_mixed(gains, sources)))
        return gains * (self.peak / peak), 0.0

    def _levels(self, rng, offsets):
        """[S], dB: in pairs of g and -g, and zero for the last one of an odd number."""
        drawn = rng.uniform(0, self.max_gain, len(offsets) // 2)
        pairs = np.stack([drawn, -drawn], axis=1).ravel()
        return np.pad(pairs, (0, len(offsets) % 2)) + offsets


class WhamLevels(Wsj0MixLevels):
    """WHAM! and WHAMR!: speech as in WSJ0-2mix; noise as recorded, and speech scaled relative to it.

    The louder speaker's loudness is from U(-3, 6) dB above the noise's. If the peak of a signal or of a sum of signals
    exceeds 0.95, all are scaled down to it. Source: the scripts of WHAM! (Wichern et al., 2019).
    """

    measures = ("active_level", "loudness")
    has_noise = True
    snr_range = (-3.0, 6.0)  # dB
    noisy_peak = 0.95

    def gains(
        self,
        rng: np.random.Generator,
        sources: np.ndarray,
        measured: dict,
        noise: np.ndarray,
        sample_rate: int,
        offsets: np.ndarray,
        noise_loudness: float | None = None,
    ) -> tuple:
        """See `Levels.gains`."""
        if noise is None:
            return super().gains(rng, sources, measured, noise, sample_rate, offsets)
        levels = self._levels(rng, offsets)
        gains = _amplitude(levels - measured["active_level"])
        louder = int(np.argmax(levels))
        snr = rng.uniform(*self.snr_range)
        noise_level = loudness(noise, sample_rate) if noise_loudness is None else noise_loudness
        if np.isfinite(noise_level):
            gains *= _amplitude(snr + noise_level - measured["loudness"][louder]) / gains[louder]
        else:  # silence has no signal-to-noise ratio
            gains *= self.peak / max(1.0, _peak(*_mixed(gains, sources)))
        factor = self.noisy_peak / max(self._peak(gains, sources, noise, louder), self.noisy_peak)
        return gains * factor, factor

    def _peak(self, gains, sources, noise, louder):
        """The greatest peak of the signals and of all their sums, or a sufficiently low bound of it."""
        bound = sum(gain * _peak(source) for gain, source in zip(gains, sources, strict=True)) + _peak(noise)
        if bound <= self.noisy_peak:  # usually
            return bound
        scaled, clean = _mixed(gains, sources)
        return _peak(scaled, noise, clean, scaled[louder] + noise, clean + noise)


class LibriMixLevels(Levels):
    """LibriMix: loudness from U(-33, -25) LUFS for each speaker and U(-38, -30) LUFS for noise.

    A signal that would reach full scale is scaled to a peak of 0.9, as is a sum that exceeds it. Source: the scripts of
    LibriMix (Cosentino et al., 2020).
    """

    measures = ("loudness",)
    speech_range = (-33.0, -25.0)  # LUFS
    noise_range = (-38.0, -30.0)
    peak = 0.9

    def gains(
        self,
        rng: np.random.Generator,
        sources: np.ndarray,
        measured: dict,
        noise: np.ndarray,
        sample_rate: int,
        offsets: np.ndarray,
        noise_loudness: float | None = None,
    ) -> tuple:
        """See `Levels.gains`."""
        levels = rng.uniform(*self.speech_range, len(sources)) + offsets
        gains = _amplitude(levels - measured["loudness"])
        peaks = np.array([_peak(source) for source in sources]) * gains
        gains = np.where(peaks >= 1, gains * self.peak / np.maximum(peaks, 1), gains)
        total, noise_gain = gains.astype(sources.dtype) @ sources, 0.0
        if noise is not None:
            target = rng.uniform(*self.noise_range)
            found = loudness(noise, sample_rate) if noise_loudness is None else noise_loudness
            noise_gain = float(_amplitude(target - found)) if np.isfinite(found) else 1.0
            peak = noise_gain * _peak(noise)
            noise_gain *= self.peak / peak if peak >= 1 else 1.0
            total = total + noise_gain * noise
        factor = self.peak / max(_peak(total), self.peak)
        return gains * factor, noise_gain * factor


class SpeechBrainLevels(Levels):
    """SpeechBrain's dynamic mixing: mean amplitudes from N(-27.43, 2.57) dB, and N(-2.51, 2.66) dB relative to that.

    The first is a speaker's level, the second the other speakers' levels relative to it; all are clamped to [-45, 0]
    dB. Amplitudes are measured on the drawn segment. Noise has the mean amplitude of the speakers, whatever its earlier
    level: the recipes' default training, with speed perturbation, uses that. The peak is 0.9.
    """

    first = (-27.43, 2.57)  # dB, mean and standard deviation
    others = (-2.51, 2.66)
    limits = (-45.0, 0.0)
    peak = 0.9

    def gains(
        self,
        rng: np.random.Generator,
        sources: np.ndarray,
        measured: dict,
        noise: np.ndarray,
        sample_rate: int,
        offsets: np.ndarray,
        noise_loudness: float | None = None,
    ) -> tuple:
        """See `Levels.gains`."""
        levels = np.empty(len(sources))
        levels[0] = np.clip(rng.normal(*self.first), *self.limits)
        levels[1:] = np.clip(levels[0] + rng.normal(*self.others, len(sources) - 1), *self.limits)
        found = np.array([mean_amplitude(source) for source in sources])
        gains = np.where(np.isfinite(found), _amplitude(levels + offsets - np.maximum(found, -200)), 1.0)
        scaled, total = _mixed(gains, sources)
        noise_gain = 0.0
        if noise is not None:
            present = scaled[np.isfinite(offsets)]
            level = mean_amplitude(noise)
            noise_gain = float(np.abs(present).mean() / _amplitude(level)) if np.isfinite(level) else 1.0
            total = total + noise_gain * noise
        factor = self.peak / max(_peak(total, scaled), np.finfo(np.float32).tiny)
        return gains * factor, noise_gain * factor


LEVELS: dict[str, type[Levels]] = {
    "wsj0mix": Wsj0MixLevels,
    "wham": WhamLevels,
    "librimix": LibriMixLevels,
    "speechbrain": SpeechBrainLevels,
}


def get_levels(name: str) -> Levels:
    """Look up a distribution by name.

    Arguments
    ---------
    name : str
        One of `LEVELS`.

    Returns
    -------
    Levels

    Raises
    ------
    InputError
        If there is no distribution of this name.

    Example
    -------
    >>> get_levels("loud")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: level_distribution 'loud' is not known: choose one of wsj0mix, wham, librimix, ...
    """
    if name not in LEVELS:
        raise InputError(f"level_distribution {name!r} is not known: choose one of {', '.join(LEVELS)}.")
    return LEVELS[name]()


def _amplitude(decibels):
    return 10 ** (np.asarray(decibels) / 20)


def _mixed(gains, sources):
    """The sources with their gains, [S, T], and the sum of these."""
    scaled = gains[:, None].astype(sources.dtype) * sources
    return scaled, scaled.sum(axis=0)


def _peak(*signals):
    return max(max(float(signal.max()), -float(signal.min())) for signal in signals)
