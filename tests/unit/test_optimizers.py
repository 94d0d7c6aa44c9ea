"""Optimizers by name; Muon with AdamW equals the two alone, and resumes from its state."""

import pytest
import torch

from mossformer_sb import InputError, MossFormerMaskNet
from mossformer_sb.training.optimizers import choose_optimizer

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")


def network():
    torch.manual_seed(0)
    return MossFormerMaskNet(32, 32, num_blocks=1, group_size=16, query_key_dim=32, dropout=0.0)


def fit(net, optimizer, steps, start=0):
    for step in range(start, start + steps):
        torch.manual_seed(step)
        net(torch.randn(1, 32, 40)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@needs_muon
class TestMuon:
    def test_is_muon_on_matrices_and_adamw_on_the_rest(self):
        net, expected = network(), network()
        named = dict(expected.named_parameters())
        ends = ("linear.weight", "projection.weight")
        matrices = [p for name, p in named.items() if name.endswith(ends)]
        others = [p for name, p in named.items() if not name.endswith(ends)]
        assert len(matrices) == 8 and sum(p.ndim == 2 for p in others) == 5  # three filters; gains, and offsets
        rules = [
            torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=0.01, weight_decay=0.1),
        ]
        fit(net, choose_optimizer(net.parameters(), "muon", 0.01, 0.1), 3)
        for step in range(3):
            torch.manual_seed(step)
            expected(torch.randn(1, 32, 40)).square().sum().backward()
            for rule in rules:
                rule.step()
                rule.zero_grad()
        for name, parameter in net.named_parameters():
            assert torch.equal(parameter, named[name]), name

    def test_resumes_from_its_state(self, tmp_path):
        whole, parted = network(), network()
        fit(whole, choose_optimizer(whole.parameters(), "muon", 0.01), 4)
        optimizer = choose_optimizer(parted.parameters(), "muon", 0.01)
        fit(parted, optimizer, 2)
        torch.save(optimizer.state_dict(), tmp_path / "optimizer.ckpt")
        resumed = choose_optimizer(parted.parameters(), "muon", 0.5)
        resumed.load_state_dict(torch.load(tmp_path / "optimizer.ckpt", weights_only=True))
        fit(parted, resumed, 2, start=2)
        for one, other in zip(whole.parameters(), parted.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_the_rate_of_all_groups_can_be_set(self):
        net = network()
        before = [p.detach().clone() for p in net.parameters()]
        optimizer = choose_optimizer(net.parameters(), "muon", 0.01)
        assert len(optimizer.param_groups) == 2
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        fit(net, optimizer, 1)
        assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


@needs_muon
def test_muon_takes_groups_with_settings_of_their_own():
    """As of SpeechBrain's option remove_vector_weight_decay."""
    net, expected = network(), network()
    vectors = [parameter for parameter in net.parameters() if parameter.ndim < 2]
    others = [parameter for parameter in net.parameters() if parameter.ndim >= 2]
    groups = [{"params": others}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = choose_optimizer(groups, "muon", 0.01, 0.5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5, 0.0]
    fit(net, optimizer, 1)
    fit(expected, choose_optimizer(expected.parameters(), "muon", 0.01, 0.5), 1)
    for one, other, before in zip(net.parameters(), expected.parameters(), network().parameters(), strict=True):
        assert torch.equal(one, other) == (one.ndim >= 2 or not before.any())  # zeros don't decay


def test_an_older_pytorch_is_refused_in_one_line(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(
        InputError, match=r"optimizer 'muon' needs PyTorch 2.9 or newer, and this is .*choose adamw"
    ) as e:
        choose_optimizer(network().parameters(), "muon")
    assert "\n" not in str(e.value)


def test_messages():
    with pytest.raises(InputError, match="optimizer 'sgd' is not known: choose one of adam, adamw, muon"):
        choose_optimizer([], "sgd")
    with pytest.raises(InputError, match="weight_decay 0.1 has no effect with optimizer 'adam'"):
        choose_optimizer(network().parameters(), "adam", weight_decay=0.1)
    optimizer = choose_optimizer(network().parameters(), "adam", 0.5)
    assert type(optimizer) is torch.optim.Adam and optimizer.param_groups[0]["lr"] == 0.5
