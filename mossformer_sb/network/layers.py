"""The small layers that a MossFormer is made of: norms, and the codes of position.

Shapes: B batch, L frames, N or D channels.
"""

import torch
from torch import nn

from mossformer_sb.network.fast import choice


@choice.known
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

    def __init__(self, channels, eps=1e-5):
        super().__init__()
        self.scale = channels**-0.5
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(1))

    def reset_parameters(self):
        """Set the gain to one."""
        nn.init.ones_(self.gain)

    def forward(self, x):
        """[B, L, D] → [B, L, D]."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        root_mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True) * self.scale
        return (wide * (self.gain / root_mean_square.clamp(min=self.eps))).to(x.dtype)


@choice.known
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

    def __init__(self, channels, eps=1e-8):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self):
        """Set the scale to one and the shift to zero."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x, lengths=None, padding=None):
        """[B, L, N] → [B, L, N]; ``lengths`` [B] and ``padding`` [B, L, 1] as in `MossFormerBlock.forward`."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # The same sums with lengths and without, so that a length that is the whole gives the same bits: half precision
        # would make much of a difference in the last one.
        count = x.shape[1] * x.shape[2] if lengths is None else (lengths * x.shape[2])[:, None, None]
        mean = _without(padding, wide).sum((1, 2), keepdim=True) / count
        centred = wide - mean
        variance = _without(padding, centred).square().sum((1, 2), keepdim=True) / count
        normed = centred * torch.rsqrt(variance + self.eps)
        return (normed * self.weight + self.bias).to(x.dtype)


def _without(padding, x):
    return x if padding is None else x.masked_fill(padding, 0.0)


@choice.known
class Angles(nn.Module):
    """Position times frequency, for sinusoids of ``channels`` channels: [L, channels/2] radians.

    Frequencies are 10000^(-2i/channels), rounded to float32 as the authors' are: a frequency in half precision would be
    useless after a few frames, so they stay in float32 whatever the module is cast to.

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

    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        # No buffer: DDP would send this constant around before every step. On the CPU whatever the default device is,
        # so that it has its values in a network built on the meta device.
        self.frequencies = self._frequencies()

    def _frequencies(self):
        exponents = torch.arange(0, self.channels, 2, dtype=torch.float32, device="cpu") / self.channels
        return 1.0 / 10000**exponents

    def _apply(self, fn, *args, **kwargs):
        super()._apply(fn, *args, **kwargs)
        # It follows the parameters to their device, so that no step has to wait for a copy, but not to their dtype.
        self.frequencies = self._frequencies().to(fn(self.frequencies).device)
        return self

    def forward(self, num_frames, start=0, like=None):
        """L → [L, channels/2], of positions from ``start`` on; float32 at least, on the device of ``like``."""
        device = self.frequencies.device if like is None else like.device
        dtype = torch.float32 if like is None else torch.promote_types(like.dtype, torch.float32)
        # Where the parameters were put in place, not moved (load_state_dict(assign=True)), it has not followed them.
        frequencies = self.frequencies if self.frequencies.device == device else self._frequencies()
        positions = torch.arange(start, start + num_frames, device=device, dtype=dtype)
        return positions[:, None] * frequencies.to(device, dtype)


@choice.known
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

    def __init__(self, channels):
        super().__init__()
        self.angles = Angles(channels)
        self.scale = nn.Parameter(torch.ones(1))

    def reset_parameters(self):
        """Set the scale to one."""
        nn.init.ones_(self.scale)

    def forward(self, num_frames, start=0):
        """L → [L, D], of positions from ``start`` on."""
        angles = self.angles(num_frames, start, like=self.scale)
        return torch.cat((angles.sin(), angles.cos()), dim=-1).to(self.scale.dtype) * self.scale
