"""The training set of an experiment: static mixtures, augmented ones, or mixtures generated on the fly."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mossformer_sb.data.augmentation import Augmentation
from mossformer_sb.data.datasets import AugmentedMixtureDataset, MixtureDataset
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

logger = logging.getLogger(__name__)


def training_data(
    manifest: str | Path,
    data_root: str | Path,
    num_spks: int = 2,
    sample_rate: int = 8000,
    segment: float | None = None,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    trim: int = 0,
    dynamic_mixing: bool = False,
    **mixing: Any,
) -> MixtureDataset | AugmentedMixtureDataset | DynamicMixtureDataset:
    """Build the training set from the keys of an experiment.

    Arguments
    ---------
    manifest, data_root, num_spks, sample_rate, segment, seed
        As for `mossformer_sb.data.datasets.MixtureDataset`.
    augmentation : Augmentation, optional
        Random changes to the mixtures. Default: none.
    trim : int
        As for `mossformer_sb.data.datasets.MixtureDataset`.
    dynamic_mixing : bool
        Whether mixtures are generated on the fly, different ones in each epoch.
    **mixing
        Further arguments of `DynamicMixtureDataset`. Without ``dynamic_mixing`` they have no effect; those that would
        have one are logged.

    Returns
    -------
    MixtureDataset, AugmentedMixtureDataset or DynamicMixtureDataset

    Raises
    ------
    InputError
        As for the datasets.
    """
    common: dict[str, Any] = {"num_spks": num_spks, "sample_rate": sample_rate, "segment": segment, "seed": seed}
    augmentation = augmentation or Augmentation()
    augmentation.check_segment(segment)
    if dynamic_mixing:
        return DynamicMixtureDataset(manifest, data_root, augmentation=augmentation, **common, **mixing)
    unused = [key for key in ("turn_rate", "similar_pitch_rate", "mixtures_per_epoch") if mixing.get(key)]
    if unused:
        logger.warning("%s: no effect without dynamic_mixing (--dynamic_mixing)", ", ".join(unused))
    if augmentation.is_active:
        return AugmentedMixtureDataset(manifest, data_root, augmentation, trim=trim, **common)
    return MixtureDataset(manifest, data_root, trim=trim, **common)
