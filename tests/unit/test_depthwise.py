"""The depthwise filter against PyTorch's grouped convolution."""

import pytest
import torch
import torch.nn.functional as F

from mossformer_sb.network import depthwise
from mossformer_sb.network.depthwise import DepthwiseConv, depthwise_filter


def grouped_conv1d(x, taps):
    channels, num_taps = taps.shape
    return F.conv1d(x.transpose(1, 2), taps[:, None], padding=num_taps // 2, groups=channels).transpose(1, 2)


def gradients(function, x, taps, grad):
    x, taps = x.clone().requires_grad_(), taps.clone().requires_grad_()
    output = function(x, taps)
    output.backward(grad)
    return output.detach(), x.grad, taps.grad


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 5, 3), (2, 40, 6), (3, 257, 8)])
@pytest.mark.parametrize("num_taps", [1, 3, 17])
def test_equals_grouped_conv1d_with_all_gradients(shape, num_taps, monkeypatch):
    monkeypatch.setattr(depthwise, "_CPU_BLOCK", 100)  # several blocks of time, the last one shorter
    x, grad = torch.randn(2, *shape, dtype=torch.float64)
    taps = torch.randn(shape[2], num_taps, dtype=torch.float64)
    found = gradients(depthwise_filter, x, taps, grad)
    expected = gradients(grouped_conv1d, x, taps, grad)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_of_views():
    """Inputs that are slices of larger tensors, as v and u are."""
    x, grad = torch.randn(2, 2, 50, 12, dtype=torch.float64)[..., 3:9]
    taps = torch.randn(6, 17, dtype=torch.float64)
    found = gradients(depthwise_filter, x, taps, grad)
    expected = gradients(grouped_conv1d, x, taps, grad)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_half_precision_inputs_accumulate_in_float32():
    x = torch.ones(1, 4000, 2, dtype=torch.bfloat16)
    taps = torch.zeros(2, 3, requires_grad=True)
    depthwise_filter(x, taps).sum().backward()
    assert taps.grad.tolist() == [[3999.0, 4000.0, 3999.0]] * 2  # bfloat16 could not count beyond 256


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [1, 8, 16, 17, 64])
def test_half_precision_for_any_number_of_channels(dtype, channels):
    x, taps = torch.randn(2, 40, channels), torch.randn(channels, 17)
    found = depthwise_filter(x.to(dtype), taps.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), depthwise_filter(x, taps), rtol=0.05, atol=0.15)


def test_module_adds_its_input():
    conv = DepthwiseConv(4, kernel_size=5)
    with torch.no_grad():
        conv.weight.zero_()
    x = torch.randn(2, 9, 4)
    assert torch.equal(conv(x), x)


def test_only_what_needs_a_gradient_gets_one():
    x, taps = torch.randn(1, 9, 4), torch.randn(4, 3, requires_grad=True)
    depthwise_filter(x, taps).sum().backward()
    assert x.grad is None and taps.grad is not None
