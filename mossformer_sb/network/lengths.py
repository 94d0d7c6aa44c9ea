"""True lengths of the items of a padded batch: checking them, and finding the padding.

Lengths are absolute (samples or frames, int64), not SpeechBrain's fractions of the longest item: a fraction can't be
converted to a number of samples without rounding.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import torch

from mossformer_sb.errors import InputError
from mossformer_sb.network.precision import at_least_float32

if TYPE_CHECKING:
    from collections.abc import Iterator

_local = threading.local()


@contextlib.contextmanager
def lengths_are_checked() -> Iterator[None]:
    """Context: lengths have been checked, and are not read again, which would wait for an accelerator."""
    before = getattr(_local, "checked", False)
    _local.checked = True
    try:
        yield
    finally:
        _local.checked = before


def check_lengths(
    lengths: torch.Tensor, batch_size: int, maximum: int, minimum: int = 1, unit: str = "samples"
) -> None:
    """Raise if ``lengths`` are not the lengths of a padded batch.

    Reading the values of a tensor on an accelerator waits for all its queued work, so check a copy on the CPU if there
    is one, and run the following code within `lengths_are_checked`.

    Arguments
    ---------
    lengths : torch.Tensor
        [B], int64.
    batch_size : int
        B.
    maximum : int
        Length of the padded batch.
    minimum : int
        Minimum length.
    unit : str
        Unit of the lengths, for the message.

    Raises
    ------
    InputError
        If the type, shape or a value is wrong.

    Example
    -------
    >>> check_lengths(torch.tensor([0.5, 1.0]), batch_size=2, maximum=100)
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: lengths must be an int64 tensor of samples, not torch.float32: for SpeechBrain's \
relative lengths, give (relative * 100).round().long().
    """
    if not torch.is_tensor(lengths) or lengths.dtype != torch.int64:
        found = lengths.dtype if torch.is_tensor(lengths) else type(lengths).__name__
        raise InputError(
            f"lengths must be an int64 tensor of {unit}, not {found}: for SpeechBrain's relative lengths, give "
            f"(relative * {maximum}).round().long()."
        )
    if lengths.shape != (batch_size,):
        raise InputError(
            f"lengths must have shape [{batch_size}], one for each item of the batch, not {list(lengths.shape)}."
        )
    if torch.compiler.is_compiling():
        return  # reading values would break the graph
    if getattr(_local, "checked", False):
        return
    values = lengths.tolist() or [minimum]
    shortest, longest = min(values), max(values)
    if shortest < minimum or longest > maximum:
        raise InputError(
            f"lengths must be between {minimum} and {maximum} {unit}, the length of the padded batch; "
            f"found {shortest} to {longest}."
        )


def padding_mask(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """True past each item's length.

    Arguments
    ---------
    lengths : torch.Tensor
        [B].
    size : int
        Length of the padded batch.

    Returns
    -------
    torch.Tensor
        [B, size], bool.

    Example
    -------
    >>> padding_mask(torch.tensor([1, 3]), 3).long().tolist()
    [[0, 1, 1], [0, 0, 0]]
    """
    return torch.arange(size, device=lengths.device) >= lengths[:, None]


def zero_padding(x: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
    """Replace padding with zeros.

    Arguments
    ---------
    x : torch.Tensor
        Any shape.
    padding : torch.Tensor, optional
        bool, True in the padding, of a shape that broadcasts to that of x. Default: no padding.

    Returns
    -------
    torch.Tensor
        Same shape and dtype as x.

    Example
    -------
    >>> zero_padding(torch.ones(2, 3), padding_mask(torch.tensor([1, 3]), 3)).tolist()
    [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    return x if padding is None else x.masked_fill(padding, 0.0)


def over_length(x: torch.Tensor, num_frames: int, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Divide each item by its number of frames, exact in all dtypes: bfloat16 would round 2055 to 2048.

    Arguments
    ---------
    x : torch.Tensor
        [B, L, N] with lengths, any shape without.
    num_frames : int
        L.
    lengths : torch.Tensor, optional
        [B], frames of each item. Default: all L.

    Returns
    -------
    torch.Tensor
        Same shape and dtype as x.

    Example
    -------
    >>> over_length(torch.full((2, 4, 1), 6.0), 4, torch.tensor([4, 3])).flatten(1).tolist()
    [[1.5, 1.5, 1.5, 1.5], [2.0, 2.0, 2.0, 2.0]]
    """
    x32 = at_least_float32(x)
    count = num_frames if lengths is None else lengths.to(x32.dtype)[:, None, None]
    return (x32 / count).to(x.dtype)
