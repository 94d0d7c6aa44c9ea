"""MossFormer2 against the authors', imported from the `modelscope` package (extra `parity`)."""

import pytest
import torch

from mossformer_sb import SIZES, MossFormer2MaskNet, MossFormerSeparator
from mossformer_sb.network import fast
from mossformer_sb.sharing.modelscope import masknet_from_modelscope
from tests.parity.reference import (
    computed,
    flat,
    loss_weights,
    output_and_gradients,
    random_reference,
    relative_error,
    same_in_ours,
)

pytestmark = pytest.mark.parity
mossformer = pytest.importorskip("modelscope.models.audio.separation.m2.mossformer", reason="needs the extra 'parity'")

GROUP = 32
# Less than a group; one group; one frame more; several, and more than the memory's filters reach.
NUM_FRAMES = [2, GROUP, GROUP + 1, 5 * GROUP - 10]


def config(num_spks=2, num_blocks=2):
    return {
        "channels": 32,
        "num_blocks": num_blocks,
        "num_spks": num_spks,
        "group_size": GROUP,
        "query_key_dim": 16,
        "recurrent_channels": 24,
    }


def run_both(sizes, batch_size, num_frames, dtype, path):
    """For ours and theirs: the output, the gradients by our names, and the gradient of the input."""
    reference = random_reference(**sizes)
    ours = same_in_ours(reference, **sizes).to(dtype)
    reference = reference.to(dtype)
    x = torch.rand(batch_size, sizes["channels"], num_frames, dtype=dtype)
    with torch.no_grad():
        weights = loss_weights(reference(x))
    with computed(ours, path) as network:
        found = output_and_gradients(network, x, weights)
    output, gradients, input_gradient = output_and_gradients(reference, x, weights)
    return found, (output, masknet_from_modelscope(gradients), input_gradient)


def assert_same(found, expected, tolerance=1e-10):
    (output, gradients, dx), (expected_output, expected_gradients, expected_dx) = found, expected
    assert relative_error(output, expected_output) <= tolerance
    assert relative_error(dx, expected_dx) <= tolerance
    assert gradients.keys() == expected_gradients.keys()
    for name in gradients:
        assert relative_error(gradients[name], expected_gradients[name]) <= tolerance, name


@pytest.mark.parametrize("path", ["plain", "fast"])
@pytest.mark.parametrize("num_frames", NUM_FRAMES)
@pytest.mark.parametrize(("batch_size", "num_spks"), [(1, 2), (3, 3)])
class TestTwoBlocks:
    def test_float64(self, batch_size, num_spks, num_frames, path):
        assert_same(*run_both(config(num_spks), batch_size, num_frames, torch.float64, path))

    def test_float32(self, batch_size, num_spks, num_frames, path):
        """Gradients in float32 are off in the authors' network too: ours may not be further from float64."""
        sizes = config(num_spks)
        (output, gradients, dx), (expected, their_gradients, their_dx) = run_both(
            sizes, batch_size, num_frames, torch.float32, path
        )
        assert (output - expected).abs().max() <= 1e-5 * expected.abs().max()
        _, (_, exact, exact_dx) = run_both(sizes, batch_size, num_frames, torch.float64, "plain")
        ours, theirs, exact = (flat(found, exact).double() for found in (gradients, their_gradients, exact))
        assert relative_error(ours, exact) <= 1.5 * relative_error(theirs, exact) + 1e-6
        assert relative_error(dx.double(), exact_dx) <= 1.5 * relative_error(their_dx.double(), exact_dx) + 1e-6


@pytest.mark.parametrize("path", ["plain", "fast"])
def test_a_published_width_in_float64(path):
    """Of two blocks, since twenty-five are no other network."""
    sizes = {"channels": 384, "num_blocks": 2, "num_spks": 2, "group_size": 256, "query_key_dim": 128}
    sizes["recurrent_channels"] = SIZES["2S"].recurrent_channels
    assert_same(*run_both(sizes, batch_size=1, num_frames=300, dtype=torch.float64, path=path))


@pytest.mark.parametrize(("size", "parameters"), [("2", 55_735_394), ("2S", 37_755_366)])
def test_published_sizes_have_the_authors_parameters(size, parameters):
    """All of them, by name and shape; the authors count their 16 rotary frequencies too."""
    with torch.device("meta"):
        ours = MossFormerSeparator.from_size(size)
        width, depth = SIZES[size].channels, SIZES[size].num_blocks
        theirs = mossformer.MossFormer2("unused", in_channels=width, out_channels=width, num_blocks=depth, num_spks=2)
    shapes = {name: value.shape for name, value in masknet_from_modelscope(theirs.mask_net.state_dict()).items()}
    assert shapes == {name: value.shape for name, value in ours.masknet.state_dict().items()}
    assert sum(p.numel() for p in ours.parameters()) == parameters
    assert sum(p.numel() for p in theirs.parameters()) == parameters + 16


@pytest.mark.parametrize("num_spks", [2, 3])
def test_the_whole_separator(num_spks):
    """Encoder, masks and decoder: from a waveform to waveforms."""
    torch.manual_seed(0)
    theirs = mossformer.MossFormer2("unused", in_channels=32, out_channels=32, num_blocks=1, num_spks=num_spks)
    theirs = theirs.double().eval()
    masknet = MossFormer2MaskNet(32, 32, num_blocks=1, num_spks=num_spks).double().eval()
    masknet.load_state_dict(masknet_from_modelscope(theirs.mask_net.state_dict()))
    ours = MossFormerSeparator.from_modules(theirs.enc, masknet, theirs.dec)
    mixture = torch.randn(2, 3001, dtype=torch.float64)
    with torch.no_grad(), fast.disabled():
        assert relative_error(ours(mixture), theirs(mixture)) <= 1e-10
