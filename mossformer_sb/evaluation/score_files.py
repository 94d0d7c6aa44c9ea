"""Scoring files: matching estimates with references and mixtures, and computing their scores."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.tables import DATA_ROOT, check_own_folder, other_table, read_table, resolve_path
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.extra_metrics import check_metrics
from mossformer_sb.evaluation.metrics import score_signals
from mossformer_sb.evaluation.signal_files import ESTIMATES, REFERENCES, find_mixtures, find_signals

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

logger = logging.getLogger(__name__)

SHOWN_PROBLEMS = 10


@dataclass(frozen=True)
class Utterance:
    """The files of one test item."""

    id: str
    mixture: Path
    sources: tuple  # of Path
    estimates: tuple  # of Path, in any order


def find_utterances(
    estimates: str | Path,
    references: str | Path,
    mixtures: str | Path | None = None,
    data_root: str | Path | None = None,
    subset: bool = False,
) -> list[Utterance]:
    """Match estimates with references and mixtures by their names.

    Arguments
    ---------
    estimates : str or Path
        A folder with ``<ID>_spk1.wav``, ``<ID>_spk2.wav`` …, or with subfolders ``s1``, ``s2`` … that hold ``<ID>.wav``
        each, or with a subfolder ``<ID>`` per mixture; `mossformer_sb.evaluation.signal_files` has all names. IDs may
        contain folders. All audio formats are supported.
    references : str or Path
        A folder with such a layout, or a manifest, which also lists the mixtures.
    mixtures : str or Path, optional
        A folder with ``<ID>.wav``. Default: see `mossformer_sb.evaluation.signal_files.find_mixtures`.
    data_root : str or Path, optional
        Value of ``$data_root`` in a manifest. Default: the manifest's folder.
    subset : bool
        Whether references without estimates are skipped; otherwise they are an error.

    Returns
    -------
    list of Utterance
        Sorted by ID.

    Raises
    ------
    InputError
        If files don't match; the message lists all of them.
    """
    if os.path.isfile(references):
        table = _read_rows(references)
        sources = {row["ID"]: _paths(row, r"s(\d+)_wav", references, data_root) for row in table}
        mixtures = {row["ID"]: _paths(row, "(mix)_wav", references, data_root)[0] for row in table}
    else:
        sources = find_signals(references, REFERENCES)
        mixtures = find_mixtures(references, mixtures)
    estimates = _without_item(find_signals(estimates, ESTIMATES), sources)
    problems = [f"{name}: has estimates, but no references" for name in sorted(estimates.keys() - sources.keys())]
    if not subset:
        problems += [f"{name}: has references, but no estimates" for name in sorted(sources.keys() - estimates.keys())]
    both = sorted(estimates.keys() & sources.keys())
    problems += [f"{name}: has no mixture" for name in both if name not in mixtures]
    utterances = [Utterance(name, mixtures.get(name), sources[name], estimates[name]) for name in both]
    return _without(problems, utterances)


def _without_item(estimates, sources):
    """Estimates with the IDs of ``item<ID>_source1hat.wav`` in SpeechBrain's recipes, without "item" if needed."""
    names = {name: name.removeprefix("item") for name in estimates}
    if all(name.startswith("item") for name in names) and not names.keys() & sources.keys():
        return {names[name]: paths for name, paths in estimates.items()}
    return estimates


def read_utterances(path: str | Path, data_root: str | Path | None = None) -> list[Utterance]:
    """Read the files to score from a table.

    Arguments
    ---------
    path : str or Path
        A CSV with the columns ``ID, mix_wav, s1_wav … sN_wav, est1_wav … estN_wav``, in any format of
        `mossformer_sb.data.tables`. Paths are relative to its folder.
    data_root : str or Path, optional
        Value of ``$data_root``. Default: the table's folder.

    Returns
    -------
    list of Utterance

    Raises
    ------
    InputError
        If a column is missing.
    """
    utterances = [
        Utterance(
            row["ID"],
            _paths(row, "(mix)_wav", path, data_root)[0],
            _paths(row, r"s(\d+)_wav", path, data_root),
            _paths(row, r"est(\d+)_wav", path, data_root),
        )
        for row in _read_rows(path)
    ]
    return _without([], utterances)


def _without(problems, utterances):
    problems += [
        f"{item.id}: has {len(item.estimates)} estimates for {len(item.sources)} references"
        for item in utterances
        if len(item.estimates) != len(item.sources)
    ]
    if problems:
        shown = "\n  ".join(problems[:SHOWN_PROBLEMS])
        more = f"\n  and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise InputError(
            f"estimates, references and mixtures don't match:\n  {shown}{more}\nEach ID needs one mixture, and as many "
            f"estimates as references. --subset skips references without estimates."
        )
    if not utterances:
        raise InputError("there is nothing to score: no ID has estimates and references.")
    return utterances


def _read_rows(path):
    if not os.path.isfile(path):
        raise InputError(f"{path}: there is no such table. Give a CSV with ID, mix_wav, s1_wav and so on.")
    columns, rows, _ = read_table(path)
    if "ID" not in columns:
        raise InputError(f"{path}: column ID is missing; found {', '.join(columns)}.{other_table(columns)}")
    counts = Counter(row["ID"] for row in rows)
    for name in (name for name, count in counts.items() if count > 1 or not name):
        raise InputError(f"{path}: the ID {name!r} occurs {counts[name]} times. Give every row a unique ID.")
    return rows


def _paths(row, pattern, path, data_root):
    """The files in the columns that match a pattern, in the order of their numbers."""
    columns = [column for column in row if re.fullmatch(pattern, column)]
    if not columns:
        wanted = pattern.replace(r"(\d+)", "1").replace("(mix)", "mix")
        raise InputError(f"{path}: column {wanted} is missing; found {', '.join(row)}.")
    columns.sort(key=lambda column: int("0" + re.sub(r"\D", "", column)))
    here = Path(path).parent
    root = here if data_root is None else data_root  # relative to the working directory, like all given paths
    empty = [column for column in columns if not row[column]]
    if empty:
        raise InputError(f"{path}: {empty[0]} of '{row['ID']}' is empty. Give every row a path for each column.")
    found = tuple(Path(resolve_path(row[column], root, here)) for column in columns)
    if data_root is None:
        for file, column in zip(found, columns, strict=True):
            if row[column].startswith(DATA_ROOT):
                check_own_folder(path, file)
    return found


def score(
    utterances: Iterable[Utterance], metrics: Collection[str] = (), num_threads: int = 1, trim: int = 0
) -> Iterator[tuple]:
    """Score utterances.

    Arguments
    ---------
    utterances : iterable of Utterance
    metrics : collection of str
        Further metrics in addition to SI-SNR and SDR: "stoi", "pesq".
    num_threads : int
        Number of utterances to score in parallel.
    trim : int
        Maximum length difference of the signals of an utterance in samples: all are cut to the shortest. The number of
        such utterances is logged.

    Returns
    -------
    iterator of tuple
        ID, `mossformer_sb.evaluation.metrics.Scores`, and a dict of the other metrics, in the order of the utterances.

    Raises
    ------
    InputError
        If a metric can't be computed, or files don't match.
    """
    check_metrics(metrics)
    if not isinstance(trim, int) or trim < 0:
        raise InputError(f"trim is {trim!r}: give a number of samples, 0 or more.")
    cut = []
    with ThreadPoolExecutor(num_threads) as pool:
        for result, samples in pool.map(functools.partial(_score, metrics=metrics, trim=trim), utterances):
            if samples:
                cut.append(samples)
            yield result
    if cut:
        logger.info("The signals of %d utterances were cut to the shortest, by %d samples at most", len(cut), max(cut))


def _score(utterance, metrics, trim):
    """The result of `score_signals`, and the number of samples that were cut from the longest signal."""
    signals, rate, cut = _read(utterance, trim)
    return score_signals(utterance.id, *signals, rate, metrics), cut


def read_signals(utterance: Utterance, trim: int = 0) -> tuple:
    """Read an utterance: mixture [T], sources and estimates [T, S], and the sample rate in Hz.

    Arguments
    ---------
    utterance : Utterance
    trim : int
        As for `score`.

    Raises
    ------
    InputError
        If a file can't be read, has several channels, or differs from the mixture in sample rate or length.
    """
    signals, rate, _ = _read(utterance, trim)
    return *signals, rate


def _read(utterance, trim):
    paths = (utterance.mixture, *utterance.sources, *utterance.estimates)
    read = [read_audio(path) for path in paths]
    mixture, rate = read[0]
    lengths = [len(samples) for samples, _ in read]
    shortest = min(lengths)
    for path, (samples, its_rate) in zip(paths, read, strict=True):
        if samples.ndim != 1:
            raise InputError(f"{path}: has {samples.shape[1]} channels; only one can be scored.")
        if not len(samples):
            raise InputError(f"{path}: has no samples, so it has no score.")
        if its_rate != rate or (len(samples) != len(mixture) and max(lengths) - shortest > trim):
            raise InputError(
                f"{path}: has {len(samples)} samples at {its_rate} Hz, and its mixture {utterance.mixture} "
                f"{len(mixture)} at {rate} Hz. They have to be the same.{_trim_advice(its_rate == rate, lengths)}"
            )
        if not np.isfinite(samples).all():
            raise InputError(f"{path}: has NaN or infinite samples, so it has no score.")
    tensors = [torch.from_numpy(samples[:shortest]) for samples, _ in read]
    split = 1 + len(utterance.sources)
    signals = tensors[0], torch.stack(tensors[1:split], -1), torch.stack(tensors[split:], -1)
    return signals, rate, max(lengths) - shortest


def _trim_advice(same_rate, lengths):
    most = max(lengths) - min(lengths)
    return f" --trim {most} cuts the signals of an utterance to the shortest." if same_rate else ""
