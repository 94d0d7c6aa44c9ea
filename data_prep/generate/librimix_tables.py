"""The published tables of a generated LibriMix: files, and the ratio of each signal to the rest of its mixture.

    OUTPUT_FOLDER/Libri{N}Mix/wav{8k,16k}/{min,max}/metadata/{mixture,metrics}_{split}_{mix_clean,mix_both,mix_single}.csv

Ratios are measured as published: on signals before rounding to 16 bit and clipping.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.generate.engine import remove_temporaries, write_text
from data_prep.generate.librimix_metadata import csv_text
from data_prep.parallel import process_map
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from data_prep.generate.librimix_samples import LibrimixItem

KINDS = ("anechoic", "reverb")  # of signals in rooms
EPSILON = 1e-10  # of the published ratios


def parts_of(mixture: np.ndarray, num_spks: int) -> list[str]:
    """The parts whose sum is a mixture.

    Example
    -------
    >>> parts_of("mix_both", 2), parts_of("mix_single", 2)
    (['s1', 's2', 'noise'], ['s1', 'noise'])
    """
    sources = [f"s{number}" for number in range(1, num_spks + 1)]
    return {"mix_clean": sources, "mix_both": [*sources, "noise"], "mix_single": ["s1", "noise"]}[mixture]


def measure_ratios(mixture: np.ndarray, parts: Sequence[np.ndarray]) -> list[float]:
    """Ratios of the parts of a mixture to the rest of it.

    Arguments
    ---------
    mixture : numpy.ndarray
        [T].
    parts : sequence of numpy.ndarray
        Parts of the mixture, each [T].

    Returns
    -------
    ratios : list of float
        In dB.

    Example
    -------
    >>> [round(ratio, 3) for ratio in measure_ratios(np.full(4, 11.0), [np.full(4, 10.0), np.ones(4)])]
    [20.0, -20.0]
    """
    powers = [(float(np.mean(part**2)), float(np.mean((mixture - part) ** 2))) for part in parts]
    return [float(10 * np.log10(power / (rest + EPSILON) + EPSILON)) for power, rest in powers]


def write_tables(
    output_folder: Path,
    items: Sequence[LibrimixItem],
    types: Sequence[str],
    measured: dict,
    make: Callable,
    workers: int | None,
) -> None:
    """Writes the missing tables, and those of new mixtures.

    Arguments
    ---------
    output_folder : Path
        Folder of the corpus.
    items : sequence of data_prep.generate.librimix_samples.LibrimixItem
        The mixtures, in the order of the tables.
    types : sequence of str
        The types of mixtures.
    measured : dict
        Key of an item → (folder of its split, type of mixture with the kind) → ratios, for new mixtures. Those of an
        earlier run are measured again, and added.
    make : Callable
        From an item to its signals and its ratios.
    workers : int, optional
        Number of processes. Default: one per CPU.

    Raises
    ------
    InputError
        If a table can't be written.
    """
    groups = {}
    for item in items:
        for _, _, top in item.tops:
            groups.setdefault(top, []).append(item)
    due = {}  # (folder of a split, name of a table) → its items
    for top, members in groups.items():
        _remove_temporaries(output_folder / _table(top, ""))
        suffixes = [f"_{kind}" for kind in KINDS] if members[0].recipe.room is not None else [""]
        for name in (f"{mixture}{suffix}" for mixture in types for suffix in suffixes):
            whole = all((output_folder / _table(top, f"{what}_", name)).is_file() for what in ("mixture", "metrics"))
            if not whole or any(item.key in measured for item in members):
                due[top, name] = members
    lacking = {item.key: item for members in due.values() for item in members if item.key not in measured}
    with process_map(functools.partial(_measure, make), workers if len(lacking) > 1 else 1) as mapped:
        measured |= dict(mapped(lacking.values()))
    for (top, name), members in due.items():
        _write_table(output_folder, top, name, members, measured)


def _remove_temporaries(folder):
    try:
        remove_temporaries(folder)
    except OSError:  # a finished tree may be read-only
        return


def _table(top, what, name=None):
    """Path of a table of a split, or of the folder of tables."""
    split = Path(top)
    folder = split.parent / "metadata"
    return folder if name is None else folder / f"{what}{split.name}_{name}.csv"


def _measure(make, item):
    return item.key, make(item)[1]


def _write_table(output_folder, top, name, items, measured):
    mixture = "_".join(name.split("_")[:2])
    suffix = name.removeprefix(mixture)
    parts = parts_of(mixture, len(items[0].recipe.sources))
    columns = [part.replace("s", "source_", 1) if part != "noise" else part for part in parts]
    folders = [part if part == "noise" else f"{part}{suffix}" for part in (mixture, *parts)]
    files = [["mixture_ID", "mixture_path", *(f"{column}_path" for column in columns), "length"]]
    metrics = [["mixture_ID", *(f"{column}_SNR" for column in columns)]]
    root = (output_folder / top).resolve()
    for item in items:
        made = {output.path: output.frames for output in item.outputs}
        file_name = Path(item.key).stem
        paths = [f"{folder}/{file_name}.wav" for folder in folders]
        files.append([file_name, *(str(root / path) for path in paths), made[f"{top}/{paths[0]}"]])
        metrics.append([file_name, *measured[item.key][top, name]])
    folder = output_folder / _table(top, "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: can't be created ({error.strerror}). Allow writing, and start again.") from error
    write_text(output_folder / _table(top, "mixture_", name), csv_text(files))
    write_text(output_folder / _table(top, "metrics_", name), csv_text(metrics))
