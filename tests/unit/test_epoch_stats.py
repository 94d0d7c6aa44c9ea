"""The statistics of an epoch keep their file format, and what an older version saved is read."""

import pytest
import torch

from mossformer_sb.training.epoch_stats import StageStats

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
