"""The authors' classes of MossFormer2, small and with random weights, and the folders that their programs write."""

import ast
import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from unittest import mock

import pytest
import torch

WIDTH, BLOCKS = 64, 2


def modelscope_network(num_spks=2, width=WIDTH, num_blocks=BLOCKS):
    """MossFormer2 of the package `modelscope`."""
    reason = "needs the extra 'parity'"
    module = pytest.importorskip("modelscope.models.audio.separation.m2.mossformer", reason=reason)
    sizes = {"in_channels": width, "out_channels": width, "num_blocks": num_blocks, "num_spks": num_spks}
    return randomised(module.MossFormer2("unused", **sizes))


def clearvoice_folder():
    """Where the package `clearvoice` is: its wheel, unpacked, on PYTHONPATH serves, for nothing else is needed."""
    spec = importlib.util.find_spec("clearvoice")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs clearvoice: pip download clearvoice==0.1.2 --no-deps, unpacked, on PYTHONPATH")
    return Path(next(iter(spec.submodule_search_locations)))


def clearvoice_network(num_spks=2, width=WIDTH, num_blocks=BLOCKS):
    """MossFormer2_SS_16K of `clearvoice`, without what its package imports for reading audio and video."""
    folder = clearvoice_folder()
    pytest.importorskip("rotary_embedding_torch", reason="needs the extra 'parity'")
    with mock.patch.dict(sys.modules):
        for name, path in (("clearvoice", folder), ("clearvoice.models", folder / "models")):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(path)]
        sys.modules["torchinfo"] = mock.MagicMock()  # imported there for a summary that is not printed
        module = importlib.import_module("clearvoice.models.mossformer2_ss.mossformer2")
    arguments = types.SimpleNamespace(
        encoder_embedding_dim=width,
        mossformer_sequence_dim=width,
        num_mossformer_layer=num_blocks,
        encoder_kernel_size=16,
        num_spks=num_spks,
    )
    return randomised(module.MossFormer2_SS_16K(arguments).model)


def clearvoice_functions(path, *names):
    """Functions of a module of `clearvoice` that can't be imported without librosa and others: their source alone."""
    tree = ast.parse((clearvoice_folder() / path).read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    nodes = [node for node in tree.body if isinstance(node, ast.Assign)] + nodes
    space = {"np": importlib.import_module("numpy"), "torch": torch}
    exec(compile(ast.Module(nodes, []), path, "exec"), space)
    return [space[name] for name in names]


def randomised(network, seed=0):
    """With every parameter random, so that no two could be swapped unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            if not parameter.requires_grad:  # the rotary frequencies
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1 or "qk_offset_scale" in name:
                parameter.copy_(0.5 + 0.3 * noise)  # gains, biases and slopes
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return network.eval()


def write_clearvoice(folder, state, prefix=""):
    """What training in ClearerVoice-Studio leaves, the optimizer's state included."""
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    optimizer.step()
    content = {
        "model": {prefix + key: value for key, value in state.items()},
        "optimizer": optimizer.state_dict(),
        "epoch": 59,
        "step": 3498143,
    }
    torch.save(content, folder / "last_best_checkpoint.pt")
    (folder / "last_best_checkpoint").write_text("last_best_checkpoint.pt\n")
    return folder


def write_config(folder, **settings):
    """config.json of the standalone."""
    (folder / "config.json").write_text(json.dumps({"model_type": "mossformer2", "sample_rate": 8000, **settings}))
