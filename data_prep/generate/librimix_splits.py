"""Splitting speakers and noises into training, validation and test sets."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from data_prep.generate.recordings import Clip

logger = logging.getLogger(__name__)

TRAIN = "train-100"  # LibriMix's names
SPLITS = (TRAIN, "dev", "test")
FOLDERS = {TRAIN: "tr", "dev": "cv", "test": "tt"}  # of WHAM!'s noise


def split_speakers(utterances: Sequence[Clip], num_spks: int, shares: Sequence[float], seed: int) -> dict:
    """Divides utterances among the splits, so that no speaker is in two.

    Arguments
    ---------
    utterances : sequence of Clip
        All utterances.
    num_spks : int
        Minimum number of speakers per split.
    shares : sequence of float
        Shares of the speakers for train, dev and test; a split with a share of zero is omitted.
    seed : int
        The same seed gives the same splits.

    Returns
    -------
    splits : dict
        split → list of Clip.

    Raises
    ------
    InputError
        If there are too few speakers, or the shares are invalid.

    Example
    -------
    >>> from data_prep.generate.recordings import Clip
    >>> clips = [Clip(f"{n}.wav", str(n), str(n), 48000) for n in range(10)]
    >>> {split: len(chosen) for split, chosen in split_speakers(clips, 2, (0.6, 0.2, 0.2), seed=0).items()}
    {'train-100': 6, 'dev': 2, 'test': 2}
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or sum(shares) <= 0:
        raise InputError(f"speaker_shares {shares}: give three numbers, for {', '.join(SPLITS)}, none below zero.")
    speakers = sorted({clip.speaker for clip in utterances})
    wanted = {split: share / sum(shares) for split, share in zip(SPLITS, shares, strict=True) if share > 0}
    counts = {split: max(num_spks, round(share * len(speakers))) for split, share in wanted.items()}
    first = next(iter(counts))  # usually the largest: it gets the rest
    counts[first] = len(speakers) - sum(counts.values()) + counts[first]
    if counts[first] < num_spks:
        raise InputError(
            f"from_speech has {len(speakers)} speakers; needed at least {num_spks} for each of {', '.join(counts)}. "
            "Add speakers, or omit a split with a zero in --speaker_shares."
        )
    order = np.random.default_rng([seed, len(SPLITS)]).permutation(len(speakers))
    bounds = np.cumsum([0, *counts.values()])
    splits = {}
    for split, start, end in zip(counts, bounds, bounds[1:], strict=False):
        chosen = {speakers[index] for index in order[start:end]}
        splits[split] = [clip for clip in utterances if clip.speaker in chosen]
    return splits


def split_noises(noises: Sequence[Clip], parts: Collection[str], shares: Sequence[float], seed: int) -> dict:
    """Divides noise among the splits like `split_speakers`; if there is too little, the splits share it.

    Noise in folders tr, cv and tt, as WHAM!'s, is divided already: clips of one recording may be in each folder alone.

    Arguments
    ---------
    noises : sequence of Clip
        All noises.
    parts : Iterable of str
        The existing splits.
    shares, seed
        As for `split_speakers`.

    Returns
    -------
    splits : dict
        split → list of Clip.
    """
    divided = {split: [noise for noise in noises if noise.path.startswith(f"{FOLDERS[split]}/")] for split in parts}
    if all(noise.path.startswith(tuple(f"{folder}/" for folder in FOLDERS.values())) for noise in noises):
        if all(divided.values()):
            return divided
    shares = dict(zip(SPLITS, shares, strict=True))
    wanted = np.array([shares[split] for split in parts])
    if len(noises) < len(parts):
        if noises:
            logger.warning("The %d splits share noise: there are only %d recordings", len(parts), len(noises))
        return dict.fromkeys(parts, noises)
    order = np.random.default_rng([seed, len(SPLITS) + 1]).permutation(len(noises))
    counts = np.maximum(1, np.rint(wanted[1:] / wanted.sum() * len(noises)).astype(int))
    while counts.sum() >= len(noises):  # the first split needs one too
        counts[counts.argmax()] -= 1
    bounds = [0, *(len(noises) - np.cumsum(counts[::-1])[::-1]), len(noises)]
    return {
        split: [noises[index] for index in sorted(order[start:end])]
        for split, start, end in zip(parts, bounds, bounds[1:], strict=False)
    }
