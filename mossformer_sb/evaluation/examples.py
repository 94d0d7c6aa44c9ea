"""Audio examples: a mixture, its sources, and the estimates in the order and at the level of the sources.

Shapes: T samples, S speakers.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.audio_writing import write_audio
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.results import scored
from mossformer_sb.evaluation.si_snr import best_permutation, pairwise_si_snr, reorder
from mossformer_sb.utils.files import LONGEST_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

AUDIO_FOLDER = "audio"  # folder of the examples in the output folder
LONGEST_EXAMPLE = 10.0  # maximum length of an example in seconds
LONGEST_STEM = LONGEST_NAME - len("_estimate999.wav")  # bytes


def mixture_gain(estimates: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    """The common gain of all estimates that fits their sum to the mixture (least squares).

    A gain for each estimate would lose the relative levels of the speakers.

    Arguments
    ---------
    estimates : torch.Tensor
        [..., T, S].
    mixture : torch.Tensor
        [..., T].

    Returns
    -------
    torch.Tensor
        [...]; 1 if the estimates' sum is silent.

    Example
    -------
    >>> estimates = torch.randn(8000, 2)
    >>> round(mixture_gain(estimates, 0.5 * estimates.sum(-1)).item(), 4)
    0.5
    """
    total = estimates.double().sum(-1)  # squares of very soft signals underflow in single precision
    energy = total.square().sum(-1)
    gain = torch.where(energy > 0, (total * mixture).sum(-1) / energy.clamp(min=torch.finfo(energy.dtype).tiny), 1.0)
    return gain.to(estimates.dtype)


def peak_gain(*signals: torch.Tensor) -> float:
    """The greatest common gain up to 1 with which no signal exceeds full scale.

    Example
    -------
    >>> peak_gain(torch.tensor([0.5, -2.0]), torch.tensor([1.0]))
    0.5
    """
    return 1 / max(1.0, *(signal.abs().max().item() for signal in signals))


@dataclass
class Example:
    """An utterance for the report; the estimates are in the order of the sources."""

    title: str
    mixture: np.ndarray  # [T]
    sources: np.ndarray  # [T, S]
    estimates: np.ndarray  # [T, S]
    sample_rate: int

    @classmethod
    def of(
        cls, title: str, mixture: torch.Tensor, sources: torch.Tensor, estimates: torch.Tensor, sample_rate: int
    ) -> Example:
        """Create an example from tensors, with estimates in any order and level; only its first seconds are kept.

        Example
        -------
        >>> sources = torch.randn(8000, 2)
        >>> example = Example.of("best", sources.sum(1), sources, 3 * sources.flip(1), 8000)
        >>> bool(np.allclose(example.estimates, example.sources, atol=1e-4))
        True
        """
        permutation = best_permutation(pairwise_si_snr(estimates[None], sources[None]))
        estimates = reorder(estimates[None], permutation)[0]
        estimates = estimates * mixture_gain(estimates, mixture)
        gain = peak_gain(mixture, sources, estimates)
        kept = slice(round(LONGEST_EXAMPLE * sample_rate))
        return cls(title, *((gain * x[kept]).numpy() for x in (mixture, sources, estimates)), sample_rate)


def pick_examples(scores: pd.DataFrame) -> dict:
    """The IDs of the best, the median and the worst utterance by SI-SNRi.

    Arguments
    ---------
    scores : pandas.DataFrame
        From `ScoreTable.to_frame`.

    Returns
    -------
    dict
        "best", "median" and "worst" to an ID; fewer keys if there are fewer utterances.

    Example
    -------
    >>> import pandas as pd
    >>> scores = pd.DataFrame({"snt_id": ["a", "b", "c", "avg"], "si-snr_i": [3.0, 9.0, 5.0, 5.7]})
    >>> pick_examples(scores)
    {'best': 'b', 'median': 'c', 'worst': 'a'}
    """
    ranked = scored(scores).sort_values("si-snr_i", ascending=False)["snt_id"].tolist()
    if not ranked:
        return {}
    picked = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
    return dict(list(picked.items())[: len(ranked)])


def with_scores(picked: dict, scores: pd.DataFrame) -> dict:
    """Examples with their scores in their titles.

    Arguments
    ---------
    picked : dict
        Title to ID, from `pick_examples`.
    scores : pandas.DataFrame
        From `ScoreTable.to_frame`.

    Returns
    -------
    dict
        Title to ID.

    Example
    -------
    >>> import pandas as pd
    >>> scores = pd.DataFrame({"snt_id": ["a"], "si-snr_i": [3.046], "sdr_i": [4.0]})
    >>> with_scores({"best": "a"}, scores)
    {'best (3.05 dB SI-SNRi, 4.00 dB SDRi)': 'a'}
    """
    labels = {"si-snr_i": "SI-SNRi", "sdr_i": "SDRi"}
    rows = scores.set_index("snt_id")
    titles = {}
    for title, name in picked.items():
        figures = [f"{rows[key][name]:.2f} dB {label}" for key, label in labels.items() if key in rows]
        titles[f"{title} ({', '.join(figures)})"] = name
    return titles


def example_of_row(title: str, row: Mapping, num_spks: int, separate: Callable) -> Example:
    """Create an `Example` from a row of a manifest.

    Arguments
    ---------
    title : str
    row : mapping
        ``ID``, ``num_samples``, ``mix_wav``, ``s1_wav`` and so on, with complete paths; of longer files the end is not
        used.
    num_spks : int
        S.
    separate : callable
        [1, T] → [1, T, S].

    Returns
    -------
    Example
    """
    paths = [row["mix_wav"], *(row[f"s{number + 1}_wav"] for number in range(num_spks))]
    signals = [read_audio(path, num_frames=int(row["num_samples"])) for path in paths]
    mixture, *sources = (torch.from_numpy(samples) for samples, _ in signals)
    estimates = separate(mixture[None])[0].float().cpu()
    return Example.of(f"{title}: {row['ID']}", mixture, torch.stack(sources, -1), estimates, signals[0][1])


def save_example(
    folder: str | Path,
    utterance_id: str,
    mixture: torch.Tensor,
    sources: torch.Tensor,
    estimates: torch.Tensor,
    permutation: torch.Tensor,
    sample_rate: int,
) -> None:
    """Write an utterance's mixture, sources and estimates as WAV files.

    The estimates have a common gain, which fits their sum to the mixture, and all files have another one that avoids
    clipping, so relative levels are preserved.

    Arguments
    ---------
    folder : str or Path
        Created if it does not exist. Files are ``<id>_mix.wav``, ``<id>_source1.wav``, ``<id>_estimate1.wav`` and so
        on.
    utterance_id : str
        The mixture's ID; path separators in it become underscores.
    mixture : torch.Tensor
        [T].
    sources, estimates : torch.Tensor
        [T, S].
    permutation : torch.Tensor
        [S], index of the estimate of each source.
    sample_rate : int
        Sample rate in Hz.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    estimates = reorder(estimates[None], permutation[None].to(estimates.device))[0]
    estimates = estimates * mixture_gain(estimates, mixture)
    gain = peak_gain(mixture, sources, estimates)
    stem = example_stem(utterance_id)
    write_audio(folder / f"{stem}_mix.wav", gain * mixture.cpu(), sample_rate)
    for name, signals in (("source", sources), ("estimate", estimates)):
        for number, signal in enumerate(signals.cpu().unbind(-1), start=1):
            write_audio(folder / f"{stem}_{name}{number}.wav", gain * signal, sample_rate)


def saved_example(title: str, folder: Path, utterance_id: str) -> Example:
    """Read an `Example` that `save_example` has written to a folder."""
    stem = example_stem(utterance_id)
    mixture, rate = read_audio(folder / f"{stem}_mix.wav")
    signals = []
    for kind in ("source", "estimate"):
        number, found = 1, []
        while (path := folder / f"{stem}_{kind}{number}.wav").is_file():
            found.append(torch.from_numpy(read_audio(path)[0]))
            number += 1
        if not found:
            raise InputError(f"{folder}: holds {stem}_mix.wav, but no {stem}_{kind}1.wav. Copy it again.")
        signals.append(torch.stack(found, -1))
    return Example.of(f"{title}: {utterance_id}", torch.from_numpy(mixture), *signals, rate)


def example_stem(utterance_id: str) -> str:
    """Beginning of the names of an example's files; a long ID is cut, and a hash makes it unique.

    Example
    -------
    >>> example_stem("tt/a")
    'tt_a'
    """
    stem = str(utterance_id).replace("/", "_").replace("\\", "_")
    if len(os.fsencode(stem)) <= LONGEST_STEM:
        return stem
    kept = os.fsencode(stem)[: LONGEST_STEM // 2].decode(errors="ignore")
    return f"{kept}_{hashlib.sha256(os.fsencode(stem)).hexdigest()[:16]}"
