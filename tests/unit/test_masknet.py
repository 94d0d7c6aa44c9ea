"""The mask net's contract: shapes, lengths, sizes, dtypes, and what it refuses."""

import contextlib
import copy
import inspect

import pytest
import torch

from mossformer_sb import SIZES, InputError, MossFormer2MaskNet, MossFormerMaskNet, MossFormerSeparator, build_masknet
from mossformer_sb.network import fast
from mossformer_sb.network.block import ConvModule, MossFormerBlock, token_shift
from mossformer_sb.network.layers import Angles, DepthwiseConv, GlobalLayerNorm, GroupedConv

N, GROUP = 24, 16


def masknet(**arguments):
    """A small mask net, with random biases and gains too, so that padding has something to leak."""
    network = MossFormerMaskNet(
        N, 32, **{"num_blocks": 2, "group_size": GROUP, "query_key_dim": 40, "dropout": 0.0, **arguments}
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.double().eval()


@pytest.mark.parametrize("num_spks", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("num_frames", [1, GROUP - 1, GROUP, GROUP + 1, 3 * GROUP])
def test_shape(num_spks, batch_size, num_frames):
    masks = masknet(num_spks=num_spks)(torch.rand(batch_size, N, num_frames, dtype=torch.float64))
    assert masks.shape == (num_spks, batch_size, N, num_frames)
    assert (masks >= 0).all() and masks.isfinite().all()


class TestLengths:
    lengths = torch.tensor([5, GROUP, GROUP + 1, 40, 50])

    @pytest.fixture
    def batch(self):
        return torch.rand(len(self.lengths), N, int(self.lengths.max()), dtype=torch.float64)

    def test_every_item_equals_itself_alone(self, batch):
        network = masknet()
        together = network(batch, self.lengths)
        for item, length in enumerate(self.lengths):
            alone = network(batch[item : item + 1, :, :length])[:, 0]
            torch.testing.assert_close(together[:, item, :, :length], alone, rtol=1e-10, atol=1e-12)

    def test_masks_are_zero_past_the_length(self, batch):
        masks = masknet()(batch, self.lengths)
        for item, length in enumerate(self.lengths):
            assert (masks[:, item, :, length:] == 0).all()

    def test_gradients_are_the_sum_of_the_items(self, batch):
        network = masknet()
        network(batch, self.lengths).square().sum().backward()
        together = {name: p.grad.clone() for name, p in network.named_parameters()}
        network.zero_grad()
        for item, length in enumerate(self.lengths):
            network(batch[item : item + 1, :, :length]).square().sum().backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(together[name], parameter.grad, rtol=1e-8, atol=1e-10)

    def test_full_lengths_change_nothing(self, batch):
        network = masknet()
        full = torch.full((len(batch),), batch.shape[2])
        torch.testing.assert_close(network(batch, full), network(batch), rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize(
        ("lengths", "message"),
        [
            (torch.ones(5), r"int64 tensor of frames, not torch.float32.*relative"),
            ([5] * 5, "not list"),
            (torch.tensor([50]), r"must have shape \[5\].*not \[1\]"),
            (torch.tensor([0, 1, 1, 1, 1]), "between 1 and 50 frames.*found 0 to 1"),
            (torch.tensor([51, 1, 1, 1, 1]), "between 1 and 50 frames.*found 1 to 51"),
        ],
    )
    def test_wrong_lengths(self, batch, lengths, message):
        with pytest.raises(InputError, match=message):
            masknet()(batch, lengths)


@pytest.mark.parametrize("shape", [(N, 30), (1, N + 1, 30), (1, N, 0)])
def test_wrong_input_shape(shape):
    with pytest.raises(InputError, match=rf"takes \[batch, {N}, frames\]"):
        masknet()(torch.rand(shape, dtype=torch.float64))


@pytest.mark.parametrize(("size", "millions"), [("S", 10.8), ("M", 25.2), ("L", 42.1), ("2S", 37.8), ("2", 55.7)])
def test_published_sizes(size, millions):
    with torch.device("meta"):
        separator = MossFormerSeparator.from_size(size)
    assert round(sum(p.numel() for p in separator.parameters()) / 1e6, 1) == millions


def test_unknown_size_lists_the_known_ones():
    with pytest.raises(InputError, match="size .XXL. is not known: choose one of S, M, L, 2S, 2, small, mini, 2mini"):
        build_masknet("XXL")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"num_spks": 0}, "num_spks must be a whole number of at least 1; found 0"),
        ({"num_blocks": 2.0}, "num_blocks must be a whole number"),
        ({"query_key_dim": 33}, "query_key_dim must be even"),
        ({"kernel_size": 16}, "kernel_size must be an odd"),
        ({"dropout": 1.5}, "dropout is a probability"),
        ({"expansion_factor": 0.01}, "expansion_factor"),
        ({"norm": "bn"}, "norm 'bn' is not known"),
        ({"checkpoint_blocks": 2}, "checkpoint_blocks must be True or False; found 2"),
    ],
)
def test_wrong_argument(argument, message):
    with pytest.raises(InputError, match=message):
        MossFormerMaskNet(N, 32, **argument)


class TestCheckpointedBlocks:
    """Less is kept, and the numbers stay, those of dropout too."""

    lengths = torch.tensor([50, 33])

    def train(self, checkpoint_blocks):
        torch.manual_seed(0)
        network = masknet(dropout=0.2, checkpoint_blocks=checkpoint_blocks, num_blocks=3).train()
        x = torch.rand(2, N, 50, dtype=torch.float64)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x
        ):
            output = network(x, self.lengths)
        output.square().sum().backward()
        return sum(kept), output.detach(), {name: p.grad for name, p in network.named_parameters()}

    def test_same_output_and_gradients_with_less_saved(self):
        all_kept, output, gradients = self.train(False)
        few_kept, again, same_gradients = self.train(True)
        assert few_kept < all_kept / 3
        assert torch.equal(output, again)
        torch.testing.assert_close(same_gradients, gradients, rtol=1e-12, atol=1e-12)

    def test_it_is_not_in_the_config(self):
        plain, checkpointed = masknet(), masknet(checkpoint_blocks=True)
        assert plain.config == checkpointed.config and plain.state_dict().keys() == checkpointed.state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MossFormerMaskNet, MossFormer2MaskNet])
def test_compiles_into_one_graph_of_any_length(kind):
    """Without its kernels, which take a compiler of C++: what is tested is that nothing breaks the graph."""
    network = kind(N, 32, num_blocks=1, group_size=GROUP, query_key_dim=40, dropout=0.0).double().eval()
    graphs = []
    compiled = torch.compile(
        network, fullgraph=True, dynamic=True, backend=lambda graph, inputs: graphs.append(graph) or graph
    )
    for num_frames in (3 * GROUP + 5, 2 * GROUP + 7, 4 * GROUP + 6):  # whole groups and a shorter one
        x = torch.rand(1, N, num_frames, dtype=torch.float64)
        torch.testing.assert_close(compiled(x), network(x))
    assert len(graphs) == 1


def test_another_expansion_factor():
    network = masknet(expansion_factor=3.0)
    assert network.blocks[0].to_values.linear.out_features == 96
    assert network.blocks[0].to_output.linear.in_features == 48
    assert network(torch.rand(1, N, 20, dtype=torch.float64)).shape == (2, 1, N, 20)


def test_in_and_out_channels_may_differ():
    assert masknet()(torch.rand(1, N, 20, dtype=torch.float64)).shape[2] == N


def test_token_shift_delays_the_first_half():
    x = torch.randn(2, 10, 6)
    shifted = token_shift(x)
    assert torch.equal(shifted[:, 1:, :3], x[:, :-1, :3])
    assert (shifted[:, 0, :3] == 0).all()
    assert torch.equal(shifted[:, :, 3:], x[:, :, 3:])


def test_position_matters():
    """Reversed input is not reversed output: position embeddings, shift and filters see the direction of time."""
    network = masknet()
    x = torch.rand(1, N, 30, dtype=torch.float64)
    assert not torch.allclose(network(x.flip(2)), network(x).flip(2), rtol=1e-3)


def test_global_layer_norm_equals_group_norm():
    ours, theirs = GlobalLayerNorm(6), torch.nn.GroupNorm(1, 6, eps=1e-8)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.uniform_())
        theirs.bias.copy_(ours.bias.uniform_())
    x = torch.randn(3, 50, 6)
    torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2)).transpose(1, 2))


def test_sizes_differ_only_where_published():
    assert {name: (size.group_size, size.query_key_dim) for name, size in SIZES.items()} == {
        **{name: (256, 128) for name in ("S", "M", "L", "2S", "2")},
        "small": (128, 64),
        **{name: (64, 128) for name in ("mini", "2mini")},
    }


class TestAsAModule:
    """What training code does to networks."""

    def test_frequencies_survive_half_precision(self):
        angles = Angles(32)
        exact = angles.frequencies.clone()
        angles.half().bfloat16().float()
        assert torch.equal(angles.frequencies, exact)

    def test_constants_are_no_buffers(self):
        """DDP would send them to every process before each step."""
        network = masknet()
        assert dict(network.named_buffers()) == {}
        assert network.state_dict().keys() == dict(network.named_parameters()).keys()

    @pytest.mark.parametrize("way", ["to_empty", "assign"])
    def test_built_without_memory_and_filled(self, way):
        network = masknet()
        with torch.device("meta"):
            other = MossFormerMaskNet(**network.config).double().eval()
        if way == "to_empty":
            other.to_empty(device="cpu")
        other.load_state_dict(network.state_dict(), assign=way == "assign")
        x = torch.rand(1, N, 20, dtype=torch.float64)
        assert torch.equal(other(x), network(x))

    def test_constants_follow_to_another_device(self):
        network = masknet().to("meta")
        devices = {angles.frequencies.device.type for angles in (network.rotary, network.position.angles)}
        assert devices == {"meta"}
        network.to_empty(device="cpu")
        assert network.rotary.frequencies.device.type == "cpu"
        assert torch.equal(network.rotary.frequencies, masknet().rotary.frequencies)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_cast_as_a_whole(self, dtype):
        network = masknet().to(dtype)
        assert network(torch.rand(1, N, 20, dtype=dtype)).dtype == dtype

    def test_autocast_stays_near_float32(self):
        network = masknet().float()
        x = torch.rand(2, N, 40)
        exact = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(x)
        assert 1e-5 < (rounded - exact).norm() / exact.norm() < 0.05  # computed in bfloat16, too

    def test_deep_copy_and_state_dict(self):
        network = masknet()
        other = masknet()
        x = torch.rand(1, N, 20, dtype=torch.float64)
        assert not torch.allclose(network(x), other(x))
        other.load_state_dict(network.state_dict())
        assert torch.equal(network(x), other(x))
        assert torch.equal(network(x), copy.deepcopy(network)(x))

    def test_reset_parameters_reaches_every_parameter(self):
        network = masknet()
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        unchanged = [name for name, p in network.named_parameters() if torch.equal(p, before[name])]
        assert unchanged == []
        gamma = network.blocks[0].offset_scale.gamma
        assert 0.01 < gamma.std() < 0.03

    def test_dropout_only_in_training(self):
        network = masknet(dropout=0.3)
        x = torch.rand(1, N, 20, dtype=torch.float64)
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))


def test_positions_without_a_tensor_to_follow():
    position = masknet().position.angles
    assert torch.equal(position(5), position(5, like=torch.zeros(1)))


def test_frequencies_of_positions():
    angles = masknet().position.angles
    expected = torch.tensor([[n * 10000 ** (-2 * i / 32) for i in range(16)] for n in range(3)])
    torch.testing.assert_close(angles(3), expected)
    torch.testing.assert_close(angles(2, start=1), expected[1:])


@pytest.mark.parametrize("way", ["inference", "training", "plain"])
def test_the_content_of_the_padding_does_not_matter(way):
    network, lengths = masknet().train(way == "training"), torch.tensor([40, 21])
    x = torch.rand(2, N, 40, dtype=torch.float64)
    unclean = x.clone()
    unclean[1, :, 21:] = float("nan")
    with fast.disabled() if way == "plain" else contextlib.nullcontext():
        found, expected = network(unclean, lengths), network(x, lengths)
        torch.testing.assert_close(found, expected)
        if found.requires_grad:
            gradients = [torch.autograd.grad(masks.sum(), network.parameters()) for masks in (found, expected)]
            torch.testing.assert_close(*gradients)


def test_defaults_are_the_published_numbers():
    published = {"group_size": 256, "query_key_dim": 128, "expansion_factor": 4.0, "kernel_size": 17, "dropout": 0.1}
    for layer in (MossFormerMaskNet, MossFormerBlock, ConvModule, DepthwiseConv):
        for name, parameter in inspect.signature(layer).parameters.items():
            if name in published and parameter.default is not inspect.Parameter.empty:
                assert parameter.default == published[name], (layer, name)


def test_kernel_weights_are_drawn_as_in_conv1d():
    for layer in (DepthwiseConv(500, 5), GroupedConv(500, 2, 5)):
        bound = layer.weight[0].numel() ** -0.5
        assert 0.95 * bound < layer.weight.abs().max() <= bound
