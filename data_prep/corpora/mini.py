"""Manifests of the small corpus of synthetic voices, which is generated if it does not exist."""

from __future__ import annotations

from data_prep.corpora.wham import prepare_wham
from data_prep.demo_corpus.mini import make_mini_corpus


def prepare_mini(
    data_folder: str,
    output_folder: str,
    num_train: int = 1000,
    num_valid: int = 100,
    num_test: int = 100,
    seed: int = 1234,
    sample_rate: int = 8000,
    task: str = "separate_noisy",
) -> dict:
    """Generates the small corpus if it does not exist, and writes its manifests, `wham_{split}.csv`.

    Arguments
    ---------
    data_folder : str
        Folder of the corpus.
    output_folder : str
        Folder for the manifests, created if absent.
    num_train, num_valid, num_test : int
        Numbers of mixtures.
    seed : int
        Seed of all random numbers in the corpus.
    sample_rate : int
        8000 or 16000.
    task : str
        As for `data_prep.corpora.wham.prepare_wham`.

    Returns
    -------
    manifests : dict
        For each split, the path of its manifest.

    Raises
    ------
    InputError
        If an argument is invalid, or the folder holds another corpus.
    """
    make_mini_corpus(data_folder, num_train, num_valid, num_test, seed, sample_rate)
    return prepare_wham(data_folder, output_folder, sample_rate, task=task)
