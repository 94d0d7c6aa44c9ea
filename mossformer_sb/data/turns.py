"""Turn-taking in training mixtures: speakers who pause, and go on.

Segments of single utterances overlap from the first sample to the last, and are no longer than the shortest utterance.
In a conversation, speakers pause, and a separator has to keep each in the same output afterwards. Here, each speaker's
signal is a sequence of turns, excerpts of several utterances, with pauses between them, over a complete segment.

Shapes: S sources, T samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

TURN_SECONDS = (1.0, 4.0)  # shortest and longest turn; an utterance that is shorter is a turn
LEAST_SPEECH = 0.5  # seconds of a segment in which each speaker has a turn
FADE_SECONDS = 0.01  # at both ends of a turn, which may lie within a word


class Turn(NamedTuple):
    """One turn of a speaker, in samples."""

    utterance: int  # index
    start: int  # in the speaker's signal
    length: int


@dataclass(frozen=True)
class TurnTaking:
    """Distribution of turns and pauses.

    In an example with turns, no pause is longer than a limit, drawn from U(0, ``max_pause``). Each pause is drawn from
    U(0, limit), and each turn from U(1 s, 4 s), independently for each speaker. So some examples overlap nearly
    everywhere, and in others one speaks, or both, or nobody.

    Arguments
    ---------
    rate : float
        Probability that the speakers of an example take turns.
    max_pause : float
        Longest pause in seconds.
    segment : float, optional
        Length of examples with turns in seconds, which turns need. Default: unknown.

    Raises
    ------
    InputError
        If a value is out of range, or pauses are so long that a speaker might be silent in all of a segment.

    Example
    -------
    >>> turns = TurnTaking(rate=1.0, max_pause=2.0, segment=5.0)
    >>> rng = np.random.default_rng(0)
    >>> turns.draw_examples(rng, 3).tolist()
    [True, True, True]
    >>> limit = turns.draw_limit(rng)
    >>> for turn in turns.draw(rng, [24000, 30000], 40000, limit, sample_rate=8000):
    ...     print(turn)
    Turn(utterance=0, start=0, length=11792)
    Turn(utterance=1, start=12033, length=25508)
    Turn(utterance=0, start=37685, length=2315)
    """

    rate: float = 0.0
    max_pause: float = 3.0
    segment: float | None = None

    def __post_init__(self):
        if not 0 <= self.rate <= 1:
            raise InputError(f"turn_rate {self.rate!r}: give a probability, from 0 to 1.")
        if not self.max_pause >= 0:
            raise InputError(f"max_pause {self.max_pause!r}: give seconds, 0 or more.")
        if self.rate and self.segment is None:
            raise InputError(
                f"turn_rate is {self.rate}, and segment null: turns fill segments of one length. Give segment or "
                "turn_segment in seconds, or turn_rate 0."
            )
        if self.rate and not (isinstance(self.segment, int | float) and self.segment > 0):
            raise InputError(f"turn_segment {self.segment!r}: give seconds, or null for those of segment.")
        if self.rate and self.max_pause > self.segment - LEAST_SPEECH:
            raise InputError(
                f"max_pause is {self.max_pause} s, and mixtures with turns have {self.segment} s: a speaker could be "
                f"silent throughout. Give a segment or turn_segment of at least {self.max_pause + LEAST_SPEECH:g} s, "
                "or shorter pauses."
            )

    def draw_examples(self, rng: np.random.Generator, number: int) -> np.ndarray:
        """Draw in which of ``number`` examples the speakers take turns: [N], boolean."""
        return rng.random(number) < self.rate

    def draw_limit(self, rng: np.random.Generator) -> float:
        """Draw the longest pause of an example in seconds."""
        return rng.uniform(0, self.max_pause)

    @staticmethod
    def draw(
        rng: np.random.Generator, lengths: Sequence[int], total: int, limit: float, sample_rate: int
    ) -> list[Turn]:
        """Draw one speaker's turns.

        Arguments
        ---------
        rng : numpy.random.Generator
            Random generator.
        lengths : sequence of int
            Lengths of the speaker's utterances in samples. The first one is the first to be used, then the others in
            random order, then again from the first.
        total : int
            Length of the speaker's signal in samples.
        limit : float
            Longest pause in seconds.
        sample_rate : int
            Sample rate in Hz.

        Returns
        -------
        list of Turn
            In the order of time, without overlap, all within the signal.
        """
        order = [0, *(1 + rng.permutation(len(lengths) - 1))]
        turns: list[Turn] = []
        position, count = None, 0
        while position is None or position < total:
            utterance = int(order[count % len(order)])
            length = min(lengths[utterance], round(rng.uniform(*TURN_SECONDS) * sample_rate))
            pause = round(rng.uniform(0, limit) * sample_rate)
            if position is None:  # the signal begins anywhere in the first turn, or in the pause after it
                position = -int(rng.integers(length + pause))
            start, end = max(position, 0), min(position + length, total)
            if end > start:
                turns.append(Turn(utterance, start, end - start))
            position, count = position + length + pause, count + 1
        return turns


def fade(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """Fade a turn in and out over `FADE_SECONDS`, or half of its length: [T] → [T].

    Example
    -------
    >>> fade(np.ones(5, np.float32), sample_rate=100).tolist()
    [0.5, 1.0, 1.0, 1.0, 0.5]
    """
    size = min(round(FADE_SECONDS * sample_rate), len(signal) // 2)
    rise = np.arange(1, size + 1, dtype=np.float32) / (size + 1)
    faded = signal.copy()
    faded[:size] *= rise
    faded[len(faded) - size :] *= rise[::-1]
    return faded
