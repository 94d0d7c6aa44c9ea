"""The statistics of an epoch keep their file format, and what an older version saved is read."""

import pytest
import torch

from mossformer_sb.training.epoch_stats import BatchResult, StageStats, WindowStats

SAVED = {
    "si_snr": 1.5,
    "count": 2,
    "dropped": 3,
    "nonfinite": 4,
    "samples": 5,
    "failed": 6,
    "steps": 7,
    "skipped": 8,
    "streak": 9,
    "norm": 10.5,
    "norm_max": 11.5,
    "seconds": 12.5,
}
NAMES = {**{name: name for name in SAVED}, "streak": "consecutive_nonfinite"}


def test_the_names_in_the_file(tmp_path):
    stats = StageStats(**{NAMES[name]: value for name, value in SAVED.items()})
    stats.save(tmp_path / "stage_loss.ckpt")
    saved = torch.load(tmp_path / "stage_loss.ckpt", weights_only=True)
    assert saved == SAVED and list(saved) == list(SAVED)


@pytest.mark.parametrize("absent", SAVED)
def test_a_file_of_an_older_version(tmp_path, absent):
    torch.save({name: value for name, value in SAVED.items() if name != absent}, tmp_path / "stage_loss.ckpt")
    stats = StageStats(**{NAMES[name]: -1 for name in SAVED})
    stats.load(tmp_path / "stage_loss.ckpt", end_of_epoch=True)
    assert stats == StageStats(**{NAMES[name]: value for name, value in SAVED.items() if name != absent})


def test_reset_keeps_consecutive_failures():
    stats = StageStats(count=2, consecutive_nonfinite=3)
    stats.reset()
    assert stats == StageStats(consecutive_nonfinite=3)


class OnMps(torch.Tensor):
    """A stand-in for a tensor on Apple's MPS: float64 fails there."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == torch.Tensor.device.__get__:
            return torch.device("mps")
        found = super().__torch_function__(func, types, args, kwargs)
        if func == torch.Tensor.cpu:
            with torch._C.DisableTorchFunctionSubclass():
                return found.as_subclass(torch.Tensor)
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype.")
        return found


def test_a_device_without_float64():
    losses = torch.tensor([-1.0, -3.1, 5.0, float("nan")])
    values = losses, -losses, torch.tensor([True, True, False, False]), losses.isfinite()
    with pytest.raises(TypeError, match="float64"):
        losses.as_subclass(OnMps).double()
    found = []
    for kind in (torch.Tensor, OnMps):
        window = WindowStats()
        for _ in range(2):
            window.add(BatchResult(*(value.as_subclass(kind) for value in values), samples=100))
        found.append(window.over_ranks("cpu"))
    assert found[0] == found[1]
    assert (found[0].count, found[0].dropped, found[0].nonfinite, found[0].samples) == (4, 2, 2, 200)
