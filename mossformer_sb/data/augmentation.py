"""Augmentation of training mixtures, with dynamic mixing or with static data.

Shapes: S sources, T samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mossformer_sb.errors import InputError

SPEED_PERTURBATIONS = ("none", "discrete", "continuous")


@dataclass(frozen=True)
class Augmentation:
    """Random changes to the parts of a training mixture before they are summed.

    Arguments
    ---------
    speed_perturb : str
        "none"; "discrete": each speaker at the lowest speed, 1 or the highest; "continuous": any speed in the range.
    speed_range : sequence of float
        Lowest and highest speed.
    perturb_noise : bool
        Whether to change the noise's speed too.
    random_shift : float
        Maximum shift of each speaker in seconds, in both directions. Gaps are filled with zeros, samples beyond the
        segment are discarded.
    level_imbalance : float
        Maximum attenuation in dB. One speaker keeps its level, and each of the others is attenuated by 0 to this value.
    single_speaker_rate : float
        Probability that all speakers but one are silent.

    Raises
    ------
    InputError
        If a value is out of range.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> Augmentation("discrete").draw_speeds(rng, 4).tolist()
    [1.05, 1.0, 1.0, 0.95]
    """

    speed_perturb: str = "none"
    speed_range: tuple = (0.95, 1.05)
    perturb_noise: bool = False
    random_shift: float = 0.0
    level_imbalance: float = 0.0
    single_speaker_rate: float = 0.0

    def __post_init__(self):
        if self.speed_perturb not in SPEED_PERTURBATIONS:
            known = ", ".join(SPEED_PERTURBATIONS)
            raise InputError(f"speed_perturb {self.speed_perturb!r} is not known: choose one of {known}.")
        pair = isinstance(self.speed_range, (list, tuple)) and len(self.speed_range) == 2
        numbers = pair and all(isinstance(speed, (int, float)) for speed in self.speed_range)
        if not numbers or not 0.5 <= self.speed_range[0] <= self.speed_range[1] <= 2:
            raise InputError(
                f"speed_range {self.speed_range}: give the lowest and the highest speed, between 0.5 and 2, such "
                "as [0.95, 1.05]."
            )
        for key in ("random_shift", "level_imbalance"):
            if not getattr(self, key) >= 0:
                raise InputError(f"{key} {getattr(self, key)!r}: give zero for none, or more.")
        if not 0 <= self.single_speaker_rate <= 1:
            raise InputError(f"single_speaker_rate {self.single_speaker_rate!r}: give a probability, from 0 to 1.")

    @property
    def is_active(self) -> bool:
        """Whether any change is configured."""
        return self != Augmentation(speed_range=self.speed_range, perturb_noise=self.perturb_noise)

    @property
    def max_speed(self) -> float:
        """The highest speed that can be drawn."""
        return 1.0 if self.speed_perturb == "none" else max(1.0, self.speed_range[1])

    def check_segment(self, segment: float | None) -> None:
        """Raise InputError if a speaker could be shifted out of segments of so many seconds; None: unknown lengths."""
        if segment is not None and self.random_shift and self.random_shift >= segment:
            raise InputError(
                f"random_shift {self.random_shift} s is as long as the segments of {segment} s, so that a speaker "
                f"could be shifted out entirely: give less, such as {segment / 4:g}."
            )

    def draw_speeds(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """[count], the speeds of the recordings."""
        if self.speed_perturb == "none":
            return np.ones(count)
        lowest, highest = self.speed_range
        if self.speed_perturb == "discrete":
            return rng.choice([lowest, 1.0, highest], count)
        return rng.uniform(lowest, highest, count)

    def draw_offsets(self, rng: np.random.Generator, num_spks: int) -> np.ndarray:
        """[S], dB to add to the speakers' levels; -inf for a silent speaker."""
        kept = rng.integers(num_spks)
        others = np.arange(num_spks) != kept
        offsets = np.zeros(num_spks)
        if self.level_imbalance:
            offsets[others] = -rng.uniform(0, self.level_imbalance, num_spks - 1)
        if self.single_speaker_rate and rng.random() < self.single_speaker_rate:
            offsets[others] = -np.inf
        return offsets

    def draw_shifts(self, rng: np.random.Generator, num_spks: int, sample_rate: int, length: int) -> np.ndarray:
        """[S], shifts of the speakers in an example of ``length`` samples, in samples; positive: later.

        In an example so short that a speaker could be shifted out entirely, shifts are at most half of it.
        """
        reach = round(self.random_shift * sample_rate)
        reach = reach if reach < length else length // 2
        return rng.integers(-reach, reach + 1, num_spks) if reach else np.zeros(num_spks, dtype=int)


def shift(signal: np.ndarray, amount: int) -> np.ndarray:
    """Shift a signal in time; zeros fill the gap.

    Arguments
    ---------
    signal : numpy.ndarray
        [..., T].
    amount : int
        Shift in samples; positive: later.

    Returns
    -------
    numpy.ndarray
        [..., T].

    Example
    -------
    >>> shift(np.array([1, 2, 3]), 1).tolist(), shift(np.array([1, 2, 3]), -5).tolist()
    ([0, 1, 2], [0, 0, 0])
    """
    shifted = np.zeros_like(signal)
    length = signal.shape[-1]
    if abs(amount) < length:
        shifted[..., max(amount, 0) : length + min(amount, 0)] = signal[..., max(-amount, 0) : length - max(amount, 0)]
    return shifted
