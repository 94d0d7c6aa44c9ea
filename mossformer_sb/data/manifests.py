"""Manifests: tables of mixtures and their sources, and fingerprints of the data that they list."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mossformer_sb.data.audio_io import check_total
from mossformer_sb.data.audio_reader import AudioReader
from mossformer_sb.data.tables import DATA_ROOT, likely_cause, other_table, read_table, resolve_path
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)

__all__ = ["DATA_ROOT", "read_manifest", "check_lengths", "fingerprint"]

SPEECHBRAIN_COLUMN = "mix_wav_format"  # column in the tables of SpeechBrain's recipes
HEADER_THREADS = 8
LARGEST = 1e9  # maximum of durations in seconds and rates in Hz
FINGERPRINT_SHOWN = 12  # number of shown digits of a fingerprint
SAMPLED_RECORDINGS = 48  # number of recordings of a dataset that a fingerprint samples
SAMPLED_PLACES, SAMPLED_FRAMES = 4, 128  # number of places in each of them, and of frames at each place


def read_manifest(path: str | Path, data_root: str | Path | None, num_spks: int | None = None) -> pd.DataFrame:
    """Read a manifest.

    Lengths and sample rates are read from the files if the table has none, or if it is from one of SpeechBrain's own
    recipes, whose durations are all 1.0.

    Arguments
    ---------
    path : str or Path
        A CSV with the columns ``ID, duration, sample_rate, mix_wav, s1_wav … sN_wav``; others are kept. See
        `mossformer_sb.data.tables` for its format.
    data_root : str or Path, optional
        Value of ``$data_root`` in its paths. Other paths are relative to the working directory.
    num_spks : int, optional
        Required number of sources.

    Returns
    -------
    pandas.DataFrame
        One row per mixture, with complete paths and a column ``num_samples``.

    Raises
    ------
    InputError
        If the file does not exist, is empty, lacks a column, or has an invalid value.

    Example
    -------
    >>> manifest = getfixture("tmp_path") / "tr.csv"
    >>> header = "ID,duration,sample_rate,mix_wav,s1_wav"
    >>> _ = manifest.write_text(header + "\\na,2.5,8000,$data_root/m.wav,$data_root/s.wav\\n")
    >>> read_manifest(manifest, "/data")[["mix_wav", "num_samples"]].iloc[0].to_list() == ["/data/m.wav", 20000]
    True
    """
    path = expanded(path)
    if not os.path.isfile(path):
        raise InputError(
            f"{path}: there is no such manifest. Prepare the data first (in training: without --skip_prep)."
        )
    columns, rows, _ = read_table(path, "manifest")
    _check_columns(path, columns, num_spks)
    if not rows:
        raise InputError(f"{path}: has no rows.")
    table = pd.DataFrame(rows, columns=columns)
    files = table.columns[table.columns.str.endswith("_wav")]
    _check_cells(path, table, ["ID", *files])
    for column in files:
        table[column] = [resolve_path(cell, data_root) for cell in table[column]]
    if SPEECHBRAIN_COLUMN in columns or not {"duration", "sample_rate"} <= set(columns):
        logger.info("%s: lengths and sample rates are read from the files, not from the table", path)
        table["num_samples"], table["sample_rate"] = _lengths_of_files(path, table, data_root)
        table["duration"] = table["num_samples"] / table["sample_rate"]
        return table
    for column in ("duration", "sample_rate"):
        table[column] = _numbers(path, table, column)
    table["sample_rate"] = table["sample_rate"].round().astype(int)
    table["num_samples"] = (table["duration"] * table["sample_rate"]).round().astype(int)
    return table


def _check_columns(path, columns, num_spks):
    needed = ["ID", "mix_wav"] + [f"s{i + 1}_wav" for i in range(num_spks or 1)]
    missing = [column for column in needed if column not in columns]
    if missing:
        fits = "" if num_spks is None else f" Check that num_spks: {num_spks} is right for this corpus."
        raise InputError(
            f"{path}: column {', '.join(missing)} is missing; found {', '.join(columns)}.{other_table(columns) or fits}"
        )
    if num_spks is not None and f"s{num_spks + 1}_wav" in columns:
        raise InputError(
            f"{path}: has a column s{num_spks + 1}_wav, but num_spks is {num_spks}: set it to the corpus's."
        )


def _check_cells(path, table, columns):
    for column in columns:
        empty = table[column] == ""
        if empty.any():
            row = int(empty.to_numpy().argmax()) + 1
            raise InputError(f"{path}: {column} of mixture {row} is empty. Give every row a value for each column.")
    twice = table["ID"][table["ID"].duplicated()]
    if len(twice):
        raise InputError(f"{path}: the ID {twice.iloc[0]} occurs twice. Give every mixture a unique ID.")


def _numbers(path, table, column):
    """The values of a column, all finite and above zero."""
    texts = table[column].str.replace(",", ".", regex=False)  # decimal commas of localised spreadsheets
    numbers = pd.to_numeric(texts, errors="coerce")
    usable = np.isfinite(numbers) & (numbers > 0) & (numbers < LARGEST)
    if not usable.all():
        row = table[~usable].iloc[0]
        raise InputError(
            f"{path}: {column} of '{row['ID']}' is {row[column]!r}; expected a number above zero. Without the columns "
            "duration and sample_rate, both are read from the files."
        )
    return numbers


def _lengths_of_files(path, table, data_root):
    """Samples and sample rates, from the headers of the mixtures."""
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        headers = list(pool.map(functools.partial(_header, path, data_root), table["mix_wav"]))
    return [header.frames for header in headers], [header.sample_rate for header in headers]


def _header(manifest, data_root, path):
    if not os.path.isfile(path):
        raise InputError(f"{manifest}: {path} does not exist.{likely_cause(path, data_root)}")
    with AudioReader(path) as reader:
        return reader


def check_lengths(manifest: str | Path, table: pd.DataFrame, trim: int = 0) -> None:
    """Compare the lengths in a manifest with those of the files, for a few mixtures, and their channels with one.

    This finds what is wrong with all files before training begins. Each mixture's files are compared when they are
    read.

    Arguments
    ---------
    manifest : str or Path
        For messages.
    table : pandas.DataFrame
        The manifest, from `read_manifest`.
    trim : int
        Number of samples by which a file may be longer.

    Raises
    ------
    InputError
        If a file is longer or shorter than its row says, or has several channels.
    """
    columns = [column for column in table.columns if re.fullmatch(r"(mix|s\d+)_wav", column)]
    rows = _spread(table[["ID", "num_samples", *columns]].to_dict("records"), key=lambda row: row["ID"])
    for row in rows:
        for column in columns:
            if os.path.isfile(row[column]):
                header = _header(manifest, None, row[column])
                if header.channels != 1:
                    raise InputError(
                        f"{row[column]}: has {header.channels} channels; {manifest} needs files of one channel."
                    )
                check_total(row[column], header, row["num_samples"], trim)


def fingerprint(table: pd.DataFrame) -> str:
    """Hash of the data that a manifest lists, independent of its location.

    It covers the kinds of signals (the ``…_wav`` columns), the ID, length and sample rate of every mixture, and some
    samples of all signals of a few mixtures. So another task or target, other speakers, noise or levels give another
    fingerprint, and so does another corpus with the same names. A change in a single recording may not be detected: at
    most `SAMPLED_RECORDINGS` mixtures are sampled, so that the time doesn't grow with the corpus. The order of the rows
    and the format of the files have no effect; of lossy formats, the decoded samples are used.

    Arguments
    ---------
    table : pandas.DataFrame
        A manifest, from `read_manifest`.

    Returns
    -------
    str
        SHA-256, in hexadecimal digits.

    Raises
    ------
    InputError
        If a sampled recording does not exist, or is not audio.

    Example
    -------
    >>> table = pd.DataFrame({"ID": ["b", "a"], "num_samples": [20000, 8000], "sample_rate": 8000})
    >>> fingerprint(table)[:FINGERPRINT_SHOWN]
    '36d64d76ce08'
    """
    columns = sorted(column for column in table.columns if column.endswith("_wav"))
    table = table.sort_values("ID")
    listed = zip(table["ID"], table["num_samples"], table["sample_rate"], strict=True)
    rows = table[["ID", "num_samples", *columns]].to_dict("records")
    sampled = [
        (row[column], row["num_samples"]) for row in _spread(rows, key=lambda row: row["ID"]) for column in columns
    ]
    return digest([columns, *listed], sampled)


def digest(facts: Iterable[Sequence], recordings: Iterable[tuple]) -> str:
    """SHA-256 over facts and over some samples of recordings.

    Arguments
    ---------
    facts : iterable of sequence
        Facts, one line each.
    recordings : iterable of tuple
        Path and number of samples of each recording.

    Returns
    -------
    str
        Hexadecimal digits.
    """
    found = hashlib.sha256("".join("\t".join(map(str, line)) + "\n" for line in facts).encode())
    for path, num_samples in recordings:
        count = min(SAMPLED_FRAMES, num_samples)
        starts = [(num_samples - count) * place // (SAMPLED_PLACES - 1) for place in range(SAMPLED_PLACES)]
        for samples in _read_places(path, starts, count):
            found.update(np.ascontiguousarray(samples, dtype="<f4").tobytes())
    return found.hexdigest()


def _read_places(path, starts, count):
    """As `read_audio` for several places, with the file opened once, since opening is slow on network disks.

    A place that can't be decoded gives no samples: the checks of the data, and training, find such damage. A truncated
    file is an error.
    """
    with AudioReader(path) as reader:
        for start in starts:
            try:
                reader.seek(start)
                samples = reader.read(count)
                yield samples[:, 0] if reader.channels == 1 else samples
            except InputError:
                yield np.empty(0, np.float32)


def _spread(rows, key):
    """A few of many rows, independent of their order: those whose keys have the lowest hashes."""
    ranked = sorted(rows, key=lambda row: hashlib.sha256(str(key(row)).encode()).digest())
    return ranked[:SAMPLED_RECORDINGS]


def recordings_fingerprint(names: Sequence[str], paths: Sequence, num_samples: Sequence, sample_rates: Sequence) -> str:
    """As `fingerprint`, for the recordings of dynamic mixing.

    Arguments
    ---------
    names : sequence of str
        Further facts on each recording: its speaker and its name without folder.
    paths, num_samples, sample_rates : sequence
        The file of each recording, its length, and its sample rate in Hz.

    Returns
    -------
    str
        SHA-256, in hexadecimal digits.
    """
    rows = sorted(zip(names, num_samples, sample_rates, paths, strict=True))
    sampled = [(row[3], row[1]) for row in _spread(rows, key=lambda row: row[:3])]
    return digest([row[:3] for row in rows], sampled)


def mixtures_are_sums(manifest: str | Path) -> bool:
    """Whether the mixtures of a manifest are the sum of its sources and noise, as noted by the preparation.

    Arguments
    ---------
    manifest : str or Path
        ``wham_tr.csv``; the facts are in ``wham_tr.json``.

    Returns
    -------
    bool

    Raises
    ------
    InputError
        If that file does not exist, or does not contain it.
    """
    facts = Path(manifest).with_suffix(".json")
    try:
        return json.loads(facts.read_text(encoding="utf-8"))["mixture_is_sum"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{facts}: does not state whether the mixtures are the sum of sources and noise (mixture_is_sum), which "
            f"augmentation needs. Prepare the data again (without --skip_prep)."
        ) from error
