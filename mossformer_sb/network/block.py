"""One MossFormer block: a gated single-head unit around joint attention, with convolution-augmented projections.

Source: Zhao and Ma, "MossFormer", ICASSP 2023, figures 1 and 2.
Shapes: B batch, L frames, D model width, H = expansion·D/2 width of v and of u, K query/key width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mossformer_sb.network.attention import QueriesKeys, joint_attention, rotate
from mossformer_sb.network.dispatch import replaceable
from mossformer_sb.network.layers import DepthwiseConv, ScaleNorm
from mossformer_sb.network.lengths import zero_padding


class ConvModule(nn.Module):
    """Norm → Linear → SiLU → depthwise convolution with skip → Dropout.

    Arguments
    ---------
    in_channels, out_channels : int
        Widths before and after.
    kernel_size : int
        Kernel weights of the depthwise convolution, odd.
    dropout : float
        Dropout probability.
    norm : type
        Class of the norm over channels: `ScaleNorm` in a MossFormer block, ``torch.nn.LayerNorm`` in the gated
        convolutional unit of MossFormer2.

    Example
    -------
    >>> ConvModule(8, 24)(torch.randn(2, 100, 8)).shape
    torch.Size([2, 100, 24])
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 17, dropout: float = 0.1, norm: type = ScaleNorm
    ) -> None:
        super().__init__()
        self.norm = norm(in_channels)
        self.linear = nn.Linear(in_channels, out_channels)
        self.depthwise = DepthwiseConv(out_channels, kernel_size)
        self.dropout = nn.Dropout(dropout)

    @replaceable
    def forward(self, x: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        """[B, L, in] → [B, L, out]; ``padding`` is True on the frames past an item's length, [B, L, 1]."""
        hidden = F.silu(self.linear(self.norm(x)))
        # The convolution looks eight frames ahead, so the outputs of bias and SiLU in the padding must be zero.
        hidden = zero_padding(hidden, padding)
        return self.dropout(self.depthwise(hidden))


class OffsetScale(nn.Module):
    """Four affine heads of z, ``gamma · z + beta``, each with its own gamma and beta.

    Arguments
    ---------
    channels : int
        K.

    Example
    -------
    >>> OffsetScale(16)(torch.randn(2, 100, 16)).shape
    torch.Size([4, 2, 100, 16])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(4, channels))
        self.beta = nn.Parameter(torch.empty(4, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw gamma from N(0, 0.02²); set beta to zero."""
        nn.init.normal_(self.gamma, std=0.02)
        nn.init.zeros_(self.beta)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """[B, L, K] → [4, B, L, K]."""
        return z * self.gamma[:, None, None, :] + self.beta[:, None, None, :]


class MossFormerBlock(nn.Module):
    """Gated single-head transformer block with residual connection.

    Arguments
    ---------
    channels : int
        D, even.
    group_size : int
        Frames of one local attention group, P.
    query_key_dim : int
        K.
    expansion_factor : float
        Width of v and u together, in multiples of D.
    kernel_size : int
        Kernel weights of the depthwise convolutions, odd.
    dropout : float
        Dropout probability, in the projections and on local attention weights.

    Example
    -------
    >>> block = MossFormerBlock(channels=64, group_size=32)
    >>> cos, sin = torch.ones(100, 16), torch.zeros(100, 16)
    >>> block(torch.randn(2, 100, 64), (cos, sin)).shape
    torch.Size([2, 100, 64])
    """

    def __init__(
        self,
        channels: int,
        group_size: int = 256,
        query_key_dim: int = 128,
        expansion_factor: float = 4.0,
        kernel_size: int = 17,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        hidden = int(channels * expansion_factor / 2)
        self.group_size = group_size
        self.attention_dropout = dropout
        self.to_values = ConvModule(channels, 2 * hidden, kernel_size, dropout)
        self.to_query_key = ConvModule(channels, query_key_dim, kernel_size, dropout)
        self.offset_scale = OffsetScale(query_key_dim)
        self.to_output = ConvModule(hidden, channels, kernel_size, dropout)

    def forward(
        self,
        x: torch.Tensor,
        rotation: tuple[torch.Tensor, ...],
        lengths: torch.Tensor | None = None,
        padding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Process a sequence.

        Arguments
        ---------
        x : torch.Tensor
            [B, L, D].
        rotation : tuple of torch.Tensor
            Cosines and sines of the rotary embedding, each [L, R/2].
        lengths : torch.Tensor, optional
            [B], int64, frames of each item.
        padding : torch.Tensor, optional
            [B, L, 1], True on the frames past an item's length. Given together with ``lengths``.

        Returns
        -------
        torch.Tensor
            [B, L, D]. Frames past an item's length are undefined.
        """
        shifted = token_shift(x)
        values = zero_padding(self.to_values(shifted, padding), padding)  # [B, L, 2H], v and u concatenated
        z = self.to_query_key(shifted, padding)  # [B, L, K]
        queries_keys = self.queries_keys(z, rotation, values.dtype)
        dropout = self.attention_dropout if self.training else 0.0
        attended = joint_attention(queries_keys, values, self.group_size, lengths, dropout)  # [B, L, 2H]
        return x + self.to_output(gate(attended, values), padding)

    @replaceable
    def queries_keys(self, z: torch.Tensor, rotation: tuple[torch.Tensor, ...], dtype: torch.dtype) -> QueriesKeys:
        """Four affine, rotated heads: [B, L, K] → four times [B, L, K] of a dtype, that of the values."""
        heads = rotate(self.offset_scale(z), *rotation)  # [4, B, L, K], within autocast in float32
        return QueriesKeys(*heads.to(dtype))


@replaceable
def gate(attended: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(au ⊙ v) ⊙ sigmoid(av ⊙ u): [B, L, 2H] and [B, L, 2H], in each v before u, → [B, L, H]."""
    v, u = values.chunk(2, dim=-1)
    attended_v, attended_u = attended.chunk(2, dim=-1)
    return (attended_u * v) * torch.sigmoid(attended_v * u)


def token_shift(x: torch.Tensor) -> torch.Tensor:
    """Delay the first half of the channels by one frame.

    Arguments
    ---------
    x : torch.Tensor
        [B, L, D].

    Returns
    -------
    torch.Tensor
        [B, L, D].

    Example
    -------
    >>> token_shift(torch.tensor([[[1, 10], [2, 20], [3, 30]]])).tolist()
    [[[0, 10], [1, 20], [2, 30]]]
    """
    delayed, passed = x.chunk(2, dim=-1)
    return torch.cat((F.pad(delayed, (0, 0, 1, -1)), passed), dim=-1)
