"""The averaged weights are the average, replace the raw ones on request, and are saved in checkpoints."""

import pytest
import torch

from mossformer_sb import InputError
from mossformer_sb.training.ema import AveragedWeights


def trained(decay, values):
    """A module whose weight took these values, its average, and the average by hand."""
    model = torch.nn.Linear(1, 1, bias=False)
    averaged = AveragedWeights({"model": model}, decay)
    by_hand = None
    for number, value in enumerate(values):
        model.weight.data.fill_(value)
        averaged.update()
        kept = min(decay, number / (number + 9))
        by_hand = value if by_hand is None else kept * by_hand + (1 - kept) * value
    return model, averaged, by_hand


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.999])
def test_equals_the_average_by_hand(decay):
    model, averaged, by_hand = trained(decay, [1.0, 4.0, -2.0, 3.0, 0.5])
    averaged.use()
    assert model.weight.item() == pytest.approx(by_hand, rel=1e-6)


def test_raw_weights_come_back_to_the_bit():
    model, averaged, by_hand = trained(0.9, [0.1, 0.7])
    raw = model.weight.detach().clone()
    for _ in range(2):  # asking twice is asking once
        averaged.use()
    assert model.weight.item() == pytest.approx(by_hand, rel=1e-6) != raw.item()
    for _ in range(2):
        averaged.restore()
    assert torch.equal(model.weight, raw)


def test_before_the_first_step_there_is_no_average():
    model = torch.nn.Linear(2, 2)
    before = model.weight.detach().clone()
    AveragedWeights({"model": model}, 0.9).use()
    assert torch.equal(model.weight, before)


def test_survives_a_checkpoint(tmp_path):
    model, averaged, _ = trained(0.9, [1.0, 2.0])
    averaged.save(tmp_path / "averaged.ckpt")
    other = AveragedWeights({"model": model}, 0.9)
    other.load(tmp_path / "averaged.ckpt", end_of_epoch=True)
    model.weight.data.fill_(5.0)
    for each in (averaged, other):
        each.update()
    averaged.use()
    expected = model.weight.item()
    averaged.restore()
    other.use()
    assert model.weight.item() == expected


def test_no_checkpoint_while_the_averages_are_in_use(tmp_path):
    _, averaged, _ = trained(0.9, [1.0, 2.0])
    averaged.save(tmp_path / "averaged.ckpt")
    averaged.use()
    with pytest.raises(RuntimeError, match="before a checkpoint is saved"):
        averaged.save(tmp_path / "averaged.ckpt")
    with pytest.raises(RuntimeError, match="before a checkpoint is loaded"):
        averaged.load(tmp_path / "averaged.ckpt", end_of_epoch=True)


@pytest.mark.parametrize("decay", [0, 1, -0.1, 1.5, "high", True])
def test_decay_out_of_range(decay):
    with pytest.raises(InputError, match="ema_decay must be a number between 0 and 1"):
        AveragedWeights({}, decay)
