"""Separating the recordings of a list on the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mossformer_sb.cli.input_files import STDIN
from mossformer_sb.cli.progress import Progress
from mossformer_sb.cli.separate_jobs import SEPARATED, known_results, separate_jobs
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mossformer_sb.cli.separate_jobs import Job
    from mossformer_sb.inference.output_files import Output
    from mossformer_sb.inference.separation import MossFormerSeparation

logger = logging.getLogger(__name__)

_MOST_AT_ONCE = 32  # maximum number of recordings per bundle
_TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")  # as `mossformer_sb.utils.files.temporary_name` makes them
_SHARES = 8  # minimum number of bundles per worker, so that all end at about the same time


class ModelChoice(NamedTuple):
    """The model that a worker loads: the arguments of `MossFormerSeparation.from_hparams`."""

    source: str | None  # None: that of the package, which each worker has in a folder of its own
    device: str
    trust: bool
    shifts: int | None

    def load(self, device: str) -> MossFormerSeparation:
        """The model on a device."""
        from mossformer_sb.inference.separation import MossFormerSeparation

        return MossFormerSeparation.from_hparams(self.source, device=device, trust=self.trust, shifts=self.shifts)


def check_cluster_options(inputs: list[str], environment: Mapping = os.environ) -> None:
    """Raise InputError for options that can't be combined with a cluster.

    Arguments
    ---------
    inputs : list of str
        The recordings.
    environment : mapping
        Environment variables of this process.

    Example
    -------
    >>> check_cluster_options(["archive"], {"WORLD_SIZE": "4"})
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: --cluster is given under torchrun, and both distribute the recordings. Use \
torchrun for the GPUs of one machine, or --cluster without it.
    """
    if int(environment.get("WORLD_SIZE", 1)) > 1:
        raise InputError(
            "--cluster is given under torchrun, and both distribute the recordings. Use torchrun for the GPUs of one "
            "machine, or --cluster without it."
        )
    if STDIN in inputs:
        raise InputError("the standard input (-) can't be read by the workers of a cluster. Give files or folders.")


def separate_on_cluster(
    address: str,
    choice: ModelChoice,
    jobs: list[Job],
    output: Output,
    options: Mapping,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[dict]:
    """Separate recordings on the workers of a cluster; an error in one of them does not affect the others.

    Arguments
    ---------
    address : str
        Address of the cluster's scheduler, or its scheduler file.
    choice : ModelChoice
        The model; a local folder must be on a file system that all workers share.
    jobs, output, options, overwrite, quiet
        As for `mossformer_sb.cli.separate_jobs.separate_jobs`.

    Returns
    -------
    list of dict
        As from `separate_jobs`.

    Raises
    ------
    InputError
        If the cluster can't be used, see `mossformer_sb.utils.cluster.Cluster`.
    """
    from tqdm.contrib.logging import logging_redirect_tqdm

    from mossformer_sb.utils.cluster import Cluster

    if choice.source is not None and os.path.exists(choice.source):
        choice = choice._replace(source=os.path.abspath(choice.source))
    # Loaded here too, so that its errors are reported once, and a model of a hub is fetched once on this machine.
    model = choice.load("cpu")
    output.speakers(model.hparams.num_spks)
    results, due = known_results(jobs, output, model.hparams.num_spks, overwrite)
    if not due:
        return results
    sample = next((jobs[index].path for index in due if os.path.exists(jobs[index].path)), None)
    seen = [path for path in (choice.source, sample) if path is not None and os.path.exists(path)]
    top = Path(os.path.commonpath([jobs[index].folder for index in due]))
    separate = functools.partial(_separate, choice, output, options)
    with (
        Cluster(address, top, seen) as cluster,
        logging_redirect_tqdm(),
        Progress([jobs[index] for index in due], hidden=quiet) as progress,
    ):
        size = max(1, min(_MOST_AT_ONCE, len(due) // (_SHARES * cluster.num_workers())))
        shares = [due[start : start + size] for start in range(0, len(due), size)]
        numbers = {index: number for number, index in enumerate(due)}
        found = cluster.map(separate, [[(index, jobs[index]) for index in share] for share in shares], False, bundle=1)
        logged = set()
        for indexed, messages in found:
            for level, message in messages:
                if (level, message) not in logged:  # each thread of a worker logs it
                    logger.log(level, "%s", message)
                logged.add((level, message))
            for index, result in indexed:
                results[index] = result
                if "num_samples" in result:
                    progress.add(numbers[index], result["num_samples"], result["num_samples"], result["sample_rate"])
                progress.finish(numbers[index])
    num_spks = model.hparams.num_spks
    written = ((jobs[index], results[index]["status"]) for index in due)
    _remove_temporaries(
        path for job, status in written if status == SEPARATED for path in output.paths(job.folder, job.name, num_spks)
    )
    return results


def _remove_temporaries(paths):
    """Remove the temporary files of killed workers for these paths; other programs may write in the same folders."""
    names = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, wanted in names.items():
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(folder)):
                found = _TEMPORARY.fullmatch(entry.name)
                if found and found.group(1) in wanted:
                    os.unlink(entry.path)


# Code that runs in a worker


def _separate(choice, output, options, share):
    """Results of some recordings with their positions, and the messages logged meanwhile."""
    model = _model(choice)
    with _Collected("mossformer_sb") as messages:
        # Existing output is from a worker that was killed in this run: it is written again.
        results = separate_jobs(model, [job for _, job in share], output, options, overwrite=True, quiet=True)
    return [(index, result) for (index, _), result in zip(share, results, strict=True)], messages


_lock = threading.Lock()


def _model(choice):
    with _lock:  # a worker may have several threads
        return _loaded(choice, _version(choice.source))


@functools.lru_cache(maxsize=1)
def _loaded(choice, _):
    return choice.load(choice.device)


def _version(source):
    """What changes when another model is exported into a folder, while a worker runs; None for names and ids."""
    if source is None or not os.path.isdir(source):
        return None
    found = [path.stat() for path in sorted(Path(source).iterdir()) if path.is_file()]
    return tuple((status.st_ino, status.st_size, status.st_mtime_ns) for status in found)


class _Collected(logging.Handler):
    """Context: collects messages, as (level, text), of this thread and of those that it starts."""

    def __init__(self, name):
        super().__init__(logging.WARNING)
        self._logger, self._messages = logging.getLogger(name), []

    def emit(self, record):
        self._messages.append((record.levelno, self.format(record)))

    def __enter__(self):
        self._logger.addHandler(self)
        return self._messages

    def __exit__(self, *_):
        self._logger.removeHandler(self)
