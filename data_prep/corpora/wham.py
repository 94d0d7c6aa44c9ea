"""Manifests of WHAM! (Wichern et al., "WHAM!: Extending Speech Separation to Noisy Environments", 2019).

The layout of the corpus:

    DATA_FOLDER/wav{8k,16k}/{min,max}/{tr,cv,tt}/{mix_both,mix_clean,mix_single,s1,s2,noise}/ID.wav
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.choices import SPLITS, check_choice, check_versions
from data_prep.manifests.folders import CorpusLayout, list_mixtures, wsj0_speakers
from data_prep.manifests.manifest import write_manifests

if TYPE_CHECKING:
    from collections.abc import Sequence

# The mixture and its components.
TASKS = {
    "separate_noisy": {"mix_wav": "mix_both", "s1_wav": "s1", "s2_wav": "s2", "noise_wav": "noise"},
    "separate_clean": {"mix_wav": "mix_clean", "s1_wav": "s1", "s2_wav": "s2"},
    "enhance_single": {"mix_wav": "mix_single", "s1_wav": "s1", "noise_wav": "noise"},
}


def prepare_wham(
    data_folder: str,
    output_folder: str,
    sample_rate: int = 8000,
    mode: str = "min",
    task: str = "separate_noisy",
    splits: Sequence[str] = SPLITS,
    check_samples: bool = False,
    on_invalid: str = "error",
    trim: int = 0,
) -> dict:
    """Checks WHAM! and writes its manifests, `wham_{split}.csv`.

    Arguments
    ---------
    data_folder : str
        Folder that has `wav8k/` or `wav16k/`.
    output_folder : str
        Folder for the manifests, created if absent.
    sample_rate : int
        8000 or 16000.
    mode : str
        "min": mixtures are cut to the shorter utterance; "max": padded to the longer one.
    task : str
        "separate_noisy": two speakers and noise, `mix_both`; "separate_clean": two speakers, `mix_clean`;
        "enhance_single": one speaker and noise, `mix_single`.
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
    check_versions([sample_rate], [mode], splits)
    check_choice("task", task, TASKS)
    top = f"wav{sample_rate // 1000}k/{mode}"
    folders = {split: {column: f"{top}/{split}/{folder}" for column, folder in TASKS[task].items()} for split in splits}
    corpus = CorpusLayout("WHAM!", "wham", sample_rate, folders, wsj0_speakers)
    return write_manifests(list_mixtures(corpus, data_folder), output_folder, check_samples, on_invalid, trim)
