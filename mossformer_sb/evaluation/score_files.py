"""Scoring files: which estimates, references and mixtures belong together, and their scores."""

import functools
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mossformer_sb.data.audio_io import AUDIO_ENDINGS, read_audio
from mossformer_sb.data.manifests import DATA_ROOT
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.extra_metrics import check_metrics
from mossformer_sb.evaluation.metrics import score_signals

SHOWN_PROBLEMS = 10
_NUMBERED = re.compile(r"(.+)_([a-z]+)(\d+)")


@dataclass(frozen=True)
class Utterance:
    """The files of one test item."""

    id: str
    mixture: Path
    sources: tuple  # of Path
    estimates: tuple  # of Path, in any order


def find_utterances(estimates, references, mixtures=None, data_root=None, subset=False):
    """Match estimates with references and mixtures by their names.

    Arguments
    ---------
    estimates : str or Path
        A folder with ``<ID>_spk1.wav``, ``<ID>_spk2.wav`` … (or ``_estimate1``, ``_s1``), or with subfolders ``s1``,
        ``s2`` … that hold ``<ID>.wav`` each. IDs may have folders in them; any audio format will do.
    references : str or Path
        A folder of the same kinds (or with ``_source1``), or a manifest, from which the mixtures come too.
    mixtures : str or Path, optional
        A folder with ``<ID>.wav``. Default: ``<ID>_mix.wav`` beside the references, or the one folder beside ``s1``
        whose name begins with ``mix``.
    data_root : str or Path, optional
        What ``$data_root`` stands for in a manifest. Default: the manifest's folder.
    subset : bool
        Whether references without estimates are skipped; otherwise they are an error.

    Returns
    -------
    list of Utterance
        Sorted by ID.

    Raises
    ------
    InputError
        With everything that doesn't match, in one message.
    """
    if os.path.isfile(references):
        table = _read_table(references)
        sources = {row["ID"]: _paths(row, r"s(\d+)_wav", references, data_root) for row in table}
        mixtures = {row["ID"]: _paths(row, "(mix)_wav", references, data_root)[0] for row in table}
    else:
        sources = _signals(references, ("source", "s", "spk"))
        mixtures = _mixtures(references, mixtures)
    estimates = _signals(estimates, ("estimate", "spk", "s"))
    problems = [f"{name}: has estimates, but no references" for name in sorted(estimates.keys() - sources.keys())]
    if not subset:
        problems += [f"{name}: has references, but no estimates" for name in sorted(sources.keys() - estimates.keys())]
    both = sorted(estimates.keys() & sources.keys())
    problems += [f"{name}: has no mixture" for name in both if name not in mixtures]
    utterances = [Utterance(name, mixtures.get(name), sources[name], estimates[name]) for name in both]
    return _without(problems, utterances)


def read_utterances(path, data_root=None):
    """Read the files to score from a table.

    Arguments
    ---------
    path : str or Path
        A CSV with the columns ``ID, mix_wav, s1_wav … sN_wav, est1_wav … estN_wav``. Relative paths start at its
        folder.
    data_root : str or Path, optional
        What ``$data_root`` stands for. Default: the table's folder.

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
        for row in _read_table(path)
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
            f"estimates as references. To leave out references without estimates, score a subset."
        )
    if not utterances:
        raise InputError("there is nothing to score: no ID has estimates and references.")
    return utterances


def _read_table(path):
    if not os.path.isfile(path):
        raise InputError(f"{path}: there is no such table. Give a CSV with ID, mix_wav, s1_wav and so on.")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if "ID" not in table:
        raise InputError(f"{path}: column ID is missing; found {', '.join(table.columns)}.")
    return table.to_dict("records")


def _paths(row, pattern, path, data_root):
    """The files in the columns that a pattern fits, in the order of their numbers."""
    columns = [column for column in row if re.fullmatch(pattern, column)]
    if not columns:
        wanted = pattern.replace(r"(\d+)", "1").replace("(mix)", "mix")
        raise InputError(f"{path}: column {wanted} is missing; found {', '.join(row)}.")
    columns.sort(key=lambda column: int("0" + re.sub(r"\D", "", column)))
    here = Path(path).parent
    root = here if data_root is None else data_root  # as it is given: like any path on the command line
    cells = [row[column] for column in columns]
    return tuple(
        Path(cell.replace(DATA_ROOT, str(root), 1)) if cell.startswith(DATA_ROOT) else here / cell for cell in cells
    )


def _signals(folder, kinds):
    """ID to the files of its sources (or estimates), in the order of their numbers."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder. Give the one of the estimates, or of the references.")
    signals = {}
    if (folder / "s1").is_dir():
        for path in _audio_below(folder):
            top, *rest = path.relative_to(folder).parts
            if re.fullmatch(r"s\d+", top) and rest:
                signals.setdefault(_id(Path(*rest)), {})[int(top[1:])] = path
    else:
        numbered = [(path, _NUMBERED.fullmatch(path.stem)) for path in _audio_below(folder)]
        numbered = [(path, match) for path, match in numbered if match and match[2] in kinds]
        kind = next((kind for kind in kinds if any(match[2] == kind for _, match in numbered)), None)
        for path, match in numbered:
            if match[2] == kind:
                name = _id(path.relative_to(folder).with_name(f"{match[1]}.wav"))
                signals.setdefault(name, {})[int(match[3])] = path
    if not signals:
        endings = ", ".join(f"<ID>_{kind}1.wav" for kind in kinds)
        raise InputError(f"{folder}: holds neither subfolders s1, s2 and so on, nor files {endings}, _2 and so on.")
    return {name: tuple(numbers[number] for number in sorted(numbers)) for name, numbers in signals.items()}


def _mixtures(references, folder):
    """ID to the file of the mixture."""
    references = Path(references)
    if folder is None and not (references / "s1").is_dir():
        beside = (path for path in _audio_below(references) if path.stem.endswith("_mix"))
        return {_id(path.relative_to(references)).removesuffix("_mix"): path for path in beside}
    if folder is None:
        folders = sorted(path for path in references.glob("mix*") if path.is_dir())
        if len(folders) != 1:
            found = ", ".join(path.name for path in folders) or "none"
            raise InputError(f"{references}: has to hold one folder of mixtures; found {found}. Name it (mixtures).")
        folder = folders[0]
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of mixtures.")
    return {_id(path.relative_to(folder)): path for path in _audio_below(folder)}


def _audio_below(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_ENDINGS and path.is_file())


def _id(path):
    return path.with_suffix("").as_posix()


def score(utterances, metrics=(), num_threads=1):
    """Score utterances.

    Arguments
    ---------
    utterances : iterable of Utterance
    metrics : collection of str
        Besides SI-SNR and SDR: "stoi", "pesq".
    num_threads : int
        How many to score at the same time.

    Returns
    -------
    iterator of tuple
        ID, `mossformer_sb.evaluation.metrics.Scores`, and a dict of the other metrics, in the order of the utterances.

    Raises
    ------
    InputError
        If a metric can't be computed, or files don't fit each other.
    """
    check_metrics(metrics)
    with ThreadPoolExecutor(num_threads) as pool:
        yield from pool.map(functools.partial(_score, metrics=metrics), utterances)


def _score(utterance, metrics):
    return score_signals(utterance.id, *read_signals(utterance), metrics)


def read_signals(utterance):
    """Read an utterance: mixture [T], sources and estimates [T, S], and the sample rate in Hz.

    Raises
    ------
    InputError
        If a file can't be read, has several channels, or another rate or length than the mixture.
    """
    mixture, rate = read_audio(utterance.mixture)
    signals = []
    for path in (utterance.mixture, *utterance.sources, *utterance.estimates):
        samples, its_rate = read_audio(path)
        if samples.ndim != 1:
            raise InputError(f"{path}: has {samples.shape[1]} channels; scores are of one.")
        if (len(samples), its_rate) != (len(mixture), rate):
            raise InputError(
                f"{path}: has {len(samples)} samples at {its_rate} Hz, and its mixture {utterance.mixture} "
                f"{len(mixture)} at {rate} Hz. They have to be the same."
            )
        if not np.isfinite(samples).all():
            raise InputError(f"{path}: has samples that are NaN or infinite, so it has no score.")
        signals.append(torch.from_numpy(samples))
    split = 1 + len(utterance.sources)
    return signals[0], torch.stack(signals[1:split], -1), torch.stack(signals[split:], -1), rate
