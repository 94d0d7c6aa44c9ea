"""Workarounds for faults of PyTorch and its libraries that would change the network's results.

They concern correctness, not speed. Each can go when the fault has gone from the oldest PyTorch that is supported.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F

# When two threads make the first call of MKL's sine or cosine in a process at once, one of them may get values that are
# off by 1e-4: the position embedding would be wrong once, and no run could be repeated. So the thread that imports this
# makes the first.
torch.zeros(1).sin()
torch.zeros(1).cos()

# Up to here, oneDNN's half-precision depthwise convolution never returns (torch 2.11, kernel size 17, with AVX-512).
_HANGING_CHANNELS = 16


def conv2d(
    image: torch.Tensor,
    kernel: torch.Tensor,
    padding: tuple[int, ...],
    groups: int,
    dilation: int | tuple[int, ...] = 1,
) -> torch.Tensor:
    """``torch.nn.functional.conv2d`` in the precision of the image, also within autocast.

    A depthwise convolution of few channels in half precision is computed in float32 on a CPU, and rounded.

    Arguments
    ---------
    image : torch.Tensor
        [B, C, height, width].
    kernel : torch.Tensor
        [channels out, C / groups, height, width].
    padding : tuple of int
        Zeros above and below, left and right.
    groups : int
        Number of groups of channels.
    dilation : int or tuple of int
        Steps between neighbouring kernel weights.

    Returns
    -------
    torch.Tensor
        [B, channels out, height', width'], of the image's dtype.

    Example
    -------
    >>> conv2d(torch.ones(1, 2, 1, 9), torch.ones(2, 1, 1, 3), padding=(0, 1), groups=2).shape
    torch.Size([1, 2, 1, 9])
    """
    hangs = image.device.type == "cpu" and image.dtype.itemsize < 4 and groups <= _HANGING_CHANNELS
    dtype = torch.float32 if hangs else image.dtype
    # There is no autocast to switch off on the meta device, where shapes and parameters are counted.
    with nullcontext() if image.is_meta else torch.autocast(image.device.type, enabled=False):
        return F.conv2d(image.to(dtype), kernel.to(dtype), padding=padding, dilation=dilation, groups=groups).to(
            image.dtype
        )
