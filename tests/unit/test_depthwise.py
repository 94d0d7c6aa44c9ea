"""The depthwise convolution against PyTorch's grouped convolution."""

import pytest
import torch
import torch.nn.functional as F

from mossformer_sb.network.fast import depthwise
from mossformer_sb.network.layers import DepthwiseConv, depthwise_conv


def grouped_conv1d(x, weight):
    channels, kernel_size = weight.shape
    return F.conv1d(x.transpose(1, 2), weight[:, None], padding=kernel_size // 2, groups=channels).transpose(1, 2)


def gradients(function, x, weight, grad):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    output = function(x, weight)
    output.backward(grad)
    return output.detach(), x.grad, weight.grad


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 5, 3), (2, 40, 6), (3, 257, 8)])
@pytest.mark.parametrize("kernel_size", [1, 3, 17])
def test_equals_grouped_conv1d_with_all_gradients(shape, kernel_size, monkeypatch):
    monkeypatch.setattr(depthwise, "_CPU_BLOCK", 100)  # several blocks of time, the last one shorter
    x, grad = torch.randn(2, *shape, dtype=torch.float64)
    weight = torch.randn(shape[2], kernel_size, dtype=torch.float64)
    found = gradients(depthwise_conv, x, weight, grad)
    expected = gradients(grouped_conv1d, x, weight, grad)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_of_views():
    """Inputs that are slices of larger tensors, as v and u are."""
    x, grad = torch.randn(2, 2, 50, 12, dtype=torch.float64)[..., 3:9]
    weight = torch.randn(6, 17, dtype=torch.float64)
    found = gradients(depthwise_conv, x, weight, grad)
    expected = gradients(grouped_conv1d, x, weight, grad)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_half_precision_inputs_accumulate_in_float32():
    x = torch.ones(1, 4000, 2, dtype=torch.bfloat16)
    weight = torch.zeros(2, 3, requires_grad=True)
    depthwise_conv(x, weight).sum().backward()
    assert weight.grad.tolist() == [[3999.0, 4000.0, 3999.0]] * 2  # bfloat16 could not count beyond 256


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [1, 8, 16, 17, 64])
def test_half_precision_for_any_number_of_channels(dtype, channels):
    x, weight = torch.randn(2, 40, channels), torch.randn(channels, 17)
    found = depthwise_conv(x.to(dtype), weight.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), depthwise_conv(x, weight), rtol=0.05, atol=0.15)


def test_module_adds_its_input():
    conv = DepthwiseConv(4, kernel_size=5)
    with torch.no_grad():
        conv.weight.zero_()
    x = torch.randn(2, 9, 4)
    assert torch.equal(conv(x), x)


def test_only_what_needs_a_gradient_gets_one():
    x, weight = torch.randn(1, 9, 4), torch.randn(4, 3, requires_grad=True)
    depthwise_conv(x, weight).sum().backward()
    assert x.grad is None and weight.grad is not None
