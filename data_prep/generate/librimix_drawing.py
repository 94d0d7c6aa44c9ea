"""Draws metadata of LibriMix for any speech, by the published procedure (Cosentino et al., 2020).

1. Utterances and noise of at least 3 s, in tuples of different speakers. A pass over a split uses each utterance once;
   for more mixtures there are more passes, and a repeated tuple is dropped.
2. A noise at least as long as the longest utterance, each once per pass. If none is left, a training mixture gets the
   longest of the others, and a validation or test tuple is dropped.
3. At 16 kHz, with speech padded to the longest utterance: a loudness from -33 to -25 LUFS for each speaker and from -38
   to -30 for noise. A signal that would reach full scale is scaled to a peak of 0.9, as is a sum that exceeds it.
4. A gain is the difference of loudness after and before, as a factor.

Three differences from the published script: a mixture with a clip without a loudness is drawn again, where the script
stops or writes NaN as gain; when all noise has been used, all of it is available again; and in rooms, which LibriMix
does not have, the reverberant sum must not exceed the peak either.

Shapes: T samples, S sources.
"""

from __future__ import annotations

import bisect
import functools
import heapq
import logging
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from data_prep.audio import SAMPLE_RATE
from data_prep.choices import check_choice
from data_prep.generate.image_source import images_of
from data_prep.generate.librimix_metadata import Recipe
from data_prep.generate.librimix_splits import SPLITS, TRAIN
from data_prep.generate.reading import FADE, read_noise, read_recording
from data_prep.generate.rooms import draw_room
from data_prep.messages import NUM_SHOWN
from mossformer_sb.data.loudness import loudness
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from data_prep.generate.recordings import Clip
    from data_prep.generate.rooms import Room

logger = logging.getLogger(__name__)

SPEECH_LOUDNESS = (-33.0, -25.0)  # LUFS
NOISE_LOUDNESS = (-38.0, -30.0)
MAX_PEAK = 0.9
NUM_EVALUATION = 3000  # mixtures of the published validation and test sets
MAX_IDLE_PASSES = 10  # maximum number of passes without a new mixture


@dataclass(frozen=True)
class Drawing:
    """Parameters for drawing mixtures.

    Attributes
    ----------
    speech_folder, noise_folder : str
        Folders of the clips' relative paths; noise_folder is None without noise.
    num_spks : int
        Number of speakers per mixture.
    seed : int
        The same seed gives the same metadata.
    min_seconds : float
        Shorter utterances are skipped, as is shorter noise unless it is extended.
    extend_noise : bool
        Whether noise is repeated, so that every noise is long enough for every mixture.
    reverberation : str, optional
        As for `draw_room`; None for no rooms.
    published : bool
        Whether counts are as published: floored to hundreds, and 3,000 for validation and test.
    resample : bool or int
        As for `read_recording`.
    """

    speech_folder: str
    noise_folder: str | None = None
    num_spks: int = 2
    seed: int = 72
    min_seconds: float = 3.0
    extend_noise: bool = False
    reverberation: str | None = None
    published: bool = False
    resample: bool | int = False

    def draw(
        self,
        split: str,
        utterances: Sequence[Clip],
        noises: Sequence[Clip] = (),
        count: int | None = None,
        mapped: Callable | None = None,
    ) -> tuple[list[Recipe], int]:
        """Draws the mixtures of one split.

        Arguments
        ---------
        split : str
            One of "train-100", "dev" and "test".
        utterances, noises : sequence of Clip
            The pools to draw from.
        count : int, optional
            Number of mixtures. Default: that of one pass over the utterances.
        mapped : Callable
            The map of `process_map` for `draw_levels` with this drawing; the result does not depend on it. Default: in
            this process.

        Returns
        -------
        recipes : list of Recipe
        num_redrawn : int
            Number of mixtures that were drawn again because a clip has no loudness.

        Raises
        ------
        InputError
            If there is too little to draw from.
        """
        check_choice("split", split, SPLITS)
        if self.published and count is None and split != TRAIN:
            count = NUM_EVALUATION
        mapped = mapped or functools.partial(map, functools.partial(draw_levels, self))
        utterances = self._usable(utterances, split)
        noises = self._usable_noises(noises, split)
        recipes, redrawn = self._draw(split, utterances, noises, count, mapped)
        if self.published:
            recipes = recipes[: len(recipes) // 100 * 100]
        if not recipes:
            raise InputError(
                f"Split '{split}': {len(utterances)} utterances of {len({clip.speaker for clip in utterances})} "
                f"speakers give no mixture{' (or less than 100)' if self.published else ''}. "
                f"Add speech{', or noise that is long enough' if self.noise_folder else ''}."
            )
        return recipes, redrawn

    def plan(
        self, split: str, utterances: Sequence[Clip], noises: Sequence[Clip] = (), count: int | None = None
    ) -> list[tuple[tuple[Clip, ...], Clip | None]]:
        """Plans the mixtures with their lengths, without reading audio.

        Returns
        -------
        tuples : list of (tuple of Clip, Clip or None)
            Speakers and noise, including clips without a loudness.
        """
        count = NUM_EVALUATION if self.published and count is None and split != TRAIN else count
        rng = np.random.default_rng([self.seed, SPLITS.index(split)])
        utterances, noises = self._usable(utterances, split), self._usable_noises(noises, split)
        pairs, idle = {}, 0
        while (not pairs or count is not None and len(pairs) < count) and idle < MAX_IDLE_PASSES:
            found = len(pairs)
            for speech, noise in self._pass(rng, split, utterances, noises):
                pairs.setdefault(frozenset(speech), (speech, noise))
            idle = 0 if len(pairs) > found else idle + 1
        drawn = list(pairs.values())[:count]
        return drawn[: len(drawn) // 100 * 100] if self.published else drawn

    def _usable(self, utterances, split):
        usable = [clip for clip in utterances if clip.frames >= self.min_seconds * SAMPLE_RATE]
        if len({clip.speaker for clip in usable}) < self.num_spks:
            raise InputError(
                f"Split '{split}': {len(usable)} of {len(utterances)} utterances have {self.min_seconds:g} s or more; "
                f"needed such of {self.num_spks} speakers. Add speech, or give a lower --min_seconds."
            )
        return usable

    def _usable_noises(self, noises, split):
        if self.noise_folder is None:
            return []
        # Repeating needs a cross-fade.
        least = FADE + 2 if self.extend_noise else max(self.min_seconds * SAMPLE_RATE, FADE + 2)
        usable = [clip for clip in noises if clip.frames >= least]
        if not usable:
            raise InputError(
                f"Split '{split}': none of {len(noises)} noises has {least / SAMPLE_RATE:g} s; needed at least one. "
                "Add noise, or give --extend_noise to repeat short ones."
            )
        return usable

    def _draw(self, split, utterances, noises, count, mapped):
        rng = np.random.default_rng([self.seed, SPLITS.index(split)])
        recipes, seen, silent, number, redrawn, idle = [], set(), set(), 0, 0, 0
        left = utterances
        with tqdm(desc=f"Drawing {split}", total=count, unit="mixture", disable=None) as bar:
            while left and (count is None or len(recipes) < count):
                new = [pair for pair in self._pass(rng, split, left, noises) if frozenset(pair[0]) not in seen]
                new = new[: None if count is None else count - len(recipes)]
                jobs = [(pair, [self.seed, SPLITS.index(split), number + index]) for index, pair in enumerate(new)]
                number, found = number + len(jobs), len(recipes)
                for ((speech, _), _), result in zip(jobs, mapped(jobs), strict=True):
                    bar.update(isinstance(result, Recipe))
                    if isinstance(result, Recipe):
                        recipes.append(result)
                        seen.add(frozenset(speech))
                    else:
                        silent.add(result)
                        redrawn += 1
                noises = [clip for clip in noises if clip not in silent]
                if self.noise_folder is not None and not noises:
                    raise InputError(f"Split '{split}': no noise is loud enough for a loudness. Give other noise.")
                idle = 0 if len(recipes) > found else idle + 1
                left = self._next(utterances, silent, seen, count, idle, split, len(recipes))
                if count is None and len(recipes) - found == len(jobs):
                    break  # no mixture to draw again
        if silent:
            named = ", ".join(sorted(clip.path for clip in silent)[:NUM_SHOWN])
            text = (
                "Split '%s': %d mixtures were drawn again, since clips are too short or too silent for a loudness: %s"
            )
            logger.warning(text, split, redrawn, named)
        return recipes, redrawn

    def _next(self, utterances, silent, seen, count, idle, split, num_found):
        """The clips for the next pass."""
        audible = [clip for clip in utterances if clip not in silent]
        if count is None:
            used = set().union(*seen) if seen else set()
            return [clip for clip in audible if clip not in used] if idle < MAX_IDLE_PASSES else []
        if idle >= MAX_IDLE_PASSES and num_found < count:
            raise InputError(
                f"Split '{split}': found {num_found} different mixtures; needed {count}. "
                f"Give a lower number, add "
                f"speech{', or add noise or give --extend_noise' if self.noise_folder else ''}."
            )
        return audible

    def _pass(self, rng, split, utterances, noises):
        """One pass over the utterances: tuples of different speakers, each with its noise or None."""
        tuples = draw_tuples(rng, utterances, self.num_spks)
        if self.noise_folder is None:
            return [(speech, None) for speech in tuples]
        return draw_noises(rng, tuples, noises, self.extend_noise, drop=split != TRAIN)


def draw_tuples(rng: np.random.Generator, utterances: Sequence[Clip], num_spks: int) -> list[tuple]:
    """Draws tuples of different speakers, each utterance at most once, until too few speakers are left.

    Example
    -------
    >>> from data_prep.generate.recordings import Clip
    >>> clips = [Clip(f"{speaker}{n}", "", speaker, 48000) for speaker in "abc" for n in range(2)]
    >>> tuples = draw_tuples(np.random.default_rng(0), clips, 2)
    >>> all(one.speaker != other.speaker for one, other in tuples)
    True
    """
    left = {}  # the places of each speaker's utterances in a random order
    order = rng.permutation(len(utterances))
    for place, index in enumerate(order):
        left.setdefault(utterances[index].speaker, []).append(place)
    last = [(-places[-1], speaker) for speaker, places in left.items()]  # each speaker's, the last one first
    heapq.heapify(last)
    tuples = []
    while len(last) >= num_spks:
        drawn = [heapq.heappop(last) for _ in range(num_spks)]
        tuples.append(tuple(utterances[order[-place]] for place, _ in drawn))
        for _, speaker in drawn:
            left[speaker].pop()
            if left[speaker]:
                heapq.heappush(last, (-left[speaker][-1], speaker))
    return tuples


def draw_noises(
    rng: np.random.Generator, tuples: Sequence[tuple[Clip, ...]], noises: Sequence[Clip], extend: bool, drop: bool
) -> list[tuple[tuple[Clip, ...], Clip]]:
    """Draws a noise that is long enough for each tuple; each noise is used once before any is repeated.

    Arguments
    ---------
    rng : numpy.random.Generator
        Random generator.
    tuples : sequence of tuple of Clip
        Tuples of utterances.
    noises : sequence of Clip
        The noises to draw from.
    extend : bool
        Whether all noises are treated as long enough.
    drop : bool
        Whether a tuple without a long enough noise is dropped; otherwise it gets the longest.

    Returns
    -------
    pairs : list of (tuple of Clip, Clip)
    """
    ordered = sorted(noises, key=lambda clip: (clip.frames, clip.path))
    left, pairs = list(ordered), []
    for speech in tuples:
        longest = max(clip.frames for clip in speech)
        left = left or list(ordered)
        first = 0 if extend else bisect.bisect_left(left, longest, key=lambda clip: clip.frames)
        if first < len(left):
            pairs.append((speech, left.pop(int(rng.integers(first, len(left))))))
        elif not drop:
            pairs.append((speech, left.pop()))
    return pairs


def draw_levels(drawing: Drawing, job: tuple) -> Recipe | Clip:
    """Draws the levels of one mixture.

    Arguments
    ---------
    drawing : Drawing
    job : tuple
        Clips of speech, a clip of noise or None, and a seed.

    Returns
    -------
    Recipe or Clip
        The recipe, or a clip that has no loudness.
    """
    (speech, noise), seed = job
    rng = np.random.default_rng(seed)
    num_frames = max(clip.frames for clip in speech)
    signals = np.zeros((len(speech) + (noise is not None), num_frames), np.float32)
    for signal, clip in zip(signals, speech, strict=False):
        samples = read_recording(os.path.join(drawing.speech_folder, clip.path), drawing.resample)
        signal[: len(samples)] = samples
    if noise is not None:
        path = os.path.join(drawing.noise_folder, noise.path)
        read = read_noise if drawing.extend_noise else _read_padded
        signals[-1] = read(path, num_frames, drawing.resample)
    room = None
    if drawing.reverberation is not None:
        room = draw_room(rng, len(speech), drawing.reverberation)
    clips = speech if noise is None else (*speech, noise)
    ranges = [SPEECH_LOUDNESS] * len(speech) + [NOISE_LOUDNESS] * (noise is not None)
    gains = draw_gains(rng, signals, ranges, room)
    for clip, gain in zip(clips, gains, strict=True):
        if not math.isfinite(gain):
            return clip
    return Recipe(
        name="_".join(clip.name for clip in speech),
        sources=tuple(clip.path for clip in speech),
        gains=tuple(gains[: len(speech)]),
        noise=None if noise is None else noise.path,
        noise_gain=None if noise is None else gains[-1],
        room=room,
        speakers=tuple(clip.speaker for clip in speech),
    )


def _read_padded(path, num_frames, resample):
    noise = read_recording(path, resample, num_frames)
    return np.pad(noise, (0, num_frames - len(noise)))


def draw_gains(
    rng: np.random.Generator, signals: np.ndarray, ranges: Sequence[tuple[float, ...]], room: Room | None = None
) -> list[float]:
    """Draws a loudness for each signal, and returns the factors that achieve it without clipping.

    Arguments
    ---------
    rng : numpy.random.Generator
        Random generator.
    signals : numpy.ndarray
        [S or S + 1, T] at 16 kHz: sources, and optionally noise.
    ranges : sequence of tuple of float
        Lowest and highest loudness of each signal, in LUFS.
    room : Room, optional
        Room of the sources; noise is not reverberated.

    Returns
    -------
    gains : list of float
        NaN for signals without a loudness.
    """
    before, scaled = [], []
    for signal, (lowest, highest) in zip(signals, ranges, strict=True):
        before.append(loudness(signal, SAMPLE_RATE))
        target = rng.uniform(lowest, highest)
        signal = signal * 10 ** ((target - before[-1]) / 20) if math.isfinite(before[-1]) else signal
        peak = np.abs(signal).max()
        scaled.append(signal * (MAX_PEAK / peak) if peak >= 1 else signal)
    if not all(map(math.isfinite, before)):
        return [1.0 if math.isfinite(level) else math.nan for level in before]
    peak = np.abs(sum(scaled)).max()
    if room is not None:
        num_spks = len(room.sources)
        images = images_of(room, np.stack(scaled[:num_spks]))[1]
        peak = max(peak, np.abs(images.sum(axis=0) + sum(scaled[num_spks:])).max())
    weight = MAX_PEAK / peak if peak > MAX_PEAK else 1.0
    after = [loudness(signal * weight, SAMPLE_RATE) for signal in scaled]
    return [
        float(10 ** ((level - first) / 20)) if math.isfinite(level) else math.nan
        for level, first in zip(after, before, strict=True)
    ]
