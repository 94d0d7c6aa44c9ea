"""Estimates of a long recording, stored on disk until their gain is known."""

from __future__ import annotations

import contextlib
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from mossformer_sb.data.audio_io import BLOCK
from mossformer_sb.data.audio_writing import writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class BlockStore:
    """Blocks of estimates in an unnamed temporary file, which the system removes when the process ends in any way.

    Arguments
    ---------
    num_columns : int
        S, number of speakers.
    folder : Path
        Folder on the disk to use.

    Example
    -------
    >>> with BlockStore(2, getfixture("tmp_path")) as store:
    ...     store.append(np.ones((300, 2), dtype=np.float32))
    ...     [block.shape for block in store.blocks(200)]
    [(200, 2), (100, 2)]
    """

    def __init__(self, num_columns: int, folder: str | Path) -> None:
        self._num_columns = num_columns
        self._folder = folder
        with writing(folder):
            self._file = tempfile.TemporaryFile(dir=folder)

    def append(self, block: np.ndarray) -> None:
        """Add [t, S], float32."""
        with writing(self._folder):
            self._file.write(np.ascontiguousarray(block, dtype=np.float32).data)

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """Read from the start: iterator of [t, S], the last one shorter."""
        with writing(self._folder):
            self._file.flush()
        self._file.seek(0)
        while content := self._file.read(4 * size * self._num_columns):
            yield np.frombuffer(content, dtype=np.float32).reshape(-1, self._num_columns)

    def __enter__(self) -> BlockStore:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # data that did not fit a full disk, already reported
            self._file.close()
