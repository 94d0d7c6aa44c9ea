"""MossFormer2's mask net: lengths, one frame, mapping, and what it refuses."""

import pytest
import torch

from mossformer_sb import InputError, MossFormer2MaskNet, MossFormerSeparator, build_masknet
from mossformer_sb.network import fast
from mossformer_sb.network.layers import InstanceNorm, depthwise_conv, grouped_conv
from mossformer_sb.network.recurrent import MEMORY_KERNEL_SIZE, RecurrentModule

N, GROUP = 12, 16


def masknet(**arguments):
    """A small mask net with random biases, gains and slopes, so that padding has something to leak."""
    sizes = {"num_blocks": 2, "group_size": GROUP, "query_key_dim": 8, "recurrent_channels": 10, "dropout": 0.0}
    network = MossFormer2MaskNet(N, 16, **{**sizes, **arguments})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network.double().eval()


@pytest.fixture(params=[True, False], ids=["fast", "plain"])
def fast_or_plain(request):
    with fast._set(request.param):
        yield


@pytest.mark.usefixtures("fast_or_plain")
class TestLengths:
    # One frame; less than the filters reach; more than they reach from either end; odd and even.
    lengths = torch.tensor([1, 5, 40, 90, 131])

    @pytest.fixture
    def batch(self):
        return torch.rand(len(self.lengths), N, int(self.lengths.max()), dtype=torch.float64)

    @pytest.mark.parametrize("train", [True, False])
    def test_every_item_equals_itself_alone(self, batch, train):
        network = masknet().train(train)
        with torch.set_grad_enabled(train):
            together = network(batch, self.lengths)
            for item, length in enumerate(self.lengths):
                alone = network(batch[item : item + 1, :, :length])[:, 0]
                torch.testing.assert_close(together[:, item, :, :length], alone, rtol=1e-9, atol=1e-11)
                assert (together[:, item, :, length:] == 0).all()

    def test_gradients_are_the_sum_of_the_items(self, batch):
        network = masknet()
        network(batch, self.lengths).square().sum().backward()
        together = {name: p.grad.clone() for name, p in network.named_parameters()}
        network.zero_grad()
        for item, length in enumerate(self.lengths):
            network(batch[item : item + 1, :, :length]).square().sum().backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(together[name], parameter.grad, rtol=1e-7, atol=1e-9)

    def test_the_content_of_the_padding_does_not_matter(self, batch):
        network = masknet()
        poisoned = batch.clone()
        for item, length in enumerate(self.lengths):
            poisoned[item, :, length:] = float("nan")
        assert torch.equal(network(poisoned, self.lengths), network(batch, self.lengths))

    def test_one_frame(self):
        masks = masknet()(torch.rand(2, N, 1, dtype=torch.float64))
        assert masks.shape == (2, 2, N, 1) and masks.isfinite().all()


@pytest.mark.parametrize("num_frames", [1, 2, 30])
def test_instance_norm_is_pytorchs(num_frames):
    ours, theirs = InstanceNorm(6), torch.nn.InstanceNorm1d(6, affine=True)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.uniform_())
        theirs.bias.copy_(ours.bias.uniform_())
    x = torch.randn(3, num_frames, 6)
    if num_frames == 1:  # which theirs refuses
        torch.testing.assert_close(ours(x), ours.bias.expand_as(x))
    else:
        torch.testing.assert_close(ours(x), theirs(x.mT).mT)


def test_grouped_conv_of_groups_of_one_is_depthwise():
    x, weight = torch.randn(2, 20, 6), torch.randn(6, 1, 5)
    torch.testing.assert_close(grouped_conv(x, weight), depthwise_conv(x, weight[:, 0]))


def test_what_a_frame_depends_on_but_for_statistics():
    """A frame reaches 8 + 19 + 38 frames in either direction, if the norms' statistics are held."""
    module = RecurrentModule(8, 6, dropout=0.0).double()
    for layer in (module.unit.fsmn.memory.first, module.unit.fsmn.memory.second):
        layer.norm = torch.nn.Identity()
        layer.norm.forward = lambda x, lengths=None, padding=None: x
    x = torch.randn(1, 301, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x)[0, 150].sum(), x)
    reached = gradient[0].abs().sum(1).nonzero().flatten()
    reach = 8 + MEMORY_KERNEL_SIZE // 2 + 2 * (MEMORY_KERNEL_SIZE // 2)
    assert (reached.min(), reached.max()) == (150 - reach, 150 + reach)


class TestMapping:
    """``apply_masks: False``: what the mask net gives is decoded as it is."""

    @staticmethod
    def separator(apply_masks):
        torch.manual_seed(0)
        return MossFormerSeparator.from_size("2mini", apply_masks=apply_masks, dropout=0.0).eval()

    def test_the_product_is_all_that_differs(self):
        masking, mapping = self.separator(True), self.separator(False)
        mapping.load_state_dict(masking.state_dict())
        mixture = torch.randn(2, 3000)
        with torch.no_grad():
            encoded = masking.encoder(mixture)
            masks = masking.masknet(encoded)
            assert torch.equal(mapping.masknet(encoded), masks)
            for separator, decoded in ((masking, masks * encoded), (mapping, masks)):
                estimates = separator(mixture)
                for speaker in range(2):
                    expected = separator.decoder(decoded[speaker])
                    torch.testing.assert_close(estimates[:, : expected.shape[1], speaker], expected)

    def test_its_level_does_not_follow_the_mixtures(self):
        mixture = torch.randn(1, 3000)
        with torch.no_grad():
            for apply_masks, gain in ((True, 0.1), (False, 1.0)):
                separator = self.separator(apply_masks)
                torch.testing.assert_close(separator(0.1 * mixture), gain * separator(mixture), rtol=1e-3, atol=1e-4)

    def test_padded_batches(self):
        separator = self.separator(False)
        mixture, lengths = torch.randn(2, 3000), torch.tensor([3000, 2000])
        with torch.no_grad():
            together = separator(mixture, lengths)
            alone = separator(mixture[1:, :2000])
        torch.testing.assert_close(together[1, :2000], alone[0], rtol=1e-4, atol=1e-5)

    def test_it_is_in_the_config(self):
        assert build_masknet("2mini", apply_masks=False).config["apply_masks"] is False

    def test_a_mossformer_has_no_such_option(self):
        with pytest.raises(
            InputError, match="apply_masks: False is only for MossFormer2.*found model_size S.*2S, 2, 2mini"
        ):
            build_masknet("S", apply_masks=False)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"recurrent_channels": 0}, "recurrent_channels must be a whole number of at least 1; found 0"),
        ({"recurrent_channels": None}, "recurrent_channels must be a whole number of at least 1; found None"),
        ({"apply_masks": "no"}, "apply_masks must be True or False; found 'no'"),
        ({"num_spks": 0}, "num_spks must be a whole number"),
        ({"num_layers": 2}, "MossFormer2MaskNet does not take num_layers, which Dual_Path_Model takes"),
        ({"lorder": 20}, "MossFormer2MaskNet does not take lorder: it takes in_channels.*recurrent_channels"),
    ],
)
def test_wrong_argument(argument, message):
    with pytest.raises(InputError, match=message):
        MossFormer2MaskNet(N, 16, **argument)


def test_a_mossformer_does_not_take_what_is_mossformer2s():
    from mossformer_sb import MossFormerMaskNet

    with pytest.raises(InputError, match="MossFormerMaskNet does not take recurrent_channels: it takes") as refused:
        MossFormerMaskNet(N, 16, recurrent_channels=256)
    assert "apply_masks" not in str(refused.value)


def test_a_size_whose_name_yaml_reads_as_a_number():
    with torch.device("meta"):
        assert build_masknet(2).config == build_masknet("2").config


@pytest.mark.parametrize("num_spks", [1, 2, 5])
def test_any_number_of_speakers(num_spks):
    assert masknet(num_spks=num_spks)(torch.rand(2, N, 30, dtype=torch.float64)).shape == (num_spks, 2, N, 30)


def test_a_network_built_by_its_config_takes_its_weights():
    network = masknet(recurrent_channels=6, apply_masks=False)
    other = MossFormer2MaskNet(**network.config).double().eval()
    other.load_state_dict(network.state_dict())
    x = torch.rand(1, N, 20, dtype=torch.float64)
    assert torch.equal(other(x), network(x))


def test_the_weights_of_a_mossformer_have_the_same_names():
    ours, theirs = (build_masknet(size).state_dict() for size in ("2mini", "mini"))
    assert theirs.keys() < ours.keys()
    assert all(key.startswith("recurrent.") for key in ours.keys() - theirs.keys())
    assert all(ours[key].shape == value.shape for key, value in theirs.items())


class TestCheckpointedBlocks:
    def train(self, checkpoint_blocks):
        torch.manual_seed(0)
        network = masknet(dropout=0.2, checkpoint_blocks=checkpoint_blocks).train()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x
        ):
            output = network(torch.rand(2, N, 50, dtype=torch.float64), torch.tensor([50, 33]))
        output.square().sum().backward()
        return sum(kept), output.detach(), {name: p.grad for name, p in network.named_parameters()}

    def test_same_output_and_gradients_with_less_saved(self):
        all_kept, output, gradients = self.train(False)
        few_kept, again, same_gradients = self.train(True)
        assert few_kept < all_kept / 3
        assert torch.equal(output, again)
        torch.testing.assert_close(same_gradients, gradients, rtol=1e-12, atol=1e-12)


class TestAsAModule:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_cast_as_a_whole(self, dtype):
        network = masknet().to(dtype)
        masks = network(torch.rand(1, N, 20, dtype=dtype), torch.tensor([20]))
        assert masks.dtype == dtype and masks.isfinite().all()

    @pytest.mark.parametrize("train", [True, False])
    def test_autocast_stays_near_float32(self, train):
        network = masknet().float().train(train)
        x = torch.rand(2, N, 140)
        with torch.set_grad_enabled(train):
            exact = network(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rounded = network(x)
        assert (rounded.float() - exact).norm() / exact.norm() < 0.05

    def test_reset_parameters_reaches_every_parameter(self):
        network = masknet()
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        assert [name for name, p in network.named_parameters() if torch.equal(p, before[name])] == []
        conv = network.recurrent[0].unit.fsmn.memory.second.conv.weight
        bound = (2 * MEMORY_KERNEL_SIZE) ** -0.5
        assert 0.9 * bound < conv.abs().max() <= bound

    def test_no_buffers(self):
        """DDP would send them to every process before each step."""
        assert dict(masknet().named_buffers()) == {}

    def test_dropout_only_in_training(self):
        network = masknet(dropout=0.3)
        x = torch.rand(1, N, 20, dtype=torch.float64)
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))
