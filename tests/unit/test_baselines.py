"""The baselines: their published sizes, SpeechBrain's own numbers, padding, and the messages."""

import pytest
import torch
from speechbrain.inference.separation import SepformerSeparation
from speechbrain.lobes.models.conv_tasnet import MaskNet
from speechbrain.lobes.models.dual_path import (
    Decoder,
    Dual_Path_Model,
    Encoder,
    SBRNNBlock,
    SBTransformerBlock,
    SepformerWrapper,
)
from speechbrain.nnet.CNN import Conv1d

from mossformer_sb import InputError
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.network.baselines import ConvTasNetMaskNet, DPRNNMaskNet, SepFormerMaskNet
from mossformer_sb.network.separator import MossFormerSeparator
from mossformer_sb.sharing.folder import export

SMALL = {
    ConvTasNetMaskNet: {"bottleneck_channels": 8, "hidden_channels": 16, "skip_channels": 6, "num_blocks": 3},
    DPRNNMaskNet: {"out_channels": 8, "hidden_size": 12, "num_layers": 2, "chunk_size": 20},
    SepFormerMaskNet: {
        "out_channels": 8,
        "num_intra_layers": 1,
        "num_inter_layers": 2,
        "num_heads": 2,
        "ffn_dim": 16,
        "chunk_size": 20,
    },
}


def small(kind, **options):
    return kind(**{"in_channels": 10, **SMALL[kind], **options}).eval()


@pytest.fixture(params=SMALL)
def kind(request):
    return request.param


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "kind, published, kernel_size",
    [(ConvTasNetMaskNet, 5.1e6, 16), (DPRNNMaskNet, 2.6e6, 2), (SepFormerMaskNet, 25.7e6, 16)],
)
def test_published_sizes(kind, published, kernel_size):
    """With encoder and decoder. Conv-TasNet's 5.1 M count biases too, and an output that nothing reads: 2 % more."""
    masknet = kind()
    total = count(masknet) + 2 * kernel_size * masknet.config["in_channels"]
    assert total == pytest.approx(published, rel=0.03 if kind is ConvTasNetMaskNet else 0.005)


@pytest.mark.parametrize("num_spks", [1, 2, 3])
@pytest.mark.parametrize("num_frames", [1, 20, 133])
def test_shapes(kind, num_spks, num_frames):
    masknet = small(kind, num_spks=num_spks)
    assert masknet.num_spks == num_spks
    masks = masknet(torch.rand(2, 10, num_frames))
    assert masks.shape == (num_spks, 2, 10, num_frames)
    assert masks.min() >= 0 and masks.isfinite().all()


def test_config_builds_the_same_network_again(kind):
    masknet = small(kind)
    again = kind(**masknet.config).eval()
    again.load_state_dict(masknet.state_dict())
    x = torch.rand(1, 10, 50)
    assert torch.equal(again(x), masknet(x))


class TestSpeechBrainsNumbers:
    """The same weights in SpeechBrain's class, called as its recipes do."""

    def check(self, masknet, theirs):
        theirs.load_state_dict(masknet.net.state_dict())
        x = torch.rand(2, 10, 133)
        assert torch.equal(masknet(x), theirs.eval()(x))

    def test_conv_tasnet_without_skip_path(self):
        theirs = MaskNet(N=10, B=8, H=16, P=3, X=3, R=3, C=2, norm_type="gLN", causal=False, mask_nonlinear="relu")
        for module in theirs.modules():
            if isinstance(module, Conv1d):
                module.padding_mode = "constant"
        self.check(small(ConvTasNetMaskNet, skip_channels=0), theirs)

    def test_dprnn(self):
        paths = SBRNNBlock(8, 12, num_layers=1, bidirectional=True), SBRNNBlock(8, 12, num_layers=1, bidirectional=True)
        theirs = Dual_Path_Model(10, 8, *paths, num_layers=2, norm="ln", K=20, linear_layer_after_inter_intra=True)
        self.check(small(DPRNNMaskNet), theirs)

    def test_sepformer(self):
        intra, inter = (
            SBTransformerBlock(layers, 8, 2, d_ffn=16, dropout=0, use_positional_encoding=True, norm_before=True)
            for layers in (1, 2)
        )
        theirs = Dual_Path_Model(
            10, 8, intra, inter, num_layers=2, norm="ln", K=20, linear_layer_after_inter_intra=False
        )
        self.check(small(SepFormerMaskNet), theirs)

    def test_sepformer_as_a_whole(self):
        """SpeechBrain's separator, encoder and decoder included."""
        sizes = {"encoder_out_nchannels": 16, "intra_numlayers": 1, "inter_numlayers": 1, "intra_dffn": 32}
        theirs = SepformerWrapper(**sizes, inter_dffn=32).eval()
        ours = SepFormerMaskNet(16, 16, num_intra_layers=1, num_inter_layers=1, ffn_dim=32)
        ours.net.load_state_dict(theirs.masknet.state_dict())
        mixture = torch.rand(1, 2004)
        with torch.no_grad():
            estimates = MossFormerSeparator.from_modules(theirs.encoder, ours, theirs.decoder).eval()(mixture)
            assert torch.equal(estimates, theirs(mixture))


class TestSkipPath:
    def test_is_the_sum_over_the_blocks(self):
        """By hand, with torch alone: one repeat of two blocks."""
        masknet = small(ConvTasNetMaskNet, num_blocks=2, num_repeats=1)
        weights = {name.removeprefix("net."): value for name, value in masknet.state_dict().items()}
        x = torch.rand(1, 10, 9)
        y = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-8).sqrt()
        y = torch.conv1d(y, weights["bottleneck_conv1x1.conv.weight"])
        total = 0
        for index in range(2):
            at = f"temporal_conv_net.blocks.{index}."
            hidden = torch.conv1d(y, weights[f"{at}conv.conv.weight"])
            hidden = torch.group_norm(torch.prelu(hidden, weights[f"{at}act.weight"]), 1, eps=1e-8)
            depthwise = weights[f"{at}DSconv.conv_0.conv.weight"]
            hidden = torch.conv1d(hidden, depthwise, padding=2**index, dilation=2**index, groups=16)
            hidden = torch.group_norm(torch.prelu(hidden, weights[f"{at}DSconv.act.weight"]), 1, eps=1e-8)
            total = total + torch.conv1d(hidden, weights[f"temporal_conv_net.skips.{index}.weight"][..., None])
            if index == 0:
                y = y + torch.conv1d(hidden, weights["temporal_conv_net.residuals.0.conv.weight"])
        total = torch.prelu(total, weights["temporal_conv_net.prelu.weight"])
        masks = torch.conv1d(total, weights["mask_conv1x1.conv.weight"]).relu().unflatten(1, (2, 10)).transpose(0, 1)
        torch.testing.assert_close(masknet(x), masks, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("interface", [MossFormerSeparation, SepformerSeparation])
def test_exported_it_gives_the_same_output(kind, interface, tmp_path):
    separator = MossFormerSeparator.from_modules(
        Encoder(kernel_size=16, out_channels=10),
        small(kind, num_spks=3),
        Decoder(in_channels=10, out_channels=1, kernel_size=16, stride=8, bias=False),
    )
    separator.requires_grad_(False)  # as loading does: torch convolves weights with gradients in another order
    folder = export(tmp_path / "model", dict(separator.named_children()), sample_rate=8000)
    model = interface.from_hparams(source=str(folder), run_opts={"device": "cpu"})
    mixture = torch.randn(2, 2000)
    with torch.no_grad():
        assert torch.equal(model.separate_batch(mixture), separator(mixture))
    text = (folder / "hyperparams.yaml").read_text()
    assert f"masknet: !new:mossformer_sb.{kind.__name__}" in text
    assert f"The network follows {kind.paper}"[:60] in (folder / "README.md").read_text()


def test_every_parameter_learns(kind):
    """None is left without a gradient, which would stop a run on several GPUs."""
    masknet = small(kind)
    masknet(torch.rand(2, 10, 133)).square().sum().backward()
    assert [name for name, parameter in masknet.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("kind", [DPRNNMaskNet, SepFormerMaskNet])
def test_blocks_have_different_initial_weights(kind):
    first, second = (dict(block.named_parameters()) for block in small(kind).net.dual_mdl)
    matrices = [name for name, parameter in first.items() if parameter.dim() > 1]
    assert matrices and not any(torch.equal(first[name], second[name]) for name in matrices)


class TestPadding:
    lengths = torch.tensor([133, 60])

    def test_is_seen_as_zeros_and_has_no_masks(self, kind):
        masknet = small(kind)
        x = torch.rand(2, 10, 133)
        filled = x.clone()
        filled[1, :, 60:] = float("nan")
        x[1, :, 60:] = 0
        masks = masknet(filled, self.lengths)
        assert torch.equal(masks[:, :, :, :60], masknet(x)[:, :, :, :60])
        assert masks[:, 1, :, 60:].eq(0).all()

    def test_the_longest_item_is_exact(self, kind):
        masknet = small(kind)
        x = torch.rand(2, 10, 133)
        torch.testing.assert_close(masknet(x, self.lengths)[:, 0], masknet(x[:1])[:, 0], rtol=1e-4, atol=1e-6)


class TestMessages:
    @pytest.mark.parametrize("shape", [(2, 11, 50), (10, 50), (1, 10, 0)])
    def test_shape(self, kind, shape):
        with pytest.raises(InputError, match=r"takes \[batch, 10, frames\] with at least one frame; found \["):
            small(kind)(torch.rand(shape))

    def test_lengths(self, kind):
        with pytest.raises(InputError, match="lengths must be between 1 and 50 frames"):
            small(kind)(torch.rand(2, 10, 50), torch.tensor([50, 51]))

    @pytest.mark.parametrize(
        "kind, options, message",
        [
            (ConvTasNetMaskNet, {"num_spks": 0}, "num_spks must be a whole number of at least 1; found 0"),
            (ConvTasNetMaskNet, {"skip_channels": -1}, "skip_channels must be a whole number of at least 0; found -1"),
            (ConvTasNetMaskNet, {"kernel_size": 4}, "kernel_size must be odd.*found 4"),
            (ConvTasNetMaskNet, {"num_blocks": 9}, "num_blocks must be at most 8.*found 9. Use more repeats"),
            (DPRNNMaskNet, {"chunk_size": 2.5}, "chunk_size must be a whole number of at least 1; found 2.5"),
            (DPRNNMaskNet, {"chunk_size": 1}, "chunk_size must be at least 2, since chunks overlap by half; found 1"),
            (SepFormerMaskNet, {"dropout": 1.0}, "dropout is a probability.*found 1.0"),
            (SepFormerMaskNet, {"num_heads": 3}, "even and a multiple of num_heads; found 8 and 3 heads"),
            (SepFormerMaskNet, {"chunk_size": 2501}, "chunk_size must be at most 2500.*found 2501"),
        ],
    )
    def test_values(self, kind, options, message):
        with pytest.raises(InputError, match=message):
            small(kind, **options)

    def test_longest_input_of_sepformer(self):
        masknet = small(SepFormerMaskNet, chunk_size=2)
        masknet(torch.rand(1, 10, 2498))
        with pytest.raises(InputError, match="takes at most 2498 frames, found 2499: cut the recording"):
            masknet(torch.rand(1, 10, 2499))

    def test_speechbrain_could_not_take_more_either(self):
        masknet = small(SepFormerMaskNet, chunk_size=2)
        with pytest.raises(RuntimeError):
            masknet.net(torch.rand(1, 10, 2499))
