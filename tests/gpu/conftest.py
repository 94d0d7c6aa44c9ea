"""Fixtures of the GPU tests. Each test also runs on the CPU, so that it is tested itself before it runs on a GPU.

python -m pytest tests/gpu            # on the devices of this machine python -m pytest tests/gpu -m gpu     # only on
the GPU
"""

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Where a test runs."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return request.param


@pytest.fixture(autouse=True)
def float32_is_float32():
    """TF32, which SpeechBrain turns on, would round the inputs of matrix multiplications to 10 bits."""
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, value in zip(switches, before, strict=True):
        switch.allow_tf32 = value
