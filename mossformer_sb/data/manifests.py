"""Manifests: tables of mixtures and their sources, and fingerprints of the data that they list."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd

from mossformer_sb.data.audio_reader import AudioReader
from mossformer_sb.errors import InputError

DATA_ROOT = "$data_root"  # what every path in a manifest begins with
FINGERPRINT_SHOWN = 12  # digits of a fingerprint that people get to see
SAMPLED_RECORDINGS = 48  # of a dataset, of which a fingerprint has samples
SAMPLED_PLACES, SAMPLED_FRAMES = 4, 128  # in each of them, and frames at each place


def read_manifest(path, data_root, num_spks=None):
    """Read a manifest.

    Arguments
    ---------
    path : str or Path
        A CSV with the columns ``ID, duration, sample_rate, mix_wav, s1_wav … sN_wav``; others are kept.
    data_root : str or Path
        What ``$data_root`` in its paths stands for.
    num_spks : int, optional
        How many sources there must be.

    Returns
    -------
    pandas.DataFrame
        One row per mixture, paths complete, and a column ``num_samples``.

    Raises
    ------
    InputError
        If the file is absent, empty, or lacks a column.

    Example
    -------
    >>> manifest = getfixture("tmp_path") / "tr.csv"
    >>> header = "ID,duration,sample_rate,mix_wav,s1_wav"
    >>> _ = manifest.write_text(header + "\\na,2.5,8000,$data_root/m.wav,$data_root/s.wav\\n")
    >>> read_manifest(manifest, "/data")[["mix_wav", "num_samples"]].iloc[0].to_list() == ["/data/m.wav", 20000]
    True
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: there is no such manifest. Prepare the data first (without --skip_prep).")
    table = pd.read_csv(path, dtype={"ID": str}, keep_default_na=False)
    needed = ["ID", "duration", "sample_rate", "mix_wav"] + [f"s{i + 1}_wav" for i in range(num_spks or 1)]
    missing = [column for column in needed if column not in table.columns]
    if missing:
        raise InputError(
            f"{path}: column {', '.join(missing)} is missing; found {', '.join(table.columns)}. "
            f"Does num_spks: {num_spks} fit this corpus?"
        )
    if num_spks is not None and f"s{num_spks + 1}_wav" in table.columns:
        raise InputError(
            f"{path}: has a column s{num_spks + 1}_wav, but num_spks is {num_spks}: set it to the corpus's."
        )
    if table.empty:
        raise InputError(f"{path}: has no rows.")
    for column in table.columns[table.columns.str.endswith("_wav")]:
        table[column] = table[column].str.replace(DATA_ROOT, str(data_root), n=1, regex=False)
    table["num_samples"] = (table["duration"] * table["sample_rate"]).round().astype(int)
    return table


def fingerprint(table):
    """Tell whether two manifests list the same data, wherever it lies.

    Covered are: which kinds of signal there are (the ``…_wav`` columns), the ID, length and sample rate of every
    mixture, and, of all signals of a few mixtures, some samples. So another task or target, other speakers, noise or
    levels give another fingerprint, and so does another corpus with the same names. A change in a single recording may
    go unnoticed: the samples are of at most `SAMPLED_RECORDINGS` mixtures, so that the time doesn't grow with the
    corpus. The order of the rows and the format of the files are without effect; lossy formats count as they are
    decoded here.

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
        If one of the recordings that it takes samples of is missing, or no audio.

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


def digest(facts, recordings):
    """SHA-256 over facts and over some samples of recordings.

    Arguments
    ---------
    facts : iterable of sequence
        Each is written as one line.
    recordings : iterable of tuple
        Path, and number of samples.

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
    """As `read_audio` for several places, with the file opened once, which is what takes time on network disks.

    A place that can't be decoded gives no samples: finding such damage is left to the checks of the data, and to
    training. A truncated file is an error.
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
    """A few of many rows, the same whatever their order: those whose keys have the lowest hashes."""
    ranked = sorted(rows, key=lambda row: hashlib.sha256(str(key(row)).encode()).digest())
    return ranked[:SAMPLED_RECORDINGS]


def recordings_fingerprint(names, paths, num_samples, sample_rates):
    """As `fingerprint`, of recordings that dynamic mixing draws from.

    Arguments
    ---------
    names : sequence of str
        What is known of each recording besides: its speaker and its name without folder.
    paths, num_samples, sample_rates : sequence
        The file, its length, and its rate in Hz.

    Returns
    -------
    str
        SHA-256, in hexadecimal digits.
    """
    rows = sorted(zip(names, num_samples, sample_rates, paths, strict=True))
    sampled = [(row[3], row[1]) for row in _spread(rows, key=lambda row: row[:3])]
    return digest([row[:3] for row in rows], sampled)


def mixtures_are_sums(manifest):
    """Tell whether the mixtures of a manifest are the sum of its sources and noise, as its preparation noted beside it.

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
        If that file is absent, or says nothing about it.
    """
    facts = Path(manifest).with_suffix(".json")
    try:
        return json.loads(facts.read_text(encoding="utf-8"))["mixture_is_sum"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{facts}: does not say whether the mixtures are the sum of sources and noise (mixture_is_sum), which "
            "augmentation needs to know. Prepare the data again (without --skip_prep)."
        ) from error
