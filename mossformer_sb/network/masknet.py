"""The MossFormer mask net.

Source: Zhao and Ma, "MossFormer: Pushing the Performance Limit of Monaural Speech Separation using Gated Single-Head
Transformer with Convolution-Augmented Joint Self-Attentions", ICASSP 2023 (arXiv 2302.11824).
Shapes: B batch, N encoder channels, L frames, D model width, S speakers, K query/key width, R rotated channels.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mossformer_sb.errors import InputError
from mossformer_sb.network.block import MossFormerBlock
from mossformer_sb.network.checks import check_config, check_input, refuse
from mossformer_sb.network.dispatch import replaceable
from mossformer_sb.network.layers import Angles, GlobalLayerNorm, Linear, PositionEmbedding
from mossformer_sb.network.lengths import padding_mask, zero_padding

if TYPE_CHECKING:
    from typing import Any

ROTATED_CHANNELS = 32  # of the query/key width; the others have no position embedding


class MossFormerMaskNet(nn.Module):
    """Estimate one mask per speaker from an encoded mixture.

    A replacement for SpeechBrain's ``Dual_Path_Model``: same input, same output, and the same ``in_channels``,
    ``out_channels``, ``num_spks`` and ``norm``. The parameters' names differ from those of the authors' release;
    `mossformer_sb.sharing.modelscope.masknet_from_modelscope` converts them.

    Arguments
    ---------
    in_channels : int
        N, channels of the encoder.
    out_channels : int
        D, model width, even.
    num_blocks : int
        Number of MossFormer blocks.
    num_spks : int
        S.
    group_size : int
        Frames of one local attention group.
    query_key_dim : int
        K, even.
    expansion_factor : float
        Width of v and u together, in multiples of D.
    kernel_size : int
        Kernel weights of the depthwise convolutions, odd.
    dropout : float
        Dropout probability.
    norm : str
        Normalisation over the complete mixture; "ln", as in all published models, is the only one.
    checkpoint_blocks : bool
        Activation checkpointing: in training, save only the input of each block, and recompute the rest for the
        gradient: less memory for more time, and the same gradients.
    **others
        Arguments of other mask nets, which are refused with a helpful message.

    Raises
    ------
    InputError
        If a value is invalid, or an argument is not known.

    Example
    -------
    >>> masknet = MossFormerMaskNet(in_channels=64, out_channels=32, num_blocks=2, num_spks=3)
    >>> masks = masknet(torch.rand(2, 64, 500))
    >>> masks.shape
    torch.Size([3, 2, 64, 500])
    """

    # For the card of an exported model.
    network = "MossFormer"
    paper = (
        'Zhao and Ma, "MossFormer: Pushing the Performance Limit of Monaural Speech Separation using Gated Single-Head '
        'Transformer with Convolution-Augmented Joint Self-Attentions", ICASSP 2023'
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
        checkpoint_blocks: bool = False,
        **others: Any,
    ) -> None:
        super().__init__()
        # Stored so that an export can write the node that builds the same network.
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "num_blocks": num_blocks,
            "num_spks": num_spks,
            "group_size": group_size,
            "query_key_dim": query_key_dim,
            "expansion_factor": expansion_factor,
            "kernel_size": kernel_size,
            "dropout": dropout,
            "norm": norm,
        }
        known = [name for name in inspect.signature(type(self)).parameters if name != "others"]
        refuse(type(self).__name__, others, known)
        check_config(**self.config)
        if not isinstance(checkpoint_blocks, bool):
            raise InputError(f"checkpoint_blocks must be True or False; found {checkpoint_blocks!r}.")
        self.num_spks = num_spks
        self.checkpoint_blocks = checkpoint_blocks  # not in config: it is the same network
        self.norm = GlobalLayerNorm(in_channels)
        self.input_projection = Linear(in_channels, out_channels, bias=False)
        self.position = PositionEmbedding(out_channels)
        self.rotary = Angles(min(ROTATED_CHANNELS, query_key_dim))
        self.blocks = nn.ModuleList(
            MossFormerBlock(out_channels, group_size, query_key_dim, expansion_factor, kernel_size, dropout)
            for _ in range(num_blocks)
        )
        self.frame_norm = nn.LayerNorm(out_channels, eps=1e-6)
        self.output_norm = GlobalLayerNorm(out_channels)
        self.prelu = nn.PReLU()
        self.speaker_projection = Linear(out_channels, num_spks * out_channels)
        self.tanh_projection = Linear(out_channels, out_channels)
        self.gate_projection = Linear(out_channels, out_channels)
        self.mask_projection = Linear(out_channels, in_channels, bias=False)

    @replaceable
    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Estimate masks.

        Arguments
        ---------
        x : torch.Tensor
            [B, N, L], the encoded mixture, L ≥ 1.
        lengths : torch.Tensor, optional
            [B], int64, frames of each item of a padded batch. Every item's masks then equal those without padding, and
            are zero past its length. Default: all items have L frames.

        Returns
        -------
        torch.Tensor
            [S, B, N, L], non-negative masks.

        Raises
        ------
        InputError
            If a shape or a length is wrong.
        """
        check_input(x, self.config["in_channels"], lengths)
        num_frames, padding = x.shape[2], None
        x = x.transpose(1, 2).contiguous()  # [B, L, N], in memory too: sums follow it, with lengths and without
        if lengths is not None:
            lengths = lengths.to(x.device)
            padding = padding_mask(lengths, num_frames)[..., None]  # [B, L, 1]
            x = zero_padding(x, padding)

        x = self.input_projection(self.norm(x, lengths, padding))  # [B, L, D]
        embedded = x + self.position(num_frames)
        x, rotation = embedded, self.rotation(num_frames, like=embedded)
        for module, *inputs in self.stages(rotation, lengths, padding):
            if self.checkpoint_blocks and torch.is_grad_enabled():
                x = run_checkpointed(module, x, *inputs)
            else:
                x = module(x, *inputs)
        x = self.output_norm(self.frame_norm(x), lengths, padding) + embedded

        x = self.speaker_projection(self.prelu(x)).unflatten(-1, (self.num_spks, -1))  # [B, L, S, D]
        x = torch.tanh(self.tanh_projection(x)) * torch.sigmoid(self.gate_projection(x))
        masks = F.relu(self.mask_projection(x)).permute(2, 0, 3, 1)  # [S, B, N, L]
        return masks if padding is None else zero_padding(masks, padding.transpose(1, 2))

    def stages(
        self,
        rotation: tuple[torch.Tensor, ...],
        lengths: torch.Tensor | None = None,
        padding: torch.Tensor | None = None,
    ) -> list[tuple]:
        """The modules that process the sequence, in order, each [B, L, D] → [B, L, D], with their other inputs.

        Arguments
        ---------
        rotation, lengths, padding
            As for `MossFormerBlock.forward`.

        Returns
        -------
        list of tuple
            A module, then its inputs in addition to the sequence.
        """
        return [(block, rotation, lengths, padding) for block in self.blocks]

    def rotation(self, num_frames: int, like: torch.Tensor) -> tuple:
        """Cosines and sines of the rotary embedding, each [L, R/2], of the dtype and on the device of a tensor."""
        angles = self.rotary(num_frames, like=like)
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


@replaceable
def run_checkpointed(block: torch.nn.Module, *inputs: Any) -> torch.Tensor:
    """A block's output with activation checkpointing: only its inputs are saved for the gradient."""
    return checkpoint(block, *inputs, use_reentrant=False)
