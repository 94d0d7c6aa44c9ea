"""Separating many recordings into files, in a pipeline.

Three stages run in parallel: the next recordings are read and resampled, the network separates batches of their pieces,
and finished recordings are written. The queues between them are bounded. Shapes: t samples, S speakers.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from typing import TYPE_CHECKING

import torch

from mossformer_sb.data.audio_io import Recording
from mossformer_sb.data.audio_writing import check_format
from mossformer_sb.inference.batches import BatchLimit, result_or_raise, separate_pieces
from mossformer_sb.inference.block_store import BlockStore
from mossformer_sb.inference.chunking import Chunking
from mossformer_sb.inference.output_files import made_folders
from mossformer_sb.inference.output_gain import LEVELS, check_level
from mossformer_sb.inference.output_writer import write_separated
from mossformer_sb.inference.prepared import PreparedRecording
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from typing import Any

    from mossformer_sb.inference.output_files import Output, SeparatedRecording
    from mossformer_sb.inference.separation import MossFormerSeparation

_POLL_SECONDS = 0.1  # interval at which a waiting thread checks for cancellation
_STOP_SECONDS = 10  # timeout for a thread, which may be computing a batch, to end after cancellation


def separate_recordings(
    model: MossFormerSeparation,
    tasks: Iterable[tuple],
    output: Output,
    level: str = LEVELS[0],
    channel: int | None = None,
    chunking: Chunking | None = None,
    batch_size: int | None = None,
    report: Callable | None = None,
) -> Iterator[SeparatedRecording | Exception]:
    """Separate recordings into files; an error in one of them does not affect the others.

    The files equal those of `MossFormerSeparation.separate_recording`, up to rounding.

    Arguments
    ---------
    model : mossformer_sb.inference.separation.MossFormerSeparation
    tasks : iterable of (str, Path, bytes or file object; Path; str)
        Recording, output folder, and name of the files. Consumed lazily.
    output : mossformer_sb.inference.output_files.Output
        Which files to write.
    level, channel, chunking, batch_size
        As for `MossFormerSeparation.separate`.
    report : callable, optional
        Called with the number of the task, from 0, the number of samples separated since the last call, its number of
        samples (None if unknown), and its sample rate.

    Returns
    -------
    iterator of SeparatedRecording or Exception
        One per task, in their order.

    Raises
    ------
    InputError
        If an option is not known.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> from mossformer_sb import MossFormerSeparation, MossFormerSeparator
    >>> from mossformer_sb.inference.output_files import Output
    >>> from mossformer_sb.sharing.folder import export
    >>> folder, separator = getfixture("tmp_path"), MossFormerSeparator.from_size("mini")
    >>> model = export(folder / "model", dict(separator.named_children()), sample_rate=8000)
    >>> model = MossFormerSeparation.from_hparams(source=model, device="cpu")
    >>> for name in ("a", "b"):
    ...     soundfile.write(folder / f"{name}.wav", 0.1 * np.random.randn(4000), 8000)
    >>> tasks = [(folder / f"{name}.wav", folder / "out", name) for name in ("a", "missing", "b")]
    >>> [type(found).__name__ for found in separate_recordings(model, tasks, Output(), batch_size=2)]
    ['SeparatedRecording', 'InputError', 'SeparatedRecording']
    """
    check_level(level)
    limit = BatchLimit(batch_size, model.device)
    reader = _Reader(model, output, channel, chunking or Chunking())
    separated: Ahead | Generator
    if uses_io_threads(model.device):
        pieces = Ahead(reader.pieces(tasks), 2 * limit.most)
        separated = Ahead(separate_pieces(model.separate_signals, pieces, limit), 2 * limit.most, pieces.close)
    else:
        separated = separate_pieces(model.separate_signals, reader.pieces(tasks), limit)
    try:
        for number, (task, group) in enumerate(itertools.groupby(separated, key=lambda entry: entry[0])):
            on_block = None if report is None else _progress_reporter(report, number, task)
            try:
                yield task.write(group, level, on_block)
            except Exception as error:
                task.is_cancelled = True
                yield error
    finally:
        separated.close()


def uses_io_threads(device: str | torch.device) -> bool:
    """Whether separate threads read and write recordings while the network computes.

    Not on a CPU where the network uses several threads: each Python thread that calls PyTorch gets a thread pool of its
    own, whose threads busy-wait and slow the network's down, 1.4 times with two.

    Example
    -------
    >>> uses_io_threads("cuda")
    True
    """
    return torch.device(device).type != "cpu" or torch.get_num_threads() == 1


def _progress_reporter(report, number, task):
    def on_block(num_samples):
        recording = task.prepared.recording
        report(number, num_samples, recording.num_samples, recording.sample_rate)

    return on_block


class _Task:
    """A recording with its output."""

    def __init__(self, recording, folder, name):
        self.recording, self.folder, self.name = recording, expanded(folder), name
        self.prepared = self.output = self.detector = self.error = None
        self.num_spks = 0
        self.is_cancelled = False  # stops reading

    def open(self, model, output, channel, chunking):
        """Read the header, and make the checks that need no separation."""
        recording = Recording(self.recording, channel=channel)
        check_format(output.format, recording.sample_rate)
        self.output, self.num_spks = output, model.hparams.num_spks
        self.detector = model.activity_detector(recording) if output.activity else None
        self.prepared = PreparedRecording(recording, model, chunking)

    def write(self, separated, level, on_block):
        """Write this task's files from its pieces and their estimates."""
        first = next(separated)
        separated = self._checked(itertools.chain([first], separated))
        if self.prepared is None:
            next(separated)  # raises
        recording = self.prepared.recording
        paths = self.output.paths(self.folder, self.name, self.num_spks)
        with made_folders(self.folder, paths, self.recording), BlockStore(self.num_spks, self.folder) as store:
            for block in self.prepared.blocks(separated):
                store.append(block)
                if on_block is not None:
                    on_block(len(block))
            return write_separated(recording, store, self.output, self.folder, self.name, level, self.detector)

    def _checked(self, separated):
        for _, piece, found in separated:
            if piece is None:
                raise self.error
            yield piece, result_or_raise(found)


class _Reader:
    """Reads the pieces of tasks; an error replaces the piece that can't be read."""

    def __init__(self, model, *options):
        self._model, self._options = model, options

    def pieces(self, tasks):
        """Iterator of (`_Task`, Piece, or None with the exception in `_Task.error`)."""
        for entry in tasks:
            task = _Task(*entry)
            try:
                task.open(self._model, *self._options)
                for piece in task.prepared.pieces():
                    yield task, piece
                    if task.is_cancelled:
                        break
            except Exception as error:
                task.error = error
                yield task, None


class Ahead:
    """An iterator that prefetches items in a thread.

    Arguments
    ---------
    items : iterable
        Items to prefetch. Its exception is raised by this iterator, in the same place.
    size : int
        Number of items to prefetch.
    on_close : callable, optional
        Called when the remaining items are cancelled.

    Example
    -------
    >>> list(Ahead(range(3), 1))
    [0, 1, 2]
    """

    def __init__(self, items: Iterable, size: int, on_close: Callable | None = None) -> None:
        self._waiting, self._closed, self._on_close = queue.Queue(size), threading.Event(), on_close
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, args=(items,), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        if self._has_ended:
            raise StopIteration
        while True:
            if self._closed.is_set():
                raise _Cancelled  # and not StopIteration, after which the items so far would still be processed
            with contextlib.suppress(queue.Empty):
                item, error = self._waiting.get(timeout=_POLL_SECONDS)
                break
        if error is None:
            return item
        self._has_ended = True
        raise error

    def close(self) -> None:
        """Cancel the remaining items; wait, with a timeout, for the item that is being computed."""
        self._closed.set()
        if self._on_close is not None:
            self._on_close()
        self._thread.join(_STOP_SECONDS)

    def _run(self, items):
        try:
            for item in items:
                if not self._put(item, None):
                    return
            self._put(None, StopIteration())
        except BaseException as error:  # raised by the consumer
            self._put(None, error)

    def _put(self, item, error):
        """Queue an item. False if the remaining items were cancelled first."""
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._waiting.put((item, error), timeout=_POLL_SECONDS)
                return True
        return False


class _Cancelled(Exception):
    """The remaining items were cancelled."""
