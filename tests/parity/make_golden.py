"""Write golden.safetensors: the authors' network, an input, and what it made of it. Needs the extra `parity`.

python -m tests.parity.make_golden
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.parity.reference import loss_weights, output_and_gradients, random_reference

GOLDEN = Path(__file__).with_name("golden.safetensors")
CONFIG = {"channels": 24, "num_blocks": 2, "num_spks": 2, "group_size": 16, "query_key_dim": 40}


def main():
    """Compute and write."""
    reference = random_reference(**CONFIG, seed=7).double()
    x = torch.rand(2, CONFIG["channels"], 41, dtype=torch.float64)
    with torch.no_grad():
        weights = loss_weights(reference(x))
    output, gradients, input_gradient = output_and_gradients(reference, x, weights)
    tensors = {"x": x, "weights": weights, "output": output, "input_gradient": input_gradient}
    # The authors' blocks share their rotary constants; a file may hold each tensor once only.
    tensors |= {f"state/{key}": value.clone() for key, value in reference.state_dict().items()}
    tensors |= {f"gradient/{key}": value for key, value in gradients.items()}
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    save_file(tensors, GOLDEN, metadata={"config": json.dumps(CONFIG)})


if __name__ == "__main__":
    main()
