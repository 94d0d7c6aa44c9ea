"""Workarounds for bugs of PyTorch and its libraries that would change the network's results.

They concern correctness, not speed. Each can be removed when the oldest supported PyTorch has no such bug.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F

# If two threads make the first call of MKL's sine or cosine in a process at the same time, one of them may get values
# with an error of 1e-4: the position embedding would be wrong once, and runs would not be reproducible. So the thread
# that imports this module makes the first call.
torch.zeros(1).sin()
torch.zeros(1).cos()

# oneDNN's half-precision depthwise convolution on CPUs with AVX-512 (`brdgmm_dw`, torch 2.11) hangs if a thread has a
# single block of channels, or less, and the kernel has at least this many weights.
_BLOCK_CHANNELS = 16
_HANGING_TAPS = 14
_BLOCKS_TOGETHER = 4  # blocks per unit of work of a thread


def conv2d(
    image: torch.Tensor,
    kernel: torch.Tensor,
    padding: tuple[int, ...],
    groups: int,
    dilation: int | tuple[int, ...] = 1,
) -> torch.Tensor:
    """``torch.nn.functional.conv2d`` in the precision of the image, also within autocast.

    A depthwise convolution in half precision that might hang on a CPU is computed in float32, and rounded.

    Arguments
    ---------
    image : torch.Tensor
        [B, C, height, width].
    kernel : torch.Tensor
        [channels out, C / groups, height, width].
    padding : tuple of int
        Number of zeros above and below, and left and right.
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
    dtype = torch.float32 if _may_hang(image, kernel, groups) else image.dtype
    # The meta device, where shapes and parameters are counted, has no autocast to disable.
    with nullcontext() if image.is_meta else torch.autocast(image.device.type, enabled=False):
        return F.conv2d(image.to(dtype), kernel.to(dtype), padding=padding, dilation=dilation, groups=groups).to(
            image.dtype
        )


def _may_hang(image, kernel, groups):
    """Whether a thread might get a single block of channels.

    Threads share the items of a batch if these can be divided evenly. Otherwise oneDNN divides the channels too: either
    evenly, which can leave each thread one block if the number of blocks divides that of threads, or four blocks at a
    time, which can leave one block at the end.
    """
    is_half = image.device.type == "cpu" and image.dtype.itemsize < 4
    if not is_half or kernel.shape[-1] * kernel.shape[-2] < _HANGING_TAPS:
        return False
    if torch.compiler.is_compiling():  # for any number of threads
        return True
    blocks, threads = -(-groups // _BLOCK_CHANNELS), torch.get_num_threads()
    divides_channels = len(image) % threads != 0
    return blocks == 1 or (divides_channels and (threads % blocks == 0 or blocks % _BLOCKS_TOGETHER == 1))
