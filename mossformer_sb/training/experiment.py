"""What is the same in every experiment: its datasets and loaders, and what counts epochs, logs and saves checkpoints.

An experiment's YAML has the values that somebody may want to change. What never varies from one to another is built
here from them.
"""

from pathlib import Path

from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import FileTrainLogger

from mossformer_sb.data.augmentation import Augmentation
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.data.source_pools import NOISE_TABLE, SPEECH_TABLE
from mossformer_sb.data.training_data import training_data
from mossformer_sb.training.checkpoints import Checkpointer

# Manifests of the three datasets, in the manifest_folder.
MANIFESTS = {"train": "train.csv", "valid": "valid.csv", "test": "test.csv"}
TRAIN_LOG = "train_log.txt"
LOG_DIGITS = 4
AUGMENTATION = (
    "speed_perturb",
    "speed_range",
    "perturb_noise",
    "random_shift",
    "level_imbalance",
    "single_speaker_rate",
)
# What an experiment may have beside the keys that all have.
DYNAMIC_MIXING = (
    "rir_folder",
    "target",
    "level_distribution",
    "min_seconds",
    "room_rate",
    "noise_rate",
    "mixtures_per_epoch",
)


def complete(hparams):
    """Add the epoch counter, the log of epochs and the checkpointer to what a YAML file describes.

    Arguments
    ---------
    hparams : dict
        Of the experiment. ``modules``, ``number_of_epochs``, ``output_folder`` and ``save_folder`` are read.

    Returns
    -------
    hparams : dict
        The same, with ``epoch_counter``, ``train_logger`` and ``checkpointer``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> hparams = {"modules": {}, "number_of_epochs": 3, "output_folder": folder, "save_folder": folder / "save"}
    >>> complete(hparams)["epoch_counter"].limit
    3
    """
    counter = EpochCounter(limit=hparams["number_of_epochs"])
    recoverables = {**hparams["modules"], "epoch_counter": counter}
    hparams["epoch_counter"] = counter
    hparams["train_logger"] = FileTrainLogger(
        save_file=str(Path(hparams["output_folder"]) / TRAIN_LOG), precision=LOG_DIGITS
    )
    hparams["checkpointer"] = Checkpointer(checkpoints_dir=hparams["save_folder"], recoverables=recoverables)
    return hparams


def manifest_path(hparams, name):
    """The manifest of one of an experiment's datasets.

    Example
    -------
    >>> manifest_path({"manifest_folder": "manifests"}, "valid").as_posix()
    'manifests/valid.csv'
    """
    return Path(hparams["manifest_folder"]) / MANIFESTS[name]


def build_dataset(hparams, name):
    """Build one of an experiment's datasets.

    Arguments
    ---------
    hparams : dict
        Of the experiment.
    name : str
        "train", whose mixtures are cropped, augmented, and drawn on the fly with ``dynamic_mixing``; "valid" or "test",
        whose mixtures are whole and as the corpus has them.

    Returns
    -------
    MixtureDataset, AugmentedMixtureDataset or DynamicMixtureDataset

    Raises
    ------
    InputError
        As these do.
    """
    common = {
        "manifest": manifest_path(hparams, name),
        "data_root": hparams["data_folder"],
        "num_spks": hparams["num_spks"],
        "sample_rate": hparams["sample_rate"],
    }
    common["trim"] = hparams.get("trim") or 0
    if name != "train":
        return MixtureDataset(**common)
    folder = Path(hparams["manifest_folder"])
    return training_data(
        **common,
        segment=hparams["segment"],
        seed=hparams["seed"],
        augmentation=Augmentation(**{key: hparams[key] for key in AUGMENTATION}),
        dynamic_mixing=hparams["dynamic_mixing"],
        speech_table=folder / SPEECH_TABLE,
        noise_table=folder / NOISE_TABLE,
        **{key: hparams[key] for key in DYNAMIC_MIXING if key in hparams},
    )


def loader_options(hparams, name):
    """Options of the data loader for one of an experiment's datasets.

    Example
    -------
    >>> loader_options({"batch_size": 4, "valid_batch_size": 1, "num_workers": 2}, "train")
    {'batch_size': 4, 'num_workers': 2, 'shuffle': True}
    """
    if name == "train":
        return {"batch_size": hparams["batch_size"], "num_workers": hparams["num_workers"], "shuffle": True}
    return {"batch_size": hparams["valid_batch_size"], "num_workers": hparams["num_workers"]}
