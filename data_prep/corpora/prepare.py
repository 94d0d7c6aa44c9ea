"""Preparation of any corpus for an experiment.

The corpus's name selects the function that prepares it. The manifests of all corpora have the same names: `train.csv`,
`valid.csv` and `test.csv`.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data_prep.choices import SPLITS, check_choice
from data_prep.corpora.custom import prepare_custom
from data_prep.corpora.librimix import prepare_librimix
from data_prep.corpora.librimix_rooms import prepare_librimix_rooms
from data_prep.corpora.many_speakers import prepare_many_speakers
from data_prep.corpora.mini import prepare_mini
from data_prep.corpora.minilibrimix import prepare_minilibrimix
from data_prep.corpora.wham import prepare_wham
from data_prep.corpora.whamr import prepare_whamr
from data_prep.corpora.wsj0mix import prepare_wsj0mix
from data_prep.manifests.corpus_index import MissingSplits
from data_prep.manifests.source_tables import prepare_mixing
from mossformer_sb.errors import InputError
from mossformer_sb.training.experiment import MANIFESTS, manifest_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

logger = logging.getLogger(__name__)

# Keys of an experiment that are options of corpora with the same name.
OPTIONS = (
    "mode",
    "target",
    "train_split",
    "csv_file",
    "noise",
    "mixture_is_sum",
    "clips_folder",
    "recorded_noise_folder",
    "librispeech_folder",
    "list_file",
    "num_train",
    "num_valid",
    "num_test",
    "num_noises",
    "check_samples",
    "on_invalid",
    "trim",
)
# Keys for a corpus's seed, which is separate from that of the training.
CORPUS_KEYS = {"corpus_seed": "seed", "corpus_rooms": "num_rooms"}
# Keys of dynamic mixing.
MIXING_OPTIONS = (
    "dynamic_mixing",
    "task",
    "num_spks",
    "sample_rate",
    "speech_folder",
    "speech_layout",
    "speaker_pattern",
    "noise_folder",
    "similar_pitch_rate",
    "rir_folder",
    "num_rooms",
    "rooms_csv",
    "seed",
    "target",
)


class Preparation(NamedTuple):
    """The function that prepares a corpus, its only task or None, and its train, valid and test splits."""

    prepare: Callable
    only_task: str | None = None
    splits: tuple = SPLITS


CORPORA = {
    "wsj0mix": Preparation(prepare_wsj0mix, only_task="separate_clean"),
    "wham": Preparation(prepare_wham),
    "whamr": Preparation(prepare_whamr),
    "librimix": Preparation(prepare_librimix, splits=("train-100", "dev", "test")),
    "minilibrimix": Preparation(prepare_minilibrimix, splits=("train", "val")),  # has no test set
    "librimix_rooms": Preparation(prepare_librimix_rooms),
    "custom": Preparation(prepare_custom, only_task="separate"),
    "mini": Preparation(prepare_mini),
    "many_speakers": Preparation(prepare_many_speakers, only_task="separate_mixed"),
}


def prepare_experiment(hparams: Mapping, test_only: bool = False) -> None:
    """Checks the corpus of an experiment, and writes its manifests and the tables for dynamic mixing.

    Arguments
    ---------
    hparams : Mapping
        Keys of the experiment.
    test_only : bool
        Whether there is no training: then nothing is prepared for dynamic mixing.

    Raises
    ------
    InputError
        As `prepare_corpus` and `data_prep.manifests.source_tables.prepare_mixing`.
    """
    own = {argument: hparams[key] for key, argument in CORPUS_KEYS.items() if key in hparams}
    prepare_corpus(
        corpus=hparams["corpus"],
        data_folder=hparams["data_folder"],
        output_folder=hparams["manifest_folder"],
        num_spks=hparams["num_spks"],
        sample_rate=hparams["sample_rate"],
        task=hparams["task"],
        test_needed=test_only,
        **{key: hparams[key] for key in OPTIONS if key in hparams},
        **own,
    )
    if not test_only:
        prepare_mixing(
            manifest=manifest_path(hparams, "train"),
            data_root=hparams["data_folder"],
            output_folder=hparams["manifest_folder"],
            test_manifest=manifest_path(hparams, "test"),
            **{key: hparams[key] for key in MIXING_OPTIONS if key in hparams} | own,
        )


def prepare_corpus(
    corpus: str,
    data_folder: str,
    output_folder: str,
    num_spks: int,
    sample_rate: int,
    task: str,
    train_split: str | None = None,
    test_needed: bool = False,
    **options: Any,
) -> dict:
    """Checks a corpus and writes its manifests, `train.csv`, `valid.csv` and `test.csv`.

    A corpus without a test set gets the first two, and a warning.

    Arguments
    ---------
    corpus : str
        One of `CORPORA`.
    data_folder : str
        Folder of the corpus.
    output_folder : str
        Folder for the manifests, created if absent.
    num_spks : int
        Number of sources per mixture. For corpora with only one possible number, the dataset checks it.
    sample_rate : int
        Sample rate in Hz.
    task : str
        A task of the corpus's own preparation; "separate_clean" for "wsj0mix", "separate" for "custom" and
        "separate_mixed" for "many_speakers", their only ones.
    train_split : str, optional
        Training split of "librimix": "train-100", the default, or "train-360".
    test_needed : bool
        Whether only the test set is needed: a missing one is an error, and the other splits may be missing.
    **options
        Options of the corpus's own preparation; None means the default.

    Returns
    -------
    manifests : dict
        For "train", "valid" and, if there is a test set, "test", the path of the manifest.

    Raises
    ------
    InputError
        If the corpus does not have the task or option; or as in the corpus's own preparation.
    """
    check_choice("corpus", corpus, CORPORA)
    prepare, only_task, splits = CORPORA[corpus]
    accepted = inspect.signature(prepare).parameters
    given = {key: value for key, value in options.items() if value is not None}
    if train_split is not None:
        given["train_split"] = train_split
    known = sorted({*accepted, *(["train_split"] if corpus == "librimix" else [])} & {*options, "train_split"})
    for key in given:
        if key not in known:
            raise InputError(
                f"{key} is {given[key]!r}, but corpus '{corpus}' has no such option: set it to null. The corpus has "
                f"{', '.join(known)}."
            )

    if corpus == "librimix":
        splits = (given.pop("train_split", splits[0]), *splits[1:])
    if only_task is None:
        given["task"] = task
    elif task != only_task:
        raise InputError(f"task is '{task}', but corpus '{corpus}' has only one: give --task {only_task}.")
    if task.startswith("enhance_single") and num_spks != 1:
        raise InputError(f"task '{task}' has one speaker, and num_spks is {num_spks}: give --num_spks 1 with it.")
    if "num_spks" in accepted:
        given["num_spks"] = num_spks
    arguments = {"sample_rate": sample_rate, **given}
    manifests = _prepare_existing_splits(prepare, data_folder, output_folder, splits, test_needed, arguments)
    names = dict(zip(MANIFESTS, splits, strict=False))
    for absent in (name for name in MANIFESTS if names.get(name) not in manifests):
        for ending in (".csv", ".json"):  # of an earlier preparation
            (Path(output_folder) / MANIFESTS[absent]).with_suffix(ending).unlink(missing_ok=True)
    return {name: _rename(manifests[split], name) for name, split in names.items() if split in manifests}


def _prepare_existing_splits(prepare, data_folder, output_folder, splits, test_needed, arguments):
    """Calls the corpus's preparation, without the test set if only that is missing, or for it alone if it suffices."""
    takes_splits = "splits" in inspect.signature(prepare).parameters
    has_test = len(splits) == len(MANIFESTS)
    try:
        if not has_test and test_needed:
            raise InputError("This corpus has no test set: evaluate on another one, with --corpus and --data_folder.")
        given = {"splits": splits} if takes_splits else {}
        manifests = prepare(data_folder, output_folder, **given, **arguments)
    except MissingSplits as error:
        if test_needed and splits[-1] not in error.splits:
            return prepare(data_folder, output_folder, splits=splits[-1:], **arguments)
        if test_needed or not has_test or error.splits != (splits[-1],):
            raise
        logger.warning("%s", error)
        has_test = False
        manifests = prepare(data_folder, output_folder, splits=splits[:-1], **arguments)
    if not has_test:
        logger.warning(
            "There is no test set: training continues without one, and the model is not evaluated at its end."
        )
    return manifests


def _rename(manifest, name):
    """Renames a manifest and the files that belong to it."""
    manifest = Path(manifest)
    renamed = manifest.with_name(MANIFESTS[name])
    os.replace(manifest.with_suffix(".json"), renamed.with_suffix(".json"))
    os.replace(manifest, renamed)
    return str(renamed)
