"""Manifests of WSJ0-2mix to WSJ0-5mix (Hershey et al., "Deep clustering", 2016; Nachmani et al., 2020).

The layout of the corpora:

    DATA_FOLDER/{2,3,4,5}speakers/wav{8k,16k}/{min,max}/{tr,cv,tt}/{mix,s1,…,sN}/ID.wav
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.choices import NUMS_SPKS, SPLITS, check_choice, check_versions
from data_prep.manifests.folders import CorpusLayout, list_mixtures, wsj0_speakers
from data_prep.manifests.manifest import write_manifests

if TYPE_CHECKING:
    from collections.abc import Sequence


def prepare_wsj0mix(
    data_folder: str,
    output_folder: str,
    num_spks: int = 2,
    sample_rate: int = 8000,
    mode: str = "min",
    splits: Sequence[str] = SPLITS,
    check_samples: bool = False,
    on_invalid: str = "error",
    trim: int = 0,
) -> dict:
    """Checks WSJ0-2mix, or one with more speakers, and writes its manifests, `wsj0_{num_spks}mix_{split}.csv`.

    Arguments
    ---------
    data_folder : str
        Folder that has `2speakers/`, `3speakers/` and so on: the one given to the generating scripts.
    output_folder : str
        Folder for the manifests, created if absent.
    num_spks : int
        2, 3, 4 or 5.
    sample_rate : int
        8000 or 16000.
    mode : str
        "min": mixtures are cut to the shortest utterance; "max": padded to the longest one.
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
    InputError
        If an argument, a folder or a file is invalid.
    """
    check_choice("num_spks", num_spks, NUMS_SPKS)
    check_versions([sample_rate], [mode], splits)
    top = f"{num_spks}speakers/wav{sample_rate // 1000}k/{mode}"
    columns = {"mix_wav": "mix"} | {f"s{i}_wav": f"s{i}" for i in range(1, num_spks + 1)}
    folders = {split: {column: f"{top}/{split}/{folder}" for column, folder in columns.items()} for split in splits}
    corpus = CorpusLayout(f"WSJ0-{num_spks}mix", f"wsj0_{num_spks}mix", sample_rate, folders, wsj0_speakers)
    return write_manifests(list_mixtures(corpus, data_folder), output_folder, check_samples, on_invalid, trim)
