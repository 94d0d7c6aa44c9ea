"""The networks on a device: against double precision on the CPU, padded, by the fast paths, compiled."""

import copy

import pytest
import torch

from mossformer_sb import MossFormerSeparator
from mossformer_sb.training.losses import pit_si_snr_loss

LENGTHS = torch.tensor([3215, 2400])  # frames that bfloat16 has no number for, and an item that ends within a group
# Precision to the relative errors of the estimates and of the gradient, as norms: float32 far from it would be TF32.
PRECISIONS = {"fp32": (2e-5, 2e-4), "bf16": (0.03, 0.1), "fp16": (0.004, 0.02)}


@pytest.fixture(scope="module")
def separator():
    torch.manual_seed(0)
    separator = MossFormerSeparator.from_size("mini", num_spks=2, dropout=0.0)
    with torch.no_grad():  # norms and biases begin as ones and zeros, which would hide what is mixed up
        for parameter in separator.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return separator


@pytest.fixture(scope="module")
def batch():
    """Mixture [B, T] and sources [B, T, S], zero past each length."""
    generator = torch.Generator().manual_seed(0)
    sources = 0.1 * torch.randn(2, int(LENGTHS.max()), 2, generator=generator)
    sources[1, LENGTHS[1] :] = 0
    return sources.sum(-1), sources


def run(separator, batch, device, precision="fp32", dtype=torch.float32, lengths=LENGTHS, backend=None):
    """Estimates [B, T, S] and the gradient of the loss, as one vector, both in double precision on the CPU."""
    separator = copy.deepcopy(separator).to(device, dtype).train()
    if backend is not None:  # a copy of a compiled module would be an eager one
        separator.masknet.compile(backend=backend)
    mixture, sources = (x.to(device, dtype) for x in batch)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with torch.autocast(device, dtype=half or torch.bfloat16, enabled=half is not None):
        estimates = separator(mixture, lengths=lengths)
        loss = pit_si_snr_loss(estimates, sources, lengths).losses.mean()
    scale = 128.0 if precision == "fp16" else 1.0  # as a GradScaler does
    (scale * loss).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in separator.parameters()]) / scale
    return estimates.detach().double().cpu(), gradient.double().cpu()


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def expected(separator, batch):
    return run(separator, batch, "cpu", dtype=torch.float64)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_estimates_and_gradients_are_those_of_double_precision(separator, batch, expected, device, precision):
    if (device, precision) == ("cpu", "fp16"):
        pytest.skip("SpeechBrain refuses fp16 on a CPU")
    found = run(separator, batch, device, precision)
    errors = [error(*pair) for pair in zip(found, expected, strict=True)]
    limits = PRECISIONS[precision]
    assert errors[0] < limits[0] and errors[1] < limits[1], errors


def test_double_precision_is_the_cpus(separator, batch, expected, device):
    found = run(separator, batch, device, dtype=torch.float64)
    assert error(found[0], expected[0]) < 1e-12 and error(found[1], expected[1]) < 1e-10


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("bf16", 2e-3), ("fp16", 2e-3)])
@pytest.mark.parametrize("training", [True, False])
def test_padded_items_equal_themselves_alone(separator, batch, device, precision, limit, training):
    """With any content of the padding. In half precision another batch may be summed in another order."""
    if (device, precision) == ("cpu", "fp16"):
        pytest.skip("SpeechBrain refuses fp16 on a CPU")
    separator = copy.deepcopy(separator).to(device).train(training)
    mixture = batch[0].clone().to(device)
    mixture[1, LENGTHS[1] :] = float("nan")
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with torch.no_grad(), torch.autocast(device, dtype=half or torch.bfloat16, enabled=half is not None):
        padded = separator(mixture, lengths=LENGTHS)
        for item, length in zip(range(2), LENGTHS.tolist(), strict=True):
            alone = separator(mixture[item : item + 1, :length])[0]
            assert error(padded[item, :length].double(), alone.double()) < limit
            assert not padded[item, length:].any()
        told = separator(mixture[:1], lengths=LENGTHS[:1])
    assert error(told[0].double(), padded[0].double()) < limit


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fast_paths_are_as_near_to_double_precision_as_the_plain_network(separator, batch, expected, device, precision):
    """In training; in half precision the two round differently, so neither is the other's measure."""
    fast = pytest.importorskip("mossformer_sb.network.fast", reason="this version has no switch for the fast paths")
    quick = run(separator, batch, device, precision)
    with fast.disabled():
        plain = run(separator, batch, device, precision)
    for one, other, exact in zip(quick, plain, expected, strict=True):
        assert error(one, exact) < 1.5 * error(other, exact) + 1e-6


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("bf16", 0.02)])
def test_fast_paths_are_the_plain_network_in_inference(separator, batch, device, precision, limit):
    fast = pytest.importorskip("mossformer_sb.network.fast", reason="this version has no switch for the fast paths")
    separator = copy.deepcopy(separator).to(device).eval()
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
        found = separator(batch[0].to(device), lengths=LENGTHS).double()
        with fast.disabled():
            plain = separator(batch[0].to(device), lengths=LENGTHS).double()
    assert error(found, plain) < limit


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_a_compiled_network_has_the_same_estimates_and_gradients(separator, batch, device, lengths):
    """By inductor on a GPU; on a CPU, where that takes a C++ compiler and a minute, up to what it would be given.

    Of two blocks: the further ones are traced in the same way.
    """
    separator = copy.deepcopy(separator)
    separator.masknet.blocks = separator.masknet.blocks[:2]
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return torch._dynamo.lookup_backend("inductor" if device == "cuda" else "aot_eager")(graph, inputs)

    try:
        found = run(separator, batch, device, lengths=lengths, backend=backend)
    finally:
        torch.compiler.reset()
    expected = run(separator, batch, device, lengths=lengths)
    assert compiled
    assert error(found[0], expected[0]) < 1e-4 and error(found[1], expected[1]) < 1e-3


def test_memory_is_given_back(separator, batch, device):
    """A step leaves nothing behind on the device."""
    if device == "cpu":
        pytest.skip("there is no counting on a CPU")
    run(separator, batch, device)
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        run(separator, batch, device)
    assert torch.cuda.memory_allocated() <= before
