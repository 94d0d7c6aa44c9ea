"""The training set of an experiment: mixtures as they lie on the disk, augmented, or made anew in each epoch."""

import numpy as np
import torch

from mossformer_sb.data.augmentation import Augmentation, shift
from mossformer_sb.data.dataio import Mixture, MixtureDataset, mixtures_are_sums
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset, Parts, shifted
from mossformer_sb.data.stretches import Stretching
from mossformer_sb.errors import InputError


def training_data(
    manifest,
    data_root,
    num_spks=2,
    sample_rate=8000,
    segment=None,
    seed=0,
    augmentation=None,
    dynamic_mixing=False,
    **mixing,
):
    """Build the training set that the keys of an experiment describe.

    Arguments
    ---------
    manifest, data_root, num_spks, sample_rate, segment, seed
        As for `mossformer_sb.data.dataio.MixtureDataset`.
    augmentation : Augmentation, optional
        Default: none.
    dynamic_mixing : bool
        Whether mixtures are made anew in each epoch.
    **mixing
        Further arguments of `DynamicMixtureDataset`, without effect if ``dynamic_mixing`` is False.

    Returns
    -------
    MixtureDataset, AugmentedMixtureDataset or DynamicMixtureDataset

    Raises
    ------
    InputError
        As these do.
    """
    common = {"num_spks": num_spks, "sample_rate": sample_rate, "segment": segment, "seed": seed}
    augmentation = augmentation or Augmentation()
    if dynamic_mixing:
        return DynamicMixtureDataset(manifest, data_root, augmentation=augmentation, **common, **mixing)
    if augmentation.is_active:
        return AugmentedMixtureDataset(manifest, data_root, augmentation, **common)
    return MixtureDataset(manifest, data_root, **common)


class AugmentedMixtureDataset(MixtureDataset):
    """The mixtures of a manifest, with another speed, time or level for each speaker in each epoch.

    Where a mixture is the sum of its sources and noise, each source is changed by itself, and they are summed up
    again. Where it is not, as in WHAMR!, whose mixtures are reverberant and whose sources are not, the mixture and all
    its sources get one and the same speed and shift. The preparation notes beside the manifest which is the case.

    Arguments
    ---------
    manifest, data_root, **options
        As for `MixtureDataset`.
    augmentation : Augmentation
        What is changed.

    Raises
    ------
    InputError
        If levels shall change in mixtures that are no sum, and as for `MixtureDataset`.
    """

    def __init__(self, manifest, data_root, augmentation, **options):
        super().__init__(manifest, data_root, **options)
        self.mixture_is_sum = mixtures_are_sums(manifest)
        if not self.mixture_is_sum and (augmentation.level_imbalance or augmentation.single_speaker_rate):
            raise InputError(
                f"{manifest}: its mixtures are not the sum of its sources, so level_imbalance and single_speaker_rate "
                "can't change them: set both to 0, or use dynamic_mixing."
            )
        self.augmentation = augmentation

    def __getitem__(self, index):
        row = self.table.iloc[index]
        if self.mixture_is_sum:
            parts = self.draw(index)
            return Mixture(parts.id, torch.from_numpy(parts.mixture), torch.from_numpy(parts.targets.T))
        rng = self.rng(index)
        speeds = np.full(self.num_spks + 1, self.augmentation.draw_speeds(rng, 1)[0])
        signals = self._read(rng, row, ["mix_wav", *self._source_columns], speeds)
        mixture, *sources = torch.from_numpy(shift(signals, self.augmentation.draw_shifts(rng, 1, self.sample_rate)[0]))
        return Mixture(row["ID"], mixture, torch.stack(sources, dim=-1))

    def draw(self, index):
        """Draw the `mossformer_sb.data.dynamic_mixing.Parts` of an item, where mixtures are sums."""
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
        return shifted(parts, augmentation.draw_shifts(rng, num_spks, self.sample_rate))

    @property
    def _source_columns(self):
        return [f"s{number + 1}_wav" for number in range(self.num_spks)]

    def _read(self, rng, row, columns, speeds):
        """[columns, T]: one stretch of each file, which all begin at the same time."""
        total = int(row["num_samples"])
        stretchings = [Stretching.between(1, 1, speed) for speed in speeds[: len(columns)]]
        length = min(stretching.num_out(total) for stretching in stretchings)
        length = length if self.segment is None else min(length, self.segment)
        start = int(rng.integers(total - max(stretching.num_in(length) for stretching in stretchings) + 1))
        return np.stack(
            [
                stretching.read(row[column], total, start, length)
                for column, stretching in zip(columns, stretchings, strict=True)
            ]
        )
