"""One way to prepare any corpus, for experiments that serve all of them.

The corpus's name chooses what prepares it, and the manifests get names that don't depend on it: `train.csv`,
`valid.csv` and `test.csv`.
"""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from data_prep.choices import SPLITS, check_choice
from data_prep.corpora.custom import prepare_custom
from data_prep.corpora.librimix import prepare_librimix
from data_prep.corpora.many_speakers import prepare_many_speakers
from data_prep.corpora.mini import prepare_mini
from data_prep.corpora.wham import prepare_wham
from data_prep.corpora.whamr import prepare_whamr
from data_prep.corpora.wsj0mix import prepare_wsj0mix
from mossformer_sb.errors import InputError

NAMES = ("train", "valid", "test")


class Preparation(NamedTuple):
    """What prepares a corpus, and its task where it has but one."""

    prepare: Callable
    only_task: str | None = None


CORPORA = {
    "wsj0mix": Preparation(prepare_wsj0mix, only_task="separate_clean"),
    "wham": Preparation(prepare_wham),
    "whamr": Preparation(prepare_whamr),
    "librimix": Preparation(prepare_librimix),
    "custom": Preparation(prepare_custom, only_task="separate"),
    "mini": Preparation(prepare_mini),
    "many_speakers": Preparation(prepare_many_speakers, only_task="separate_mixed"),
}


def prepare_corpus(corpus, data_folder, output_folder, num_spks, sample_rate, task, train_split=None, **options):
    """Checks a corpus and writes its manifests, `train.csv`, `valid.csv` and `test.csv`.

    Arguments
    ---------
    corpus : str
        One of `CORPORA`.
    data_folder : str
        Folder of the corpus.
    output_folder : str
        Folder for the manifests, created if absent.
    num_spks : int
        Sources of each mixture. Corpora that can have one number only leave it to the dataset to compare.
    sample_rate : int
        Hz.
    task : str
        As the corpus's own preparation has it; "separate_clean" for "wsj0mix", "separate" for "custom" and
        "separate_mixed" for "many_speakers", which have no other.
    train_split : str, optional
        Of "librimix": "train-100", the default, or "train-360".
    **options
        Of the corpus's own preparation; None stands for its default.

    Returns
    -------
    manifests : dict
        For "train", "valid" and "test", the path of the manifest.

    Raises
    ------
    InputError
        If the corpus has not such a task or option; or as the corpus's own preparation.
    """
    check_choice("corpus", corpus, CORPORA)
    prepare, only_task = CORPORA[corpus]
    accepted = inspect.signature(prepare).parameters
    given = {key: value for key, value in options.items() if value is not None}
    if train_split is not None:
        given["train_split"] = train_split
    known = sorted({*accepted, *(["train_split"] if corpus == "librimix" else [])} & {*options, "train_split"})
    for key in given:
        if key not in known:
            raise InputError(
                f"{key} is {given[key]!r}, but corpus '{corpus}' has no such option: leave it null. The corpus has "
                f"{', '.join(known)}."
            )

    splits = SPLITS
    if corpus == "librimix":
        splits = given["splits"] = (given.pop("train_split", "train-100"), "dev", "test")
    if only_task is None:
        given["task"] = task
    elif task != only_task:
        raise InputError(f"task is '{task}', but corpus '{corpus}' has only one: give --task {only_task}.")
    if "num_spks" in accepted:
        given["num_spks"] = num_spks
    manifests = prepare(data_folder, output_folder, sample_rate=sample_rate, **given)
    return {name: _rename(manifests[split], name) for name, split in zip(NAMES, splits, strict=True)}


def _rename(manifest, name):
    """Gives a manifest, and what lies beside it, another name in the same folder."""
    manifest = Path(manifest)
    renamed = manifest.with_name(f"{name}.csv")
    os.replace(manifest.with_suffix(".json"), renamed.with_suffix(".json"))
    os.replace(manifest, renamed)
    return str(renamed)
