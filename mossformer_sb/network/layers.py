"""The layers of a MossFormer.

Shapes: B batch, L frames, C, D, I, N, O channels, G channels of a group, K kernel weights of a channel.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from mossformer_sb.network.dispatch import replaceable
from mossformer_sb.network.lengths import zero_padding
from mossformer_sb.network.precision import at_least_float32
from mossformer_sb.network.workarounds import conv2d


class Linear(nn.Linear):
    """``torch.nn.Linear``, replaceable."""

    @replaceable
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., I] → [..., O]."""
        return F.linear(x, self.weight, self.bias)


# ---- norms


class ScaleNorm(nn.Module):
    """``g · x / max(‖x‖₂ / √D, eps)`` over channels, with one learned scalar g.

    Computed in float32 at least. Source: Nguyen and Salazar, "Transformers without Tears", 2019, with the √D of FLASH.

    Arguments
    ---------
    channels : int
        D.
    eps : float
        Lower bound of the root mean square.

    Example
    -------
    >>> ScaleNorm(2)(torch.tensor([[[3.0, 4.0]]])).norm() ** 2
    tensor(2.0000, grad_fn=<PowBackward0>)
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.scale = channels**-0.5
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(1))

    def reset_parameters(self) -> None:
        """Set the gain to one."""
        nn.init.ones_(self.gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, L, D] → [B, L, D]."""
        x32 = at_least_float32(x)
        root_mean_square = torch.linalg.vector_norm(x32, dim=-1, keepdim=True) * self.scale
        return (x32 * (self.gain / root_mean_square.clamp(min=self.eps))).to(x.dtype)


class GlobalLayerNorm(nn.Module):
    """Normalise each item over channels and time together; scale and shift each channel.

    The same as ``torch.nn.GroupNorm(1, channels)`` where no item is padded, with time before channels.

    Arguments
    ---------
    channels : int
        N.
    eps : float
        Added to the variance.

    Example
    -------
    >>> GlobalLayerNorm(8)(torch.randn(2, 100, 8)).shape
    torch.Size([2, 100, 8])
    """

    def __init__(self, channels: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Set the scale to one and the shift to zero."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor | None = None, padding: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B, L, N] → [B, L, N]; ``lengths`` [B] and ``padding`` [B, L, 1] as in `MossFormerBlock.forward`."""
        x32 = at_least_float32(x)
        # The same sums with and without lengths, so that a length of all frames gives the same bits: half precision
        # would amplify a difference in the last one.
        count = x.shape[1] * x.shape[2] if lengths is None else (lengths * x.shape[2])[:, None, None]
        mean = zero_padding(x32, padding).sum((1, 2), keepdim=True) / count
        centred = x32 - mean
        variance = zero_padding(centred, padding).square().sum((1, 2), keepdim=True) / count
        normed = centred * torch.rsqrt(variance + self.eps)
        return (normed * self.weight + self.bias).to(x.dtype)


class InstanceNorm(nn.Module):
    """Normalise each channel of each item over time; scale and shift it.

    The same as ``torch.nn.InstanceNorm1d(channels, affine=True)`` where no item is padded, with time before channels.
    The statistics are always those of the input, also in evaluation. A single frame gives the shift.

    Arguments
    ---------
    channels : int
        C.
    eps : float
        Added to the variance.

    Example
    -------
    >>> InstanceNorm(8)(torch.randn(2, 100, 8)).shape
    torch.Size([2, 100, 8])
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Set the scale to one and the shift to zero."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor | None = None, padding: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B, L, C] → [B, L, C]; ``lengths`` [B] and ``padding`` [B, L, 1] as in `MossFormerBlock.forward`."""
        x32 = at_least_float32(x)
        count = x.shape[1] if lengths is None else lengths[:, None, None]
        mean = zero_padding(x32, padding).sum(1, keepdim=True) / count
        centred = x32 - mean
        variance = zero_padding(centred, padding).square().sum(1, keepdim=True) / count  # not count - 1
        normed = centred * torch.rsqrt(variance + self.eps)
        return (normed * self.weight + self.bias).to(x.dtype)


# ---- positions


class Angles(nn.Module):
    """Position times frequency, for sinusoids of ``channels`` channels: [L, channels/2] radians.

    Frequencies are 10000^(-2i/channels), rounded to float32 like the authors': a frequency in half precision would be
    useless after a few frames, so they stay in float32 even if the module is cast.

    Arguments
    ---------
    channels : int
        Even.

    Example
    -------
    >>> Angles(4)(3)
    tensor([[0.0000, 0.0000],
            [1.0000, 0.0100],
            [2.0000, 0.0200]])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        # Not a buffer: DDP would broadcast this constant before every step. Always on the CPU, so that it has values in
        # a network built on the meta device.
        self.frequencies = self._frequencies()

    def _frequencies(self):
        exponents = torch.arange(0, self.channels, 2, dtype=torch.float32, device="cpu") / self.channels
        return 1.0 / 10000**exponents

    def _apply(self, fn, *args, **kwargs):
        super()._apply(fn, *args, **kwargs)
        # It moves with the parameters to their device, so that no step waits for a copy, but is not cast.
        self.frequencies = self._frequencies().to(fn(self.frequencies).device)
        return self

    def forward(self, num_frames: int, start: int = 0, like: torch.Tensor | None = None) -> torch.Tensor:
        """L → [L, channels/2], of positions from ``start`` on; float32 at least, on the device of ``like``."""
        device = self.frequencies.device if like is None else like.device
        dtype = torch.float32 if like is None else torch.promote_types(like.dtype, torch.float32)
        # It has not moved if the parameters were assigned (load_state_dict(assign=True)).
        frequencies = self.frequencies if self.frequencies.device == device else self._frequencies()
        positions = torch.arange(start, start + num_frames, device=device, dtype=dtype)
        return positions[:, None] * frequencies.to(device, dtype)


class PositionEmbedding(nn.Module):
    """Absolute sinusoidal position embedding times one learned scalar: all sines first, then all cosines.

    Arguments
    ---------
    channels : int
        D, even.

    Example
    -------
    >>> PositionEmbedding(4)(2)
    tensor([[0.0000, 0.0000, 1.0000, 1.0000],
            [0.8415, 0.0100, 0.5403, 0.9999]], grad_fn=<MulBackward0>)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.angles = Angles(channels)
        self.scale = nn.Parameter(torch.ones(1))

    def reset_parameters(self) -> None:
        """Set the scale to one."""
        nn.init.ones_(self.scale)

    def forward(self, num_frames: int, start: int = 0) -> torch.Tensor:
        """L → [L, D], of positions from ``start`` on."""
        angles = self.angles(num_frames, start, like=self.scale)
        return torch.cat((angles.sin(), angles.cos()), dim=-1).to(self.scale.dtype) * self.scale


# ---- depthwise convolution


@replaceable
def depthwise_conv(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Convolve each channel over time with its own kernel, zero-padded to the same length.

    This is cross-correlation, as in ``torch.nn.Conv1d`` with as many groups as channels.

    Arguments
    ---------
    x : torch.Tensor
        [B, L, C].
    weight : torch.Tensor
        [C, K], K odd.

    Returns
    -------
    torch.Tensor
        [B, L, C].

    Example
    -------
    >>> x = torch.tensor([[[1.0], [2.0], [3.0]]])
    >>> depthwise_conv(x, torch.tensor([[10.0, 1.0, 0.0]])).flatten().tolist()
    [1.0, 12.0, 23.0]
    """
    channels, kernel_size = weight.shape
    # An image of height one, channels last, which needs no transposed copy, unlike a Conv1d.
    image = x.transpose(1, 2).unsqueeze(2)  # [B, C, 1, L]
    image = conv2d(image, weight[:, None, None, :], padding=(0, kernel_size // 2), groups=channels)
    return image.squeeze(2).transpose(1, 2)


class DepthwiseConv(nn.Module):
    """``h + conv(h)``: the depthwise convolution of a MossFormer block, with the skip around it.

    Arguments
    ---------
    channels : int
        Number of channels C.
    kernel_size : int
        K, odd. The parameter ``weight`` is [C, K], initialised as in ``torch.nn.Conv1d``.

    Example
    -------
    >>> conv = DepthwiseConv(channels=8, kernel_size=17)
    >>> conv(torch.randn(2, 100, 8)).shape
    torch.Size([2, 100, 8])
    """

    def __init__(self, channels: int, kernel_size: int = 17) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernel weights from U(-1/√K, 1/√K)."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """[B, L, C] → [B, L, C]."""
        return h + depthwise_conv(h, self.weight)


# ---- convolution of adjacent channels


@replaceable
def grouped_conv(x: torch.Tensor, weight: torch.Tensor, dilation: int = 1) -> torch.Tensor:
    """Convolve groups of adjacent channels over time, each into one channel, zero-padded to the same length.

    This is cross-correlation, as in ``torch.nn.Conv1d`` with C groups: output channel j sees input channels
    G·j … G·j + G-1.

    Arguments
    ---------
    x : torch.Tensor
        [B, L, C·G].
    weight : torch.Tensor
        [C, G, K], K odd.
    dilation : int
        Frames between neighbouring kernel weights.

    Returns
    -------
    torch.Tensor
        [B, L, C].

    Example
    -------
    >>> x = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]])
    >>> grouped_conv(x, torch.tensor([[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])).flatten().tolist()
    [1.0, 12.0, 23.0]
    """
    channels, _, kernel_size = weight.shape
    image = x.transpose(1, 2).unsqueeze(2)  # [B, C·G, 1, L]
    reach = dilation * (kernel_size // 2)
    image = conv2d(image, weight[:, :, None, :], padding=(0, reach), groups=channels, dilation=(1, dilation))
    return image.squeeze(2).transpose(1, 2)


class GroupedConv(nn.Module):
    """`grouped_conv` with its weights.

    Arguments
    ---------
    channels : int
        C, output channels.
    group_channels : int
        G, input channels per output channel.
    kernel_size : int
        K, odd. The parameter ``weight`` is [C, G, K], initialised as in ``torch.nn.Conv1d``.
    dilation : int
        Frames between neighbouring kernel weights.

    Example
    -------
    >>> GroupedConv(channels=8, group_channels=2, kernel_size=39, dilation=2)(torch.randn(2, 100, 16)).shape
    torch.Size([2, 100, 8])
    """

    def __init__(self, channels: int, group_channels: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Parameter(torch.empty(channels, group_channels, kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernel weights from U(-1/√(G·K), 1/√(G·K))."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, L, C·G] → [B, L, C]."""
        return grouped_conv(x, self.weight, self.dilation)
