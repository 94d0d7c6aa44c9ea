"""`torch.compile`: the gradients and the training of an eager network, and one graph for all lengths."""

import copy
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from speechbrain.lobes.models.dual_path import Decoder, Encoder
from speechbrain.utils.run_opts import RunOptions

from mossformer_sb import MossFormer2MaskNet, MossFormerMaskNet
from mossformer_sb.network.layers import DepthwiseConv
from mossformer_sb.training.brain import SeparationBrain
from mossformer_sb.training.command_line import parse_arguments
from tests.unit.brains import Recorder, batch_of

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "hparams").rglob("*.yaml"))
N, GROUP = 24, 16


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Graphs of one test are not those of another."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


NETWORKS = pytest.mark.parametrize("kind", [MossFormerMaskNet, MossFormer2MaskNet])


def make_masknet(kind=MossFormerMaskNet, **arguments):
    sizes = {"num_blocks": 1, "group_size": GROUP, "query_key_dim": 40, "dropout": 0.0, **arguments}
    if kind is MossFormer2MaskNet:
        sizes["recurrent_channels"] = 20
    network = kind(N, 32, **sizes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.train()


class Graphs:
    """A backend that keeps the graphs it is given, and runs them as they are."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, inputs, **options):
        self.graphs.append(graph)
        return graph


def gradients(function, network, *inputs):
    network.zero_grad()
    output = function(*inputs)
    output.square().sum().backward()
    return output.detach(), {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def furthest(found, expected):
    """The greatest relative distance of a parameter's gradient from what it should be."""
    return max(((found[name] - expected[name]).norm() / expected[name].norm()).item() for name in expected)


@pytest.mark.parametrize("with_lengths", [True, False], ids=["lengths", "whole"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["fp64", "fp32"])
@NETWORKS
def test_gradients_are_those_of_the_eager_network(kind, dtype, bound, with_lengths):
    network = make_masknet(kind).to(dtype)
    inputs = [torch.rand(2, N, 3 * GROUP + 5, dtype=dtype)]
    if with_lengths:
        inputs.append(torch.tensor([3 * GROUP + 5, 2 * GROUP - 1]))
    output, expected = gradients(network, network, *inputs)
    assert all(gradient.norm() > 0 for gradient in expected.values())
    compiled = torch.compile(network, backend="eager", dynamic=False)
    compiled_output, found = gradients(compiled, network, *inputs)
    assert (compiled_output - output).norm() < bound * output.norm()
    distances = [(found[name] - value).norm() for name, value in expected.items()]
    norms = [value.norm() for value in expected.values()]
    assert torch.stack(distances).norm() < bound * torch.stack(norms).norm()
    assert furthest(found, expected) < 10 * bound, "of each parameter by itself"


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_blocks", [True, False])
@NETWORKS
def test_gradients_that_the_compiler_derived(kind, checkpoint_blocks):
    """`aot_eager` writes the backward program too; what inductor adds to that is kernels."""
    network = make_masknet(kind, checkpoint_blocks=checkpoint_blocks).double()
    inputs = torch.rand(2, N, 2 * GROUP + 3, dtype=torch.float64), torch.tensor([2 * GROUP + 3, GROUP])
    _, expected = gradients(network, network, *inputs)
    _, found = gradients(torch.compile(network, backend="aot_eager", dynamic=False), network, *inputs)
    assert furthest(found, expected) < 1e-10


def test_the_convolution_has_the_gradients_of_the_eager_one():
    conv = DepthwiseConv(20, kernel_size=17).double()
    x = torch.randn(2, 30, 20, dtype=torch.float64)
    _, expected = gradients(lambda x: conv(2 * x), conv, x)
    _, found = gradients(torch.compile(lambda x: conv(2 * x), backend="eager"), conv, x)
    assert furthest(found, expected) < 1e-12


@pytest.mark.parametrize("with_lengths", [True, False], ids=["lengths", "whole"])
@NETWORKS
def test_only_stock_operations_are_compiled(kind, with_lengths):
    """Compilers have got the gradients of custom functions wrong without a word, so there is none in the graph."""
    network, backend = make_masknet(kind, dropout=0.1), Graphs()
    lengths = [torch.tensor([40, 33])] if with_lengths else []
    torch.compile(network, backend=backend, fullgraph=True)(torch.rand(2, N, 40), *lengths)
    (graph,) = backend.graphs
    names = [str(node.target) for part in graph.modules() if hasattr(part, "graph") for node in part.graph.nodes]
    assert any("conv" in name for name in names)
    assert [name for name in names if "autograd_function" in name or "mkldnn" in name] == []


# ---- as train.py does it


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_compiles_one_graph_for_all_lengths(path):
    values = dict(line.split(":", 1) for line in path.read_text().splitlines() if line.startswith("compile_"))
    assert values["compile_using_dynamic_shape_tracing"].split("#")[0].strip() == "True"


def make_brain(tmp_path, modules, *options):
    """A Brain with the run options that a small experiment has with these words on its command line."""
    file = ROOT / "hparams" / "mossformer_mini.yaml"
    _, run_opts, _ = parse_arguments([str(file), "--device", "cpu", "--noprogressbar", *options])
    assert isinstance(run_opts, RunOptions)
    from_yaml = [line for line in file.read_text().splitlines() if line.startswith("compile_")]
    hparams = {
        "threshold": None,
        "lr_scheduler": None,
        "sample_rate": 8000,
        "output_folder": str(tmp_path),
        "n_audio_to_save": 0,
        "train_logger": Recorder(),
        "epoch_counter": SimpleNamespace(current=1),
        **{line.split(":")[0]: "True" in line for line in from_yaml},
    }
    return SeparationBrain(modules, lambda p: torch.optim.SGD(p, 1e-3), hparams, run_opts)


def make_modules(kind):
    return {
        "encoder": Encoder(kernel_size=16, out_channels=N),
        "masknet": make_masknet(kind),
        "decoder": Decoder(in_channels=N, out_channels=1, kernel_size=16, stride=8, bias=False),
    }


# Whole groups and a shorter one, whole groups alone, less than a group.
LENGTHS = [8 * frames + 8 for frames in (3 * GROUP + 5, 2 * GROUP, GROUP - 4, 4 * GROUP + 1, 3 * GROUP)]


def padded_batches():
    batches = []
    for num_samples in LENGTHS:
        batch = batch_of(num_items=2, num_samples=num_samples)
        batch.lengths, batch.is_padded = torch.tensor([num_samples, num_samples - 24]), True
        batches.append(batch)
    return batches


@pytest.fixture
def backend(monkeypatch):
    """`torch.compile` as SpeechBrain calls it, with a backend that needs no compiler of C++."""
    graphs, compiler = Graphs(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **options: compiler(module, backend=graphs, **options))
    return graphs


def train(brain, batches):
    brain.fit(range(1), torch.utils.data.DataLoader(batches, batch_size=None))
    return {name: value.clone() for name, value in brain.modules.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("padded", [True, False], ids=["lengths", "whole"])
@NETWORKS
def test_training_compiled_ends_as_training_does(tmp_path, backend, padded, kind):
    modules, batches = make_modules(kind), padded_batches()
    if not padded:
        batches = [batch_of(num_items=2, num_samples=num_samples) for num_samples in LENGTHS]
    before = copy.deepcopy(modules["masknet"].state_dict())
    eager = train(make_brain(tmp_path / "eager", copy.deepcopy(modules)), batches)
    compiled = train(make_brain(tmp_path / "compiled", modules, "--compile"), batches)
    compiled = {name.replace("_orig_mod.", ""): value for name, value in compiled.items()}
    assert len(backend.graphs) == len(modules), "one program of each network for all lengths"
    for name, value in eager.items():
        start = before.get(name.removeprefix("masknet."))
        moved = 1.0 if start is None else (value - start).norm()
        assert moved > 0, f"{name} was not trained"
        assert (compiled[name] - value).norm() <= 1e-4 * moved + 1e-6 * value.norm(), name


@pytest.mark.slow
@NETWORKS
def test_at_most_two_programs_for_twenty_lengths(tmp_path, backend, kind):
    """One of batches whose items are of one length, and one of padded batches, whatever order they come in."""
    frames = torch.randperm(5 * GROUP, generator=torch.Generator().manual_seed(0))[:20] + 2
    batches = [batch_of(num_items=2, num_samples=8 * count + 8) for count in frames.tolist()]
    for batch in batches[1::2]:
        num_samples = batch.mixture.shape[1]
        batch.lengths, batch.is_padded = torch.tensor([num_samples, num_samples - 8]), True
    modules = make_modules(kind)
    train(make_brain(tmp_path, modules, "--compile"), batches)
    assert len(modules) <= len(backend.graphs) <= 2 * len(modules)


@pytest.mark.parametrize("options", [["--compile"], ["--compile_module_keys", "masknet"]])
def test_compiling_on_a_cpu_is_advised_against(tmp_path, caplog, monkeypatch, options):
    """Compiled networks are the reference implementation, which is slower there than the fast paths."""
    monkeypatch.setattr(torch, "compile", lambda module, **others: module)
    brain = make_brain(tmp_path, make_modules(MossFormerMaskNet), *options)
    with caplog.at_level(logging.INFO):
        brain.on_fit_start()
    (line,) = [message for message in caplog.messages if message.startswith("Computes on")]
    assert "fast paths: off, torch.compile: on" in line
    assert any("--compile is slower on a CPU" in message for message in caplog.messages)
