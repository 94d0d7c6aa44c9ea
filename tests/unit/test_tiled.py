"""Tiled inference against the plain network with a gradient."""

import pytest
import torch

from mossformer_sb import MossFormerMaskNet
from mossformer_sb.network.fast import choice, tiled_block

N, GROUP = 24, 8


@pytest.fixture
def masknet(monkeypatch):
    monkeypatch.setattr(tiled_block, "TILE_FRAMES", 2 * GROUP)
    network = MossFormerMaskNet(N, 32, num_blocks=2, group_size=GROUP, query_key_dim=40, num_spks=3).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def both(network, *inputs):
    """Tiled, and not."""
    with torch.no_grad():
        tiled_masks = network(*inputs)
    plain = network(*inputs)
    assert plain.requires_grad and not tiled_masks.requires_grad
    return tiled_masks, plain.detach()


# Around the reach of the convolution, a group, a tile, and several tiles with a short group at the end.
@pytest.mark.parametrize("num_frames", [1, 7, 8, 9, 16, 17, 24, 31, 32, 33, 53, 64])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_equals_the_plain_network(masknet, num_frames, batch_size):
    x = torch.rand(batch_size, N, num_frames, dtype=torch.float64)
    found, expected = both(masknet.double(), x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("onednn", [True, False])
def test_in_float32(masknet, onednn, monkeypatch):
    monkeypatch.setattr(choice, "is_wide_amd", lambda: onednn and choice.ONEDNN_LINEAR is not None)
    found, expected = both(masknet, torch.rand(2, N, 53))
    assert (found - expected).abs().max() < 1e-5 * expected.max()


def test_padded_batch(masknet):
    lengths = torch.tensor([53, 1, 16, 40])
    x = torch.rand(4, N, 53, dtype=torch.float64)
    found, expected = both(masknet.double(), x, lengths)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    alone = masknet(x[3:, :, :40]).detach()
    torch.testing.assert_close(found[:, 3:, :, :40], alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kernel_size", "expansion_factor"), [(1, 4.0), (17, 3.0), (41, 4.0)])
def test_other_kernels_and_widths(kernel_size, expansion_factor, monkeypatch):
    monkeypatch.setattr(tiled_block, "TILE_FRAMES", GROUP)
    network = MossFormerMaskNet(N, 30, 2, 2, GROUP, 16, expansion_factor, kernel_size).double().eval()
    found, expected = both(network, torch.rand(1, N, 45, dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cast", [True, False], ids=["weights", "autocast"])
def test_bfloat16(masknet, cast):
    x = torch.rand(1, N, 53)
    exact, _ = both(masknet, x)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=not cast):
        masks = masknet.bfloat16()(x.bfloat16()) if cast else masknet(x)
    assert masks.dtype == torch.bfloat16
    assert (masks.float() - exact).norm() < 0.05 * exact.norm()


def test_what_the_weights_say_is_not_written_over(masknet):
    before = {name: value.clone() for name, value in masknet.state_dict().items()}
    x = torch.rand(1, N, 40)
    given = x.clone()
    with torch.no_grad():
        masknet(x)
    assert torch.equal(x, given)
    assert all(torch.equal(value, before[name]) for name, value in masknet.state_dict().items())


def test_dropout_is_not_lost_without_gradient():
    network = MossFormerMaskNet(N, 32, 2, 2, GROUP, 40, dropout=0.3).train()
    x = torch.rand(1, N, 40)
    with torch.no_grad():
        assert not torch.equal(network(x), network(x))


def test_no_tensor_of_the_whole_length_but_few(masknet):
    """The sequence of one block's values comes in tiles; what is of length L has D, N or R/2 channels, not 2H."""
    longest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            output = function(*arguments, **(keywords or {}))
            if torch.is_tensor(output):
                longest.append(output.numel())
            return output

    num_frames = 40 * GROUP
    with torch.no_grad(), Watch():
        masknet(torch.rand(1, N, num_frames))
    assert max(longest) == 3 * N * num_frames  # the masks


def test_a_frozen_network_is_tiled_also_where_gradients_are_recorded(masknet):
    x = torch.rand(1, N, 53)
    with torch.no_grad():
        expected = masknet(x)
    assert choice.takes_tiled(masknet.requires_grad_(False), x)
    assert torch.equal(masknet(x), expected)
    assert not choice.takes_tiled(masknet, x.requires_grad_()), "the input's gradient is wanted"


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_that_is_watched_is_called(masknet, training):
    seen = []
    handle = masknet.blocks[1].to_output.linear.register_forward_hook(lambda *given: seen.append(given[-1].shape))
    x = torch.rand(2, N, 53)
    with torch.set_grad_enabled(training):
        watched = masknet(x)
    assert seen == [(2, 53, 32)]
    handle.remove()
    with torch.no_grad():
        torch.testing.assert_close(watched, masknet(x))
    assert len(seen) == 1


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_may_be_replaced_by_an_adapter(masknet, training):
    class Doubled(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return 2 * self.layer(x)

    layer = masknet.blocks[0].to_values.linear
    x = torch.rand(1, N, 53)
    masknet.blocks[0].to_values.linear = Doubled(layer)
    with torch.set_grad_enabled(training):
        adapted = masknet(x)
    masknet.blocks[0].to_values.linear = layer
    with torch.no_grad():
        assert not torch.allclose(adapted, masknet(x))
        layer.weight *= 2
        layer.bias *= 2
        torch.testing.assert_close(adapted, masknet(x))


def test_a_block_that_is_watched_is_called(masknet):
    seen = []
    masknet.blocks[1].register_forward_hook(lambda *given: seen.append(given[-1].shape))
    with torch.no_grad():
        masknet(torch.rand(2, N, 53))
    assert seen == [(2, 53, 32)]
