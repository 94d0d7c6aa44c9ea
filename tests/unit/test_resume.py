"""A training that is killed in mid-epoch goes on to the numbers of an uninterrupted one, and writes its course down."""

import logging
import sys

import pandas as pd
import pytest
import torch
from speechbrain.nnet.schedulers import LinearWarmupScheduler
from speechbrain.utils.epoch_loop import EpochCounter
from torch.utils.data import Dataset

from mossformer_sb import InputError, MossFormerMaskNet
from mossformer_sb.checkpoints import Checkpointer
from mossformer_sb.dataio import Mixture
from mossformer_sb.history import CURVES_FILE, TABLE_FILE, History
from tests.unit.brains import Recorder, make_brain, parameters

TIMES = ("seconds", "items/s", "audio-s/s", "memory-gb")


class Killed(Exception):
    """Stands for the end of a process."""


class Noise(Dataset):
    """Mixtures that are a function of (epoch, index); the epoch reaches workers."""

    def __init__(self, num_items):
        self.num_items = num_items
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch):
        self.epoch.fill_(epoch)

    def __len__(self):
        return self.num_items

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(1000 * int(self.epoch) + index)
        sources = torch.randn(320, 2, generator=generator)
        return Mixture(str(index), sources.sum(1), sources)


def train(folder, num_workers=0, killed_at=None, epochs=2, draws=False, **hparams):
    """Train with all that has a state; seven batches an epoch, which is no multiple of the window."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    masknet = MossFormerMaskNet(8, 16, num_blocks=1, group_size=16, query_key_dim=16, dropout=0.2)
    counter = EpochCounter(epochs)
    checkpointer = Checkpointer(folder / "save", {"epoch_counter": counter})
    options = {
        "grad_accumulation_factor": 2,
        "ema_decay": 0.7,
        "lr_scheduler": LinearWarmupScheduler(0.01, 3, 20),
        "ckpt_interval_steps": 1,
        "noprogressbar": True,
        "train_logger": Recorder(),
    }
    brain = make_brain(folder, masknet=masknet, **{**options, **hparams})
    brain.checkpointer = checkpointer
    checkpointer.add_recoverables(dict(brain.modules))
    checkpointer.add_recoverables({"brain": brain, "stage_loss": brain.sums, "random_state": brain.random_state})
    checkpointer.add_recoverables({"averaged_weights": brain.averaged} if brain.averaged else {})
    if not draws:  # it takes its time
        brain.history.draw = lambda: None
    if killed_at:
        count_down(brain, killed_at)
    loader = {"batch_size": 2, "num_workers": num_workers, "shuffle": True}
    try:
        brain.fit(counter, Noise(14), Noise(3), train_loader_kwargs=loader, valid_loader_kwargs={"batch_size": 2})
    except Killed:
        return brain
    return brain


def count_down(brain, batches):
    """Have the brain end before it has trained on so many batches."""
    fit_batch, done = brain.fit_batch, []

    def killing(batch):
        done.append(batch)
        if len(done) >= batches:
            raise Killed
        return fit_batch(batch)

    brain.fit_batch = killing


def figures(brain):
    """All that is logged, times left out."""
    return [
        {**entry, "train_stats": {k: v for k, v in entry["train_stats"].items() if k not in TIMES}}
        for entry in brain.hparams.train_logger.entries
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, num_workers):
    whole = train(tmp_path / "whole", num_workers)
    killed = train(tmp_path / "killed", num_workers, killed_at=12)  # the fifth of the second epoch
    assert len(figures(killed)) == 1
    resumed = train(tmp_path / "killed", num_workers)
    assert resumed.train_batches.epoch == 2 and resumed.optimizer_step == whole.optimizer_step == 8
    assert torch.equal(parameters(resumed), parameters(whole))
    assert figures(killed) + figures(resumed) == figures(whole)
    for brain in (resumed, whole):
        brain.averaged.use()
    assert torch.equal(parameters(resumed), parameters(whole))
    tables = [pd.read_csv(tmp_path / name / TABLE_FILE) for name in ("whole", "killed")]
    columns = [column for column in tables[0] if not column.endswith(TIMES)]
    pd.testing.assert_frame_equal(tables[0][columns], tables[1][columns])


def test_the_course_is_written_down(tmp_path):
    brain = train(tmp_path, epochs=3, draws=True, ema_decay=None)
    table = pd.read_csv(tmp_path / TABLE_FILE)
    assert table["epoch"].tolist() == [1, 2, 3]
    entries = brain.hparams.train_logger.entries
    assert table["lr"].tolist() == pytest.approx([entry["lr"] for entry in entries])
    # Four steps an epoch, of a schedule by steps: the rate of the last of them.
    assert table["lr"].tolist() == pytest.approx(
        [LinearWarmupScheduler(0.01, 3, 20).calculate_lr(n) for n in (4, 8, 12)]
    )
    assert table["train_si-snr"].tolist() == pytest.approx([e["train_stats"]["si-snr"] for e in entries], rel=1e-4)
    assert (table["train_seconds"] > 0).all() and (table["train_items/s"] > 0).all()
    assert table["train_audio-s/s"].tolist() == pytest.approx((table["train_items/s"] * 320 / 8000).tolist(), rel=1e-4)
    assert (table["train_grad-norm-max"] >= table["train_grad-norm"]).all()
    assert (tmp_path / CURVES_FILE).read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_limit_on_the_batches_of_an_epoch(tmp_path):
    brain = train(tmp_path, epochs=1, batches_per_epoch=3)
    assert brain.optimizer_step == 2
    assert brain.sums.count == 3 and len(brain.train_batches) == 3  # three of validation, all of them
    assert pd.read_csv(tmp_path / TABLE_FILE)["train_dropped"].tolist() == [0]


def test_without_matplotlib_training_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    history = History(tmp_path)
    with caplog.at_level(logging.WARNING):
        for epoch in (1, 2):
            history.add({"epoch": epoch, "lr": 0.1})
            history.draw()
    assert [r.getMessage() for r in caplog.records] == [
        'training_curves.png is drawn by matplotlib, which is missing: pip install "mossformer_sb[report]"'
    ]
    assert len(pd.read_csv(tmp_path / TABLE_FILE)) == 2


def test_tensorboard_goes_on_where_it_stood(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for epochs in (1, 3):  # the second run goes on with the first
        train(tmp_path, epochs=epochs, tensorboard=True)._tensorboard.writer.close()
    log = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in log.Scalars("si-snr/valid")] == [1, 2, 3]
    assert [event.step for event in log.Scalars("lr")] == [1, 2, 3]


def test_tensorboard_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r'tensorboard: True needs .*pip install "mossformer_sb\[report\]"'):
        train(tmp_path, tensorboard=True)


def test_bf16_trains_with_averages(tmp_path):
    brain = train(tmp_path, epochs=1, precision="bf16")
    assert torch.isfinite(parameters(brain)).all() and brain.optimizer_step == 4
