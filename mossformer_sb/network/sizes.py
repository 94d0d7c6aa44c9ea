"""The published sizes of MossFormer and MossFormer2, and smaller ones: encoder, mask net and decoder of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

from dataclasses import dataclass

from speechbrain.lobes.models.dual_path import Decoder, Encoder

from mossformer_sb.errors import InputError
from mossformer_sb.network.masknet import MossFormerMaskNet
from mossformer_sb.network.mossformer2 import MossFormer2MaskNet


@dataclass(frozen=True)
class Size:
    """Hyperparameters of a size.

    ``channels`` is the width N of the encoder and D of the mask net, which are equal in all published models.
    ``recurrent_channels``, the inner width of the recurrent modules, is only for MossFormer2.
    """

    channels: int
    num_blocks: int
    group_size: int = 256
    query_key_dim: int = 128
    encoder_kernel_size: int = 16
    recurrent_channels: int | None = None


SIZES = {
    "S": Size(channels=256, num_blocks=23),  # 10.8 M parameters
    "M": Size(channels=384, num_blocks=25),  # 25.2 M
    "L": Size(channels=512, num_blocks=24),  # 42.1 M
    # MossFormer2.
    "2S": Size(channels=384, num_blocks=25, recurrent_channels=256),  # 37.8 M
    "2": Size(channels=512, num_blocks=24, recurrent_channels=256),  # 55.7 M
    # Not published: the size of the packaged model, for separating on a CPU; and two for training on a CPU within
    # minutes.
    "small": Size(channels=192, num_blocks=8, group_size=128, query_key_dim=64, encoder_kernel_size=64),  # 2.3 M
    "mini": Size(channels=128, num_blocks=4, group_size=64, encoder_kernel_size=32),  # 0.6 M
    "2mini": Size(channels=128, num_blocks=4, group_size=64, encoder_kernel_size=32, recurrent_channels=64),  # 0.8 M
}


def get_size(name: str) -> Size:
    """Look up a size by name.

    Arguments
    ---------
    name : str
        One of `SIZES`. The number 2 is accepted as "2", since YAML reads it as a number.

    Returns
    -------
    Size

    Raises
    ------
    InputError
        If there is no size of this name.

    Example
    -------
    >>> get_size("XL")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: model_size 'XL' is not known: choose one of S, M, L, 2S, 2, small, mini, 2mini.
    """
    name = str(name) if type(name) is int else name
    if name not in SIZES:
        raise InputError(f"model_size {name!r} is not known: choose one of {', '.join(SIZES)}.")
    return SIZES[name]


def build_masknet(
    size: str,
    num_spks: int = 2,
    dropout: float = 0.1,
    checkpoint_blocks: bool = False,
    apply_masks: bool = True,
    num_blocks: int | None = None,
) -> MossFormerMaskNet:
    """Build a mask net of a published size.

    Arguments
    ---------
    size : str
        One of `SIZES`.
    num_spks : int
        S.
    dropout : float
        Dropout probability.
    checkpoint_blocks : bool
        As in `MossFormerMaskNet`.
    apply_masks : bool
        As in `MossFormer2MaskNet`; always True for a MossFormer.
    num_blocks : int, optional
        Default: that of the size.

    Returns
    -------
    MossFormerMaskNet
        The mask net; a `MossFormer2MaskNet` for a size of MossFormer2.

    Raises
    ------
    InputError
        If the size is not known, or ``apply_masks`` is False for a MossFormer.

    Example
    -------
    >>> sum(p.numel() for p in build_masknet("S").parameters()) / 1e6
    10.799943
    """
    name, size = size, get_size(size)
    options: dict[str, Any] = {}
    if size.recurrent_channels:
        network = MossFormer2MaskNet
        options = {"recurrent_channels": size.recurrent_channels, "apply_masks": apply_masks}
    elif apply_masks is True:
        network = MossFormerMaskNet
    else:
        raise InputError(
            f"apply_masks: {apply_masks} is only for MossFormer2; found model_size {name}. Choose one of "
            f"{', '.join(key for key, value in SIZES.items() if value.recurrent_channels)}, or remove it."
        )
    return network(
        in_channels=size.channels,
        out_channels=size.channels,
        num_blocks=size.num_blocks if num_blocks is None else num_blocks,
        num_spks=num_spks,
        group_size=size.group_size,
        query_key_dim=size.query_key_dim,
        dropout=dropout,
        checkpoint_blocks=checkpoint_blocks,
        **options,
    )


def build_encoder(size: str) -> Encoder:
    """Build SpeechBrain's encoder for a published size.

    Arguments
    ---------
    size : str
        One of `SIZES`.

    Returns
    -------
    speechbrain.lobes.models.dual_path.Encoder
        Conv1d and ReLU: a kernel of 16 samples and a stride of 8 for the published sizes.

    Raises
    ------
    InputError
        If the size is not known.

    Example
    -------
    >>> import torch
    >>> build_encoder("S")(torch.randn(2, 8000)).shape
    torch.Size([2, 256, 999])
    """
    size = get_size(size)
    return Encoder(kernel_size=size.encoder_kernel_size, out_channels=size.channels)


def build_decoder(size: str) -> Decoder:
    """Build SpeechBrain's decoder for a published size.

    Arguments
    ---------
    size : str
        One of `SIZES`.

    Returns
    -------
    speechbrain.lobes.models.dual_path.Decoder
        ConvTranspose1d: a kernel of 16 samples and a stride of 8 for the published sizes.

    Raises
    ------
    InputError
        If the size is not known.

    Example
    -------
    >>> import torch
    >>> build_decoder("S")(torch.randn(2, 256, 999)).shape
    torch.Size([2, 8000])
    """
    size = get_size(size)
    return Decoder(
        in_channels=size.channels,
        out_channels=1,
        kernel_size=size.encoder_kernel_size,
        stride=size.encoder_kernel_size // 2,
        bias=False,
    )
