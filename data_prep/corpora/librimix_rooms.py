"""Manifests of reverberant corpora by `python -m data_prep.generate librimix --rooms`.

    DATA_FOLDER/Libri{N}Mix/wav{8k,16k}/{min,max}/{tr,cv,tt}/{noise,s1_*,s2_*,mix_clean_*,mix_single_*,mix_both_*}/ID.wav

where * is `anechoic` or `reverb`, as in WHAMR! The speakers of each mixture are in `DATA_FOLDER/metadata`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from data_prep.choices import SPLITS
from data_prep.corpora.librimix import corpus_folder, speakers_of
from data_prep.corpora.whamr import reverberant_layout
from data_prep.manifests.folders import list_mixtures
from data_prep.manifests.manifest import write_manifests

if TYPE_CHECKING:
    from collections.abc import Sequence


def prepare_librimix_rooms(
    data_folder: str,
    output_folder: str,
    num_spks: int = 2,
    sample_rate: int = 8000,
    mode: str = "min",
    task: str = "separate_noisy_reverb",
    target: str = "anechoic",
    splits: Sequence[str] = SPLITS,
    check_samples: bool = False,
    on_invalid: str = "error",
    trim: int = 0,
) -> dict:
    """Checks a generated reverberant corpus and writes its manifests, `libri{num_spks}mix_rooms_{split}.csv`.

    Arguments
    ---------
    data_folder : str
        The `--output_folder` of its generation, or the folder `Libri{N}Mix` in it.
    output_folder : str
        Folder for the manifests, created if absent.
    num_spks : int
        2 or more. 1 for tasks with one speaker, from the mixtures of two.
    sample_rate, mode, task, target, splits
        As for `data_prep.corpora.whamr.prepare_whamr`.
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
    mixed = 2 if num_spks == 1 else num_spks
    name = f"Libri{mixed}Mix"
    root, top = corpus_folder(data_folder, name, ())
    layout = reverberant_layout(
        f"{name} in rooms",
        f"libri{mixed}mix_rooms",
        top,
        num_spks,
        sample_rate,
        mode,
        task,
        target,
        splits,
        check_samples,
    )
    listing = list_mixtures(replace(layout, speakers=speakers_of(root, mixed)), data_folder)
    return write_manifests(listing, output_folder, check_samples, on_invalid, trim)
