"""Our mask net against numbers that the authors' gave (see make_golden.py); needs nothing but this package."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mossformer_sb.network.masknet import MossFormerMaskNet
from mossformer_sb.sharing.modelscope import masknet_from_modelscope
from tests.parity.reference import flat, output_and_gradients, relative_error


@pytest.fixture(scope="module")
def golden():
    with safe_open(Path(__file__).with_name("golden.safetensors"), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        return tensors, json.loads(file.metadata()["config"])


def part(tensors, prefix):
    return masknet_from_modelscope(
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_output_and_gradients(golden, dtype, tolerance):
    tensors, config = golden
    channels, *others = config.values()  # in the order of the constructor
    network = MossFormerMaskNet(channels, channels, *others).to(dtype).eval()
    network.load_state_dict(part(tensors, "state/"))
    output, gradients, input_gradient = output_and_gradients(
        network, tensors["x"].to(dtype), tensors["weights"].to(dtype)
    )
    expected_gradients = part(tensors, "gradient/")
    assert (output - tensors["output"]).abs().max() <= tolerance * tensors["output"].abs().max()
    assert relative_error(input_gradient.double(), tensors["input_gradient"]) <= tolerance
    assert gradients.keys() == expected_gradients.keys()
    assert relative_error(flat(gradients, gradients).double(), flat(expected_gradients, gradients)) <= tolerance
