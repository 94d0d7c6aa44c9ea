"""Manifests of WHAMR! (Maciejewski et al., "WHAMR!: Noisy and Reverberant Single-Channel Speech Separation", 2020).

The layout of the corpus:

    DATA_FOLDER/wav{8k,16k}/{min,max}/{tr,cv,tt}/{noise,s1_*,s2_*,mix_clean_*,mix_single_*,mix_both_*}/ID.wav

where * is `anechoic` or `reverb`. The anechoic signals are only the direct path, with its delay. A custom corpus with
the same layout may have more speakers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from data_prep.choices import SPLITS, check_choice, check_num_spks, check_versions
from data_prep.corpora.librimix import librispeech_speakers
from data_prep.manifests.folders import CorpusLayout, list_mixtures, wsj0_speakers
from data_prep.manifests.manifest import write_manifests
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOMS = ("anechoic", "reverb")

# The mixture, the number of its speakers or None for all, and whether there is noise.
MIXTURES = {
    "separate_noisy": ("both", None, True),
    "separate_clean": ("clean", None, False),
    "enhance_single": ("single", 1, True),
}
TASKS = tuple(f"{task}_{room}" for room in ("reverb", "anechoic") for task in MIXTURES)


def prepare_whamr(
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
    """Checks WHAMR! and writes its manifests, `whamr_{split}.csv`.

    Arguments
    ---------
    data_folder : str
        Folder that has `wav8k/` or `wav16k/`.
    output_folder : str
        Folder for the manifests, created if absent.
    num_spks : int
        2; or more for custom corpora. 1 for tasks with one speaker, which also accept 2.
    sample_rate : int
        8000 or 16000.
    mode : str
        "min": mixtures are cut to the shorter utterance; "max": padded to the longer one.
    task : str
        "separate_noisy_reverb": all speakers and noise, `mix_both_reverb`; "separate_clean_reverb": all speakers,
        `mix_clean_reverb`; "enhance_single_reverb": the first speaker and noise, `mix_single_reverb`; and the same
        with "anechoic".
    target : str
        "anechoic": the sources have no reverberation in any split, as in the corpus's tasks; "reverb": the sources are
        reverberant, as in the mixture.
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
    layout = reverberant_layout("WHAMR!", "whamr", "", num_spks, sample_rate, mode, task, target, splits, check_samples)
    listing = list_mixtures(replace(layout, speakers=_speakers), data_folder)
    return write_manifests(listing, output_folder, check_samples, on_invalid, trim)


def reverberant_layout(
    name: str,
    prefix: str,
    top: str,
    num_spks: int,
    sample_rate: int,
    mode: str,
    task: str,
    target: str,
    splits: Sequence[str],
    images: bool,
) -> CorpusLayout:
    """The layout of a corpus that has anechoic and reverberant signals.

    Arguments
    ---------
    name, prefix
        As for `CorpusLayout`.
    top : str
        Path of the corpus in its folder: "Libri2Mix/", or nothing.
    num_spks, sample_rate, mode, task, target, splits
        As for `prepare_whamr`.
    images : bool
        Whether the reverberant sources are needed even if they are not the targets.

    Returns
    -------
    layout : CorpusLayout

    Raises
    ------
    InputError
        If an argument is invalid.
    """
    check_versions([sample_rate], [mode], splits)
    check_choice("task", task, TASKS)
    check_choice("target", target, ROOMS)
    kind, _, room = task.rpartition("_")
    if (room, target) == ("anechoic", "reverb"):
        raise InputError(f"target 'reverb' is not in the mixtures of task {task!r}: choose target 'anechoic'.")
    mixture, num_sources, noisy = MIXTURES[kind]
    check_num_spks(num_spks, num_sources or 2, "" if num_sources else ", as WHAMR! has,")
    folders, parts = {}, {}
    for split in splits:
        here = f"{top}wav{sample_rate // 1000}k/{mode}/{split}"
        noise = {"noise_wav": f"{here}/noise"} if noisy else {}
        sources = range(1, (num_sources or num_spks) + 1)
        targets = {f"s{i}_wav": f"{here}/s{i}_{target}" for i in sources}
        folders[split] = {"mix_wav": f"{here}/mix_{mixture}_{room}"} | targets | noise
        # Images that are not targets are only needed for checking the sum.
        needed = images or room == target
        parts[split] = [*(f"{here}/s{i}_{room}" for i in sources), *noise.values()] if needed else []
    return CorpusLayout(name, prefix, sample_rate, folders, parts=parts)


def _speakers(mixture_id):
    """Speakers of a mixture of WHAMR!, or of a LibriSpeech corpus with the same layout."""
    return wsj0_speakers(mixture_id) or librispeech_speakers(mixture_id)
