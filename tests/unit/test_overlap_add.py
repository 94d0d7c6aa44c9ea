"""The decoder by overlap-add: equality with the transposed convolution, and when it is used."""

import pytest
import torch
from speechbrain.lobes.models.dual_path import Decoder
from torch.nn.utils import parametrize

from mossformer_sb import MossFormerSeparator
from mossformer_sb.network import fast
from mossformer_sb.network.fast import overlap_add
from mossformer_sb.network.separator import decode

N, L = 12, 37


def make_decoder(kernel_size=16, stride=8, bias=True, **options):
    return Decoder(in_channels=N, out_channels=1, kernel_size=kernel_size, stride=stride, bias=bias, **options)


@pytest.fixture
def taken(monkeypatch):
    """The decoders that overlap-add computed."""
    calls, original = [], overlap_add.decode
    monkeypatch.setattr(overlap_add, "decode", lambda *inputs: calls.append(inputs[0]) or original(*inputs))
    return calls


@pytest.mark.parametrize("kernel_size, stride", [(16, 8), (64, 32), (8, 8), (24, 8), (5, 1)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch, frames", [(1, L), (3, L), (1, 1), (2, 1)])
def test_equal_to_the_transposed_convolution(taken, kernel_size, stride, bias, batch, frames):
    decoder, encoded = make_decoder(kernel_size, stride, bias).double(), torch.randn(batch, N, frames).double()
    with torch.no_grad():
        found = decode(decoder, encoded)
        with fast.disabled():
            expected = decode(decoder, encoded)
    assert len(taken) == 1 and found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [None, torch.tensor([800, 640])])
def test_a_separator_is_the_same_with_it(taken, lengths):
    separator, mixture = MossFormerSeparator.from_size("mini").eval().double(), torch.randn(2, 800).double()
    with torch.no_grad():
        found = separator(mixture, lengths)
        assert len(taken) == 2  # one for each speaker
        with fast.disabled():
            expected = separator(mixture, lengths)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)


def test_autocast_keeps_the_type_and_more_precision(taken):
    decoder, encoded = make_decoder(), torch.randn(2, N, L)
    exact = decoder(encoded).detach()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = decode(decoder, encoded)
        with fast.disabled():
            expected = decode(decoder, encoded)
    assert len(taken) == 1 and found.dtype == expected.dtype == torch.bfloat16
    assert (found - exact).abs().max() <= (expected - exact).abs().max()


class Doubled(torch.nn.Module):
    def forward(self, weight):
        return 2 * weight


class Louder(Decoder):
    def forward(self, x):
        return 2 * super().forward(x)


def replaced(decoder):
    decoder.forward = lambda x: 2 * Decoder.forward(decoder, x)
    return decoder


@pytest.mark.parametrize(
    "change",
    [
        lambda decoder: decoder.register_forward_hook(lambda module, inputs, output: 2 * output) and decoder,
        lambda decoder: parametrize.register_parametrization(decoder, "weight", Doubled()),
        lambda decoder: Louder(in_channels=N, out_channels=1, kernel_size=16, stride=8),
        replaced,
    ],
    ids=["hook", "parametrised", "subclass", "forward"],
)
def test_a_changed_decoder_is_called(taken, change):
    decoder, encoded = change(make_decoder()), torch.randn(2, N, L)
    with torch.no_grad():
        found = decode(decoder, encoded)
        assert torch.equal(found, decoder(encoded))
    assert not taken


@pytest.mark.parametrize(
    "options", [{"padding": 3}, {"output_padding": 1}, {"dilation": 2}, {"kernel_size": 15}], ids=str
)
def test_other_convolutions_are_called(taken, options):
    decoder, encoded = make_decoder(**options), torch.randn(2, N, L)
    with torch.no_grad():
        assert torch.equal(decode(decoder, encoded), decoder(encoded))
    assert not taken


@pytest.mark.parametrize("of_weights", [True, False])
def test_gradients_are_those_of_the_convolution(taken, of_weights):
    decoder, encoded = make_decoder().requires_grad_(of_weights), torch.randn(2, N, L, requires_grad=not of_weights)
    decode(decoder, encoded).sum().backward()
    assert not taken and (decoder.weight if of_weights else encoded).grad is not None


def test_frozen_decoders_need_no_gradient(taken):
    decode(make_decoder().requires_grad_(False), torch.randn(2, N, L))
    assert len(taken) == 1
