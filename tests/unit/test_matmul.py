"""Multiplications by oneDNN against PyTorch's own, on a CPU where they are chosen and on one where they aren't."""

import pytest
import torch
import torch.nn.functional as F

from mossformer_sb.network import fast
from mossformer_sb.network.fast import choice, matmul
from mossformer_sb.network.fast.matmul import PackedLinear, add_matmul, linear, packed
from mossformer_sb.network.fast.matmul import matmul as multiply
from mossformer_sb.network.layers import Linear


@pytest.fixture(params=[True, False], ids=["onednn", "stock"], autouse=True)
def by_onednn(request, monkeypatch):
    if request.param and choice.ONEDNN_LINEAR is None:
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(choice, "is_wide_amd", lambda: request.param)
    return request.param


def values_and_gradients(function, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    output = function(*inputs)
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), inputs)]


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6), (1, 1, 6)])
def test_linear(shape, silu):
    inputs = torch.randn(shape), torch.randn(7, 6), torch.randn(7)
    found = values_and_gradients(lambda *given: linear(*given, silu=silu), *inputs)
    expected = values_and_gradients(lambda *given: (F.silu if silu else torch.clone)(F.linear(*given)), *inputs)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(linear(*inputs, silu=silu), expected[0])
        torch.testing.assert_close(linear(inputs[0], packed(inputs[1]), inputs[2], silu=silu), expected[0])


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_packed_linear(dtype, silu):
    x, weight, bias = torch.randn(2, 5, 6).to(dtype), torch.randn(7, 6), torch.randn(7)
    with torch.no_grad():
        found = PackedLinear(weight, bias, dtype)(x, silu=silu)
        plain = F.linear(x.double(), weight.double(), bias.double())
    assert found.dtype == dtype
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), F.silu(plain) if silu else plain, rtol=tolerance, atol=tolerance)


def test_packed_for_the_cpu(by_onednn):
    assert PackedLinear(torch.rand(7, 6), None, torch.float32).by_onednn == by_onednn
    assert not PackedLinear(torch.rand(7, 6), None, torch.float64).by_onednn
    with fast.disabled():
        assert not PackedLinear(torch.rand(7, 6), None, torch.float32).by_onednn


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
@pytest.mark.parametrize("transposed", [True, False])
def test_matmul(batch, transposed):
    a, b = torch.randn(*batch, 5, 6), torch.randn(*batch, 6, 7)
    if transposed:
        a, b = (x.mT.contiguous().mT for x in (a, b))
    found = values_and_gradients(multiply, a, b)
    torch.testing.assert_close(found, values_and_gradients(torch.matmul, a, b))
    torch.testing.assert_close(multiply(a, b), found[0])


def test_add_matmul():
    total, a, b = torch.randn(5, 7), torch.randn(5, 6), torch.randn(6, 7)
    torch.testing.assert_close(add_matmul(total.clone(), a, b), total + a @ b)


def test_only_what_needs_a_gradient_gets_one():
    layer = Linear(6, 7, bias=False).requires_grad_(False)
    x = torch.randn(5, 6, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(5, 6))
    assert layer.weight.grad is None


def test_other_precisions_and_devices_are_pytorchs():
    assert linear(torch.rand(5, 6, dtype=torch.float64), torch.rand(7, 6, dtype=torch.float64)).dtype == torch.float64
    assert multiply(torch.rand(5, 6, device="meta"), torch.rand(6, 7, device="meta")).is_meta
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(torch.rand(5, 6), torch.rand(7, 6)).dtype == torch.bfloat16


def test_the_cpu_decides(by_onednn, monkeypatch):
    called = []
    if choice.ONEDNN_LINEAR is not None:
        onednn = choice.ONEDNN_LINEAR
        monkeypatch.setattr(matmul, "ONEDNN_LINEAR", lambda *given: called.append(1) or onednn(*given))
    linear(torch.rand(5, 6), torch.rand(7, 6))
    assert bool(called) == by_onednn
