"""Manifests of a corpus, compared with a minimal script that reads the length of each file.

An item is one audio file. Ours also checks for missing and truncated files, and other rates or lengths, and writes the
manifests.
"""

import os
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.alternating import time_alternating
from data_prep.corpora.wham import prepare_wham

SAMPLE_RATE = 8000
FOLDERS = ("mix_both", "s1", "s2", "noise")
SPLITS = {"tr": 0.8, "cv": 0.1, "tt": 0.1}  # shares of the mixtures


def write_corpus(folder, num_mixtures):
    """Root of a corpus in WHAM!'s layout, of links to a few files, since only headers are read."""
    folder = Path(folder)
    originals = []
    for number in range(10):
        originals.append(folder / f"{number}.wav")
        samples = 0.1 * np.random.default_rng(number).standard_normal(SAMPLE_RATE * (number + 1) // 4)
        soundfile.write(originals[-1], samples, SAMPLE_RATE, subtype="PCM_16")
    splits = [split for split, share in SPLITS.items() for _ in range(round(share * num_mixtures))]
    for index, split in enumerate(splits):
        for name in FOLDERS:
            link = folder / "wav8k" / "min" / split / name / f"{index:03x}a010{index % 9}_0.5_{index:03x}b0101_-0.5.wav"
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(originals[index % 10], link)
    return folder


def compare(folder, rounds=5):
    """Time both in alternation.

    Arguments
    ---------
    folder : Path
        In the layout of `write_corpus`.
    rounds : int
        Number of rounds.

    Returns
    -------
    list of dict
        As `benchmarks.alternating.time_alternating` returns them; an item is a file.
    """
    files = sorted((folder / "wav8k").rglob("*.wav"))

    def one_after_another(_):
        return [soundfile.info(file).duration for file in files]

    def ours(_):
        return prepare_wham(folder, folder / "manifests")

    ways = {"soundfile.info of each file, in a row": one_after_another, "ours, with all checks": ours}
    rows = time_alternating(ways, 1, rounds, "Manifests")
    return [{**row, "items_per_second": row["items_per_second"] * len(files)} for row in rows]
