"""The recurrent module of MossFormer2: a gated convolutional unit around a dilated FSMN, which replaces recurrence.

FSMN: feed-forward sequential memory network, whose memory is a filter over time.

Source: Zhao et al., "MossFormer2", ICASSP 2024 (arXiv 2312.11825), section 2 and its figure of the recurrent module.
Shapes: B batch, L frames, D model width, C inner width, K kernel weights of a channel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mossformer_sb.network.block import ConvModule
from mossformer_sb.network.layers import GroupedConv, InstanceNorm, Linear
from mossformer_sb.network.lengths import zero_padding

MEMORY_KERNEL_SIZE = 39  # 19 frames back, the current one, 19 frames ahead


class RecurrentModule(nn.Module):
    """Bottleneck → gated convolutional unit → output layer, with a skip around them.

    Arguments
    ---------
    channels : int
        D.
    inner_channels : int
        C.
    kernel_size : int
        Kernel weights of the depthwise convolutions of the gated unit, odd.
    dropout : float
        Dropout probability, in the gated unit.

    Example
    -------
    >>> RecurrentModule(channels=64, inner_channels=16)(torch.randn(2, 100, 64)).shape
    torch.Size([2, 100, 64])
    """

    def __init__(self, channels: int, inner_channels: int = 256, kernel_size: int = 17, dropout: float = 0.1) -> None:
        super().__init__()
        self.bottleneck = Linear(channels, inner_channels)
        self.prelu = nn.PReLU()
        self.input_norm = nn.LayerNorm(inner_channels)
        self.unit = GatedConvUnit(inner_channels, kernel_size, dropout)
        self.output_norm = nn.LayerNorm(inner_channels)
        self.output = Linear(inner_channels, channels)

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor | None = None, padding: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B, L, D] → [B, L, D]; ``lengths`` and ``padding`` as in `MossFormerBlock.forward`."""
        hidden = self.input_norm(self.prelu(self.bottleneck(x)))  # [B, L, C]
        hidden = self.unit(hidden, lengths, padding)
        return x + self.output(self.output_norm(hidden))


class GatedConvUnit(nn.Module):
    """Gated convolutional unit: ``v ⊙ FSMN(u) + h``, u and v being two convolution modules of h.

    Arguments
    ---------
    channels : int
        C.
    kernel_size : int
        Kernel weights of the depthwise convolutions, odd.
    dropout : float
        Dropout probability.

    Example
    -------
    >>> GatedConvUnit(16)(torch.randn(2, 100, 16)).shape
    torch.Size([2, 100, 16])
    """

    def __init__(self, channels: int, kernel_size: int = 17, dropout: float = 0.1) -> None:
        super().__init__()
        self.to_u = ConvModule(channels, channels, kernel_size, dropout, norm=nn.LayerNorm)
        self.to_v = ConvModule(channels, channels, kernel_size, dropout, norm=nn.LayerNorm)
        self.fsmn = DilatedFSMN(channels)

    def forward(
        self, h: torch.Tensor, lengths: torch.Tensor | None = None, padding: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B, L, C] → [B, L, C]; ``lengths`` and ``padding`` as in `MossFormerBlock.forward`."""
        u, v = self.to_u(h, padding), self.to_v(h, padding)
        return v * self.fsmn(u, lengths, padding) + h


class DilatedFSMN(nn.Module):
    """Feed-forward layer and memory, with a skip around both.

    Arguments
    ---------
    channels : int
        C.

    Example
    -------
    >>> DilatedFSMN(16)(torch.randn(2, 100, 16)).shape
    torch.Size([2, 100, 16])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = Linear(channels, channels)
        self.projection = Linear(channels, channels, bias=False)
        self.memory = DenseMemory(channels)

    def forward(
        self, u: torch.Tensor, lengths: torch.Tensor | None = None, padding: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B, L, C] → [B, L, C]; ``lengths`` and ``padding`` as in `MossFormerBlock.forward`."""
        projected = self.projection(F.relu(self.linear(u)))
        return u + self.memory(projected, lengths, padding)


class DenseMemory(nn.Module):
    """Two layers of filters over time, densely connected: the second gets the output and the input of the first.

    Arguments
    ---------
    channels : int
        C.

    Example
    -------
    >>> DenseMemory(16)(torch.randn(2, 100, 16)).shape
    torch.Size([2, 100, 16])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = MemoryLayer(channels, group_channels=1, dilation=1)
        self.second = MemoryLayer(channels, group_channels=2, dilation=2)

    def forward(
        self, q: torch.Tensor, lengths: torch.Tensor | None = None, padding: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B, L, C] → [B, L, C]; ``lengths`` and ``padding`` as in `MossFormerBlock.forward`."""
        # Each filter looks ahead, so the outputs of biases and slopes past an item's length must be zero.
        q = zero_padding(q, padding)
        first = zero_padding(self.first(q, lengths, padding), padding)
        # A group of the second layer is two adjacent channels of this: both of `first`, or both of q.
        return self.second(torch.cat((first, q), dim=-1), lengths, padding)


class MemoryLayer(nn.Module):
    """Filter over time → InstanceNorm → PReLU, with one slope per channel.

    Arguments
    ---------
    channels : int
        C, output channels.
    group_channels : int
        Number of adjacent input channels per output channel.
    dilation : int
        Frames between neighbouring kernel weights.

    Example
    -------
    >>> MemoryLayer(16, group_channels=2, dilation=2)(torch.randn(2, 100, 32)).shape
    torch.Size([2, 100, 16])
    """

    def __init__(self, channels: int, group_channels: int, dilation: int) -> None:
        super().__init__()
        self.conv = GroupedConv(channels, group_channels, MEMORY_KERNEL_SIZE, dilation)
        self.norm = InstanceNorm(channels)
        self.prelu = nn.PReLU(channels)

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor | None = None, padding: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B, L, C·group] → [B, L, C]; ``lengths`` and ``padding`` as in `MossFormerBlock.forward`."""
        normed = self.norm(self.conv(x), lengths, padding)
        return self.prelu(normed.transpose(1, 2)).transpose(1, 2)  # PReLU's channels are the second axis
