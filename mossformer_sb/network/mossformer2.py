"""The MossFormer2 mask net: MossFormer with a recurrent module after each block.

Source: Zhao et al., "MossFormer2: Combining Transformer and RNN-Free Recurrent Network for Enhanced Time-Domain
Monaural Speech Separation", ICASSP 2024 (arXiv 2312.11825).
Shapes: B batch, N encoder channels, L frames, D model width, S speakers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from mossformer_sb.errors import InputError
from mossformer_sb.network.checks import check_count
from mossformer_sb.network.masknet import MossFormerMaskNet
from mossformer_sb.network.recurrent import RecurrentModule

if TYPE_CHECKING:
    from typing import Any

    import torch


class MossFormer2MaskNet(MossFormerMaskNet):
    """Estimate one mask per speaker from an encoded mixture, with MossFormer2.

    A `MossFormerMaskNet` with a `RecurrentModule` after each block. The other parameters have the same names, so that
    the weights of a MossFormer fit.

    Arguments
    ---------
    in_channels, out_channels, num_blocks, num_spks, group_size, query_key_dim, kernel_size : int
        As for `MossFormerMaskNet`; the number of recurrent modules is that of the blocks.
    expansion_factor, dropout : float
        As for `MossFormerMaskNet`.
    norm : str
        As for `MossFormerMaskNet`.
    recurrent_channels : int
        Inner width of the recurrent modules: 256 in all published models, independent of D.
    apply_masks : bool
        False: the output is the encoded estimates, without multiplication with the encoded mixture ("mapping"), as in
        the authors' model for WHAMR!. Their level is then independent of the mixture's.
    checkpoint_blocks : bool
        As for `MossFormerMaskNet`, including the recurrent modules.
    **others
        As for `MossFormerMaskNet`.

    Raises
    ------
    InputError
        If a value is invalid, or an argument is not known.

    Example
    -------
    >>> import torch
    >>> masknet = MossFormer2MaskNet(in_channels=64, out_channels=32, num_blocks=2, num_spks=3, recurrent_channels=16)
    >>> masknet(torch.rand(2, 64, 500)).shape
    torch.Size([3, 2, 64, 500])
    """

    network = "MossFormer2"
    paper = (
        'Zhao, Ma, Ni, Zhang, Wang, Nguyen, Zhou, Yip, Ng and Ma, "MossFormer2: Combining Transformer and RNN-Free '
        'Recurrent Network for Enhanced Time-Domain Monaural Speech Separation", ICASSP 2024'
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 24,
        num_spks: int = 2,
        group_size: int = 256,
        query_key_dim: int = 128,
        expansion_factor: float = 4.0,
        kernel_size: int = 17,
        dropout: float = 0.1,
        norm: str = "ln",
        recurrent_channels: int = 256,
        apply_masks: bool = True,
        checkpoint_blocks: bool = False,
        **others: Any,
    ) -> None:
        check_count("recurrent_channels", recurrent_channels)
        if not isinstance(apply_masks, bool):
            raise InputError(f"apply_masks must be True or False; found {apply_masks!r}.")
        super().__init__(
            in_channels,
            out_channels,
            num_blocks,
            num_spks,
            group_size,
            query_key_dim,
            expansion_factor,
            kernel_size,
            dropout,
            norm,
            checkpoint_blocks,
            **others,
        )
        self.config |= {"recurrent_channels": recurrent_channels, "apply_masks": apply_masks}
        self.apply_masks = apply_masks
        self.recurrent = nn.ModuleList(
            RecurrentModule(out_channels, recurrent_channels, kernel_size, dropout) for _ in range(num_blocks)
        )

    def stages(
        self,
        rotation: tuple[torch.Tensor, ...],
        lengths: torch.Tensor | None = None,
        padding: torch.Tensor | None = None,
    ) -> list[tuple]:
        """Alternating blocks and recurrent modules, as for `MossFormerMaskNet.stages`."""
        found = []
        for block, recurrent in zip(self.blocks, self.recurrent, strict=True):
            found += [(block, rotation, lengths, padding), (recurrent, lengths, padding)]
        return found
