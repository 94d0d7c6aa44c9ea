"""Dynamic mixing: training mixtures that are generated on the fly, different ones in each epoch.

An example is a pure function of (seed, epoch, index): it does not depend on the worker, the rank or a resumption. The
mixture is exactly the sum of its parts: nothing is rescaled afterwards.

1. Draw one utterance for each speaker, all speakers different, each utterance as likely as another.
2. Draw a speed for each, and a segment of the item's length, which is the given one or that of the shortest
   utterance.
3. Draw a segment of noise, repeated with a cross-fade where the recording is too short. Where its loudness is looked up
   (`mossformer_sb.data.noise_energies`), it begins on a whole 10 ms.
4. Draw levels, as the corpus has them: `mossformer_sb.data.level_distributions`.
5. Convolve the speakers with impulse responses of one room, the same for all: `mossformer_sb.data.impulse_responses`.
6. Shift the speakers in time, if configured. Sum up.

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
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

FADE_SECONDS = 0.5  # of a noise that is repeated
TARGETS = ("anechoic", "reverb")


class DynamicMixtureDataset(EpochDataset):
    """Mixtures drawn from single-speaker recordings, noise and room impulse responses.

    Arguments
    ---------
    manifest : str or Path or None
        Of the static training set, which says how many mixtures an epoch has. None: ``mixtures_per_epoch`` alone does.
    data_root : str or Path or None
        What ``$data_root`` stands for in it.
    speech_table, noise_table : str or Path
        Recordings to draw from, as `data_prep.manifests.source_tables` lists them. Without a noise table, or with an
        empty one, mixtures are clean.
    rir_folder : str or Path, optional
        Room impulse responses, as `data_prep.generate.room_cache` computes them. Default: none, dry speech.
    target : str, optional
        In rooms: "anechoic", the direct paths, or "reverb", everything that the mixture has of a speaker. Default: the
        first.
    level_distribution : str
        One of `mossformer_sb.data.level_distributions.LEVELS`.
    num_spks : int
        S.
    sample_rate : int
        Hz.
    segment : float, optional
        Length of an item in seconds, if the utterances are that long. Default: that of the shortest utterance.
    min_seconds : float
        Shorter utterances are not drawn.
    mixtures_per_epoch : int, optional
        Default: as many as the manifest has; needed where there is none.
    augmentation : Augmentation, optional
        Default: none.
    room_rate, noise_rate : float
        Probabilities that an example has reverberation, and noise, where there are any.
    seed : int
        Of everything random.

    Raises
    ------
    InputError
        If there are too few speakers, or arguments do not fit together.
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
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.levels = get_levels(level_distribution)
        if segment is not None and not segment * sample_rate >= 1:
            raise InputError(f"segment {segment!r}: give seconds, or null for as long as the shortest utterance.")
        target = target or TARGETS[0]
        if target not in TARGETS:
            raise InputError(f"target {target!r} is not known: choose one of {', '.join(TARGETS)}.")
        self.target = target
        self.augmentation = augmentation or Augmentation()
        self.sample_rate = sample_rate
        self.num_spks = num_spks
        self.segment = None if segment is None else round(segment * sample_rate)
        self.room_rate, self.noise_rate = room_rate, noise_rate
        self.num_mixtures = mixtures_per_epoch
        if manifest is not None:
            table = read_manifest(manifest, data_root)
            self.num_mixtures = len(table) if mixtures_per_epoch is None else mixtures_per_epoch
        if self.num_mixtures is None:
            raise InputError("mixtures_per_epoch is null, and there is no manifest to count: give one of the two.")
        if self.num_mixtures < 1:
            raise InputError(f"mixtures_per_epoch {mixtures_per_epoch}: give one or more, or null.")
        shortest = min_seconds * self.augmentation.max_speed
        self.speech = SpeechPool.read(speech_table, self.levels.measures, num_spks, shortest)
        self.noise = None if noise_table is None else NoisePool.read(noise_table)
        if self.noise is not None and not self.levels.has_noise:
            raise InputError(
                f"level_distribution {level_distribution!r} has no level for noise, but {noise_table} lists "
                "some: choose wham, librimix or speechbrain, or a task without noise."
            )
        self.rooms = None if rir_folder is None else ImpulseResponses(rir_folder, num_spks, sample_rate)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of what mixtures are drawn from (speech, noise, rooms) and the kind of target, see `manifests.fingerprint`.

        The static training set counts only where it is drawn from.
        """
        parts: list[tuple] = [("target", self.target if self.rooms is not None else "dry", self.num_spks)]
        parts.append(("speech", self.speech.fingerprint))
        parts.append(("noise", "none" if self.noise is None else self.noise.fingerprint))
        parts.append(("rooms", "none" if self.rooms is None else self.rooms.identity))
        return digest(parts, [])

    def __len__(self) -> int:
        return self.num_mixtures

    def __getitem__(self, index: int) -> Mixture:
        parts = self.draw(index)
        return Mixture(parts.id, torch.from_numpy(parts.mixture), torch.from_numpy(parts.targets.T))

    def draw(self, index: int) -> Parts:
        """Draw the parts of an item.

        Arguments
        ---------
        index : int
            From 0 to the number of mixtures, less one.

        Returns
        -------
        Parts
        """
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        rng = self.rng(index)
        chosen = self.speech.draw(rng, self.num_spks)
        speeds = self.augmentation.draw_speeds(rng, self.num_spks)
        offsets = self.augmentation.draw_offsets(rng, self.num_spks)
        room = None
        if self.rooms is not None and rng.random() < self.room_rate:
            room = self.rooms.draw(rng)

        dry, lead = self._speech(rng, chosen, speeds, 0 if room is None else room.shape[-1])
        inside = dry[:, lead:]  # [S, T]; what comes before is needed for the reverberation
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
        return shifted(parts, self.augmentation.draw_shifts(rng, self.num_spks, self.sample_rate))

    def _speech(self, rng, chosen, speeds, tail):
        """[S, lead + T]: a segment of each utterance, and up to ``tail`` samples of what was said before it."""
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
            # As many whole periods of the resampling before the segment as the tail needs, and as there are.
            periods = min(start // resampler.down, -(-tail // resampler.up))
            lead = periods * resampler.up
            begin = start - periods * resampler.down
            signal = resampler.read(self.speech.paths[number], total, begin, lead + length)[-(tail + length) :]
            signals[row, tail + length - len(signal) :] = signal
        return signals, tail

    def _noise(self, rng, length):
        """[T], or None; and its loudness in LUFS, or None where that isn't known without measuring it."""
        if self.noise is None or rng.random() >= self.noise_rate:
            return None, None
        number = self.noise.draw(rng)
        speed = self.augmentation.draw_speeds(rng, 1)[0] if self.augmentation.perturb_noise else 1.0
        resampler = SpeedResampler.between(self.noise.sample_rates[number], self.sample_rate, speed)
        total = self.noise.num_samples[number]
        available = resampler.num_out(total)
        if available >= length:
            start = int(rng.integers(total - resampler.num_in(length) + 1))
            # At another rate or speed the filters would weight other frequencies, and the sums be wrong.
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
