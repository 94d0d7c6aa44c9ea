"""Our mask nets against numbers that the authors' gave (see make_golden.py); needs nothing but this package."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mossformer_sb.network.masknet import MossFormerMaskNet
from mossformer_sb.network.mossformer2 import MossFormer2MaskNet
from mossformer_sb.sharing.modelscope import masknet_from_modelscope
from tests.parity.reference import computed, flat, output_and_gradients, relative_error, tiled_output


@pytest.fixture(scope="module", params=["golden", "golden_mossformer2"])
def golden(request):
    return read(request.param)


def read(name):
    with safe_open(Path(__file__).with_name(f"{name}.safetensors"), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        return tensors, json.loads(file.metadata()["config"])


def part(tensors, prefix):
    return masknet_from_modelscope(
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    )


DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])


def golden_network(golden, dtype):
    tensors, config = golden
    arguments = {"in_channels": config["channels"], "out_channels": config["channels"], **config}
    del arguments["channels"]
    network = (MossFormer2MaskNet if "recurrent_channels" in config else MossFormerMaskNet)(**arguments)
    network.load_state_dict(part(tensors, "state/"))
    return network.to(dtype).eval()


@DTYPES
@pytest.mark.parametrize("path", ["plain", "fast"])
def test_output_and_gradients(golden, path, dtype, tolerance):
    with computed(golden_network(golden, dtype), path) as network:
        assert_same_as_golden(network, golden, tolerance)


@pytest.mark.slow
def test_compiled(golden):
    """`aot_eager` writes the backward program too; what inductor adds to that is kernels."""
    with computed(golden_network(golden, torch.float64), "compiled") as network:
        assert_same_as_golden(network, golden, 1e-10)


def assert_same_as_golden(network, golden, tolerance):
    tensors, _ = golden
    dtype = next(network.parameters()).dtype
    output, gradients, input_gradient = output_and_gradients(
        network, tensors["x"].to(dtype), tensors["weights"].to(dtype)
    )
    expected_gradients = part(tensors, "gradient/")
    assert (output - tensors["output"]).abs().max() <= tolerance * tensors["output"].abs().max()
    assert relative_error(input_gradient.double(), tensors["input_gradient"]) <= tolerance
    assert gradients.keys() == expected_gradients.keys()
    assert relative_error(flat(gradients, gradients).double(), flat(expected_gradients, gradients)) <= tolerance


@DTYPES
def test_tiled_output(golden, dtype, tolerance):
    tensors, config = golden
    output = tiled_output(golden_network(golden, dtype), tensors["x"].to(dtype), tile_frames=config["group_size"])
    assert (output - tensors["output"]).abs().max() <= tolerance * tensors["output"].abs().max()
