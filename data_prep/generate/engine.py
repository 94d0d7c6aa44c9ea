"""Writing the files of a plan of mixtures: in several processes, resumable, and reproducible.

A corpus module plans `Item`s, which list their files with the number of samples, and has a function that computes the
samples of one item:

    @dataclass(frozen=True)
    class MixtureItem(Item):
        gain: float

    def make(mixture):  # picklable; functools.partial binds more arguments
        return {output.path: np.full(output.frames, mixture.gain, np.float32) for output in mixture.outputs}

    items = [MixtureItem("a", (Output("tr/mix/a.wav", 8000, 8000, "float32"),), gain=0.5), …]
    run(Plan("wham", items, make, {"mix_param_meta_tr.csv": checksum(path)}), output_folder, workers=2)

Files are written atomically, and the planned number of samples determines their size. So a file of the right size is
complete, and an item with a missing file is computed again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.io import wavfile
from tqdm import tqdm

from data_prep.command import add_cluster_argument
from data_prep.generate.file_access import check_access
from data_prep.parallel import count_workers, process_map, workers_for
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import atomic_write, expanded

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

HEADER_BYTES = {"int16": 44, "float32": 58}  # of scipy's WAV files
BLOCK_BYTES = 4096  # maximum overhead of a file on the disk
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # as `mossformer_sb.utils.files.temporary_name` makes them


class Output(NamedTuple):
    """One WAV file to write.

    Attributes
    ----------
    path : str
        Relative to the output folder, with slashes.
    frames : int
        Samples per channel.
    sample_rate : int
        Sample rate in Hz.
    dtype : str
        "int16" for 16-bit PCM, or "float32".
    channels : int
        1 for arrays of shape [frames]; otherwise they have shape [frames, channels].

    Example
    -------
    >>> Output("tr/mix/a.wav", 8000, 8000, "int16").num_bytes
    16044
    """

    path: str
    frames: int
    sample_rate: int
    dtype: str
    channels: int = 1

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return HEADER_BYTES[self.dtype] + self.frames * self.channels * np.dtype(self.dtype).itemsize

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of its samples."""
        return (self.frames,) if self.channels == 1 else (self.frames, self.channels)


@dataclass(frozen=True)
class Item:
    """Unit of work, usually one mixture with its sources. A corpus derives its own class, with more fields.

    Attributes
    ----------
    name : str
        Name for messages.
    outputs : tuple of Output
        Its files.
    """

    name: str
    outputs: tuple

    @property
    def key(self) -> str:
        """Its unique key: the path of its first file."""
        return self.outputs[0].path


@dataclass(frozen=True)
class Plan:
    """The work of a run.

    Attributes
    ----------
    name : str
        Name of the corpus. `{name}.json` in the output folder records the parameters.
    items : Sequence of Item
        The items, which must be picklable.
    make : Callable
        From an item to a dictionary from the path of each of its outputs to an array of the output's type and shape.
        It must be picklable and deterministic.
    parameters : Mapping
        Values that determine the content of a file of a given path, as strings, numbers, lists and None: seeds,
        checksums of metadata files, versions. A tree with other values is not resumed. Values that only select files,
        such as splits and sample rates, are not included: a tree may be completed later.
    collect : Callable, optional
        If given, `make` returns a pair of the dictionary and of further data on the item. After the item's files are
        written, this is called in the main process with the item's `key` and these data.
    """

    name: str
    items: Sequence[Item]
    make: Callable[[Any], Any]
    parameters: Mapping[str, Any]
    collect: Callable[[Any, Any], None] | None = None


class Amount(NamedTuple):
    """Amount of data to write.

    Example
    -------
    >>> str(Amount(2, 3600, 5_000_000))
    '2 files, 1.00 hours, 0.01 GB'
    """

    files: int
    seconds: float
    num_bytes: int

    def __str__(self):
        return f"{self.files:,} files, {self.seconds / 3600:,.2f} hours, {self.num_bytes / 1e9:,.2f} GB"


def run(plan: Plan, output_folder: str | Path, workers: int | None = None, dry_run: bool = False) -> Amount:
    """Writes the missing files of a plan.

    Arguments
    ---------
    plan : Plan
        The work.
    output_folder : str or Path
        Folder of the corpus, created if absent.
    workers : int, optional
        Number of processes. Default: one per CPU. The files don't depend on it.
    dry_run : bool
        Whether only to log how much would be written.

    Returns
    -------
    amount : Amount
        Amount of data that was written, or would be.

    Raises
    ------
    InputError
        If two items have the same file, the folder holds a tree with other parameters, it can't be written, or its disk
        is too small; and the exceptions of `plan.make`.

    Example
    -------
    >>> def make(item):
    ...     return {"tr/mix/a.wav": np.zeros(8000, np.int16)}
    >>> plan = Plan("example", [Item("a", (Output("tr/mix/a.wav", 8000, 8000, "int16"),))], make, {"seed": 0})
    >>> folder = getfixture("tmp_path")
    >>> run(plan, folder, workers=1).num_bytes, run(plan, folder, workers=1).num_bytes
    (16044, 0)
    """
    output_folder = output_path(output_folder)
    count_workers(workers)  # raises if the number is invalid
    _check_paths(plan)
    found, recorded = _check_record(plan, output_folder)
    folders = sorted({os.path.dirname(output.path) for output in _outputs(plan.items)})
    items = _unfinished(plan.items, output_folder, folders)
    amount = _amount(items)
    logger.info("%s: %d of %d items exist", plan.name, len(plan.items) - len(items), len(plan.items))
    if dry_run:
        logger.info("%s: would write %s in '%s'", plan.name, amount, output_folder)
        return amount
    if not items and found == recorded:
        for folder in ("", *folders):
            with contextlib.suppress(OSError):  # a finished tree may be read-only
                remove_temporaries(output_folder / folder)
        return amount
    _check_disk(amount, output_folder)
    _make_folders(output_folder, folders)
    with alone(output_folder):
        _, recorded = _check_record(plan, output_folder)  # again: what another run has made meanwhile
        items = _unfinished(plan.items, output_folder, folders)
        for folder in ("", *folders):
            remove_temporaries(output_folder / folder)
        write_text(output_folder / f"{plan.name}.json", json.dumps(recorded, indent=2, sort_keys=True) + "\n")
        start = time.monotonic()
        _make_all(plan, items, output_folder, workers)
    seconds = max(time.monotonic() - start, 1e-9)
    logger.info("%s: wrote %s in '%s', %.1f files per second", plan.name, amount, output_folder, amount.files / seconds)
    return amount


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of all corpora, which are passed to `generate`, and from there to `run`."""
    parser.add_argument("--output_folder", required=True, help="folder for the corpus")
    parser.add_argument("--workers", type=int, help="number of processes (default: one per CPU)")
    add_cluster_argument(parser)
    parser.add_argument("--dry_run", action="store_true", help="only report how much would be written")


def output_path(output_folder: str | Path) -> Path:
    """The folder of a corpus as a Path, with `~` expanded; an InputError if its name is empty.

    Example
    -------
    >>> output_path("corpora/wham").name
    'wham'
    """
    if not str(output_folder):
        raise InputError("output_folder is empty: give a folder. A shell variable may be unset.")
    return Path(expanded(output_folder))


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, for the parameters of a plan."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file atomically."""
    _write(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def write_wav(path: str | Path, samples: np.ndarray, sample_rate: int) -> None:
    """Writes a WAV file atomically; the same bytes for the same samples.

    Arguments
    ---------
    path : str or Path
        File to write, in an existing folder.
    samples : numpy.ndarray
        [frames] or [frames, channels]; int16, or float32 with full scale 1.
    sample_rate : int
        Sample rate in Hz.

    Raises
    ------
    InputError
        If the file can't be written.
    """
    # Not with soundfile, which writes a timestamp into the headers of float files.
    _write(Path(path), lambda temporary: wavfile.write(temporary, sample_rate, samples))


def _write(path, write):
    try:
        with atomic_write(path) as temporary:
            write(temporary)
    except OSError as error:
        raise InputError(
            f"{path}: can't be written ({error.strerror or error}). Finished files are kept: "
            "free disk space or allow writing, and start again to resume."
        ) from error


# Checks before the work


def _outputs(items):
    return (output for item in items for output in item.outputs)


def _check_paths(plan):
    """Raises an InputError if two items have the same file, or a file is outside the folder."""
    makers = {}
    for item in plan.items:
        for output in item.outputs:
            parts = output.path.split("/")
            if ".." in parts or "\\" in output.path or not parts[0]:
                raise InputError(
                    f"{plan.name}: {item.name!r} would write {output.path!r}, outside the corpus. "
                    "Names in the metadata must be plain file names."
                )
            if output.path in makers:
                raise InputError(
                    f"{plan.name}: two mixtures have the same name, and would write the same file, {output.path}: "
                    f"{makers[output.path]!r} and {item.name!r}. Remove one of them from the metadata."
                )
            makers[output.path] = item.name


def _check_record(plan, output_folder):
    """Compares the parameters with those recorded in the folder; returns the recorded ones, and their union."""
    path = output_folder / f"{plan.name}.json"
    asked = json.loads(json.dumps(dict(plan.parameters)))  # tuples become lists, as in the file
    check_access(path)
    if not os.path.isfile(path):
        strange = next((output for output in _outputs(plan.items) if os.path.exists(output_folder / output.path)), None)
        if strange:
            raise InputError(
                f"output_folder '{output_folder}' holds {strange.path}, but no {path.name} with its parameters: give "
                f"the name of a new folder, or delete this one."
            )
        return {}, asked
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: can't be read ({error}); needed the parameters of the files in the folder. "
            "Give the name of a new folder, or delete this one."
        ) from error
    different = sorted(key for key in asked.keys() & found.keys() if asked[key] != found[key])
    if different:
        raise InputError(
            f"output_folder '{output_folder}' was generated with {differences(found, asked, different)}: give the same "
            "or the name of a new folder, or delete this one."
        )
    return found, found | asked


def differences(found: Mapping, asked: Mapping, keys: Sequence[str]) -> str:
    """Differences between the parameters of a folder and the requested ones, for messages.

    Example
    -------
    >>> differences({"seed": 1}, {"seed": 2}, ["seed"])
    'seed 1; requested is seed 2'
    >>> differences({"mix_2_spk_tr.txt": 64 * "a"}, {"mix_2_spk_tr.txt": 64 * "b"}, ["mix_2_spk_tr.txt"])
    'other versions of these: mix_2_spk_tr.txt'
    """
    sums = [key for key in keys if _is_checksum(found.get(key)) and _is_checksum(asked.get(key))]
    others = [key for key in keys if key not in sums]
    texts = [f"other versions of these: {', '.join(sums)}"] if sums else []
    if others:
        has, wanted = (", ".join(f"{key} {values.get(key)!r}" for key in others) for values in (found, asked))
        texts.append(f"{has}; requested is {wanted}")
    return "; and with ".join(texts)


def _is_checksum(value):
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _unfinished(items, output_folder, folders):
    """The items with a missing file, or a file of another size."""
    sizes = {}
    for folder in folders:
        check_access(output_folder / folder)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(output_folder / folder) as entries:
            sizes |= {f"{folder}/{entry.name}": entry.stat().st_size for entry in entries}
    return [item for item in items if any(sizes.get(output.path) != output.num_bytes for output in item.outputs)]


def _amount(items):
    files = seconds = num_bytes = 0
    for output in _outputs(items):
        files += 1
        seconds += output.frames / output.sample_rate
        num_bytes += output.num_bytes
    return Amount(files, seconds, num_bytes)


def _check_disk(amount, output_folder):
    existing = next(folder for folder in (output_folder, *output_folder.absolute().parents) if os.path.exists(folder))
    needed, free = amount.num_bytes + BLOCK_BYTES * amount.files, shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"output_folder '{output_folder}': its disk has {free / 1e9:,.2f} GB free, and {needed / 1e9:,.2f} GB are "
            "needed. Free disk space, choose another disk, or choose fewer splits, sample rates or modes."
        )


def _make_folders(output_folder, folders):
    try:
        for folder in ("", *folders):
            (output_folder / folder).mkdir(parents=True, exist_ok=True)
        probe = output_folder / f".probe.{os.getpid()}.tmp"  # permissions don't show whether the disk is read-only
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"output_folder '{output_folder}' can't be written ({error}): give a writable folder."
        ) from error


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Context: no other process of this machine generates into the folder; it is waited for.

    Where the system or the disk has no locks, as on Windows, there is no waiting.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)  # ends the lock, as does the end of the process


def _lock(descriptor, folder):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.warning("%s: another process generates into this folder; waiting for its end", folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:  # a disk without locks
        logger.debug("%s: can't be locked (%s)", folder, error)


def remove_temporaries(folder: str | Path) -> None:
    """Removes temporary files of an interrupted run from a folder, if it exists. No other run may write to it."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if _TEMPORARY.fullmatch(entry.name):
                os.unlink(entry.path)


# The work


def _make_all(plan, items, output_folder, workers):
    make = functools.partial(_make_item, plan.make, output_folder, plan.collect is not None)
    with process_map(make, workers_for(len(items), workers), ordered=False) as mapped:
        for key, measured in tqdm(mapped(items), f"Making {plan.name}", len(items), unit="item", disable=None):
            if plan.collect is not None:
                plan.collect(key, measured)


def _make_item(make, output_folder, measures, item):
    signals, measured = make(item) if measures else (make(item), None)
    if signals.keys() != {output.path for output in item.outputs}:
        raise RuntimeError(f"{item.name}: made {sorted(signals)}, planned {[output.path for output in item.outputs]}")
    for output in item.outputs:
        samples = signals[output.path]
        if samples.shape != output.shape or samples.dtype != output.dtype:
            raise RuntimeError(f"{output.path}: made {samples.dtype} {samples.shape}, planned {output}")
        write_wav(output_folder / output.path, samples, output.sample_rate)
    return item.key, measured
