"""The fast implementations are not used for changed modules, and can be switched off."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.modules import module as nn_module
from torch.nn.utils import parametrize

from mossformer_sb import InputError, MossFormerMaskNet, build_masknet
from mossformer_sb.network import fast
from mossformer_sb.network.block import MossFormerBlock
from mossformer_sb.network.fast import backward, choice, tiled, unpadded
from mossformer_sb.network.layers import DepthwiseConv

N, GROUP = 8, 8


def make_masknet(**arguments):
    """A mask net of one block, with random biases and gains too, so that nothing is the identity."""
    sizes = {"num_blocks": 1, "group_size": GROUP, "query_key_dim": 8, "dropout": 0.0, **arguments}
    network = MossFormerMaskNet(N, 12, **sizes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.double()


@pytest.fixture
def masknet():
    return make_masknet()


@pytest.fixture
def encoded():
    return torch.rand(2, N, 2 * GROUP + 3, dtype=torch.float64)


@pytest.fixture
def taken(monkeypatch):
    """Names of the fast implementations that were taken, in order."""
    names = []

    def watch(owner, name, called=None):
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: names.append(called or name) or function(*given))

    watch(tiled, "masks_of_item")
    watch(backward, "conv_module")
    for name in ("queries_keys", "joint_attention", "gate"):
        watch(backward, name)
    watch(unpadded, "joint_attention", "unpadded attention")
    return names


def infer(network, *inputs):
    with torch.no_grad():
        return network.eval()(*inputs)


def train(network, *inputs):
    return network.train()(*inputs)


RUNS = pytest.mark.parametrize("run", [train, infer])
MODULES = [name for name, module in make_masknet().named_modules() if name]


def assert_as_plain(run, network, *inputs):
    """The same as without fast implementations; return it."""
    found = run(network, *inputs)
    with fast.disabled():
        expected = run(network, *inputs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    return found


# ---- the switch


def test_an_unchanged_network_is_fast(masknet, encoded, taken):
    assert_as_plain(train, masknet, encoded)
    assert taken == ["conv_module"] * 2 + ["queries_keys", "joint_attention", "gate", "conv_module"]
    taken.clear()
    assert_as_plain(infer, masknet, encoded)
    assert taken == ["masks_of_item"] * len(encoded)


def test_attention_alone_is_unpadded_where_neither_tiles_nor_a_gradient_are_possible(masknet, encoded, taken):
    masknet.blocks[0].offset_scale.register_forward_hook(lambda *given: None)
    assert_as_plain(infer, masknet, encoded)
    assert taken == ["unpadded attention"]
    assert choice.takes_unpadded(torch.rand(1, device="meta")), "on any device"


@RUNS
def test_switched_off_no_fast_implementation_is_used(masknet, encoded, taken, run):
    with fast.disabled():
        run(masknet, encoded)
    fast.disabled()(run)(masknet, encoded)
    assert taken == [] and fast.is_enabled()


@RUNS
def test_switched_off_in_the_environment(masknet, encoded, taken, run, monkeypatch):
    monkeypatch.setenv("MOSSFORMER_SB_FAST", "0")
    run(masknet, encoded)
    assert taken == []
    monkeypatch.setenv("MOSSFORMER_SB_FAST", "1")
    run(masknet, encoded)
    assert taken != []


def test_another_value_in_the_environment(masknet, encoded, monkeypatch):
    monkeypatch.setenv("MOSSFORMER_SB_FAST", "off")
    with pytest.raises(InputError, match="MOSSFORMER_SB_FAST is 'off': set it to 0 .* or to 1"):
        masknet(encoded)


def test_one_thread_does_not_switch_for_another():
    inside, leave, seen = threading.Event(), threading.Event(), []

    def other():
        with fast.disabled():
            seen.append(fast.is_enabled())
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    seen.append(fast.is_enabled())
    leave.set()
    thread.join()
    assert seen == [False, True]


def test_an_error_inside_switches_on_again():
    with pytest.raises(ZeroDivisionError), fast.disabled():
        raise ZeroDivisionError
    assert fast.is_enabled()


@pytest.mark.parametrize("first", [True, False])
def test_checkpointed_blocks_are_computed_again_as_before(encoded, first):
    network = make_masknet(checkpoint_blocks=True)
    gradients = []
    for now in (first, not first):
        with fast._set(first):
            output = network(encoded)
        with fast._set(now):
            output.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
        network.zero_grad()
    torch.testing.assert_close(*gradients)


def test_only_cpu_tensors():
    assert choice.takes_custom_backward(torch.rand(1))
    assert not choice.takes_custom_backward(torch.rand(1, device="meta"))  # not "cpu", as a GPU isn't
    assert not choice.takes_custom_backward(torch.rand(1), torch.rand(1).as_subclass(type("Own", (torch.Tensor,), {})))
    with torch.no_grad():
        assert not choice.takes_custom_backward(torch.rand(1))


# ---- hooks


def calls_of(network, encoded, run, backward):
    output = run(network, encoded)
    if backward:
        output.square().sum().backward()


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    ("register", "run", "backward"),
    [
        ("register_forward_hook", train, False),
        ("register_forward_hook", infer, False),
        ("register_forward_pre_hook", train, False),
        ("register_forward_pre_hook", infer, False),
        ("register_full_backward_hook", train, True),
        ("register_full_backward_pre_hook", train, True),
        ("register_backward_hook", train, True),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a non-full backward hook:FutureWarning")
def test_a_hook_on_any_module_is_called(masknet, encoded, name, register, run, backward):
    module = masknet.get_submodule(name)
    if isinstance(module, nn.ModuleList):
        pytest.skip("is never called")
    calls = []
    handle = getattr(module, register)(lambda *given: calls.append(1))
    calls_of(masknet, encoded.requires_grad_(backward), run, backward)
    found = len(calls)
    calls.clear()
    with fast.disabled():
        calls_of(masknet, encoded, run, backward)
    handle.remove()
    assert found == len(calls)
    if not (backward and name in ("position", "position.angles", "rotary")):  # none of whose inputs is a tensor
        assert found > 0


@pytest.mark.parametrize(
    ("register", "run", "backward"),
    [
        ("register_module_forward_hook", train, False),
        ("register_module_forward_hook", infer, False),
        ("register_module_forward_pre_hook", infer, False),
        ("register_module_full_backward_hook", train, True),
        ("register_module_full_backward_pre_hook", train, True),
    ],
)
def test_hooks_on_all_modules_see_all_of_them(masknet, encoded, register, run, backward):
    seen = []
    handle = getattr(nn_module, register)(lambda module, *given: seen.append(type(module).__name__))
    try:
        calls_of(masknet, encoded.requires_grad_(backward), run, backward)
    finally:
        handle.remove()
    assert {"MossFormerBlock", "ScaleNorm", "DepthwiseConv", "Dropout", "OffsetScale", "LayerNorm"} <= set(seen)


# ---- what was replaced


def tilted(output):
    """Something that no norm takes back."""
    return output * torch.linspace(0.5, 2, output.shape[-1], dtype=output.dtype)


@RUNS
@pytest.mark.parametrize("how", ["subclass", "instance", "class"])
@pytest.mark.parametrize("name", [name for name in MODULES if name != "blocks"])
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


class Louder(MossFormerBlock):
    def forward(self, x, rotation, lengths=None, padding=None):
        return x + 100.0


def test_a_subclassed_block_is_the_same_in_training_and_inference(masknet, encoded):
    masknet.blocks[0] = Louder(12, GROUP, 8, dropout=0.0).double()
    torch.testing.assert_close(infer(masknet, encoded), train(masknet, encoded).detach())


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@RUNS
@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("blocks.0.to_values.norm", "gain"),
        ("blocks.0.to_values.linear", "weight"),
        ("blocks.0.to_query_key.depthwise", "weight"),
        ("blocks.0.offset_scale", "gamma"),
        ("output_norm", "bias"),
        ("mask_projection", "weight"),
    ],
)
def test_parametrised_layers(masknet, encoded, run, name, parameter):
    before = infer(masknet, encoded)
    parametrize.register_parametrization(masknet.get_submodule(name), parameter, Doubled())
    found = assert_as_plain(run, masknet, encoded)
    assert not torch.allclose(found, before)


def replace(network, name, module):
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module.double())


class Silent(nn.Module):
    """A norm of another kind, with what a `GlobalLayerNorm` has."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(12)), nn.Parameter(torch.zeros(12)), 1e-8

    def forward(self, x, lengths=None, padding=None):
        return 0 * x


@RUNS
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("blocks.0.to_values.norm", nn.LayerNorm(12)),
        ("blocks.0.to_output.dropout", nn.Identity()),
        ("blocks.0.to_values.linear", nn.Linear(12, 48, bias=False)),
        ("blocks.0.to_query_key.depthwise", DepthwiseConv(8, kernel_size=5)),
        ("blocks.0.to_output.depthwise", DepthwiseConv(12, kernel_size=5)),
        ("output_norm", Silent()),
        ("frame_norm", nn.Identity()),
        ("prelu", nn.Tanh()),
        ("mask_projection", nn.Linear(12, N, bias=True)),
    ],
)
def test_replaced_layers(masknet, encoded, run, name, module):
    before = infer(masknet, encoded)
    replace(masknet, name, module)
    found = assert_as_plain(run, masknet, encoded)
    assert name.endswith("dropout") or not torch.allclose(found, before)


@RUNS
def test_a_list_of_blocks_of_another_kind(masknet, encoded, run):
    class Twice(nn.ModuleList):
        def __iter__(self):
            yield from [*super().__iter__(), *super().__iter__()]

    before = infer(masknet, encoded)
    masknet.blocks = Twice(masknet.blocks)
    found = assert_as_plain(run, masknet, encoded)
    assert not torch.allclose(found, before)


@RUNS
def test_numbers_that_a_layer_holds(masknet, encoded, run):
    before = infer(masknet, encoded)
    block = masknet.blocks[0]
    block.to_values.norm.scale *= 3
    block.to_query_key.norm.eps = 10.0
    masknet.output_norm.eps = 1.0
    found = assert_as_plain(run, masknet, encoded)
    assert not torch.allclose(found, before)


def test_dropout_of_one_layer_alone(encoded):
    """As for an ensemble by dropout: the network in evaluation mode, but for its dropout."""
    network = make_masknet(dropout=0.5).eval()
    network.blocks[0].to_values.dropout.train()
    with torch.no_grad():
        assert not torch.equal(network(encoded), network(encoded))
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    network.blocks[0].attention_dropout = 0.0
    assert torch.equal(network(encoded), network(encoded))


@pytest.mark.parametrize("change", ["in place", "data", "dtype", "loaded"])
def test_inference_uses_the_weights_as_they_are_now(masknet, encoded, change):
    infer(masknet, encoded)
    weight = masknet.blocks[0].to_values.linear.weight
    if change == "in place":
        with torch.no_grad():
            weight.mul_(2)
    elif change == "data":
        weight.data = torch.randn_like(weight)
    elif change == "dtype":
        masknet.float()
        encoded = encoded.float()
        with fast.disabled():
            torch.testing.assert_close(infer(masknet, encoded), infer(masknet, encoded))
        weight.data = 2 * weight.data
    else:
        masknet.load_state_dict(make_masknet().state_dict())
    found = infer(masknet, encoded)
    with fast.disabled():
        torch.testing.assert_close(found, infer(masknet, encoded))


# ---- derivatives of other kinds


def loss_of(network):
    return lambda x: network(x).square().sum()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("run", [train, infer], ids=["training", "evaluation"])
def test_torch_func(masknet, encoded, enabled, run):
    run(masknet, encoded)  # its mode
    x = encoded.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss_of(masknet)(x), x)
    tangent = torch.randn_like(encoded)
    with fast._set(enabled):
        found = torch.func.grad(loss_of(masknet))(encoded)
        torch.testing.assert_close(found, expected)
        _, derivative = torch.func.jvp(loss_of(masknet), (encoded,), (tangent,))
        torch.testing.assert_close(derivative, (expected * tangent).sum())
        with torch.no_grad():
            one_by_one = torch.func.vmap(masknet)(encoded[:, None])
        torch.testing.assert_close(one_by_one[:, :, 0].transpose(0, 1), infer(masknet, encoded))


@pytest.mark.parametrize("how", ["grad", "jacobian"])
def test_batched_gradients_are_refused_with_advice(masknet, encoded, how):
    def total(x):
        return masknet.train()(x).sum((1, 2, 3))

    def run():
        if how == "jacobian":
            return torch.autograd.functional.jacobian(total, encoded, vectorize=True)
        x = encoded.clone().requires_grad_()
        return torch.autograd.grad(total(x), x, torch.eye(2, dtype=torch.float64), is_grads_batched=True)[0]

    with pytest.raises(InputError, match=r"no batched gradients .*is_grads_batched=True.*fast.disabled\(\)"):
        run()
    with fast.disabled():
        assert run().shape == (2, *encoded.shape)


@pytest.mark.parametrize("name", ["to_values", "to_query_key", "to_output"])
def test_a_hook_that_changes_an_output_in_place(masknet, encoded, name):
    getattr(masknet.blocks[0], name).register_forward_hook(lambda module, inputs, output: output.mul_(0.5))
    with fast.disabled():
        expected = train(masknet, encoded)
    torch.testing.assert_close(train(masknet, encoded), expected)


def test_autocast_never_casts_double_precision(masknet, encoded):
    expected = train(masknet, encoded), infer(masknet, encoded)
    with torch.autocast("cpu", torch.bfloat16):
        found = train(masknet, encoded), infer(masknet, encoded)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", ["mini", "2mini"])
def test_another_default_device(size):
    network = build_masknet(size)
    x = torch.rand(1, 128, 300)
    expected = infer(network, x)
    with torch.device("meta"):
        assert torch.equal(infer(network, x), expected)


@pytest.mark.parametrize("enabled", [True, False])
def test_forward_mode(masknet, encoded, enabled):
    x = encoded.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss_of(masknet)(x), x)
    tangent = torch.randn_like(encoded)
    with fast._set(enabled), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(encoded, tangent)
        derivative = torch.autograd.forward_ad.unpack_dual(loss_of(masknet)(dual)).tangent
    torch.testing.assert_close(derivative, (expected * tangent).sum())


def test_second_derivatives_without_fast_implementations():
    network, x = make_masknet(), torch.rand(1, N, GROUP + 2, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)

    @fast.disabled()
    def slope(x):
        (gradient,) = torch.autograd.grad(loss_of(network)(x), x, create_graph=True)
        return (gradient * direction).sum()

    (found,) = torch.autograd.grad(slope(x), x)
    step = 1e-5 * direction
    expected = (slope(x.detach().add(step).requires_grad_()) - slope(x.detach().sub(step).requires_grad_())) / 2e-5
    torch.testing.assert_close((found * direction).sum(), expected.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("what", ["network", "filter", "linear"])
def test_second_derivatives_are_refused_with_advice(masknet, encoded, what, monkeypatch):
    x = encoded.transpose(1, 2).float().requires_grad_()
    if what == "network":
        x, output = encoded.requires_grad_(), masknet(encoded)
    elif what == "filter":
        output = masknet.blocks[0].to_values.depthwise.float()(x @ torch.rand(N, 48))
    else:
        if choice.ONEDNN_LINEAR is None:
            pytest.skip("this PyTorch has no oneDNN")
        monkeypatch.setattr(choice, "is_wide_amd", lambda: True)
        output = masknet.input_projection.float()(x)
    (gradient,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    with pytest.raises(InputError, match=r"differentiated once.*fast\.disabled\(\)"):
        gradient.square().sum().backward()


# ---- PyTorch's private names


@pytest.mark.parametrize("name", [*choice._HOOKS, *(f"_global{name}" for name in choice._HOOKS)])
def test_pytorch_keeps_hooks_where_they_are_looked_for(name):
    """Without the name nothing would be fast: a name that is gone counts as a hook."""
    owner = nn_module if name.startswith("_global") else nn.Linear(1, 1)
    assert len(getattr(owner, name)) == 0


def test_pytorch_reports_active_transforms():
    assert torch._C._are_functorch_transforms_active() is False
    assert torch.autograd.forward_ad._current_level == -1
    with torch.autograd.forward_ad.dual_level():
        assert torch.autograd.forward_ad._current_level == 0
    active = []

    def look(x):
        active.append(torch._C._are_functorch_transforms_active())
        return x

    torch.func.vmap(look)(torch.rand(2))
    assert active == [True]
