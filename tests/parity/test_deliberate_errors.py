"""What the comparison with the authors' numbers can tell apart: each error, made on purpose, fails it."""

import pytest
import torch

from mossformer_sb.network import fast
from mossformer_sb.network.layers import InstanceNorm
from tests.parity.test_golden import assert_same_as_golden, golden_network, read


class Unbiased(InstanceNorm):
    def forward(self, x, lengths=None, padding=None):
        normed = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=1) + self.eps).sqrt()
        return normed * self.weight + self.bias


def without_skip(module):
    """Take what goes in from what comes out."""
    module.register_forward_hook(lambda module, inputs, output: output - inputs[0])


def before_second(network, change):
    """Change what the second layer of each memory sees, [B, L, 2C]."""
    for recurrent in network.recurrent:
        recurrent.unit.fsmn.memory.second.register_forward_pre_hook(
            lambda module, inputs: (change(inputs[0]), *inputs[1:])
        )


def each(change):
    """A change of each recurrent module of a network."""

    def of_all(network):
        for recurrent in network.recurrent:
            change(recurrent)

    return of_all


def set_value(kind, name, value):
    """Set an attribute of all modules of a class within the recurrent modules."""

    def change(recurrent):
        for module in recurrent.modules():
            if isinstance(module, kind):
                setattr(module, name, value)

    return each(change)


def exchange_u_and_v(recurrent):
    unit = recurrent.unit
    unit.to_u, unit.to_v = unit.to_v, unit.to_u


def recurrent_first(network):
    stages = network.stages
    network.stages = lambda *given: [
        stage for pair in zip(stages(*given)[1::2], stages(*given)[::2], strict=True) for stage in pair
    ]


def all_blocks_first(network):
    stages = network.stages
    network.stages = lambda *given: [*stages(*given)[::2], *stages(*given)[1::2]]


def one_slope(recurrent):
    for module in recurrent.modules():
        if isinstance(module, torch.nn.PReLU):
            module.weight.data.fill_(module.weight.mean())


def without_convolution_skips(recurrent):
    for branch in (recurrent.unit.to_u, recurrent.unit.to_v):
        without_skip(branch.depthwise)


def another_nonlinearity(recurrent):
    recurrent.unit.fsmn.linear.register_forward_hook(lambda module, inputs, output: output.abs())


ERRORS = {
    "pairs (j, C+j)": lambda network: before_second(network, lambda z: z.unflatten(-1, (2, -1)).mT.flatten(-2)),
    "order of concatenation": lambda network: before_second(network, lambda z: torch.cat(z.chunk(2, -1)[::-1], -1)),
    "recurrent module before the block": recurrent_first,
    "all blocks, then all recurrent modules": all_blocks_first,
    "u and v exchanged": each(exchange_u_and_v),
    "no skip around the memory": each(lambda recurrent: without_skip(recurrent.unit.fsmn)),
    "no skip around the gate": each(lambda recurrent: without_skip(recurrent.unit)),
    "no skip around the module": each(without_skip),
    "dilation 1": each(lambda recurrent: setattr(recurrent.unit.fsmn.memory.second.conv, "dilation", 1)),
    "no skip in the convolution modules": each(without_convolution_skips),
    "unbiased variance": set_value(InstanceNorm, "__class__", Unbiased),
    "eps of the instance norms": set_value(InstanceNorm, "eps", 1e-8),
    "eps of the layer norms": set_value(torch.nn.LayerNorm, "eps", 1e-6),
    "one slope for all channels": each(one_slope),
    "another nonlinearity in the FSMN": each(another_nonlinearity),
}


@pytest.fixture(scope="module")
def golden():
    return read("golden_mossformer2")


def test_without_an_error_it_holds(golden):
    with fast.disabled():
        assert_same_as_golden(golden_network(golden, torch.float64), golden, tolerance=1e-10)


@pytest.mark.parametrize("error", ERRORS.values(), ids=list(ERRORS))
def test_an_error_fails_the_comparison(golden, error):
    network = golden_network(golden, torch.float64)
    error(network)
    with fast.disabled(), pytest.raises(AssertionError):
        assert_same_as_golden(network, golden, tolerance=1e-10)
