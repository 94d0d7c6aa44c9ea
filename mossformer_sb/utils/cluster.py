"""Mapping a function over a list on a Dask cluster: https://distributed.dask.org.

All workers share a file system with the same paths, have the same version of this package, and write their results to
it. Items are sent to workers in bundles; the function is sent once to each worker. If a worker is killed, its bundle is
computed by another one.

`distributed` is used directly, not through joblib's backend of that name: with joblib 1.6, a program hangs after an
item has killed a worker for the fourth time, and a cluster with one worker isn't used at all.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import pkgutil
import platform
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError
from mossformer_sb.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CONNECT_SECONDS = 20  # timeout for a cluster to answer and to have a worker
_ALONE_SECONDS = 60  # timeout for a new worker when none is left
_WAIT_SECONDS = 5  # between two checks of it
_IN_FLIGHT = 3  # bundles per worker at a time: one is computed, the others wait
_BUNDLES = 8  # minimum number of bundles per worker, so that all end at about the same time
_LARGEST_BUNDLE = 32


class Cluster:
    """Context: a connected and checked Dask cluster.

    Arguments
    ---------
    address : str
        Address of its scheduler, as in ``tcp://host:8786``, or a scheduler file.
    output_folder : str or Path
        Output folder of the workers. If it does not exist yet, its nearest existing parent is checked.
    paths : iterable of str or Path
        Input files and folders, which must have the same content on all workers.
    package : str
        The package of the functions for items, which all workers must be able to import.

    Raises
    ------
    InputError
        If the cluster can't be reached or has no worker, or a worker lacks the package, has another version, or has
        other folders.
    """

    def __init__(
        self, address: str, output_folder: str | Path, paths: Iterable[str | Path] = (), package: str = "mossformer_sb"
    ) -> None:
        self.address = address
        self._client = _connect(address)
        self._probe = _existing(Path(output_folder).resolve()) / f".cluster-{uuid.uuid4().hex}.tmp"
        try:
            _check_versions(self._client, package)
            self._check_folders([Path(path).resolve() for path in paths])
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._probe.unlink()
        with contextlib.suppress(Exception):  # the cluster may have shut down
            self._client.close(timeout=_WAIT_SECONDS)

    def map(self, function: Callable, items: Iterable, ordered: bool = True, bundle: int | None = None) -> Iterator:
        """The results of a function for items.

        Arguments
        ---------
        function : Callable
            Function of one item. It, the items and the results must be picklable.
        items : iterable
            The items.
        ordered : bool
            Whether results come in the order of the items, or as they are done.
        bundle : int, optional
            Number of items per bundle. Default: chosen by the number of items.

        Returns
        -------
        iterator

        Raises
        ------
        InputError
            If there is no worker any more, or an item kills several workers; and the exceptions of the function.
        """
        items, num_workers = list(items), self.num_workers()
        size = bundle or max(1, min(_LARGEST_BUNDLE, len(items) // (_BUNDLES * num_workers)))
        bundles = collections.deque((start, items[start : start + size]) for start in range(0, len(items), size))
        # A task, not data, so that it is computed again if its worker was killed. Each worker has it once.
        kept = self._client.submit(_identity, function, key=f"function-{uuid.uuid4().hex}", pure=False)
        running, done, position = {}, {}, 0  # future -> first item; first item -> results
        try:
            while bundles or running:
                while bundles and len(running) < _IN_FLIGHT * num_workers:
                    start, some = bundles.popleft()
                    future = self._client.submit(_call, kept, some, str(self._probe), key=f"items-{uuid.uuid4().hex}")
                    running[future] = start
                for future in sorted(self._finished(running), key=running.get):
                    start, results = running.pop(future), self._result(future)
                    if ordered:
                        done[start] = results
                    else:
                        yield from results
                while position in done:
                    results = done.pop(position)
                    position += len(results)
                    yield from results
        finally:
            with contextlib.suppress(Exception):  # the cluster may have shut down
                self._client.cancel([*running, kept])

    def num_workers(self) -> int:
        """Number of items that are computed at the same time: the workers' threads; at least 1."""
        return max(1, sum(self._client.ncores().values()))

    def _finished(self, running):
        """Finished futures; an error if there is no worker for a long time."""
        from distributed import CancelledError, wait
        from distributed import TimeoutError as DaskTimeoutError

        waited = 0
        while True:
            try:
                with self._client.as_current():
                    return wait(list(running), timeout=_WAIT_SECONDS, return_when="FIRST_COMPLETED").done
            except CancelledError as error:
                raise self._gone() from error
            except (DaskTimeoutError, TimeoutError):
                pass
            if self._client.status != "running":
                raise self._gone()
            waited = 0 if self._client.ncores() else waited + _WAIT_SECONDS
            if waited >= _ALONE_SECONDS:
                raise InputError(
                    f"the cluster at {self.address} has had no worker for {_ALONE_SECONDS} s. Finished files are kept: "
                    f"start workers, and run the same command again to resume."
                )

    def _result(self, future):
        from distributed import CancelledError, KilledWorker

        try:
            return future.result()
        except KilledWorker as error:
            raise InputError(
                f"several workers of the cluster at {self.address} were killed by one item, probably out of memory "
                f"(the last one was {error.last_worker.address}). Finished files are kept: give the workers more "
                f"memory, and run the same command again to resume."
            ) from error
        except CancelledError as error:
            raise self._gone() from error

    def _gone(self):
        return InputError(
            f"the cluster at {self.address} has shut down. Finished files are kept: start it, and run the same command "
            f"again to resume."
        )

    def _check_folders(self, paths):
        """Check that each worker can read a file that this machine writes into the output folder, and vice versa."""
        folder, secret = self._probe.parent, uuid.uuid4().hex
        try:
            self._probe.write_text(secret, encoding="ascii")
        except OSError as error:
            raise InputError(f"{folder}: can't write to this folder ({error.strerror}).") from error
        answers = self._client.run(_look, str(self._probe), secret, [str(path) for path in paths], on_error="return")
        expected = [_content(path) for path in paths]
        for worker, answer in answers.items():
            if isinstance(answer, BaseException):
                raise InputError(f"worker {worker} can't check the folders ({answer!r}).") from answer
            problem, reply, seen = answer
            other = next((path for path, here, there in zip(paths, expected, seen, strict=True) if here != there), None)
            if problem is None and not _take(reply):
                problem = f"the file that it wrote to {folder} is not visible on this machine"
            if problem is None and other is not None:
                problem = f"{other} does not exist there, or is another one"
            if problem is not None:
                raise InputError(
                    f"worker {worker} does not have the same folders: {problem}. Mount them under the same paths on "
                    "all machines of the cluster, for the same user."
                )


def _connect(address):
    try:
        from distributed import Client
        from distributed import TimeoutError as DaskTimeoutError
    except ImportError as error:
        raise InputError(
            f"a cluster needs packages that are not installed ({error.name}): pip install 'mossformer_sb[cluster]'."
        ) from error
    given = {"scheduler_file": address} if os.path.isfile(address) else {"address": address}
    advice = "Start one with `dask scheduler` and `dask worker ADDRESS`, and give the scheduler's address."
    try:
        client = Client(**given, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, DaskTimeoutError, TimeoutError) as error:
        raise InputError(f"no cluster responds at {address} ({error}). {advice}") from error
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except (DaskTimeoutError, TimeoutError) as error:
        client.close()
        raise InputError(f"the cluster at {address} has no worker. {advice}") from error
    return client


def _check_versions(client, package):
    # Only the standard library, so that it runs on a worker without this package.
    found = client.run(pkgutil.resolve_name, "mossformer_sb.version:__version__", on_error="return")
    for worker, version in found.items():
        if version != __version__:
            has = "has no mossformer_sb" if isinstance(version, BaseException) else f"has mossformer_sb {version}"
            raise InputError(
                f"worker {worker} {has}, and {__version__} is needed, the version on this machine: pip install it "
                f"there, and restart the worker."
            )
    for worker, module in client.run(pkgutil.resolve_name, package, on_error="return").items():
        if isinstance(module, BaseException):
            raise InputError(
                f"worker {worker} can't import {package} ({module}): start it with this folder of the clone in "
                f"PYTHONPATH, {Path(__file__).parents[2]}."
            )


def _existing(folder):
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _content(path):
    """Identity of a file's or folder's content: size, or digest of names; None if it does not exist."""
    try:
        if not os.path.isdir(path):
            return os.path.getsize(path)
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))  # without temporary files
        return hashlib.sha256("/".join(names).encode(errors="surrogateescape")).hexdigest()
    except OSError:
        return None


def _take(path):
    """Remove a file, and return whether it existed."""
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


# Code that runs in a worker


def _look(probe, secret, paths):
    """The problem of the output folder or None, the file written to it, and the content of some paths."""
    reply = f"{probe}.{uuid.uuid4().hex}"
    try:
        with open(probe, encoding="ascii") as file:
            same = file.read() == secret
        Path(reply).touch()
    except OSError as error:
        return f"{os.path.dirname(probe)} ({error.strerror})", reply, [_content(path) for path in paths]
    problem = None if same else f"{os.path.dirname(probe)} is another one"
    return problem, reply, [_content(path) for path in paths]


def _identity(function):
    return function


def _call(function, items, probe):
    if not os.path.isfile(probe):  # the worker joined after the check
        raise InputError(
            f"a worker on {platform.node()} does not have the same {os.path.dirname(probe)} as the others: mount the "
            "same folders under the same paths. Finished files are kept."
        )
    return [function(item) for item in items]
