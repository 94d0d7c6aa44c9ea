"""Half precision: lengths stay exact and norms are computed in float32, in every implementation."""

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F

from mossformer_sb import MossFormerMaskNet
from mossformer_sb.network import fast
from mossformer_sb.network.attention import QueriesKeys, global_context, joint_attention
from mossformer_sb.network.block import ConvModule
from mossformer_sb.network.fast.tiled import _global_norm, _statistics
from mossformer_sb.network.layers import GlobalLayerNorm, ScaleNorm
from tests.unit.brains import make_brain, parameters, train_at_levels

HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
WAYS = pytest.mark.parametrize("way", ["fast", "plain"])
# bfloat16 keeps 8 bits: a value that was rounded to it is off by up to 0.4 %, by 0.17 % in the mean square.
SLACK = 5e-4


def taking(way):
    return fast.disabled() if way == "plain" else contextlib.nullcontext()


def distance(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def random_masknet(channels=12):
    network = MossFormerMaskNet(channels, 16, num_blocks=2, group_size=64, query_key_dim=16, dropout=0.0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


# ---- lengths


@HALF
@WAYS
@pytest.mark.parametrize("cast", [True, False], ids=["weights", "autocast"])
@pytest.mark.parametrize("train", [True, False], ids=["training", "inference"])
def test_the_whole_length_is_no_length(dtype, way, cast, train):
    length = 2055  # bfloat16 has 2048 and 2064 around it, float16 2054 and 2056
    network, x = random_masknet().train(train), torch.rand(1, 12, length)
    if cast:
        network, x = network.to(dtype), x.to(dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=not cast), torch.set_grad_enabled(train), taking(way):
        found, expected = network(x, torch.tensor([length])), network(x)
    assert torch.equal(found, expected)


@HALF
@WAYS
def test_attention_with_the_whole_length_has_the_same_bits(dtype, way):
    length = 2055
    queries_keys = QueriesKeys(*torch.randn(4, 1, length, 16, dtype=dtype))
    values = torch.randn(1, length, 32, dtype=dtype)
    with taking(way):
        found = joint_attention(queries_keys, values, 256, torch.tensor([length]))
        assert torch.equal(found, joint_attention(queries_keys, values, 256))


@WAYS
def test_gradients_of_attention_with_the_whole_length(way):
    length, gradients = 2055, []
    tensors = [torch.randn(1, length, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(5)]
    weight = torch.randn(1, length, 8)
    for lengths in (None, torch.tensor([length])):
        with taking(way):
            output = joint_attention(QueriesKeys(*tensors[:4]), tensors[4], 256, lengths)
        gradients.append(torch.autograd.grad((output * weight).sum(), tensors))
    for found, expected in zip(*gradients, strict=True):
        assert distance(found, expected) < SLACK


@WAYS
def test_lengths_that_float16_does_not_have(way):
    length = 70000
    key, values = torch.randn(2, 1, length, 2)
    lengths = torch.tensor([length])
    expected = global_context(key, values, lengths)
    with taking(way):
        zeros = torch.zeros(1, length, 2).half()
        query = torch.eye(2).half().repeat(length // 2, 1)[None]  # of the context, each row in turn
        queries_keys = QueriesKeys(zeros, query, zeros, key.half())
        found = joint_attention(queries_keys, values.half(), 256, lengths)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found[:, :2].float(), expected, rtol=0.05, atol=2e-4)


# ---- norms


def norm_in_float32(x, norm):
    return x.float() * (norm.gain.float() / (x.float().square().mean(-1, keepdim=True).sqrt()).clamp(min=norm.eps))


@HALF
@pytest.mark.parametrize("autocast", [True, False])
def test_scale_norm_is_rounded_once(dtype, autocast):
    norm, x = ScaleNorm(64).to(dtype), torch.randn(2, 500, 64).to(dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        found = norm(x)
    assert found.dtype == dtype
    assert distance(found, norm_in_float32(x, norm).to(dtype)) < SLACK


def test_scale_norm_of_what_float16_cannot_square():
    norm, x = ScaleNorm(64).half(), torch.full((1, 1, 64), 1000.0).half()
    torch.testing.assert_close(norm(x), torch.ones_like(x))


@HALF
@WAYS
@pytest.mark.parametrize("cast", [True, False], ids=["weights", "autocast"])
def test_the_norm_of_a_conv_module(dtype, way, cast):
    """Against its layers, with the norm in float32; the input is in half precision, as that of `to_output` is."""
    module = ConvModule(64, 64, kernel_size=1, dropout=0.0)
    with torch.no_grad():
        module.depthwise.weight.zero_()
        module.linear.bias.zero_()
        module.linear.weight.copy_(torch.eye(64))
    if cast:
        module = module.to(dtype)
    x = torch.randn(2, 500, 64).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=not cast), taking(way):
        found = module(x)
    assert found.dtype == dtype
    assert distance(found, F.silu(norm_in_float32(x, module.norm).to(dtype))) < SLACK
    (gradient,) = torch.autograd.grad(found.float().square().sum(), x)
    wide = x.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(F.silu(norm_in_float32(wide, module.norm)).square().sum(), wide)
    # What comes in and goes out of the products is rounded; in a bfloat16 norm it was off by twice as much.
    assert distance(gradient, expected) < (5e-3 if dtype == torch.bfloat16 else 1e-3)


@HALF
def test_the_tiled_global_norm(dtype):
    norm = GlobalLayerNorm(24)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    norm, x = norm.to(dtype), torch.randn(1, 300, 24).to(dtype)
    found = _global_norm(norm, x[0], _statistics(x[0].split(100)))
    assert distance(found, norm(x)[0]) < SLACK


# ---- training


def test_bf16_trains_at_any_level(tmp_path):
    brain = make_brain(tmp_path, masknet=random_masknet(channels=8), precision="bf16", lr=0.001, threshold=None)
    before = parameters(brain)
    train_at_levels(brain, steps=60)
    assert brain.optimizer_step == brain.stats.steps == 60
    assert brain.stats.count == 120 and brain.stats.nonfinite == brain.stats.skipped == 0
    assert parameters(brain).isfinite().all() and math.isfinite(brain.stats.mean) and brain.stats.norm_max < math.inf
    assert not torch.equal(parameters(brain), before)
