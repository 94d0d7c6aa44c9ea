"""The fast implementations of MossFormer2 are not used for changed recurrent modules."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from mossformer_sb import MossFormer2MaskNet
from mossformer_sb.network import fast
from mossformer_sb.network.fast import choice, depthwise, tiled
from mossformer_sb.network.layers import grouped_conv
from tests.unit.test_fast import Doubled, assert_as_plain, calls_of, infer, replace, tilted, train

N, GROUP = 8, 8


def make_masknet(**arguments):
    sizes = {"num_blocks": 1, "group_size": GROUP, "query_key_dim": 8, "recurrent_channels": 6, "dropout": 0.0}
    network = MossFormer2MaskNet(N, 12, **{**sizes, **arguments})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network.double()


@pytest.fixture
def masknet():
    return make_masknet()


@pytest.fixture
def encoded():
    return torch.rand(2, N, 2 * GROUP + 3, dtype=torch.float64)


@pytest.fixture
def tiles(monkeypatch):
    """One entry for each item that was separated in tiles."""
    items, function = [], tiled.recurrent_of_item
    monkeypatch.setattr(tiled, "recurrent_of_item", lambda *given: items.append(1) or function(*given))
    return items


RUNS = pytest.mark.parametrize("run", [train, infer])
MODULES = [name for name, _ in make_masknet().named_modules() if name.startswith("recurrent")]


def test_an_unchanged_network_is_fast(masknet, encoded, tiles, monkeypatch):
    filters, function = [], depthwise.grouped_conv
    monkeypatch.setattr(depthwise, "grouped_conv", lambda *given: filters.append(1) or function(*given))
    assert_as_plain(train, masknet, encoded)
    assert len(filters) == 2 and tiles == []
    assert_as_plain(infer, masknet, encoded)
    assert tiles == [1, 1]


@RUNS
def test_switched_off_no_fast_implementation_is_used(masknet, encoded, tiles, run, monkeypatch):
    monkeypatch.setattr(depthwise, "grouped_conv", None)
    with fast.disabled():
        run(masknet, encoded)
    assert tiles == []


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    ("register", "run", "backward"),
    [
        ("register_forward_hook", train, False),
        ("register_forward_hook", infer, False),
        ("register_forward_pre_hook", infer, False),
        ("register_full_backward_hook", train, True),
    ],
)
def test_a_hook_on_any_module_is_called(masknet, encoded, name, register, run, backward):
    module = masknet.get_submodule(name)
    if isinstance(module, nn.ModuleList):
        pytest.skip("is never called")
    calls = []
    getattr(module, register)(lambda *given: calls.append(1))
    calls_of(masknet, encoded, run, backward)
    assert len(calls) == 1


@RUNS
@pytest.mark.parametrize("how", ["subclass", "instance", "class"])
@pytest.mark.parametrize("name", [name for name in MODULES if name != "recurrent"])
def test_another_forward_of_any_module_is_called(masknet, encoded, run, how, name, monkeypatch):
    before = infer(masknet, encoded)
    module = masknet.get_submodule(name)
    cls, original = type(module), type(module).forward

    def forward(self, *given, **keywords):
        return tilted(original(self, *given, **keywords))

    if how == "subclass":
        module.__class__ = type(cls.__name__, (cls,), {"forward": forward})
    elif how == "instance":
        module.forward = forward.__get__(module)
    else:
        monkeypatch.setattr(cls, "forward", forward)
    found = assert_as_plain(run, masknet, encoded)
    assert not torch.allclose(found, before)


@RUNS
@pytest.mark.parametrize("how", ["subclass", "instance", "class", "class of MossFormer"])
def test_overridden_stages_are_called(masknet, encoded, run, how, monkeypatch):
    """A method that the mask net has from the class that it is derived from, too."""
    before = infer(masknet, encoded)

    def stages(self, rotation, lengths=None, padding=None):
        return [(block, rotation, lengths, padding) for block in self.blocks]

    def rotation(self, num_frames, like):
        return torch.ones(num_frames, 4, dtype=like.dtype), torch.zeros(num_frames, 4, dtype=like.dtype)

    if how == "subclass":
        masknet.__class__ = type("Other", (MossFormer2MaskNet,), {"stages": stages})
    elif how == "instance":
        masknet.stages = stages.__get__(masknet)
    elif how == "class":
        monkeypatch.setattr(MossFormer2MaskNet, "stages", stages)
    else:
        monkeypatch.setattr(MossFormer2MaskNet.__base__, "rotation", rotation)
    found = assert_as_plain(run, masknet, encoded)
    assert not torch.allclose(found, before)


@RUNS
@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("recurrent.0.bottleneck", "weight"),
        ("recurrent.0.unit.to_u.norm", "weight"),
        ("recurrent.0.unit.fsmn.projection", "weight"),
        ("recurrent.0.unit.fsmn.memory.second.conv", "weight"),
        ("recurrent.0.unit.fsmn.memory.first.norm", "bias"),
    ],
)
def test_parametrised_layers(masknet, encoded, run, name, parameter):
    before = infer(masknet, encoded)
    parametrize.register_parametrization(masknet.get_submodule(name), parameter, Doubled())
    found = assert_as_plain(run, masknet, encoded)
    assert not torch.allclose(found, before)


@RUNS
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("recurrent.0.bottleneck", nn.Linear(12, 6, bias=False)),
        ("recurrent.0.input_norm", nn.LayerNorm(6, elementwise_affine=False)),
        ("recurrent.0.output_norm", nn.LayerNorm(6, bias=False)),
        ("recurrent.0.unit.to_v.linear", nn.Linear(6, 6, bias=False)),
        ("recurrent.0.unit.fsmn.projection", nn.Linear(6, 6)),
        ("recurrent.0.output", nn.Linear(6, 12, bias=False)),
        ("recurrent.0.prelu", nn.Tanh()),
    ],
)
def test_replaced_layers(masknet, encoded, run, name, module):
    before = infer(masknet, encoded)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    replace(masknet, name, module)
    found = assert_as_plain(run, masknet, encoded)
    assert not torch.allclose(found, before)


@RUNS
def test_removed_recurrent_modules(masknet, encoded, run):
    """As for a part of the network alone."""
    before = infer(masknet, encoded)
    masknet.recurrent[0] = nn.Identity()
    masknet.recurrent[0].forward = lambda x, *others: x
    found = assert_as_plain(run, masknet, encoded)
    assert not torch.allclose(found, before)


@RUNS
@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("recurrent.0.input_norm", "eps", 1.0),
        ("recurrent.0.output_norm", "eps", 1.0),
        ("recurrent.0.unit.to_u.norm", "eps", 1.0),
        ("recurrent.0.unit.to_v.norm", "eps", 1.0),
        ("recurrent.0.unit.fsmn.memory.first.norm", "eps", 1.0),
        ("recurrent.0.unit.fsmn.memory.second.norm", "eps", 1.0),
        ("recurrent.0.unit.fsmn.memory.first.conv", "dilation", 3),
        ("recurrent.0.unit.fsmn.memory.second.conv", "dilation", 1),
    ],
)
def test_numbers_that_a_layer_holds(masknet, encoded, run, name, attribute, value):
    before = infer(masknet, encoded)
    setattr(masknet.get_submodule(name), attribute, value)
    found = assert_as_plain(run, masknet, encoded)
    assert not torch.allclose(found, before)


def test_dropout_of_one_layer_alone(encoded):
    network = make_masknet(dropout=0.5).eval()
    network.recurrent[0].unit.to_v.dropout.train()
    with torch.no_grad():
        assert not torch.equal(network(encoded), network(encoded))


@RUNS
def test_an_odd_inner_width(encoded, tiles, run):
    """A pair of channels is then one that the first layer made and one that it saw."""
    assert_as_plain(run, make_masknet(recurrent_channels=7), encoded)
    assert tiles == []


@pytest.mark.parametrize("num_frames", [1, 2, 7, 100, 101])
@pytest.mark.parametrize(("groups", "dilation"), [(1, 1), (2, 2), (3, 2), (1, 3)])
def test_filters_of_groups_and_their_gradients(num_frames, groups, dilation):
    x = torch.randn(2, num_frames, 4 * groups, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, groups, 9, dtype=torch.float64, requires_grad=True)
    results = []
    for enabled in (True, False):
        with fast._set(enabled):
            output = grouped_conv(x, weight, dilation)
            weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
            results.append([output, *torch.autograd.grad((output * weights).sum(), [x, weight])])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


def test_filters_of_groups_are_for_cpu_tensors():
    assert choice.takes_depthwise_filters(torch.rand(1), torch.rand(1))
    assert not choice.takes_depthwise_filters(torch.rand(1, device="meta"), torch.rand(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_tiles_in_half_precision_are_as_near_as_plain(encoded, tiles, dtype, autocast):
    network, x = make_masknet(recurrent_channels=16, num_blocks=2).float(), encoded.float()
    exact = infer(network, x)
    errors = []
    for enabled in (True, False):
        with fast._set(enabled), torch.autocast("cpu", dtype=dtype, enabled=autocast):
            found = infer(network, x) if autocast else infer(make_like(network).to(dtype), x.to(dtype))
        assert autocast or found.dtype == dtype
        errors.append((found.float() - exact).norm() / exact.norm())
    assert tiles != []
    assert errors[0] <= 1.5 * errors[1] + 1e-3


def make_like(network):
    other = MossFormer2MaskNet(**network.config)
    other.load_state_dict(network.state_dict())
    return other
