"""Our mask net against the authors', imported from the `modelscope` package (extra `parity`)."""

import importlib
import json

import pytest
import torch

from mossformer_sb.errors import InputError
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.network.separator import MossFormerSeparator
from mossformer_sb.network.sizes import SIZES
from mossformer_sb.sharing.authors_export import to_authors
from mossformer_sb.sharing.conversion import from_authors
from mossformer_sb.sharing.folder import export
from mossformer_sb.sharing.modelscope import masknet_from_modelscope
from tests.parity.reference import (
    computed,
    flat,
    loss_weights,
    output_and_gradients,
    random_reference,
    relative_error,
    same_in_ours,
    tiled_output,
)

pytestmark = pytest.mark.parity
pytest.importorskip("modelscope.models.audio.separation.mossformer", reason="needs the extra 'parity'")

GROUP = 32
LESS_THAN_A_GROUP, ONE_GROUP, ONE_FRAME_MORE, SEVERAL = 20, GROUP, GROUP + 1, 5 * GROUP - 10


def compare(config, batch_size, num_frames, dtype, path="fast"):
    reference = random_reference(**config)
    ours = same_in_ours(reference, **config).to(dtype)
    reference = reference.to(dtype)
    x = torch.rand(batch_size, config["channels"], num_frames, dtype=dtype)
    with torch.no_grad():
        weights = loss_weights(reference(x))
    with computed(ours, path) as network:
        output, gradients, input_gradient = output_and_gradients(network, x, weights)
    expected, their_gradients, expected_input_gradient = output_and_gradients(reference, x, weights)
    expected_gradients = masknet_from_modelscope(their_gradients)
    assert gradients.keys() == expected_gradients.keys()
    return output, expected, gradients, expected_gradients, input_gradient, expected_input_gradient


def assert_same_in_float64(output, expected, gradients, expected_gradients, dx, expected_dx):
    assert relative_error(output, expected) <= 1e-10
    assert relative_error(dx, expected_dx) <= 1e-10
    for name in gradients:
        assert relative_error(gradients[name], expected_gradients[name]) <= 1e-10, name


def two_blocks(num_spks):
    return {"channels": 64, "num_blocks": 2, "num_spks": num_spks, "group_size": GROUP, "query_key_dim": 48}


LENGTHS = pytest.mark.parametrize("num_frames", [LESS_THAN_A_GROUP, ONE_GROUP, ONE_FRAME_MORE, SEVERAL])
PATHS = pytest.mark.parametrize("path", ["plain", "fast"])


class TestTwoBlocks:
    @LENGTHS
    @PATHS
    @pytest.mark.parametrize("num_spks", [1, 2, 3])
    def test_float64(self, num_spks, num_frames, path):
        assert_same_in_float64(*compare(two_blocks(num_spks), 3, num_frames, torch.float64, path))

    @PATHS
    def test_one_item(self, path):
        assert_same_in_float64(*compare(two_blocks(2), 1, SEVERAL, torch.float64, path))

    @LENGTHS
    @PATHS
    def test_float32(self, num_frames, path):
        output, expected, gradients, expected_gradients, dx, expected_dx = compare(
            two_blocks(2), 3, num_frames, torch.float32, path
        )
        assert (output - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert relative_error(dx, expected_dx) <= 1e-5
        assert relative_error(flat(gradients, gradients), flat(expected_gradients, gradients)) <= 1e-5

    @LENGTHS
    @pytest.mark.parametrize("tile_frames", [GROUP, 2 * GROUP])
    @pytest.mark.parametrize(("dtype", "tolerance", "num_spks"), [(torch.float64, 1e-10, 3), (torch.float32, 1e-5, 1)])
    def test_tiled(self, num_spks, num_frames, dtype, tolerance, tile_frames):
        config = two_blocks(num_spks)
        reference = random_reference(**config)
        ours = same_in_ours(reference, **config).to(dtype)
        x = torch.rand(2, config["channels"], num_frames, dtype=dtype)
        with torch.no_grad():
            expected = reference.to(dtype)(x)
        output = tiled_output(ours, x, tile_frames)
        assert (output - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize(("path", "num_blocks"), [("plain", 2), ("fast", SIZES["S"].num_blocks), ("tiled", 2)])
def test_a_published_size_in_float64(path, num_blocks):
    """Full width, more than one group; full depth with the kernels that are used. M and L differ in numbers only."""
    size = SIZES["S"]
    config = {
        "channels": size.channels,
        "num_blocks": num_blocks,
        "num_spks": 2,
        "group_size": size.group_size,
        "query_key_dim": size.query_key_dim,
    }
    if path != "tiled":
        assert_same_in_float64(*compare(config, batch_size=1, num_frames=300, dtype=torch.float64, path=path))
        return
    reference = random_reference(**config)
    ours, reference = same_in_ours(reference, **config).double(), reference.double()
    x = torch.rand(1, config["channels"], 300, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(x)
    assert relative_error(tiled_output(ours, x, size.group_size), expected) <= 1e-10


def test_query_key_dim_below_the_rotated_channels():
    """All 16 channels are rotated, not 32."""
    config = {"channels": 32, "num_blocks": 1, "num_spks": 2, "group_size": 16, "query_key_dim": 16}
    output, expected, *_ = compare(config, batch_size=2, num_frames=40, dtype=torch.float64)
    assert relative_error(output, expected) <= 1e-10


def test_checkpoints_of_older_versions_have_no_rotary_constants():
    config = {"channels": 32, "num_blocks": 1, "num_spks": 2, "group_size": 16, "query_key_dim": 16}
    state = random_reference(**config).state_dict()
    older = {key: value for key, value in state.items() if "rotary" not in key}
    assert len(older) < len(state)
    assert masknet_from_modelscope(older).keys() == masknet_from_modelscope(state).keys()


def test_another_networks_key_is_named():
    with pytest.raises(InputError, match=r"'encoder\.conv1d\.weight' is not a key of the authors' mask net"):
        masknet_from_modelscope({"encoder.conv1d.weight": torch.zeros(1)})


def test_files_of_the_authors_model_convert_to_its_output(tmp_path):
    """Written by their whole model, converted, separated; and back into files that theirs loads strictly."""
    from modelscope.models.audio.separation.mossformer import MossFormer

    torch.manual_seed(0)
    sizes = dict(kernel_size=16, stride=8, in_channels=32, out_channels=32, d_model=32, num_blocks=2, group_size=16)
    others = dict(
        bias=False, query_key_dim=24, attn_dropout=0.1, expansion_factor=4.0, causal=False, norm="ln", num_spks=2
    )
    theirs = MossFormer(str(tmp_path), **sizes, **others).eval()
    for name, module in theirs.as_dict().items():
        torch.save(module.state_dict(), tmp_path / f"{name}.bin")
    folder = from_authors(tmp_path, tmp_path / "ours", group_size=16)
    mixture = torch.randn(2, 1000)
    with torch.no_grad():
        expected = theirs(mixture)
    found = MossFormerSeparation.from_hparams(folder, device="cpu").separate_batch(mixture)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()

    back = to_authors(folder, tmp_path / "back", "modelscope")
    again = MossFormer(str(back), **sizes, **others).eval()
    again.load_check_point()
    with torch.no_grad():
        assert torch.equal(again(mixture), expected)


@pytest.mark.parametrize("network", ["MossFormer", "MossFormer2"])
def test_the_configuration_builds_their_network(tmp_path, network):
    """As their pipeline does, which reads the arguments from it."""
    package = "modelscope.models.audio.separation"
    place = {"MossFormer": f"{package}.mossformer", "MossFormer2": f"{package}.m2.mossformer"}[network]
    theirs = getattr(importlib.import_module(place), network)
    sizes = {"group_size": 32, "query_key_dim": 24} if network == "MossFormer" else {"recurrent_channels": 256}
    ours = MossFormerSeparator(network, num_spks=3, encoder_channels=32, out_channels=32, num_blocks=2, **sizes)
    folder = export(tmp_path / "ours", dict(ours.named_children()), 8000)
    converted = to_authors(folder, tmp_path / "theirs", "modelscope")
    arguments = json.loads((converted / "configuration.json").read_text())["model"]
    assert arguments.pop("type").startswith(f"speech_{network.lower()}_separation")
    model = theirs(str(converted), **arguments).eval()
    model.load_check_point()
    mixture = torch.randn(1, 12000)
    with torch.no_grad():
        found = model(mixture)
    expected = MossFormerSeparation.from_hparams(folder, device="cpu").separate_batch(mixture)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
