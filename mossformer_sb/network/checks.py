"""Checks of the arguments of a separator and of a mask net, and of its inputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from mossformer_sb.errors import InputError
from mossformer_sb.network.lengths import check_lengths

if TYPE_CHECKING:
    from collections.abc import Collection

    import torch

# Arguments of SpeechBrain's Dual_Path_Model that MossFormer does not have: the two networks within and across chunks,
# their combination, and absolute positions, which end at max_length.
DUAL_PATH_ARGUMENTS = (
    "intra_model",
    "inter_model",
    "num_layers",
    "K",
    "skip_around_intra",
    "linear_layer_after_inter_intra",
    "use_global_pos_enc",
    "max_length",
)

INPUT_LEVELS = ("rms", "loud_rms")  # how a recording's level is measured, see `mossformer_sb.inference.input_level`
MOST_SHIFTS = 64  # a model's folder can't ask for more


def refuse(network: str, others: Collection[str], known: Collection[str]) -> None:
    """Raise InputError for unknown arguments of a mask net, given by its class's name."""
    stock = [key for key in others if key in DUAL_PATH_ARGUMENTS]
    if stock:
        raise InputError(
            f"{network} does not take {', '.join(stock)}, which Dual_Path_Model takes: delete this from the "
            f"node, and the nodes of intra_model and inter_model. The depth is num_blocks, and a local attention group "
            f"has group_size frames."
        )
    if others:
        raise InputError(f"{network} does not take {', '.join(others)}: it takes {', '.join(known)}.")


def check_count(key: str, value: object) -> None:
    """Raise InputError for a value that is not a positive integer.

    Example
    -------
    >>> check_count("num_spks", 0)
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: num_spks must be a whole number of at least 1; found 0.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        # A network, Dual_Path_Model's third positional argument, would be printed with all its layers.
        found = type(value).__name__ if isinstance(value, nn.Module) else repr(value)
        raise InputError(f"{key} must be a whole number of at least 1; found {found}.")


def check_number(key: str, value: object) -> None:
    """Raise InputError for a value that is not a finite number.

    Example
    -------
    >>> check_number("dropout", "0.1")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: dropout must be a number; found '0.1'.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{key} must be a number; found {value!r}.")


def check_input_level(measure: str) -> None:
    """Raise InputError if a measure of the input's level is not known.

    Example
    -------
    >>> check_input_level("peak")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: input_level 'peak' is not known: choose one of rms, loud_rms.
    """
    if measure not in INPUT_LEVELS:
        raise InputError(f"input_level {measure!r} is not known: choose one of {', '.join(INPUT_LEVELS)}.")


def check_shifts(shifts: int) -> int:
    """The number of shifts, see `mossformer_sb.inference.shifts`, or InputError if it is none.

    Example
    -------
    >>> check_shifts(0)
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: shifts must be a whole number from 1, which is no averaging, to 64; found 0.
    """
    if not isinstance(shifts, int) or isinstance(shifts, bool) or not 1 <= shifts <= MOST_SHIFTS:
        raise InputError(
            f"shifts must be a whole number from 1, which is no averaging, to {MOST_SHIFTS}; found {shifts!r}."
        )
    return shifts


def check_config(
    norm: str,
    dropout: float,
    kernel_size: int,
    out_channels: int,
    query_key_dim: int,
    expansion_factor: float,
    **counts: int,
) -> None:
    """Raise InputError for an invalid value of a mask net."""
    counts.update(out_channels=out_channels, query_key_dim=query_key_dim)
    for key, value in counts.items():
        check_count(key, value)
    for key in ("out_channels", "query_key_dim"):
        if counts[key] % 2:
            raise InputError(
                f"{key} must be even, since positions are coded in pairs of channels; found {counts[key]}."
            )
    if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(
            f"kernel_size must be an odd whole number, so that the kernel has a middle; found {kernel_size!r}."
        )
    check_number("dropout", dropout)
    if not 0 <= dropout < 1:
        raise InputError(f"dropout is a probability of at least 0 and less than 1; found {dropout!r}.")
    check_number("expansion_factor", expansion_factor)
    hidden = out_channels * expansion_factor / 2
    if hidden < 1 or hidden != int(hidden):
        raise InputError(
            f"expansion_factor * out_channels / 2, the width of v and of u, must be a whole number of at least 1; "
            f"found {expansion_factor} * {out_channels} / 2 = {hidden}."
        )
    if norm != "ln":
        raise InputError(f"norm {norm!r} is not known: choose 'ln', the norm of the published networks.")


def check_input(x: torch.Tensor, in_channels: int, lengths: torch.Tensor | None = None) -> None:
    """Raise InputError if an encoded mixture, or the lengths of its items, is invalid as input of a mask net.

    Arguments
    ---------
    x : torch.Tensor
        [B, N, L], L ≥ 1.
    in_channels : int
        N.
    lengths : torch.Tensor, optional
        [B], int64, frames of each item.

    Raises
    ------
    InputError
        If a shape, or the type or value of a length, is wrong.

    Example
    -------
    >>> import torch
    >>> check_input(torch.rand(2, 64, 0), in_channels=64)
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: the mask net takes [batch, 64, frames] with at least one frame; found [2, 64, 0].
    """
    if x.dim() != 3 or x.shape[1] != in_channels or x.shape[2] < 1:
        raise InputError(
            f"the mask net takes [batch, {in_channels}, frames] with at least one frame; found {list(x.shape)}."
        )
    if lengths is not None:
        check_lengths(lengths, x.shape[0], maximum=x.shape[2], unit="frames")
