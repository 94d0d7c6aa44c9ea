"""Manifests of custom data: any number of speakers, with or without noise, in any format that soundfile reads.

From folders, one per kind of signal, in which the files of one mixture have the same name, or one per mixture;
extensions may differ:

    DATA_FOLDER/{tr,cv,tt}/{mix,s1,…,sN[,noise]}/ID.{wav,flac,ogg,…}
    DATA_FOLDER/{tr,cv,tt}/ID/{mix,s1,…,sN[,noise]}.{wav,flac,ogg,…}

or from a CSV with one row per mixture, whose paths are absolute or relative to `data_folder`, or to the CSV's folder if
`data_folder` is not given:

    ID,split,mix_wav,s1_wav,…,sN_wav[,noise_wav][,s1_spk,…,sN_spk]

`tr` is for training, `cv` for validation, `tt` for test; `train`, `valid`, `val`, `dev` and `test` mean the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.choices import SPLITS, check_choice, check_num_spks
from data_prep.corpora.custom_folders import list_folders
from data_prep.corpora.custom_table import list_table
from data_prep.manifests.corpus_index import MIXTURE
from data_prep.manifests.manifest import write_manifests
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def prepare_custom(
    data_folder: str | None = None,
    output_folder: str | None = None,
    csv_file: str | None = None,
    num_spks: int = 2,
    sample_rate: int = 8000,
    noise: bool = False,
    mixture_is_sum: bool = True,
    splits: Sequence[str] = SPLITS,
    check_samples: bool = False,
    on_invalid: str = "error",
    trim: int = 0,
) -> dict:
    """Checks custom data and writes its manifests, `custom_{split}.csv`.

    Arguments
    ---------
    data_folder : str, optional
        Folder of the data. Optional with `csv_file`: without it, the manifests have absolute paths.
    output_folder : str
        Folder for the manifests, created if absent.
    csv_file : str, optional
        List of the files. Default: the files are in folders, see the top of this module.
    num_spks : int
        Number of sources, 1 or more.
    sample_rate : int
        Sample rate of the files in Hz.
    noise : bool
        Whether there are noise files.
    mixture_is_sum : bool
        Whether the mixtures are the sum of sources and noise, which `check_samples` checks. False for others, such as
        reverberant mixtures with dry sources.
    splits : sequence of str
        Some of "tr", "cv" and "tt".
    check_samples, on_invalid, trim
        As for `data_prep.manifests.manifest.write_manifests`.

    Returns
    -------
    manifests : dict
        For each split, the path of its manifest.

    Raises
    ------
    data_prep.manifests.corpus_index.MissingSplits
        If some splits are missing, and others exist.
    InputError
        If an argument, a folder or a file is invalid.
    """
    check_num_spks(num_spks, 1)
    if not isinstance(sample_rate, int) or sample_rate < 1:
        raise InputError(f"sample_rate is {sample_rate}: give a whole number, at least 1.")
    if output_folder is None:
        raise InputError("output_folder is missing: give a folder for the manifests.")
    if data_folder is None and csv_file is None:
        raise InputError("data_folder is missing: give the folder of the data, or a csv_file.")
    for split in splits:
        check_choice("split", split, SPLITS)
    sources = [f"s{i}" for i in range(1, num_spks + 1)] + (["noise"] if noise else [])
    columns = {MIXTURE: "mix"} | {f"{source}_wav": source for source in sources}
    if csv_file is None:
        listing = list_folders(data_folder, columns, sample_rate, mixture_is_sum, splits)
    else:
        listing = list_table(csv_file, data_folder, columns, sample_rate, mixture_is_sum, splits)
    return write_manifests(listing, output_folder, check_samples, on_invalid, trim)
