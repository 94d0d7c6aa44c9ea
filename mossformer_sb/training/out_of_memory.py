"""Error message for a batch that doesn't fit into memory: its mixtures, and a remedy."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import speechbrain as sb
import torch

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from speechbrain import Stage

    from mossformer_sb.data.datasets import SeparationBatch

SHOWN_IDS = 5
# PyTorch's out-of-memory messages of the type RuntimeError: on a CPU, and of CUDA libraries.
_TEXTS = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is an out-of-memory error.

    Example
    -------
    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


@contextlib.contextmanager
def naming_the_batch(batch: SeparationBatch | None, stage: Stage, sample_rate: int) -> Iterator[None]:
    """Context: turns an out-of-memory error into an `InputError` that names the mixtures of a batch.

    Arguments
    ---------
    batch : SeparationBatch or None
        The current batch.
    stage : speechbrain.Stage
        Training, validation or test.
    sample_rate : int
        Hz.

    Example
    -------
    >>> from mossformer_sb.data.datasets import Mixture, SeparationBatch
    >>> batch = SeparationBatch.collate([Mixture("talk", torch.zeros(16000), torch.zeros(16000, 2))])
    >>> with naming_the_batch(batch, sb.Stage.VALID, 8000):
    ...     raise MemoryError
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: Out of memory for this batch of validation: talk (2.0 s). ...
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is one
        if batch is None or not is_out_of_memory(error):
            raise
        raise InputError(_message(batch, stage, sample_rate)) from error


def _message(batch, stage, sample_rate):
    seconds = [length / sample_rate for length in batch.lengths.tolist()]
    shown = [f"{item} ({time:.1f} s)" for item, time in zip(batch.ids[:SHOWN_IDS], seconds, strict=False)]
    more = len(batch.ids) - len(shown)
    found = ", ".join(shown) + (f" and {more} more" if more else "")
    if stage == sb.Stage.TRAIN:
        name, cure = "training", "Use a smaller --batch_size (with a larger --grad_accumulation_factor, if the step is "
        cure += (
            "to stay the same), a shorter --segment (and --turn_segment, if it is set), --checkpoint_blocks True, or a "
        )
        cure += "smaller --model_size."
    else:
        name = "validation" if stage == sb.Stage.VALID else "test"
        cure = "It does not crop mixtures. Use --valid_batch_size 1 if it is more, cut or remove the longest mixtures, "
        cure += "or use a machine with more memory; the training resumes from its last checkpoint."
    return f"Out of memory for this batch of {name}: {found}. {cure}"
