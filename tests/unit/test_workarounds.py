"""Faults of PyTorch and its libraries that the network works around."""

import pytest
import torch
import torch.nn.functional as F

from mossformer_sb.network.workarounds import conv2d
from tests import forked

# (items, channels, frames, kernel weights, threads): in bfloat16, oneDNN never returns on a CPU with AVX-512.
HANGING = [
    (1, 8, 500, 17, 1),
    (1, 16, 500, 39, 2),
    (1, 72, 484, 17, 2),
    (1, 80, 2048, 17, 2),
    (1, 64, 500, 17, 4),
    (1, 1024, 2048, 17, 64),  # as in size S
]
PROGRAM = """
import sys, torch
from mossformer_sb.network.workarounds import conv2d
batch, channels, frames, taps, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
image = torch.randn(batch, frames + taps - 1, channels).bfloat16().transpose(1, 2).unsqueeze(2)
conv2d(image, torch.randn(channels, 1, 1, taps).bfloat16(), padding=(0, 0), groups=channels)
"""


@pytest.mark.parametrize("case", HANGING, ids=str)
def test_depthwise_convolution_in_bfloat16_returns(case, tmp_path):
    assert forked.run(("-c", PROGRAM, *case), tmp_path, timeout=60).returncode == 0


@pytest.mark.parametrize("channels", [8, 96, 80])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_values_and_dtype(channels, dtype):
    image, kernel = torch.randn(2, channels, 1, 50).to(dtype), torch.randn(channels, 1, 1, 17).to(dtype)
    found = conv2d(image, kernel, padding=(0, 8), groups=channels)
    expected = F.conv2d(image.double(), kernel.double(), padding=(0, 8), groups=channels)
    assert found.dtype == dtype
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_one_graph_when_compiled():
    def function(image, kernel):
        return conv2d(image, kernel, padding=(0, 8), groups=80)

    inputs = torch.randn(1, 80, 1, 50).bfloat16(), torch.randn(80, 1, 1, 17).bfloat16()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(*inputs), function(*inputs))
