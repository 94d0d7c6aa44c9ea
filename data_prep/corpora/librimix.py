"""Manifests of LibriMix (Cosentino et al., "LibriMix: An Open-Source Dataset for Generalizable Separation", 2020).

The layout of the corpora, Libri2Mix and Libri3Mix:

    DATA_FOLDER/Libri{2,3}Mix/wav{8k,16k}/{min,max}/{train-360,train-100,dev,test}/{mix_both,mix_clean,mix_single,
                                                                                    s1,s2[,s3],noise}/ID.wav

Corpora of `data_prep.generate librimix --from_speech` have the same layout; `DATA_FOLDER/metadata` has the speakers of
each mixture.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from data_prep.choices import check_choice, check_num_spks, check_versions
from data_prep.generate.librimix_metadata import known_speakers
from data_prep.manifests.folders import CorpusLayout, existing_folder, list_mixtures
from data_prep.manifests.manifest import write_manifests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

TRAIN_SPLITS = ("train-100", "train-360")
SPLITS = (*TRAIN_SPLITS, "dev", "test")

# The mixture, and whether there is noise; None means all speakers.
TASKS = {
    "separate_clean": ("mix_clean", None, False),
    "separate_noisy": ("mix_both", None, True),
    "enhance_single": ("mix_single", 1, True),
}


def prepare_librimix(
    data_folder: str,
    output_folder: str,
    num_spks: int = 2,
    sample_rate: int = 8000,
    mode: str = "min",
    task: str = "separate_clean",
    splits: Sequence[str] = ("train-100", "dev", "test"),
    check_samples: bool = False,
    on_invalid: str = "error",
    trim: int = 0,
) -> dict:
    """Checks Libri2Mix or Libri3Mix and writes its manifests, `libri{num_spks}mix_{split}.csv`.

    Arguments
    ---------
    data_folder : str
        Folder that has `Libri2Mix/` or `Libri3Mix/`: the one given to the generating scripts, for both corpora. Or one
        of these two.
    output_folder : str
        Folder for the manifests, created if absent.
    num_spks : int
        2 or 3; or more for custom corpora with the same layout. 1 for "enhance_single": of Libri2Mix.
    sample_rate : int
        8000 or 16000.
    mode : str
        "min": mixtures are cut to the shortest utterance; "max": padded to the longest one.
    task : str
        "separate_clean": all speakers, `mix_clean`; "separate_noisy": all speakers and noise, `mix_both`;
        "enhance_single": the first speaker and noise, `mix_single`.
    splits : sequence of str
        Some of "train-100", "train-360", "dev" and "test".
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
    check_versions([sample_rate], [mode], splits, SPLITS)
    check_choice("task", task, TASKS)
    mixture, num_sources, noisy = TASKS[task]
    num_spks = 2 if (num_sources, num_spks) == (1, 1) else num_spks
    check_num_spks(num_spks, 2)
    columns = {"mix_wav": mixture} | {f"s{i}_wav": f"s{i}" for i in range(1, (num_sources or num_spks) + 1)}
    columns |= {"noise_wav": "noise"} if noisy else {}
    root, top = corpus_folder(data_folder, f"Libri{num_spks}Mix", SPLITS)
    top = f"{top}wav{sample_rate // 1000}k/{mode}"
    corpus = CorpusLayout(
        name=f"Libri{num_spks}Mix",
        prefix=f"libri{num_spks}mix",
        sample_rate=sample_rate,
        folders={split: {column: f"{top}/{split}/{folder}" for column, folder in columns.items()} for split in splits},
        speakers=speakers_of(root, num_spks),
        train=TRAIN_SPLITS,
        test="test",
        known_splits=SPLITS,
    )
    return write_manifests(list_mixtures(corpus, data_folder), output_folder, check_samples, on_invalid, trim)


def corpus_folder(data_folder: str, name: str, splits: Sequence[str]) -> tuple[Path, str]:
    """Finds the root of a corpus: the given folder if it is the corpus itself, else its subfolder of the corpus's name.

    Arguments
    ---------
    data_folder : str
        The given folder.
    name : str
        Name of the corpus's folder, such as "Libri2Mix".
    splits : sequence of str
        Names of its splits.

    Returns
    -------
    root : Path
        The folder above the corpus.
    top : str
        Beginning of paths relative to `data_folder`: "Libri2Mix/", or nothing.
    """
    root = existing_folder(data_folder)
    if not (root / name).is_dir():
        if root.resolve().name == name or any(path.name in splits for path in root.glob("wav*/*/*")):
            return root.resolve().parent, ""
    return root, f"{name}/"


def speakers_of(root: Path, num_spks: int) -> Callable:
    """The function from the ID of a mixture to its speakers, by LibriSpeech's names or the corpus's metadata."""
    known = known_speakers(root / "metadata" / f"Libri{num_spks}Mix", num_spks)
    return lambda mixture_id: known.get(mixture_id) or librispeech_speakers(mixture_id)


def librispeech_speakers(mixture_id: str) -> tuple[str, ...] | None:
    """Speakers of a mixture whose ID is built from LibriSpeech utterances.

    Arguments
    ---------
    mixture_id : str
        `{speaker}-{chapter}-{utterance}_{speaker}-{chapter}-{utterance}…`

    Returns
    -------
    speakers : tuple of str, or None
        None if the ID does not have this format.

    Example
    -------
    >>> librispeech_speakers("4077-13754-0001_5142-33396-0065")
    ('4077', '5142')
    >>> librispeech_speakers("40na010x_1.9857_01xo031a_-1.9857") is None
    True
    """
    if not re.fullmatch(r"\d+-\d+-\d+(_\d+-\d+-\d+)*", mixture_id):
        return None
    return tuple(utterance.partition("-")[0] for utterance in mixture_id.split("_"))
