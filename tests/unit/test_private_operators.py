"""PyTorch's operators that its documentation doesn't name: that they are there, and what happens where they aren't."""

import pytest
import torch
import torch.nn.functional as F

from mossformer_sb.network.fast import backward, choice, matmul
from mossformer_sb.network.fast.matmul import linear, packed
from mossformer_sb.network.fast.matmul import matmul as multiply

has_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@has_onednn
def test_linear_pointwise():
    """torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")"""
    x, weight, bias = torch.randn(2, 5, 6), torch.randn(7, 6), torch.randn(7)
    found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "swish", [], "")
    torch.testing.assert_close(found, F.silu(F.linear(x, weight, bias)))
    torch.testing.assert_close(choice.ONEDNN_LINEAR(x, weight, None, "none", [], ""), F.linear(x, weight))


@has_onednn
def test_linear_pointwise_binary():
    """torch.ops.mkldnn._linear_pointwise.binary(x, other, weight, bias, "add")"""
    x, other, weight = torch.randn(5, 6), torch.randn(5, 7), torch.randn(7, 6)
    expected = other + x @ weight.t()
    torch.testing.assert_close(choice.ONEDNN_LINEAR_BINARY(x, other, weight, None, "add"), expected)


@has_onednn
def test_reorder_linear_weight():
    """torch.ops.mkldnn._reorder_linear_weight(weight)"""
    x, weight = torch.randn(5, 6), torch.randn(7, 6)
    reordered = choice.ONEDNN_REORDER(weight)
    torch.testing.assert_close(choice.ONEDNN_LINEAR(x, reordered, None, "none", [], ""), x @ weight.t())


def test_silu_backward():
    """torch.ops.aten.silu_backward(grad, x)"""
    x, grad = torch.randn(2, 50, dtype=torch.float64)
    expected = torch.autograd.functional.vjp(F.silu, x, grad)[1]
    torch.testing.assert_close(torch.ops.aten.silu_backward(grad, x), expected)
    assert backward._SILU_BACKWARD is not None


def test_cpus_are_distinguished():
    assert isinstance(torch.backends.cpu.get_cpu_capability(), str)


@pytest.mark.parametrize("name", ["ONEDNN_LINEAR", "ONEDNN_LINEAR_BINARY", "ONEDNN_REORDER"])
def test_without_an_operator_multiplications_are_pytorchs(name, monkeypatch):
    for module in (matmul, choice):
        monkeypatch.setattr(module, name, None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    choice.is_wide_amd.cache_clear()
    try:
        assert not choice.is_wide_amd()
        x, weight = torch.randn(5, 6), torch.randn(7, 6)
        assert torch.equal(linear(x, weight), F.linear(x, weight))
        assert torch.equal(multiply(x, weight.t()), x @ weight.t())
        assert packed(weight) is weight
    finally:
        choice.is_wide_amd.cache_clear()


def test_without_silu_backward_its_formula(monkeypatch):
    x, grad = torch.randn(2, 50, dtype=torch.float64)
    expected = backward._silu_backward(grad, x)
    monkeypatch.setattr(backward, "_SILU_BACKWARD", None)
    torch.testing.assert_close(backward._silu_backward(grad, x), expected)


def test_an_operator_or_an_overload_that_is_gone():
    assert choice.private_operator("mkldnn", "gone") is None
    assert choice.private_operator("aten", "silu_backward", "gone") is None
    assert choice.private_operator("gone", "gone", "default") is None
