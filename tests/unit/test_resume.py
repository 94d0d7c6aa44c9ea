"""A training that is interrupted in mid-epoch resumes, bit-identical to an uninterrupted one, and logs its epochs."""

import logging
import sys

import pandas as pd
import pytest
import torch
from speechbrain.nnet.schedulers import LinearWarmupScheduler
from speechbrain.utils.epoch_loop import EpochCounter
from torch.utils.data import Dataset

from mossformer_sb import InputError, MossFormerMaskNet
from mossformer_sb.data.datasets import Mixture
from mossformer_sb.training.checkpoints import Checkpointer
from mossformer_sb.training.epoch_stats import CURVES_FILE, TABLE_FILE, History
from tests.unit.brains import Recorder, make_brain, parameters
from tests.unit.test_schedules import EVERY

TIMES = ("seconds", "items/s", "audio-s/s", "memory-gb")


class Killed(Exception):
    """Stands for the end of a process."""


class Noise(Dataset):
    """Mixtures that are a function of (epoch, index); the epoch reaches workers."""

    def __init__(self, num_items):
        self.num_items = num_items
        self.seen = []  # (epoch, index), where no worker has made them
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch):
        self.epoch.fill_(epoch)

    def __len__(self):
        return self.num_items

    def __getitem__(self, index):
        self.seen.append((int(self.epoch), index))
        generator = torch.Generator().manual_seed(1000 * int(self.epoch) + index)
        sources = torch.randn(320, 2, generator=generator)
        return Mixture(str(index), sources.sum(1), sources)


def train(folder, num_workers=0, killed_at=None, epochs=2, draws=False, batch_size=2, num_items=14, **hparams):
    """Train with all that has a state; seven batches an epoch, which is no multiple of the window."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    width = hparams.pop("masknet_width", 16)
    masknet = MossFormerMaskNet(8, width, num_blocks=1, group_size=16, query_key_dim=width, dropout=0.2)
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
    checkpointer.add_recoverables({"brain": brain, "stage_loss": brain.stats, "random_state": brain.random_state})
    checkpointer.add_recoverables({"averaged_weights": brain.averaged} if brain.averaged else {})
    if not draws:  # it takes its time
        brain.history.draw = lambda: None
    if killed_at:
        count_down(brain, killed_at)
    loader = {"batch_size": batch_size, "num_workers": num_workers, "shuffle": True}
    brain.rates, brain.data = [], Noise(num_items)
    note_rates(brain)
    try:
        brain.fit(counter, brain.data, Noise(3), train_loader_kwargs=loader, valid_loader_kwargs={"batch_size": 2})
    except Killed:
        return brain
    return brain


def note_rates(brain):
    """Note the rate of each step that is made, by its number."""
    step = brain._step

    def noting(count):
        norm = step(count)
        brain.rates.append((brain.optimizer_step, brain.schedule.rate))
        return norm

    brain._step = noting


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


@pytest.mark.parametrize(
    ("changes", "batches", "steps"),
    [
        ({"batch_size": 5}, 2 + 2, 1 + 1),  # ten items are left
        ({"grad_accumulation_factor": 1}, 2 + 5, 1 + 5),
        ({"grad_accumulation_factor": 3}, 2 + 5, 1 + 2),
        ({"batch_size": 3, "grad_accumulation_factor": 3, "batches_per_epoch": 4}, 2 + 3, 1 + 1),  # 12 items, 8 left
    ],
)
def test_other_batches_in_mid_epoch_take_every_item_once(tmp_path, changes, batches, steps):
    killed = train(tmp_path, killed_at=10)  # two batches of the second epoch are in a checkpoint, one window
    before = killed.data.seen[14:18]
    resumed = train(tmp_path, **changes)
    wanted = killed.train_batches
    wanted.set_epoch(2)
    order = [(2, index) for batch in wanted for index in batch]
    taken = 12 if "batches_per_epoch" in changes else 14
    assert before + resumed.data.seen == order[:taken]
    assert len(resumed.train_batches) == batches and resumed.optimizer_step == 4 + steps
    (entry,) = figures(resumed)
    assert entry["epoch"] == 2 and resumed.stats.count == 3  # of validation
    assert entry["train_stats"]["dropped"] + entry["train_stats"]["nonfinite"] == 0


def test_the_end_of_an_epoch_bears_any_change(tmp_path):
    train(tmp_path, epochs=1)
    resumed = train(tmp_path, batch_size=4, num_items=9, seed=5)
    assert sorted(resumed.data.seen) == [(2, index) for index in range(9)]


@pytest.mark.parametrize("changes", [{"num_items": 12}, {"seed": 5}])
def test_another_order_in_mid_epoch_is_refused(tmp_path, changes):
    train(tmp_path, killed_at=10)
    with pytest.raises(
        InputError, match="data_order.ckpt: was saved within an epoch, which now has other examples or another order"
    ):
        train(tmp_path, **changes)


@pytest.mark.parametrize("name", EVERY)
def test_rates_resume_in_mid_epoch(tmp_path, name):
    """Those of an uninterrupted run, for every schedule, whichever counts steps and whichever epochs."""
    options = {"ema_decay": None, "masknet_width": 8, "ckpt_interval_steps": 4}
    whole = train(tmp_path / "whole", lr_scheduler=EVERY[name][0](), **options)
    killed = train(tmp_path / "killed", lr_scheduler=EVERY[name][0](), killed_at=12, **options)
    resumed = train(tmp_path / "killed", lr_scheduler=EVERY[name][0](), **options)
    assert [number for number, _ in killed.rates] == [1, 2, 3, 4, 5, 6]
    assert [number for number, _ in resumed.rates] == [7, 8]
    assert killed.rates + resumed.rates == whole.rates
    assert resumed.schedule.rate == whole.schedule.rate  # what a third epoch would begin with
    tables = [pd.read_csv(tmp_path / run / TABLE_FILE)["lr"].tolist() for run in ("whole", "killed")]
    assert tables[0] == tables[1]


def test_the_epochs_are_logged(tmp_path):
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
    assert brain.stats.count == 3 and len(brain.train_batches) == 3  # three of validation, all of them
    assert pd.read_csv(tmp_path / TABLE_FILE)["train_dropped"].tolist() == [0]


def test_a_training_that_begins_again_leaves_no_epochs_of_the_last(tmp_path):
    """As after its checkpoints were removed: rows of later epochs are of what was discarded."""
    history = History(tmp_path)
    for epoch, score in ((1, 11.0), (2, 12.0), (3, 13.0), (2, 0.5)):
        history.add({"epoch": epoch, "score": score})
    assert pd.read_csv(tmp_path / TABLE_FILE).to_numpy().tolist() == [[1.0, 11.0], [2.0, 0.5]]


def test_without_matplotlib_training_continues(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    history = History(tmp_path)
    with caplog.at_level(logging.WARNING):
        for epoch in (1, 2):
            history.add({"epoch": epoch, "lr": 0.1})
            history.draw()
    assert [r.getMessage() for r in caplog.records] == [
        'training_curves.png is drawn by matplotlib, which is not installed: pip install "mossformer_sb[report]"'
    ]
    assert len(pd.read_csv(tmp_path / TABLE_FILE)) == 2


def test_tensorboard_resumes_at_its_epoch(tmp_path):
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
