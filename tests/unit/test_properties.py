"""The mask nets of any shape: plain, fast, tiled and compiled are one network, and a batch is its items.

Hypothesis draws the shapes, the same ones each time.
"""

import contextlib
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mossformer_sb import MossFormer2MaskNet, MossFormerMaskNet
from mossformer_sb.network import fast
from mossformer_sb.network.fast import tiled_block

TOLERANCE = {torch.float64: {"rtol": 1e-8, "atol": 1e-10}, torch.float32: {"rtol": 1e-3, "atol": 1e-4}}


def drawn(max_examples):
    """Settings: nothing is random, nothing is written, nothing depends on how fast the machine is."""
    return settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


@dataclass
class Case:
    """A network, a batch for it, and what is to be done with both."""

    arguments: dict
    shape: tuple
    lengths: list | None
    dtype: torch.dtype
    seed: int

    def network(self):
        torch.manual_seed(self.seed)
        kind = MossFormer2MaskNet if "recurrent_channels" in self.arguments else MossFormerMaskNet
        network = kind(**self.arguments, dropout=0.0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return network.to(self.dtype)

    def inputs(self):
        torch.manual_seed(self.seed + 1)
        x = torch.rand(self.shape, dtype=self.dtype)
        return (x,) if self.lengths is None else (x, torch.tensor(self.lengths))


@st.composite
def cases(draw, max_frames=45, max_blocks=2, of_mossformer2=None):
    """Of MossFormer2 if that is True, of MossFormer if it is False, of either if it is None."""
    arguments = {
        "in_channels": draw(st.integers(1, 7)),
        "out_channels": 2 * draw(st.integers(1, 6)),
        "num_blocks": draw(st.integers(1, max_blocks)),
        "num_spks": draw(st.integers(1, 3)),
        "group_size": draw(st.integers(1, 20)),
        "query_key_dim": 2 * draw(st.integers(1, 20)),
        "expansion_factor": draw(st.sampled_from([1.0, 2.0, 3.0, 4.0])),
        "kernel_size": 2 * draw(st.integers(0, 8)) + 1,
    }
    if draw(st.booleans()) if of_mossformer2 is None else of_mossformer2:
        arguments["recurrent_channels"] = draw(st.integers(1, 12))
    num_frames = draw(st.integers(1, max_frames))
    batch_size = draw(st.integers(1, 3))
    one_length = st.integers(1, num_frames)
    lengths = draw(st.none() | st.lists(one_length, min_size=batch_size, max_size=batch_size))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    return Case(arguments, (batch_size, arguments["in_channels"], num_frames), lengths, dtype, draw(st.integers(0, 99)))


def trained(function, network, inputs):
    """Masks, and the gradients of all parameters and of the input."""
    x = inputs[0].clone().requires_grad_()
    masks = function(x, *inputs[1:])
    weights = torch.linspace(-1, 1, masks.numel(), dtype=masks.dtype).view(masks.shape)
    gradients = torch.autograd.grad((masks * weights).sum(), [x, *network.parameters()])
    return [masks.detach(), *gradients]


def assert_close(found, expected, dtype):
    """Each tensor by its own greatest value."""
    for ours, theirs in zip(found, expected, strict=True):
        scale = theirs.abs().max().clamp(min=1e-3)
        torch.testing.assert_close(ours / scale, theirs / scale, **TOLERANCE[dtype])


def assert_trained_alike(found, expected, dtype):
    """In float32, all gradients as one: networks of one or two channels have some in which nearly all cancels."""
    assert_close(found[:1], expected[:1], dtype)
    if dtype == torch.float32:
        found, expected = (torch.cat([one.flatten() for one in gradients[1:]]) for gradients in (found, expected))
        assert (found - expected).norm() < 1e-3 * expected.norm() + 1e-5
    else:
        assert_close(found[1:], expected[1:], dtype)


@given(cases())
@drawn(100)
def test_custom_backward_is_plain_training(case):
    network, inputs = case.network().train(), case.inputs()
    found = trained(network, network, inputs)
    with fast.disabled():
        expected = trained(network, network, inputs)
    assert_trained_alike(found, expected, case.dtype)


@given(cases(max_frames=100), st.integers(1, 4))
@drawn(100)
def test_tiled_inference_is_plain_inference(case, groups):
    network, inputs = case.network().eval(), case.inputs()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(tiled_block, "TILE_FRAMES", groups * case.arguments["group_size"])
        found = network(*inputs)
        with fast.disabled():
            expected = network(*inputs)
    assert_close([found], [expected], case.dtype)


@pytest.mark.parametrize("way", ["plain", "fast"])
@pytest.mark.parametrize("train", [True, False], ids=["training", "inference"])
@given(case=cases())
@drawn(30)
def test_a_batch_is_its_items(case, way, train):
    network, (x, *lengths) = case.network().train(train), case.inputs()
    context = fast.disabled() if way == "plain" else contextlib.nullcontext()
    with context, torch.set_grad_enabled(train):
        together = network(x, *lengths).detach()
        for item, length in enumerate(case.lengths or [x.shape[2]] * len(x)):
            alone = network(x[item : item + 1, :, :length]).detach()[:, 0]
            assert_close([together[:, item, :, :length]], [alone], case.dtype)
            assert (together[:, item, :, length:] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("of_mossformer2", [True, False])
@given(data=st.data())
@drawn(2)
def test_compiled_training_is_plain_training(data, of_mossformer2):
    case = data.draw(cases(max_frames=30, max_blocks=1, of_mossformer2=of_mossformer2))
    torch._dynamo.reset()
    network, inputs = case.network().train(), case.inputs()
    found = trained(torch.compile(network, backend="aot_eager", dynamic=False), network, inputs)
    with fast.disabled():
        expected = trained(network, network, inputs)
    assert_trained_alike(found, expected, case.dtype)
