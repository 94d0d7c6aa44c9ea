"""What the tests for GPUs share. Each runs on the CPU too, so that it is known to work before it meets a GPU.

python -m pytest tests/gpu            # what this machine has
python -m pytest tests/gpu -m gpu     # on the GPU alone
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
    """TF32, which SpeechBrain turns on, would leave products 10 bits of their factors."""
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, value in zip(switches, before, strict=True):
        switch.allow_tf32 = value
