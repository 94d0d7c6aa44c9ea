"""Custom backward passes against the gradients that PyTorch finds of the plain form."""

import contextlib

import pytest
import torch

from mossformer_sb.network import fast
from mossformer_sb.network.attention import QueriesKeys, joint_attention, rotate
from mossformer_sb.network.block import ConvModule, MossFormerBlock, OffsetScale, gate
from mossformer_sb.network.fast import backward
from mossformer_sb.network.fast.backward import (
    ConvModuleFunction,
    GateFunction,
    JointAttentionFunction,
    RotatedHeadsFunction,
    keep_mask,
)


def both(function, *inputs):
    """Output and gradients of the custom backward, and those of the plain form."""
    results = []
    for custom in (True, False):
        with contextlib.nullcontext() if custom else fast.disabled():
            output = function(*inputs)
            weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
            gradients = torch.autograd.grad((output * weights).sum(), [x for x in inputs if x.requires_grad])
            results.append([output.detach(), *gradients])
    return results


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("padded", [True, False])
def test_conv_module(padded):
    module = ConvModule(6, 10, kernel_size=5, dropout=0.0).double()
    with torch.no_grad():
        module.norm.gain.fill_(1.7)
    x = random(2, 12, 6)
    with torch.no_grad():
        x[0, 3] = 0.0  # where the root mean square is bounded from below
        x[1, 4] *= 1e-6
    padding = (torch.arange(12) >= torch.tensor([12, 9])[:, None])[..., None] if padded else None

    def run(x, *parameters):
        return module(x, padding)

    found, expected = both(run, x, *module.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_gate():
    found, expected = both(gate, random(2, 5, 8), random(2, 5, 8))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_frames", [3, 4, 12, 14, 22])
@pytest.mark.parametrize("with_lengths", [True, False])
@pytest.mark.parametrize("at_once", [1, 3, 5])
def test_joint_attention(num_frames, with_lengths, at_once, monkeypatch):
    monkeypatch.setattr(backward, "_groups_at_once", lambda values, group_size: at_once)
    inputs = *(random(2, num_frames, 6) for _ in range(4)), random(2, num_frames, 10)
    lengths = torch.tensor([num_frames, 2]) if with_lengths else None

    def run(*given):
        return joint_attention(QueriesKeys(*given[:4]), given[4], group_size=4, lengths=lengths)

    found, expected = both(run, *inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_attention_groups_are_computed_together_in_half_precision_only(monkeypatch):
    def spans(dtype):
        groups = backward._groups(torch.empty(2, 11, 8, dtype=dtype), group_size=2)
        return [(groups.items, groups.frames.start, groups.frames.stop, groups.number) for groups in groups]

    monkeypatch.setattr(backward, "_HALF_ELEMENTS", 3 * 2 * 8)
    both_items = slice(None)
    one_at_a_time = [(both_items, start, min(start + 2, 11), 1) for start in range(0, 11, 2)]
    assert spans(torch.float32) == spans(torch.float64) == one_at_a_time
    together = [(item, *span) for item in (0, 1) for span in ((0, 6, 3), (6, 10, 2))]
    assert spans(torch.bfloat16) == spans(torch.float16) == [*together, (both_items, 10, 11, 1)]
    # Of many items with few groups, one group of every item.
    assert [groups.items for groups in backward._groups(torch.empty(9, 4, 8).half(), group_size=2)] == 2 * [both_items]


@pytest.mark.parametrize("rotated", [2, 6])
def test_rotated_heads(rotated):
    z, offset_scale = random(2, 5, 6), OffsetScale(6).double()
    angles = torch.rand(5, rotated // 2, dtype=torch.float64)
    gamma, beta = offset_scale.gamma, offset_scale.beta
    torch.nn.init.normal_(beta)
    results = []
    for heads in (
        torch.stack(RotatedHeadsFunction.apply(z, gamma, beta, angles.cos(), angles.sin(), torch.float64)),
        rotate(offset_scale(z), angles.cos(), angles.sin()),
    ):
        weights = torch.linspace(-1, 1, heads.numel(), dtype=torch.float64).view(heads.shape)
        results.append([heads.detach(), *torch.autograd.grad((heads * weights).sum(), [z, gamma, beta])])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_gradient_of_silu_without_pytorchs_operator(monkeypatch):
    grad, x = torch.randn(2, 3, 20, dtype=torch.float64)[:, 0]
    expected = backward._silu_backward(grad, x)
    monkeypatch.setattr(backward, "_SILU_BACKWARD", None)
    torch.testing.assert_close(backward._silu_backward(grad, x), expected, rtol=1e-12, atol=1e-12)


def test_a_whole_block_with_lengths():
    block = MossFormerBlock(channels=8, group_size=6, query_key_dim=4, dropout=0.0).double()
    rotation = torch.ones(15, 1, dtype=torch.float64), torch.zeros(15, 1, dtype=torch.float64)
    lengths = torch.tensor([15, 11])
    padding = (torch.arange(15) >= lengths[:, None])[..., None]

    def run(x, *parameters):
        return block(x, rotation, lengths, padding).masked_fill(padding, 0.0)

    found, expected = both(run, random(2, 15, 8), *block.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_the_mean(dropout):
    mask, factor = keep_mask(torch.empty(500, 401), dropout)
    assert mask.float().mean().item() == pytest.approx(1 - dropout, abs=0.005)
    assert factor == pytest.approx(1 / (1 - dropout), rel=1e-3)
    # Neighbours share a random number, and are independent all the same.
    flat = mask.flatten()[: 4 * (mask.numel() // 4)].view(-1, 4).double()
    assert (torch.corrcoef(flat.T) - torch.eye(4)).abs().max() < 0.02
    assert (flat.mean(0) - (1 - dropout)).abs().max() < 0.01


def test_dropout_follows_the_seed():
    torch.manual_seed(3)
    first = keep_mask(torch.empty(100), 0.5)[0]
    assert not torch.equal(keep_mask(torch.empty(100), 0.5)[0], first)
    torch.manual_seed(3)
    assert torch.equal(keep_mask(torch.empty(100), 0.5)[0], first)


def same_mask(like, dropout):
    """The same mask for each item and group, of which the plain form has more, since it pads."""
    numbers = (torch.arange(like.shape[-2] * like.shape[-1]) * 7919 % 101).view(like.shape[-2:])
    return (numbers >= 101 * dropout).expand(like.shape), 1 / (1 - dropout)


@pytest.mark.parametrize("train", [True, False])
def test_dropout_of_a_block_is_that_of_the_plain_form(train, monkeypatch):
    def plain_dropout(x, p=0.5, training=True, inplace=False):
        mask, factor = same_mask(x, p)
        return x * mask * factor if training else x

    monkeypatch.setattr(backward, "keep_mask", same_mask)
    monkeypatch.setattr(torch.nn.functional, "dropout", plain_dropout)
    block = MossFormerBlock(channels=8, group_size=6, query_key_dim=4, dropout=0.4).double().train(train)
    rotation = torch.ones(24, 1, dtype=torch.float64), torch.zeros(24, 1, dtype=torch.float64)
    found, expected = both(lambda x, *parameters: block(x, rotation), random(2, 24, 8), *block.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_gradient_of_dropout_goes_where_the_output_went():
    module = ConvModule(6, 10, kernel_size=1, dropout=0.5).double()
    x, seed = random(2, 30, 6), 5

    def run(x):
        torch.manual_seed(seed)
        return module(x)

    assert (run(x) == 0).double().mean() == pytest.approx(0.5, abs=0.1)
    assert torch.autograd.gradcheck(run, x)


def test_gradient_of_dropped_attention():
    inputs = *(random(1, 6, 4) for _ in range(4)), random(1, 6, 8)

    def run(*given):
        torch.manual_seed(5)
        return JointAttentionFunction.apply(*given, None, 4, 0.5)

    assert not torch.equal(run(*inputs), JointAttentionFunction.apply(*inputs, None, 4, 0.0))
    assert torch.autograd.gradcheck(run, inputs)


def test_autocast_has_the_plain_forms_precision():
    """In the mean square over some draws: the error of a single number, as a gain's gradient is, is noise."""
    errors = []
    for _ in range(12):
        block = MossFormerBlock(channels=32, group_size=6, query_key_dim=16, dropout=0.0)
        rotation = torch.rand(15, 8).mul_(6).cos(), torch.rand(15, 8).mul_(6).sin()
        x = torch.randn(2, 15, 32, requires_grad=True)
        exact, _ = both(lambda x, *_: block(x, rotation), x, *block.parameters())  # noqa: B023

        def run(x, *parameters):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = block(x, rotation)  # noqa: B023
                assert output.dtype == torch.float32
                return output

        ways = both(run, x, *block.parameters())
        for found in ways:
            assert [tensor.dtype for tensor in found] == [torch.float32] * len(found)
        errors.append([[(a - b).norm() / b.norm() for a, b in zip(way, exact, strict=True)] for way in ways])
    custom, plain = torch.tensor(errors).square().mean(0).sqrt()
    assert (custom < 1.25 * plain + 2e-3).all()


def channels_first(x):
    """The same numbers, in memory with channels before time."""
    return x.mT.contiguous().mT


def test_rotated_heads_of_what_lies_with_channels_first():
    z, offset_scale = random(2, 5, 6), OffsetScale(6).double()
    angles = torch.rand(5, 3, dtype=torch.float64)
    results = []
    for layout in (torch.Tensor.contiguous, channels_first):
        heads = RotatedHeadsFunction.apply(
            layout(z), offset_scale.gamma, offset_scale.beta, angles.cos(), angles.sin(), torch.float64
        )
        grads = [layout(torch.linspace(-1, 1, head.numel(), dtype=torch.float64).view(head.shape)) for head in heads]
        assert grads[0].is_contiguous() == (layout is torch.Tensor.contiguous)
        inputs = [z, offset_scale.gamma, offset_scale.beta]
        results.append([*heads, *torch.autograd.grad(heads, inputs, grads)])
    assert all(torch.equal(found, expected) for found, expected in zip(*results, strict=True))


def test_a_block_whose_convolutions_answer_with_channels_first(monkeypatch):
    """As convolutions do on other devices and in other versions."""
    block = MossFormerBlock(channels=8, group_size=6, query_key_dim=4, dropout=0.0).double()
    rotation = torch.ones(15, 1, dtype=torch.float64), torch.zeros(15, 1, dtype=torch.float64)
    inputs = random(2, 15, 8), *block.parameters()
    expected, _ = both(lambda x, *_: block(x, rotation), *inputs)
    convolve = backward.depthwise_conv
    monkeypatch.setattr(backward, "depthwise_conv", lambda *given: channels_first(convolve(*given)))
    found, _ = both(lambda x, *_: block(x, rotation), *inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


# ---- only what is needed


class Counted(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what takes time: matrix multiplications, convolutions, and the sums of products of a kernel's gradient."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        names = ("mm", "addmm", "bmm", "convolution", "_linear_pointwise", "addcmul_")
        self.operations += function.overloadpacket.__name__ in names
        return function(*arguments, **(keywords or {}))


def backward_of(function, inputs, wanted):
    """Gradients of the wanted inputs, by number, and the operations that they took."""
    inputs = [x.detach().requires_grad_(index in wanted) for index, x in enumerate(inputs)]
    output = function(*inputs)
    with Counted() as counted:
        output.square().sum().backward()
    assert all((x.grad is None) == (index not in wanted) for index, x in enumerate(inputs))
    return [inputs[index].grad for index in wanted], counted.operations


def conv_module_of(x, gain, weight, bias, kernel):
    return ConvModuleFunction.apply(x, gain, weight, bias, kernel, 0.4, 1e-5, 0.0, None, x.dtype)


def attention_of(*tensors):
    return JointAttentionFunction.apply(*tensors, None, 4, 0.0)


def rotated_of(z, gamma, beta):
    angles = torch.linspace(0, 3, 15, dtype=torch.float64).view(5, 3)
    return torch.stack(RotatedHeadsFunction.apply(z, gamma, beta, angles.cos(), angles.sin(), z.dtype))


CONV_MODULE = [(2, 9, 6), (1,), (10, 6), (10,), (10, 5)]


# How many operations the gradient of each set of inputs takes, by their numbers.
@pytest.mark.parametrize(
    ("function", "shapes", "operations"),
    [
        (conv_module_of, CONV_MODULE, {(0,): 2, (2,): 2, (3,): 1, (4,): 1, (0, 2, 4): 4}),
        (attention_of, [(1, 4, 6)] * 4 + [(1, 4, 8)], {(0,): 2, (1,): 1, (2,): 2, (3,): 2, (4,): 3, (0, 2): 3}),
        (rotated_of, [(2, 5, 6), (4, 6), (4, 6)], {(0,): 4, (1,): 0, (2,): 0}),
        (GateFunction.apply, [(2, 5, 8), (2, 5, 8)], {(0,): 1, (1,): 1}),
    ],
)
def test_only_what_needs_a_gradient_is_computed(function, shapes, operations):
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    everything, most = backward_of(function, inputs, range(len(inputs)))
    for wanted, expected in operations.items():
        gradients, found = backward_of(function, inputs, wanted)
        assert found == expected <= most, wanted
        torch.testing.assert_close(gradients, [everything[index] for index in wanted], rtol=0, atol=0)


def test_a_frozen_block_takes_no_gradient_of_its_weights():
    block = MossFormerBlock(channels=8, group_size=6, query_key_dim=4, dropout=0.0)
    rotation = torch.ones(15, 1), torch.zeros(15, 1)
    counts = []
    for trained in (True, False):
        block.requires_grad_(trained)
        x = torch.randn(2, 15, 8, requires_grad=True)
        output = block(x, rotation)
        with Counted() as counted:
            output.sum().backward()
        assert x.grad is not None
        counts.append(counted.operations)
    assert counts[1] <= counts[0] - 6  # weights and kernels of three layers
