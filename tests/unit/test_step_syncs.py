"""Between two steps of the optimiser nothing is read from the device: on a GPU, that would leave it without work.

On a CPU nothing has to wait, but the same calls can be counted.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mossformer_sb import InputError, MossFormerMaskNet
from mossformer_sb.network.lengths import check_lengths, lengths_are_checked
from mossformer_sb.network.separator import separate
from tests.unit.brains import batch_of, make_brain, parameters

# What has to know values on the host: to hand them over, or to give a result its size.
READING = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "item", "unique", "bincount"}
METHODS = ("cpu", "tolist", "numpy", "item", "__bool__", "__int__", "__float__", "__index__")


class Reads(TorchDispatchMode):
    """Names what reads a tensor's values; those of ``allowed``, which are on the CPU anyway, may be read."""

    def __init__(self, *allowed):
        super().__init__()
        self.allowed, self.found = {tensor.data_ptr() for tensor in allowed}, []

    def __enter__(self):
        self.originals = {name: getattr(torch.Tensor, name) for name in METHODS}
        for name, original in self.originals.items():
            setattr(torch.Tensor, name, self._noting(name, original))
        return super().__enter__()

    def __exit__(self, *error):
        for name, original in self.originals.items():
            setattr(torch.Tensor, name, original)
        return super().__exit__(*error)

    def _noting(self, name, original):
        def method(tensor, *args, **kwargs):
            if tensor.data_ptr() not in self.allowed:
                self.found.append(name)
            return original(tensor, *args, **kwargs)

        return method

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put_", "index_put") else ()
        by_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        if (name in READING and args[0].data_ptr() not in self.allowed) or by_mask:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def test_reads_are_found():
    """The test of the test: each way to read a value is noted."""
    x = torch.tensor([1.0, 2.0])
    ways = {
        "item": lambda: x[0].item(),
        "cpu": lambda: x.cpu(),
        "tolist": lambda: x.tolist(),
        "numpy": lambda: x.numpy(),
        "__bool__": lambda: bool((x > 0).all()),
        "__int__": lambda: int(x[0]),
        "__float__": lambda: float(x[0]),
        "nonzero": lambda: x.nonzero(),
        "index": lambda: x[x > 1],
    }
    for name, way in ways.items():
        with Reads() as reads:
            way()
        assert name in reads.found
        with Reads() as reads:
            x * 2 + x[torch.tensor([0])]
        assert reads.found == []


def window_brain(tmp_path, **hparams):
    masknet = MossFormerMaskNet(8, 16, num_blocks=1, group_size=32, query_key_dim=16, dropout=0.1)
    return make_brain(tmp_path, masknet=masknet, grad_accumulation_factor=8, inactive_threshold=30, **hparams)


@pytest.mark.parametrize("silent", [(), (1,)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("padded", [False, True])
def test_none_before_a_step_is_due(tmp_path, padded, precision, silent):
    """Lengths are checked on the copy that is on the CPU."""
    brain = window_brain(tmp_path, precision=precision)
    for _ in range(2):  # the first fills what is kept
        batch = batch_of(3, silent=silent)
        if padded:
            batch.lengths = torch.tensor([800, 640, 700])
            batch.is_padded = True
        brain.step += 1
        with Reads(batch.lengths) as reads:
            loss = brain.fit_batch(batch)
        assert brain.step % 8 and loss.isfinite()
    assert reads.found == []


def test_few_when_it_is_due(tmp_path):
    """The statistics of the window, and the norm of its gradient: as many with 8 batches as with 1."""
    brain = window_brain(tmp_path)
    found = []
    for brain.step in range(1, 9):
        batch = batch_of(2)
        with Reads(batch.lengths) as reads:
            brain.fit_batch(batch)
        found.append(reads.found)
    assert found[:7] == [[]] * 7
    on_the_optimisers_own = [name for name in found[7] if name in ("tolist", "item")]
    assert on_the_optimisers_own[:2] == ["tolist", "item"]
    assert brain.stats.count == 16 and brain.stats.steps == 1


def test_non_finite_examples_are_found_at_the_step_and_undone(tmp_path):
    """In a window of three batches: as if the item had not been there."""
    batches = [batch_of(2), batch_of(3), batch_of(1)]
    gone = batches[1].select(torch.tensor([True, False, True]))
    clean = [batches[0], gone, batches[2]]
    brains = [make_brain(tmp_path, grad_accumulation_factor=3, max_grad_norm=-1) for _ in range(2)]
    brains[1].modules.load_state_dict(brains[0].modules.state_dict())
    batches[1].mixture[1, 7] = float("nan")
    start = parameters(brains[0])
    for brain, window in zip(brains, (batches, clean), strict=True):
        for brain.step, batch in enumerate(window, start=1):
            assert brain.fit_batch(batch).isfinite()
    assert not torch.equal(parameters(brains[0]), start)
    torch.testing.assert_close(parameters(brains[0]), parameters(brains[1]), rtol=0, atol=1e-7)
    stats = brains[0].stats
    assert (stats.count, stats.nonfinite, stats.dropped, stats.consecutive_nonfinite) == (5, 1, 0, 1)
    assert stats.samples == brains[1].stats.samples + 800
    assert stats.si_snr == pytest.approx(brains[1].stats.si_snr, rel=1e-6)


class Elsewhere:
    """Stands for lengths on an accelerator, whose values take time to read."""

    def __init__(self, values):
        self.values, self.reads = values, 0
        self.dtype, self.shape, self.device = values.dtype, values.shape, torch.device("cuda")

    def tolist(self):
        self.reads += 1
        return self.values.tolist()


def test_lengths_on_an_accelerator_are_read_once(monkeypatch):
    monkeypatch.setattr(torch, "is_tensor", lambda obj: True)
    lengths = Elsewhere(torch.tensor([3, 9]))
    check_lengths(lengths, 2, maximum=9)
    assert lengths.reads == 1
    with lengths_are_checked():
        check_lengths(lengths, 2, maximum=5)
    assert lengths.reads == 1
    with pytest.raises(InputError, match="between 1 and 5 samples"):
        check_lengths(lengths, 2, maximum=5)


def test_a_mask_net_within_separate_trusts_its_lengths_and_alone_checks_them():
    seen = []

    def masknet(encoded, lengths):
        check_lengths(Elsewhere(torch.tensor([10**6])), 1, maximum=5)  # would raise if it looked
        seen.append(lengths)
        return encoded[None]

    encoder = torch.nn.Module()
    encoder.conv1d = torch.nn.Conv1d(1, 4, 16, stride=8)
    encoder.forward = lambda mixture: encoder.conv1d(mixture[:, None]).relu()
    decoder = torch.nn.ConvTranspose1d(4, 1, 16, stride=8)
    is_tensor = torch.is_tensor
    torch.is_tensor = lambda obj: is_tensor(obj) or isinstance(obj, Elsewhere)
    try:
        separate(encoder, masknet, lambda x: decoder(x)[:, 0], torch.randn(1, 80), torch.tensor([80]))
        with pytest.raises(InputError, match="found 1000000 to 1000000"):
            masknet(torch.zeros(1, 4, 5), torch.tensor([5]))
    finally:
        torch.is_tensor = is_tensor
    assert seen[0].tolist() == [9]
