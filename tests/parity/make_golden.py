"""Write the golden files: the authors' network, an input, and what it made of it. Needs the extra `parity`.

python -m tests.parity.make_golden
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.parity.reference import loss_weights, output_and_gradients, random_reference

FOLDER = Path(__file__).parent
CONFIGS = {
    "golden": {"channels": 24, "num_blocks": 2, "num_spks": 2, "group_size": 16, "query_key_dim": 40},
    "golden_mossformer2": {
        "channels": 16,
        "num_blocks": 2,
        "num_spks": 2,
        "group_size": 32,
        "query_key_dim": 8,
        "recurrent_channels": 8,
    },
}
NUM_FRAMES = {"golden": 41, "golden_mossformer2": 75}  # not less than the memory's filters reach


def main():
    """Compute and write."""
    for name, config in CONFIGS.items():
        write(FOLDER / f"{name}.safetensors", config, NUM_FRAMES[name])


def write(path, config, num_frames):
    """Write one file."""
    reference = random_reference(**config, seed=7).double()
    x = torch.rand(2, config["channels"], num_frames, dtype=torch.float64)
    with torch.no_grad():
        weights = loss_weights(reference(x))
    output, gradients, input_gradient = output_and_gradients(reference, x, weights)
    tensors = {"x": x, "weights": weights, "output": output, "input_gradient": input_gradient}
    # The authors' blocks share their rotary constants; a file may hold each tensor once only.
    tensors |= {f"state/{key}": value.clone() for key, value in reference.state_dict().items()}
    tensors |= {f"gradient/{key}": value for key, value in gradients.items()}
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    save_file(tensors, path, metadata={"config": json.dumps(config)})


if __name__ == "__main__":
    main()
