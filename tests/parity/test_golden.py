"""Our mask net against numbers that the authors' gave (see make_golden.py); needs nothing but this package."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mossformer_sb.network.masknet import MossFormerMaskNet
from mossformer_sb.sharing.modelscope import masknet_from_modelscope
from tests.parity.reference import computed, flat, output_and_gradients, relative_error, tiled_output


@pytest.fixture(scope="module")
def golden():
    with safe_open(Path(__file__).with_name("golden.safetensors"), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        return tensors, json.loads(file.metadata()["config"])


def part(tensors, prefix):
    return masknet_from_modelscope(
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    )


DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])


def golden_network(golden, dtype):
    tensors, config = golden
    channels, *others = config.values()  # in the order of the constructor
    network = MossFormerMaskNet(channels, channels, *others).to(dtype).eval()
    network.load_state_dict(part(tensors, "state/"))
    return network


@DTYPES
@pytest.mark.parametrize("path", ["plain", "fast", pytest.param("compiled", marks=pytest.mark.slow)])
def test_output_and_gradients(golden, path, dtype, tolerance):
    tensors, _ = golden
    with computed(golden_network(golden, dtype), path) as network:
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
