"""Manifests of MiniLibriMix (Cosentino et al., 2020), the small part of Libri2Mix that Asteroid's tests use.

    DATA_FOLDER/[MiniLibriMix/]{train,val}/{mix_both,mix_clean,s1,s2,noise}/ID.wav

It has no test set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.choices import check_choice
from data_prep.corpora.librimix import TASKS, librispeech_speakers
from data_prep.manifests.folders import CorpusLayout, existing_folder, list_mixtures
from data_prep.manifests.manifest import write_manifests
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

SPLITS = ("train", "val")


def prepare_minilibrimix(
    data_folder: str,
    output_folder: str,
    sample_rate: int = 8000,
    task: str = "separate_clean",
    splits: Sequence[str] = SPLITS,
    check_samples: bool = False,
    on_invalid: str = "error",
    trim: int = 0,
) -> dict:
    """Checks MiniLibriMix and writes its manifests, `minilibrimix_{split}.csv`.

    Arguments
    ---------
    data_folder : str
        The folder `MiniLibriMix`, or the one that holds it.
    output_folder : str
        Folder for the manifests, created if absent.
    sample_rate : int
        Sample rate of the files in Hz: 8000 as published.
    task : str
        "separate_clean" or "separate_noisy".
    splits : sequence of str
        Some of "train" and "val".
    check_samples, on_invalid, trim
        As for `data_prep.manifests.manifest.write_manifests`.

    Returns
    -------
    manifests : dict
        For each split, the path of its manifest.

    Raises
    ------
    InputError
        If an argument, a folder or a file is invalid.
    """
    for split in splits:
        check_choice("split", split, SPLITS)
    check_choice("task", task, ("separate_clean", "separate_noisy"))
    if not isinstance(sample_rate, int) or sample_rate < 1:
        raise InputError(f"sample_rate is {sample_rate}: give a whole number of Hz.")
    mixture, _, noisy = TASKS[task]
    columns = {"mix_wav": mixture, "s1_wav": "s1", "s2_wav": "s2"} | ({"noise_wav": "noise"} if noisy else {})
    top = "MiniLibriMix/" if (existing_folder(data_folder) / "MiniLibriMix").is_dir() else ""
    corpus = CorpusLayout(
        name="MiniLibriMix",
        prefix="minilibrimix",
        sample_rate=sample_rate,
        folders={split: {column: f"{top}{split}/{folder}" for column, folder in columns.items()} for split in splits},
        speakers=librispeech_speakers,
        train=("train",),
        test="",
    )
    return write_manifests(list_mixtures(corpus, data_folder), output_folder, check_samples, on_invalid, trim)
