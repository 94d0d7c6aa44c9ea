"""Gradients written by hand against those that PyTorch finds of the plain form."""

import contextlib

import pytest
import torch

from mossformer_sb.attention import QueriesKeys, joint_attention, rotate
from mossformer_sb.block import ConvModule, MossFormerBlock, OffsetScale, gate
from mossformer_sb.network import fast
from mossformer_sb.training import JointAttention, RotatedCopies, keep_mask


def both(function, *inputs):
    """Output and gradients of the step by hand, and those of the plain form."""
    results = []
    for by_hand in (True, False):
        with contextlib.nullcontext() if by_hand else fast.disabled():
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


@pytest.mark.parametrize("num_frames", [3, 4, 12, 14])
@pytest.mark.parametrize("with_lengths", [True, False])
def test_joint_attention(num_frames, with_lengths):
    inputs = *(random(2, num_frames, 6) for _ in range(4)), random(2, num_frames, 10)
    lengths = torch.tensor([num_frames, 2]) if with_lengths else None

    def run(*given):
        return joint_attention(QueriesKeys(*given[:4]), given[4], group_size=4, lengths=lengths)

    found, expected = both(run, *inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rotated", [2, 6])
def test_rotated_copies(rotated):
    z, offset_scale = random(2, 5, 6), OffsetScale(6).double()
    angles = torch.rand(5, rotated // 2, dtype=torch.float64)
    gamma, beta = offset_scale.gamma, offset_scale.beta
    torch.nn.init.normal_(beta)
    results = []
    for copies in (
        torch.stack(RotatedCopies.apply(z, gamma, beta, angles.cos(), angles.sin(), torch.float64)),
        rotate(offset_scale(z), angles.cos(), angles.sin()),
    ):
        weights = torch.linspace(-1, 1, copies.numel(), dtype=torch.float64).view(copies.shape)
        results.append([copies.detach(), *torch.autograd.grad((copies * weights).sum(), [z, gamma, beta])])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


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
        return JointAttention.apply(*given, None, 4, 0.5)

    assert not torch.equal(run(*inputs), JointAttention.apply(*inputs, None, 4, 0.0))
    assert torch.autograd.gradcheck(run, inputs)


def test_autocast_has_the_plain_forms_precision():
    block = MossFormerBlock(channels=32, group_size=6, query_key_dim=16, dropout=0.0)
    rotation = torch.rand(15, 8).mul_(6).cos(), torch.rand(15, 8).mul_(6).sin()
    x = torch.randn(2, 15, 32, requires_grad=True)
    exact, _ = both(lambda x, *_: block(x, rotation), x, *block.parameters())

    def run(x, *parameters):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = block(x, rotation)
            assert output.dtype == torch.float32
            return output

    found, plain = both(run, x, *block.parameters())
    for ours, theirs, true in zip(found, plain, exact, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - true).norm() < 1.5 * (theirs - true).norm() + 1e-2 * true.norm()
