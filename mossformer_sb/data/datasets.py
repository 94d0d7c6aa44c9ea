"""Mixtures of a manifest as examples and batches: crops, padding, and augmentation.

Shapes: B batch, T samples, S sources.
"""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.augmentation import shift
from mossformer_sb.data.manifests import check_lengths, fingerprint, mixtures_are_sums, read_manifest
from mossformer_sb.data.resampling import SpeedResampler
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import atomic_write, expanded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from mossformer_sb.data.augmentation import Augmentation


@dataclass
class Mixture:
    """One example of a dataset."""

    id: str
    mixture: torch.Tensor  # [T]
    sources: torch.Tensor  # [T, S]


@dataclass
class SeparationBatch:
    """A padded batch."""

    ids: list
    mixture: torch.Tensor  # [B, T]
    sources: torch.Tensor  # [B, T, S]
    lengths: torch.Tensor  # [B], int64, samples; always on the CPU
    is_padded: bool

    @classmethod
    def collate(cls, items: Sequence[Mixture]) -> SeparationBatch:
        """Zero-pad a list of `Mixture` to the longest.

        Example
        -------
        >>> items = [Mixture(str(n), torch.ones(n), torch.ones(n, 2)) for n in (3, 5)]
        >>> SeparationBatch.collate(items).lengths
        tensor([3, 5])
        """
        lengths = torch.tensor([len(item.mixture) for item in items])
        return cls(
            ids=[item.id for item in items],
            mixture=pad_sequence([item.mixture for item in items], batch_first=True),
            sources=pad_sequence([item.sources for item in items], batch_first=True),
            lengths=lengths,
            is_padded=bool((lengths != lengths[0]).any()),
        )

    @property
    def padded_lengths(self) -> torch.Tensor | None:
        """``lengths`` if any item is padded, else None: the network is faster without."""
        return self.lengths if self.is_padded else None

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, chosen: torch.Tensor) -> SeparationBatch:
        """A new batch of the items for which a mask [B] of booleans is true, with the same padding."""
        chosen = chosen.cpu()
        device_mask = chosen.to(self.mixture.device)
        return SeparationBatch(
            ids=[item_id for item_id, is_chosen in zip(self.ids, chosen.tolist(), strict=True) if is_chosen],
            mixture=self.mixture[device_mask],
            sources=self.sources[device_mask],
            lengths=self.lengths[chosen],
            is_padded=self.is_padded,
        )

    def to(self, device: str | torch.device) -> SeparationBatch:
        """Move the signals, in place as with SpeechBrain's batches."""
        self.mixture = self.mixture.to(device, non_blocking=True)
        self.sources = self.sources.to(device, non_blocking=True)
        return self

    def pin_memory(self) -> SeparationBatch:
        """Pin the signals, in place."""
        self.mixture = self.mixture.pin_memory()
        self.sources = self.sources.pin_memory()
        return self


class EpochDataset(Dataset):
    """A dataset whose examples are pure functions of (seed, epoch, index).

    They do not depend on the worker, the rank, or a resumption.

    Arguments
    ---------
    seed : int
        Seed of all random numbers.

    Example
    -------
    >>> data = EpochDataset(seed=1)
    >>> first = data.rng(7).random()
    >>> data.set_epoch(2)
    >>> first == EpochDataset(seed=1).rng(7).random(), first == data.rng(7).random()
    (True, False)
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        # In shared memory, so that persistent workers see the next epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next examples."""
        self._epoch.fill_(epoch)

    def rng(self, index: int) -> np.random.Generator:
        """Random generator of an example."""
        return np.random.default_rng((self.seed, int(self._epoch), index))

    @property
    def grouping(self) -> str:
        """The settings by which `length_groups` are drawn; "none" without groups."""
        return "none"

    def length_groups(self) -> np.ndarray | None:
        """Group of each example of the epoch, [N]: those of one group share batches. Default: None, all are alike."""
        return None


class MixtureDataset(EpochDataset):
    """The mixtures of a manifest, complete or as random crops.

    Arguments
    ---------
    manifest : str or Path
        See `read_manifest`.
    data_root : str or Path
        Value of ``$data_root``.
    num_spks : int
        S.
    sample_rate : int
        Required sample rate of the recordings in Hz.
    segment : float, optional
        Length of the crops in seconds; shorter recordings are not cropped. Default: no cropping.
    seed : int
        Seed of the crops.
    trim : int
        Number of samples by which a file may be longer than its row says; they are not used.

    Raises
    ------
    InputError
        If the manifest conflicts with the other arguments, or its lengths differ from those of the files.
    """

    def __init__(
        self,
        manifest: str | Path,
        data_root: str | Path,
        num_spks: int = 2,
        sample_rate: int = 8000,
        segment: float | None = None,
        seed: int = 0,
        trim: int = 0,
    ) -> None:
        super().__init__(seed)
        if not isinstance(trim, int) or trim < 0:
            raise InputError(f"trim is {trim!r}: give a number of samples, 0 or more.")
        self.table = read_manifest(manifest, data_root, num_spks)
        self.manifest, self.data_root = manifest, data_root
        rates = sorted(set(self.table["sample_rate"]))
        if rates != [sample_rate]:
            raise InputError(
                f"{manifest}: recordings have {rates} Hz, but sample_rate is {sample_rate}.{_rate_advice(rates)}"
            )
        if segment is not None and round(segment * sample_rate) < 1:
            raise InputError(
                f"segment must be a length in seconds greater than zero, or null for none; found {segment}."
            )
        check_lengths(manifest, self.table, trim)
        self.num_spks = num_spks
        self.sample_rate = sample_rate
        self.segment = None if segment is None else round(segment * sample_rate)
        self.trim = trim

    @functools.cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the manifest and its recordings, see `fingerprint`."""
        return fingerprint(self.table)

    def write_manifest(self, path: str | Path) -> None:
        """Write a copy of the manifest."""
        with atomic_write(path) as temporary:
            shutil.copyfile(expanded(self.manifest), temporary)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Mixture:
        row = self.table.iloc[index]
        total = int(row["num_samples"])
        start, num_samples = self._crop(index, total)
        paths = [row["mix_wav"]] + [row[f"s{i + 1}_wav"] for i in range(self.num_spks)]
        mixture, *sources = (torch.from_numpy(self._read(path, start, num_samples, total)) for path in paths)
        return Mixture(row["ID"], mixture, torch.stack(sources, dim=-1))

    def _read(self, path, start, num_samples, total):
        """[T]"""
        samples, rate = read_audio(path, start, num_samples, total, self.trim)
        self._check_format(path, samples, rate)
        return samples

    def _check_format(self, path, samples, rate):
        """Refuse a file that the manifest describes wrongly."""
        if samples.ndim > 1 or rate != self.sample_rate:
            channels = 1 if samples.ndim == 1 else samples.shape[1]
            raise InputError(
                f"{path}: has {channels} channels at {rate} Hz; {self.manifest} needs one at {self.sample_rate} Hz. "
                f"Convert it, or correct the manifest."
            )

    def _crop(self, index, total):
        """First sample and number of samples of a crop."""
        if self.segment is None or total <= self.segment:
            return 0, total
        return int(self.rng(index).integers(total - self.segment + 1)), self.segment


def _rate_advice(rates):
    return f" Give --sample_rate {rates[0]}." if len(rates) == 1 else " All recordings need one rate."


@dataclass(frozen=True)
class Parts:
    """The components of a mixture. Without reverberation, targets and images are the same."""

    id: str
    targets: np.ndarray  # [S, T], float32: training targets of a separator
    images: np.ndarray  # [S, T], float32: the speakers in the mixture
    noise: np.ndarray  # [T], float32; zero without noise
    speakers: tuple

    @property
    def mixture(self) -> np.ndarray:
        """[T]: the sum of the images and the noise."""
        return self.images.sum(axis=0) + self.noise


def shifted(parts: Parts, shifts: Sequence[int]) -> Parts:
    """The parts with each speaker's target and image shifted in time.

    Arguments
    ---------
    parts : Parts
    shifts : sequence of int
        [S], samples.

    Returns
    -------
    Parts
    """
    if not any(shifts):
        return parts
    targets = np.stack([shift(signal, amount) for signal, amount in zip(parts.targets, shifts, strict=True)])
    images = np.stack([shift(signal, amount) for signal, amount in zip(parts.images, shifts, strict=True)])
    return replace(parts, targets=targets, images=images)


class AugmentedMixtureDataset(MixtureDataset):
    """The mixtures of a manifest, with a random speed, shift or level of each speaker in each epoch.

    If mixtures are sums of sources and noise, each source is changed separately, and they are summed again. If not, as
    in WHAMR!, whose mixtures are reverberant and whose sources are not, the mixture and all its sources get the same
    speed and shift. The preparation stores which is the case, in a file next to the manifest.

    Arguments
    ---------
    manifest, data_root, **options
        As for `MixtureDataset`.
    augmentation : Augmentation
        Random changes.

    Raises
    ------
    InputError
        If level changes are configured for mixtures that are not sums; and as for `MixtureDataset`.
    """

    def __init__(self, manifest: str | Path, data_root: str | Path, augmentation: Augmentation, **options: Any) -> None:
        super().__init__(manifest, data_root, **options)
        self.mixture_is_sum = mixtures_are_sums(manifest)
        if not self.mixture_is_sum and (augmentation.level_imbalance or augmentation.single_speaker_rate):
            raise InputError(
                f"{manifest}: its mixtures are not the sum of its sources, so level_imbalance and single_speaker_rate "
                "can't change them: set both to 0, or use dynamic_mixing."
            )
        self.augmentation = augmentation

    def __getitem__(self, index: int) -> Mixture:
        row = self.table.iloc[index]
        if self.mixture_is_sum:
            parts = self.draw(index)
            return Mixture(parts.id, torch.from_numpy(parts.mixture), torch.from_numpy(parts.targets.T))
        rng = self.rng(index)
        speeds = np.full(self.num_spks + 1, self.augmentation.draw_speeds(rng, 1)[0])
        signals = self._read(rng, row, ["mix_wav", *self._source_columns], speeds)
        shifts = self.augmentation.draw_shifts(rng, 1, self.sample_rate, signals.shape[-1])
        mixture, *sources = torch.from_numpy(shift(signals, shifts[0]))
        return Mixture(row["ID"], mixture, torch.stack(sources, dim=-1))

    def draw(self, index: int) -> Parts:
        """Draw the `mossformer_sb.data.datasets.Parts` of an example, if mixtures are sums."""
        row, rng = self.table.iloc[index], self.rng(index)
        augmentation, num_spks = self.augmentation, self.num_spks
        speeds = augmentation.draw_speeds(rng, num_spks + 1)
        if not augmentation.perturb_noise:
            speeds[-1] = 1.0
        gains = 10 ** (augmentation.draw_offsets(rng, num_spks) / 20)
        has_noise = "noise_wav" in row
        columns = [*self._source_columns, *(["noise_wav"] if has_noise else [])]
        signals = self._read(rng, row, columns, speeds)
        sources = (gains[:, None] * signals[:num_spks]).astype(np.float32)
        parts = Parts(
            id=row["ID"],
            targets=sources,
            images=sources,
            noise=signals[-1] if has_noise else np.zeros_like(sources[0]),
            speakers=tuple(row.get(f"s{number + 1}_spk") for number in range(num_spks)),
        )
        return shifted(parts, augmentation.draw_shifts(rng, num_spks, self.sample_rate, sources.shape[-1]))

    @property
    def _source_columns(self):
        return [f"s{number + 1}_wav" for number in range(self.num_spks)]

    def _read(self, rng, row, columns, speeds):
        """[columns, T]: the same segment of each file."""
        total = int(row["num_samples"])
        resamplers = [SpeedResampler.between(1, 1, speed) for speed in speeds[: len(columns)]]
        length = min(resampler.num_out(total) for resampler in resamplers)
        length = length if self.segment is None else min(length, self.segment)
        start = int(rng.integers(total - max(resampler.num_in(length) for resampler in resamplers) + 1))
        return np.stack(
            [
                resampler.read(row[column], total, start, length, self.trim, self._check_format)
                for column, resampler in zip(columns, resamplers, strict=True)
            ]
        )
