"""The network without the folder that makes it fast: the package is copied without it, and computes the same."""

import inspect
import os
import shutil
from pathlib import Path

import pytest
import torch

import mossformer_sb
from mossformer_sb import MossFormerMaskNet
from mossformer_sb.network import dispatch, fast
from mossformer_sb.network.attention import rotate
from tests.forked import run


def results_of(network_class, case):
    """Masks, all gradients, and masks in inference, whole and with lengths."""
    network = network_class(**case["config"], checkpoint_blocks=case["checkpoint_blocks"]).double()
    network.load_state_dict(case["state"])
    results = []
    for lengths in (None, case["lengths"]):
        x = case["x"].clone().requires_grad_()
        masks = network.train()(x, lengths)
        gradients = torch.autograd.grad((masks * case["weights"]).sum(), [x, *network.parameters()])
        with torch.no_grad():
            results.append([masks.detach(), *gradients, network.eval()(x, lengths)])
    return results


PROGRAM = f"""
import importlib.util, sys, torch
from mossformer_sb.network import masknet, separator

assert masknet.__file__.startswith(sys.argv[1]), masknet.__file__
assert importlib.util.find_spec("mossformer_sb.network.fast") is None

{inspect.getsource(results_of)}

torch.save(results_of(masknet.MossFormerMaskNet, torch.load(sys.argv[1] + "/case.pt")), sys.argv[1] + "/results.pt")
assert not [name for name in sys.modules if name.startswith("mossformer_sb.network.fast")]
"""


@pytest.mark.parametrize("checkpoint_blocks", [False, True])
def test_the_network_is_complete_without_it(tmp_path, checkpoint_blocks):
    source = Path(mossformer_sb.__file__).parent
    shutil.copytree(
        source,
        tmp_path / "mossformer_sb",
        ignore=lambda folder, names: {"__pycache__"} | ({"fast"} if Path(folder) == source / "network" else set()),
    )
    config = dict(in_channels=24, out_channels=32, num_blocks=2, num_spks=3, group_size=16, query_key_dim=40, dropout=0)
    network = MossFormerMaskNet(**config).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    case = {
        "config": config,
        "checkpoint_blocks": checkpoint_blocks,
        "state": network.state_dict(),
        "x": torch.rand(2, 24, 53, dtype=torch.float64),
        "lengths": torch.tensor([53, 17]),
        "weights": torch.randn(3, 2, 24, 53, dtype=torch.float64),
    }
    torch.save(case, tmp_path / "case.pt")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    program = run(["-c", PROGRAM, tmp_path], tmp_path, environment)
    assert program.returncode == 0, program.stdout
    with fast.disabled():
        plain = results_of(MossFormerMaskNet, case)
    for found, expected in zip(torch.load(tmp_path / "results.pt"), plain, strict=True):
        assert all(tensor.abs().max() > 0 for tensor in expected)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_plain_network_names_nothing_of_it():
    """But for the one line that loads it."""
    network = Path(mossformer_sb.__file__).parent / "network"
    files = [path for path in network.glob("*.py") if path.name != "__init__.py"]
    assert len(files) > 5
    for path in files:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "import" in line]
        assert not [line for line in lines if "fast" in line], path


def test_every_replaceable_call_has_a_rule():
    names = {name.removeprefix("mossformer_sb.network."): rule for name, rule in dispatch._rules.items()}
    for name in (
        "attention.joint_attention",
        "block.ConvModule.forward",
        "block.MossFormerBlock.queries_keys",
        "block.gate",
        "layers.Linear.forward",
        "layers.depthwise_conv",
        "layers.grouped_conv",
        "masknet.MossFormerMaskNet.forward",
        "masknet.run_checkpointed",
        "separator.decode",
    ):
        assert names.pop(name) is not None
    assert not [name for name in names if not name.startswith("dispatch.")]  # the module's own example


def test_calls_that_are_not_replaceable_are_refused():
    with pytest.raises(ValueError, match=r"attention\.rotate is not marked as replaceable"):
        dispatch.register(rotate)
