"""The temporary files of a page: folders for each visitor's uploads and results in one root folder.

A visit is one open page in one browser. Its files are deleted when it ends, when a new result replaces the last one,
after some time, and when the program ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from mossformer_sb.inference.serving import TemporaryFolder

if TYPE_CHECKING:
    from collections.abc import Iterator


class Visits:
    """The files of all visits.

    Arguments
    ---------
    keep_seconds : float
        Age in seconds after which `sweep` deletes files.
    parent : str or Path, optional
        Parent of the root folder. Default: the system's folder of temporary files.

    Example
    -------
    >>> visits = Visits(parent=getfixture("tmp_path"))
    >>> folder = visits.new_result("visit 1")
    >>> _ = (folder / "talk_spk1.wav").write_bytes(b"...")
    >>> visits.find(folder.name, "talk_spk1.wav").name, visits.find("other", "talk_spk1.wav")
    ('talk_spk1.wav', None)
    >>> visits.end("visit 1")
    >>> folder.exists()
    False
    >>> visits.close()
    """

    def __init__(self, keep_seconds: float = 3600.0, parent: str | Path | None = None) -> None:
        self.keep_seconds = keep_seconds
        self._folder = TemporaryFolder("mossformer-sb-web-", parent)
        self.root = self._folder.path
        self.uploads = self.root / "uploads"
        self.results = self.root / "results"
        self.uploads.mkdir()
        self.results.mkdir()
        self._owned = {}  # (visit, "result" or "uploads") to paths
        self._in_use = Counter()  # path to the number of separations that use it
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def new_result(self, visit: str) -> Path:
        """Create an empty folder for a visit's result; its last one is deleted.

        Its random name is a secret that protects it from other visitors.
        """
        folder = self.results / secrets.token_urlsafe(16)
        folder.mkdir()
        self._replace(visit, "result", {folder})
        return folder

    def new_upload_folder(self) -> Path:
        """Create an empty folder in ``uploads``."""
        folder = self.uploads / secrets.token_hex(16)
        folder.mkdir()
        return folder

    def keep_uploads(self, visit: str, paths: list[str | Path]) -> None:
        """Register the uploads of a visit, which are deleted with it; its earlier ones are deleted now.

        Arguments
        ---------
        visit : str
        paths : list of str or Path
            Files in ``uploads``. Two visits that upload the same file share it: Gradio names its folder after the
            content.
        """
        relative = [Path(path).resolve().relative_to(self.uploads) for path in paths]
        self._replace(visit, "uploads", {self.uploads / path.parts[0] for path in relative})

    def find(self, token: str, name: str) -> Path | None:
        """The path of a file of a result, or None.

        Arguments
        ---------
        token, name : str
            Untrusted names of the folder and of the file.
        """
        path = self.results / token / name
        with contextlib.suppress(ValueError, OSError):  # an invalid file name
            if path.resolve() == path and path.parent.parent == self.results and path.is_file():
                return path
        return None

    def end(self, visit: str) -> None:
        """Delete all files of a visit."""
        self._replace(visit, "result", set())
        self._replace(visit, "uploads", set())

    @contextlib.contextmanager
    def in_use(self, upload: Path, result: Path) -> Iterator[None]:
        """Context: a separation waits or runs. `sweep` keeps its folders, whose age then counts from its end.

        Arguments
        ---------
        upload : Path
            The recording, usually in a folder of ``uploads``.
        result : Path
            The folder of its result.
        """
        folders = [Path(upload).resolve().parent, result]
        with self._lock:
            self._in_use.update(folders)
        try:
            yield
        finally:
            with self._lock:
                self._in_use.subtract(folders)
            for folder in folders:
                if folder.parent in (self.uploads, self.results):
                    with contextlib.suppress(OSError):  # deleted, since the visit has ended
                        os.utime(folder)

    def sweep(self) -> None:
        """Delete all files that are older than ``keep_seconds``, and not in use."""
        oldest = time.time() - self.keep_seconds
        for path in [*self.results.iterdir(), *self.uploads.iterdir()]:
            with contextlib.suppress(FileNotFoundError), self._lock:
                if not self._in_use[path] and path.stat().st_mtime < oldest:
                    _delete(path)
        with self._lock:
            for owner, paths in list(self._owned.items()):
                self._owned[owner] = {path for path in paths if path.exists()}
                if not self._owned[owner]:
                    del self._owned[owner]

    def sweep_until_closed(self, every: float = 60.0) -> None:
        """Call `sweep` regularly, until `close`."""
        while not self._closed.wait(every):
            self.sweep()

    def close(self) -> None:
        """Delete all files, including those that a running separation still writes."""
        self._closed.set()
        self._folder.delete()

    def _replace(self, visit, kind, paths):
        with self._lock:
            before = self._owned.pop((visit, kind), set())
            if paths:
                self._owned[visit, kind] = paths
            for path in before.difference(*self._owned.values()):
                _delete(path)


def _delete(path):
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
