"""Training with a time budget: what counts, when it ends, and that a resumed run keeps counting."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import speechbrain as sb
import torch
from speechbrain.utils.epoch_loop import EpochCounter
from torch.utils.data import Dataset

from mossformer_sb import InputError, MossFormerMaskNet
from mossformer_sb.data.datasets import Mixture
from mossformer_sb.training.budget import RunningClock, TimeBudget
from mossformer_sb.training.checkpoints import Checkpointer
from mossformer_sb.training.schedules import choose_schedule
from tests.unit.brains import Recorder, batch_of, fit, make_brain, parameters

ROOT = Path(__file__).parents[2]
STEP_SECONDS = 6.0  # of the clock that stands for the real one


class TestClock:
    def test_runs_with_the_time(self):
        clock, start = RunningClock(), time.monotonic()
        time.sleep(0.3)
        assert clock.seconds() == pytest.approx(time.monotonic() - start, abs=0.1)

    @pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system has no SIGSTOP")
    def test_a_stopped_process_adds_nothing(self):
        program = (
            "import time; from mossformer_sb.training.budget import RunningClock\n"
            "clock, start = RunningClock(), time.monotonic()\n"
            "print('ready', flush=True)\n"
            "while time.monotonic() - start < 5: time.sleep(0.05)\n"
            "print(clock.seconds(), time.monotonic() - start)\n"
        )
        with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(4)
            os.kill(process.pid, signal.SIGCONT)
            running, wall = map(float, process.stdout.readline().split())
        assert wall > 4.9 and running < wall - 3.5


class TestTimeBudget:
    @pytest.mark.parametrize("value", [0, -1, "long", True, float("nan"), float("inf")])
    def test_what_is_no_time(self, value):
        with pytest.raises(InputError, match="train_minutes must be a number of minutes greater than 0"):
            TimeBudget(value)
        with pytest.raises(InputError, match="epoch_minutes must be"):
            TimeBudget(1, value)

    def test_without_a_limit_the_counter_decides(self):
        budget = TimeBudget()
        budget.add(1e9)
        assert not budget.is_spent and budget.share == 0 and list(budget.epochs(EpochCounter(3))) == [1, 2, 3]

    def test_with_a_limit_the_time_decides(self):
        budget, seen = TimeBudget(minutes=1), []
        for epoch in budget.epochs(EpochCounter(1)):
            seen.append(epoch)
            budget.add(25)
        assert seen == [1, 2, 3] and budget.is_spent and budget.share == 1

    def test_a_finished_training_has_no_epoch_left(self, tmp_path):
        budget, resumed = TimeBudget(minutes=1), TimeBudget(minutes=1)
        budget.add(61)
        budget.save(tmp_path / "budget.ckpt")
        resumed.load(tmp_path / "budget.ckpt", end_of_epoch=True)
        assert list(resumed.epochs(EpochCounter(9))) == []


class Noise(Dataset):
    """Mixtures that are a function of (epoch, index)."""

    def __init__(self, num_items):
        self.num_items, self.epoch, self.seen = num_items, 0, []

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.num_items

    def __getitem__(self, index):
        self.seen.append((self.epoch, index))
        generator = torch.Generator().manual_seed(1000 * self.epoch + index)
        sources = torch.randn(320, 2, generator=generator)
        return Mixture(str(index), sources.sum(1), sources)


class StepClock:
    """Goes on by a fixed time with each training step, and by any time with what is none."""

    def __init__(self, brain):
        self.now, fit_batch = 0.0, brain.fit_batch

        def timed(batch):
            self.now += STEP_SECONDS
            return fit_batch(batch)

        brain.fit_batch = timed

    def seconds(self):
        return self.now


class Killed(Exception):
    """Stands for the end of a process."""


def test_a_step_with_an_example_that_is_not_finite_takes_its_time_too(tmp_path):
    brain = make_brain(tmp_path, train_minutes=1.0)
    brain._clock, brain._last_seconds = StepClock(brain), 0.0
    batch = batch_of(3)
    batch.mixture[1, 5] = float("nan")
    fit(brain, batch)
    assert brain.stats.nonfinite == 1 and brain.budget.used == STEP_SECONDS


def train(folder, train_minutes=1.2, epoch_minutes=0.5, killed_at=None, **hparams):
    """Twelve steps of six seconds, five of them an epoch; validation takes an hour."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    counter = EpochCounter(1)
    chosen = choose_schedule("one_cycle", 0.01, 1, warmup_share=0.2, decay_share=0.4, train_minutes=train_minutes)
    brain = make_brain(
        folder,
        checkpointer=Checkpointer(folder / "save", {"epoch_counter": counter}),
        masknet=MossFormerMaskNet(8, 16, num_blocks=1, group_size=16, query_key_dim=16, dropout=0.2),
        train_minutes=train_minutes,
        epoch_minutes=epoch_minutes,
        lr_scheduler=chosen,
        epoch_counter=counter,
        train_logger=Recorder(),
        ckpt_interval_steps=1,
        noprogressbar=True,
        **hparams,
    )
    brain.history.draw = lambda: None
    brain.checkpointer.add_recoverables(dict(brain.modules))
    brain.checkpointer.add_recoverables({"brain": brain})
    brain._clock, brain.rates = StepClock(brain), []
    step, on_stage_end = brain._step, brain.on_stage_end

    def noting(count):
        if killed_at == len(brain.rates):
            raise Killed
        norm = step(count)
        brain.rates.append(brain.schedule.rate)
        return norm

    def slow(stage, *args):
        if stage == sb.Stage.VALID:
            brain._clock.now += 3600
        on_stage_end(stage, *args)

    brain._step, brain.on_stage_end = noting, slow
    brain.data = Noise(100)
    try:
        brain.fit(counter, brain.data, Noise(1), train_loader_kwargs={"batch_size": 2, "shuffle": True})
    except Killed:
        pass
    return brain


def epochs(brain):
    return [entry["epoch"] for entry in brain.hparams.train_logger.entries]


def test_training_ends_with_the_time_and_epochs_with_theirs(tmp_path):
    brain = train(tmp_path)
    assert brain.optimizer_step == 12 and epochs(brain) == [1, 2, 3]
    seconds = [entry["train_stats"]["seconds"] for entry in brain.hparams.train_logger.entries]
    assert seconds == [30, 30, 12] and brain.budget.used == 72  # the hours of validation are no part of it


def test_an_epoch_without_a_limit_takes_every_item_once(tmp_path):
    brain = train(tmp_path, train_minutes=6, epoch_minutes=None)
    assert brain.optimizer_step == 60 and epochs(brain) == [1, 2]
    assert sorted(index for epoch, index in brain.data.seen if epoch == 1) == list(range(100))


def test_the_rate_follows_the_share_of_the_time(tmp_path):
    brain = train(tmp_path)
    schedule = brain.hparams.lr_scheduler
    assert brain.rates == pytest.approx([schedule.rate_at(step / 12) for step in range(12)])
    assert max(brain.rates) == brain.rates[3] == brain.rates[7] == 0.01 > brain.rates[8] > brain.rates[11]


@pytest.mark.parametrize("killed_at", [3, 5, 7])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, killed_at):
    """The clock here is exact, and so is everything else."""
    whole = train(tmp_path / "whole")
    killed = train(tmp_path / "killed", killed_at=killed_at)
    resumed = train(tmp_path / "killed")
    assert killed.rates + resumed.rates == whole.rates
    assert torch.equal(parameters(resumed), parameters(whole)) and resumed.budget.used == whole.budget.used
    assert epochs(killed) + epochs(resumed) == epochs(whole)


def test_windows_of_several_batches_are_never_cut(tmp_path):
    brain = train(tmp_path, grad_accumulation_factor=2)
    assert epochs(brain) == [1, 2] and brain.optimizer_step == 6  # epochs of six and of six batches


def test_a_finished_run_resumes_with_a_larger_budget(tmp_path, caplog):
    train(tmp_path)
    assert train(tmp_path).rates == []
    with caplog.at_level(logging.INFO):
        longer = train(tmp_path, train_minutes=2.0)
    assert longer.optimizer_step == 20 and len(longer.rates) == 8
    assert longer.rates[0] == longer.hparams.lr_scheduler.rate_at(12 / 20) == 0.01
    moved = "train_minutes was 1.2: with 2 now, the learning rate continues with 0.01 instead of 4e-08"
    assert moved in [record.getMessage() for record in caplog.records]


def test_an_epoch_that_has_begun_is_validated_though_no_time_is_left(tmp_path):
    train(tmp_path, killed_at=8)  # 48 seconds
    resumed = train(tmp_path, train_minutes=0.5)
    assert resumed.rates == [] and epochs(resumed) == [2]
    assert resumed.hparams.train_logger.entries[0]["train_stats"]["seconds"] == 18
    assert epochs(train(tmp_path, train_minutes=0.5)) == []


def test_a_checkpoint_without_a_budget_can_get_one(tmp_path):
    """A run that was begun by epochs, or by a version that knew of no time."""
    brain = train(tmp_path, killed_at=4)
    for file in (tmp_path / "save").glob("*/time_budget.ckpt"):
        file.unlink()
    for file in (tmp_path / "save").glob("*/files.json"):
        file.unlink()
    resumed = train(tmp_path)
    assert brain.budget.used == 24 and resumed.budget.used == 72 and resumed.optimizer_step == 4 + 12


def test_progress_shows_the_time_left(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train(tmp_path)
    lines = [record.getMessage() for record in caplog.records if "minutes left" in record.getMessage()]
    assert lines and lines[0].startswith("epoch 1, step 1: mean loss ") and lines[0].endswith("1.1 of 1.2 minutes left")
