"""Dynamic mixing: training mixtures that are generated on the fly, different ones in each epoch.

An example is a pure function of (seed, epoch, index): it does not depend on the worker, the rank or a resumption. The
mixture is exactly the sum of its parts: nothing is rescaled afterwards. Whether its speakers take turns is known before
it is drawn, so that long examples can share batches.

1. Draw one utterance per speaker, of different speakers, all utterances with equal probability.
2. Draw a speed for each. If their pitch is to be similar, draw all utterances but the first one anew, among those.
3. Draw a segment of the given length, or of the length of the shortest utterance. If the speakers take turns
   (`mossformer_sb.data.turns`), the segment has the given length, or one of its own, and more of their utterances
   follow.
4. Draw a segment of noise, repeated with a cross-fade if the recording is too short. If its loudness is looked up
   (`mossformer_sb.data.noise_energies`), it begins on a multiple of 10 ms.
5. Draw levels from the corpus's distribution: `mossformer_sb.data.level_distributions`.
6. Convolve the speakers with impulse responses of one room, the same for all: `mossformer_sb.data.impulse_responses`.
7. Shift the speakers in time, if configured. Sum up.

Shapes: S sources, T samples.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from mossformer_sb.data.augmentation import Augmentation
from mossformer_sb.data.datasets import EpochDataset, Mixture, Parts, shifted
from mossformer_sb.data.impulse_responses import ImpulseResponses
from mossformer_sb.data.level_distributions import get_levels
from mossformer_sb.data.manifests import digest, read_manifest
from mossformer_sb.data.noise_energies import cell_start
from mossformer_sb.data.resampling import SpeedResampler
from mossformer_sb.data.source_pools import NoisePool, SpeechPool, extend_noise
from mossformer_sb.data.turns import TurnTaking, fade
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

FADE_SECONDS = 0.5  # cross-fade of repeated noise
TARGETS = ("anechoic", "reverb")
_TURNS = 0x7475726E73  # separates these random numbers from those of the examples and their order


class DynamicMixtureDataset(EpochDataset):
    """Mixtures drawn from single-speaker recordings, noise and room impulse responses.

    Arguments
    ---------
    manifest : str or Path or None
        Manifest of the static training set, whose number of mixtures is the default length of an epoch. None:
        ``mixtures_per_epoch`` is required.
    data_root : str or Path or None
        Value of ``$data_root`` in the manifest.
    speech_table, noise_table : str or Path
        Recordings to draw from, in tables of `data_prep.manifests.source_tables`. Without a noise table, or with an
        empty one, mixtures are clean.
    rir_folder : str or Path, optional
        Room impulse responses from `data_prep.generate.room_cache`. Default: none, dry speech.
    target : str, optional
        Training target in rooms: "anechoic", the direct path, or "reverb", the reverberant speech. Default: the first.
    level_distribution : str
        One of `mossformer_sb.data.level_distributions.LEVELS`.
    num_spks : int
        S.
    sample_rate : int
        Sample rate in Hz.
    segment : float, optional
        Length of an example in seconds, at most that of its shortest utterance. Default: that of the shortest
        utterance.
    min_seconds : float
        Shorter utterances are not drawn.
    mixtures_per_epoch : int, optional
        Number of mixtures per epoch. Default: as many as in the manifest.
    augmentation : Augmentation, optional
        Random changes to the components. Default: none.
    room_rate, noise_rate : float
        Probabilities of reverberation and of noise in an example, if rooms or noise are given.
    turn_rate, max_pause : float
        Probability that the speakers of an example take turns, and the longest pause in seconds, see
        `mossformer_sb.data.turns.TurnTaking`.
    turn_segment : float, optional
        Length of examples with turns in seconds. Default: ``segment``.
    similar_pitch_rate : float
        Probability that the pitches of an example's speakers are within 10 % of the first one's; otherwise they are
        drawn independently. Needs the pitch of all utterances, see `data_prep.manifests.source_tables`.
    seed : int
        Seed of all random numbers.

    Raises
    ------
    InputError
        If there are too few speakers, or arguments conflict.
    """

    def __init__(
        self,
        manifest: str | Path | None,
        data_root: str | Path | None,
        speech_table: str | Path,
        noise_table: str | Path | None = None,
        rir_folder: str | Path | None = None,
        target: str | None = None,
        level_distribution: str = "wham",
        num_spks: int = 2,
        sample_rate: int = 8000,
        segment: float | None = 4.0,
        min_seconds: float = 1.0,
        mixtures_per_epoch: int | None = None,
        augmentation: Augmentation | None = None,
        room_rate: float = 1.0,
        noise_rate: float = 1.0,
        turn_rate: float = 0.0,
        max_pause: float = 3.0,
        turn_segment: float | None = None,
        similar_pitch_rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.levels = get_levels(level_distribution)
        if segment is not None and not segment * sample_rate >= 1:
            raise InputError(f"segment {segment!r}: give seconds, or null for the length of the shortest utterance.")
        target = target or TARGETS[0]
        if target not in TARGETS:
            raise InputError(f"target {target!r} is not known: choose one of {', '.join(TARGETS)}.")
        self.target = target
        self.augmentation = augmentation or Augmentation()
        self.sample_rate = sample_rate
        self.num_spks = num_spks
        self.segment = None if segment is None else round(segment * sample_rate)
        rates = {"room_rate": room_rate, "noise_rate": noise_rate, "similar_pitch_rate": similar_pitch_rate}
        for key, rate in rates.items():
            if not 0 <= rate <= 1:
                raise InputError(f"{key} {rate!r}: give a probability, from 0 to 1.")
        self.room_rate, self.noise_rate, self.similar_pitch_rate = room_rate, noise_rate, similar_pitch_rate
        self.turns = TurnTaking(turn_rate, max_pause, segment if turn_segment is None else turn_segment)
        self._one_length = turn_segment in (None, segment) or turn_rate in (0, 1)
        if turn_rate:
            self.augmentation.check_segment(self.turns.segment)
        self._turn_taking = None  # [N] of an epoch, and the number of that epoch
        self.num_mixtures = mixtures_per_epoch
        if manifest is not None:
            table = read_manifest(manifest, data_root)
            self.num_mixtures = len(table) if mixtures_per_epoch is None else mixtures_per_epoch
        if self.num_mixtures is None:
            raise InputError("mixtures_per_epoch is null, and there is no manifest: give one of the two.")
        if isinstance(self.num_mixtures, bool) or not isinstance(self.num_mixtures, int) or self.num_mixtures < 1:
            raise InputError(f"mixtures_per_epoch {mixtures_per_epoch!r}: give a whole number of one or more, or null.")
        shortest = min_seconds * self.augmentation.max_speed
        self.speech = SpeechPool.read(
            speech_table, self.levels.measures, num_spks, shortest, with_pitch=similar_pitch_rate > 0
        )
        self.noise = None if noise_table is None else NoisePool.read(noise_table)
        if self.noise is not None and not self.levels.has_noise:
            raise InputError(
                f"level_distribution {level_distribution!r} has no level for the noise in {noise_table}: choose wham, "
                "librimix or speechbrain, or a task without noise."
            )
        self.rooms = None if rir_folder is None else ImpulseResponses(rir_folder, num_spks, sample_rate)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the source pools (speech, noise, rooms) and the target, see `manifests.fingerprint`.

        It includes the static training set only if mixtures are drawn from it.
        """
        parts: list[tuple] = [("target", self.target if self.rooms is not None else "dry", self.num_spks)]
        parts.append(("speech", self.speech.fingerprint))
        parts.append(("noise", "none" if self.noise is None else self.noise.fingerprint))
        parts.append(("rooms", "none" if self.rooms is None else self.rooms.identity))
        return digest(parts, [])

    def __len__(self) -> int:
        return self.num_mixtures

    @property
    def grouping(self) -> str:
        """The settings by which `length_groups` are drawn."""
        return "none" if self._one_length else f"those with turns (turn_rate {self.turns.rate})"

    def length_groups(self) -> np.ndarray | None:
        """Group of each example of the epoch, [N]: with turns or without; None if both have the same length."""
        return None if self._one_length else self._takes_turns()

    def _takes_turns(self):
        """[N]: whether the speakers of each example of the epoch take turns."""
        epoch = int(self._epoch)
        if self._turn_taking is None or self._turn_taking[0] != epoch:
            rng = np.random.default_rng((_TURNS, self.seed, epoch))
            self._turn_taking = epoch, self.turns.draw_examples(rng, len(self))
        return self._turn_taking[1]

    def __getitem__(self, index: int) -> Mixture:
        parts = self.draw(index)
        return Mixture(parts.id, torch.from_numpy(parts.mixture), torch.from_numpy(parts.targets.T))

    def draw(self, index: int) -> Parts:
        """Draw the parts of an example.

        Arguments
        ---------
        index : int
            Index of the example.

        Returns
        -------
        Parts
        """
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        rng = self.rng(index)
        chosen = self.speech.draw(rng, self.num_spks)
        speeds = self.augmentation.draw_speeds(rng, self.num_spks)
        if self.similar_pitch_rate and rng.random() < self.similar_pitch_rate:
            chosen = self.speech.with_similar_pitch(rng, chosen, speeds)
        offsets = self.augmentation.draw_offsets(rng, self.num_spks)
        room = None
        if self.rooms is not None and rng.random() < self.room_rate:
            room = self.rooms.draw(rng)

        lead = 0 if room is None else room.shape[-1]
        speech = self._turns if self._takes_turns()[index] else self._excerpts
        dry = speech(rng, chosen, speeds, lead)
        inside = dry[:, lead:]  # [S, T]; earlier samples are only needed for the reverberation
        noise, noise_loudness = self._noise(rng, inside.shape[1])
        measured = {name: self.speech.measured[name][chosen] for name in self.levels.measures}
        gains, noise_gain = self.levels.gains(
            rng, inside, measured, noise, self.sample_rate, offsets, noise_loudness=noise_loudness
        )

        dry *= gains[:, None].astype(np.float32)
        targets, images = (inside, inside) if room is None else self.rooms.images(room, dry, lead)
        targets = images if self.target == "reverb" else targets
        parts = Parts(
            id="_".join(self.speech.names[number] for number in chosen),
            targets=targets.astype(np.float32, copy=False),
            images=images.astype(np.float32, copy=False),
            noise=np.zeros(inside.shape[1], np.float32) if noise is None else noise * np.float32(noise_gain),
            speakers=tuple(self.speech.speakers[number] for number in chosen),
        )
        shifts = self.augmentation.draw_shifts(rng, self.num_spks, self.sample_rate, inside.shape[1])
        return shifted(parts, shifts)

    def _turns(self, rng, chosen, speeds, lead):
        """[S, lead + T]: turns of the speakers, from ``lead`` samples before the segment on."""
        limit = self.turns.draw_limit(rng)
        length = lead + round(self.turns.segment * self.sample_rate)
        return np.stack(
            [self._turns_of(rng, number, speed, length, limit) for number, speed in zip(chosen, speeds, strict=True)]
        )

    def _turns_of(self, rng, chosen, speed, length, limit):
        """[``length``]: turns of the speaker of one utterance, all at its level."""
        numbers = self.speech.same_speaker(chosen)
        resamplers = [
            SpeedResampler.between(self.speech.sample_rates[number], self.sample_rate, speed) for number in numbers
        ]
        totals = [self.speech.num_samples[number] for number in numbers]
        lengths = [resampler.num_out(total) for resampler, total in zip(resamplers, totals, strict=True)]
        levels = self.speech.measured[self.levels.measures[0]][numbers] if self.levels.measures else np.zeros(1)
        gains = np.broadcast_to(10 ** ((levels[0] - levels) / 20), len(numbers)).astype(np.float32)
        signal = np.zeros(length, np.float32)
        for index, start, size in self.turns.draw(rng, lengths, length, limit, self.sample_rate):
            path, total, resampler = self.speech.paths[numbers[index]], totals[index], resamplers[index]
            begin = int(rng.integers(total - resampler.num_in(size) + 1))
            excerpt = resampler.read(path, total, begin, size)
            signal[start : start + size] = gains[index] * fade(excerpt, self.sample_rate)
        return signal

    def _excerpts(self, rng, chosen, speeds, tail):
        """[S, tail + T]: a segment of each utterance, and up to ``tail`` preceding samples, zeros if there are less."""
        resamplers = [
            SpeedResampler.between(self.speech.sample_rates[number], self.sample_rate, speed)
            for number, speed in zip(chosen, speeds, strict=True)
        ]
        totals = [self.speech.num_samples[number] for number in chosen]
        length = min(resampler.num_out(total) for resampler, total in zip(resamplers, totals, strict=True))
        length = length if self.segment is None else min(length, self.segment)
        signals = np.zeros((len(chosen), tail + length), np.float32)
        for row, (number, total, resampler) in enumerate(zip(chosen, totals, resamplers, strict=True)):
            start = int(rng.integers(total - resampler.num_in(length) + 1))
            # Complete periods of the resampling before the segment: as many as the tail needs, if they exist.
            periods = min(start // resampler.down, -(-tail // resampler.up))
            lead = periods * resampler.up
            begin = start - periods * resampler.down
            signal = resampler.read(self.speech.paths[number], total, begin, lead + length)[-(tail + length) :]
            signals[row, tail + length - len(signal) :] = signal
        return signals

    def _noise(self, rng, length):
        """Noise [T] or None; and its loudness in LUFS, or None if it has to be measured."""
        if self.noise is None or rng.random() >= self.noise_rate:
            return None, None
        number = self.noise.draw(rng)
        speed = self.augmentation.draw_speeds(rng, 1)[0] if self.augmentation.perturb_noise else 1.0
        resampler = SpeedResampler.between(self.noise.sample_rates[number], self.sample_rate, speed)
        total = self.noise.num_samples[number]
        available = resampler.num_out(total)
        if available >= length:
            start = int(rng.integers(total - resampler.num_in(length) + 1))
            # At another rate or speed, the filters of the stored energies would weight other frequencies.
            looked_up = "loudness" in self.levels.measures and resampler.up == resampler.down
            looked_up = looked_up and self.noise.energies is not None and self.noise.energies.has(number)
            if looked_up:
                start = cell_start(start, self.sample_rate)
            noise = resampler.read(self.noise.paths[number], total, start, length)
            return noise, self.noise.energies.loudness(number, start, noise) if looked_up else None
        clip = resampler.read(self.noise.paths[number], total, 0, available)
        fade = min(round(FADE_SECONDS * self.sample_rate), available // 2)
        start = int(rng.integers(available))
        return extend_noise(clip, start + length, fade)[start:].astype(np.float32), None
