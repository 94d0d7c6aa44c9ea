"""The training set of an experiment: static mixtures, augmented ones, or mixtures generated on the fly."""

from mossformer_sb.data.augmentation import Augmentation
from mossformer_sb.data.datasets import AugmentedMixtureDataset, MixtureDataset
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset


def training_data(
    manifest,
    data_root,
    num_spks=2,
    sample_rate=8000,
    segment=None,
    seed=0,
    augmentation=None,
    trim=0,
    dynamic_mixing=False,
    **mixing,
):
    """Build the training set that the keys of an experiment describe.

    Arguments
    ---------
    manifest, data_root, num_spks, sample_rate, segment, seed
        As for `mossformer_sb.data.datasets.MixtureDataset`.
    augmentation : Augmentation, optional
        Default: none.
    trim : int
        As for `mossformer_sb.data.datasets.MixtureDataset`.
    dynamic_mixing : bool
        Whether mixtures are generated on the fly, different ones in each epoch.
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
        return AugmentedMixtureDataset(manifest, data_root, augmentation, trim=trim, **common)
    return MixtureDataset(manifest, data_root, trim=trim, **common)
