"""Every schedule sets the rates that it is for, at the right time, and goes on from a checkpoint."""

import functools
import inspect

import pytest
import torch
from speechbrain.nnet import schedulers as stock
from torch.optim import lr_scheduler

from mossformer_sb import InputError
from mossformer_sb.schedules import Schedule, choose_schedule, supported

LOSSES = (-1.0, -2.0, -1.5, -3.0)
STEPS_IN_EPOCH = 2
# From name to its maker, and the rates of the eight steps of four epochs. The optimiser starts with 1.
BY_STEP = {
    "NoamScheduler": (lambda: stock.NoamScheduler(1.0, 2), [0.5, 1.0, 0.8165, 0.7071, 0.6325, 0.5774, 0.5345, 0.5]),
    "NoamIntervalScheduler": (
        lambda: stock.NoamIntervalScheduler(1.0, 2, [4], [0.1]),
        [0.5, 1.0, 0.8165, 0.7071, 0.06325, 0.05774, 0.05345, 0.05],
    ),
    "LinearNoamScheduler": (
        lambda: stock.LinearNoamScheduler(1.0, 2, 2),
        [0.5, 1.0, 1.0, 1.0, 2 / 3, 0.5, 0.4, 1 / 3],
    ),
    "LinearWarmupScheduler": (
        lambda: stock.LinearWarmupScheduler(1.0, 2, 8),
        [0.5, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0],
    ),
    "WarmAndExpDecayLRSchedule": (
        lambda: stock.WarmAndExpDecayLRSchedule(1.0, 2, 4, 0.01),
        [0.0, 0.5, 1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5],
    ),
    "CyclicCosineScheduler": (
        lambda: stock.CyclicCosineScheduler(1, 1.0, 4),
        [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.1464, 0.5, 0.8536],
    ),
    "CyclicLRScheduler": (lambda: stock.CyclicLRScheduler(0.0, 1.0, 2), [0.5, 1.0, 0.5, 0.0, 0.5, 1.0, 0.5, 0.0]),
    "IntervalScheduler": (
        lambda: stock.IntervalScheduler([{"steps": 2, "lr": 0.1}, {"steps": 5, "lr": 0.01}]),
        [1.0, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01],
    ),
    "InverseSquareRootScheduler": (
        lambda: stock.InverseSquareRootScheduler(4),
        [0.5, 0.5, 0.5, 0.5, 0.4472, 0.4082, 0.378, 0.3536],
    ),
    "WarmCoolDecayLRSchedule": (
        lambda: stock.WarmCoolDecayLRSchedule(1.0, 2, 2, 8, 0.5, 1),
        [0.5, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.0078125, 0.0],
    ),
    "TriStageLRSchedule": (
        lambda: stock.TriStageLRSchedule(1.0, 2, 2, 2, 6, 0.5, 0.01),
        [0.75, 1.0, 1.0, 1.0, 0.1, 0.01, 0.001, 0.0001],
    ),
    "OneCycleLR": (
        lambda: functools.partial(
            lr_scheduler.OneCycleLR,
            max_lr=1.0,
            total_steps=8,
            pct_start=0.5,
            anneal_strategy="linear",
            three_phase=False,
            cycle_momentum=False,
            div_factor=4,
            final_div_factor=1,
        ),
        [0.25, 0.5, 0.75, 1.0, 0.8125, 0.625, 0.4375, 0.25],
    ),
}
# The same, with the rates of four epochs.
BY_EPOCH = {
    "LinearScheduler": (lambda: stock.LinearScheduler(1.0, 0.25, 4), [1.0, 0.75, 0.5, 0.25]),
    "StepScheduler": (lambda: stock.StepScheduler(1.0), [1.0, 0.5, 0.5, 0.25]),
    "ReduceLROnPlateau": (
        lambda: stock.ReduceLROnPlateau(factor=0.5, patience=0, dont_halve_until_epoch=0),
        [1.0, 1.0, 1.0, 0.5],
    ),
    "NewBobScheduler": (lambda: stock.NewBobScheduler(1.0), [1.0, 1.0, 1.0, 0.5]),
    "StepLR": (lambda: functools.partial(lr_scheduler.StepLR, step_size=2, gamma=0.1), [1.0, 1.0, 0.1, 0.1]),
    "torch's ReduceLROnPlateau": (
        lambda: functools.partial(lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0),
        [1.0, 1.0, 1.0, 0.5],
    ),
    "constant": (lambda: None, [1.0, 1.0, 1.0, 1.0]),
}
EVERY = {**BY_STEP, **BY_EPOCH}


def start(name):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return Schedule(EVERY[name][0](), optimizer)


def rates(schedule, epochs):
    """The rate of each step, as the Brain would have it."""
    seen = []
    for epoch in epochs:
        for step in range(STEPS_IN_EPOCH):
            schedule.before_step((epoch - 1) * STEPS_IN_EPOCH + step + 1)
            schedule.optimizer.step()
            seen.append(schedule.rate)
        schedule.after_epoch(epoch, LOSSES[epoch - 1])
    return seen


def expected(name):
    values = EVERY[name][1]
    return values if name in BY_STEP else [value for value in values for _ in range(STEPS_IN_EPOCH)]


@pytest.mark.parametrize("name", EVERY)
def test_rates(name):
    assert rates(start(name), (1, 2, 3, 4)) == pytest.approx(expected(name), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_goes_on_from_a_checkpoint(name, tmp_path):
    before, after = start(name), start(name)
    rates(before, (1, 2))
    before.save(tmp_path / "schedule.ckpt")
    after.load(tmp_path / "schedule.ckpt", end_of_epoch=True)
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    assert rates(after, (3, 4)) == pytest.approx(expected(name)[2 * STEPS_IN_EPOCH :], rel=1e-3, abs=1e-9)


def test_a_checkpoint_keeps_no_configuration(tmp_path):
    """Who prolongs a training wants the new schedule, from where it stands."""
    start("LinearScheduler").save(tmp_path / "schedule.ckpt")
    longer = Schedule(stock.LinearScheduler(1.0, 0.5, 2), start("constant").optimizer)
    longer.load(tmp_path / "schedule.ckpt", end_of_epoch=True)
    longer.after_epoch(1, 0.0)
    assert longer.rate == 0.5


def test_every_schedule_of_speechbrain_is_tested_or_refused():
    module = inspect.getmodule(stock.NoamScheduler)
    classes = {name for name, _ in inspect.getmembers(module, inspect.isclass) if name[0] != "_"}
    own = {name for name in classes if getattr(module, name).__module__ == module.__name__}
    assert own - set(EVERY) == {"ScheduledLoss"} and set(supported()) == own - {"ScheduledLoss"}


@pytest.mark.parametrize("scheduler", [torch.nn.Linear(1, 1), stock.StepScheduler, 0.5, lambda epoch: 1.0])
def test_what_is_no_schedule_is_refused(scheduler):
    with pytest.raises(
        InputError, match="lr_scheduler: unsupported scheduler .*NoamScheduler.*torch.optim.lr_scheduler"
    ):
        Schedule(scheduler, start("constant").optimizer)


def test_torch_schedule_that_lacks_an_argument():
    with pytest.raises(InputError, match="lr_scheduler: torch's StepLR can't be made .*step_size"):
        Schedule(lr_scheduler.StepLR, start("constant").optimizer)


class TestByName:
    """`choose_schedule`, for the experiments with peers."""

    def rates(self, schedule, steps):
        found = []
        for step in range(1, steps + 1):
            schedule.before_step(step)
            schedule.optimizer.step()
            found.append(schedule.rate)
        return found

    def test_one_cycle_rises_falls_and_ends_with_the_budget(self):
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        chosen = choose_schedule("one_cycle", 0.5, number_of_epochs=4, steps_per_epoch=10, warmup_share=0.25)
        rates = self.rates(Schedule(chosen, optimizer), 40)
        assert max(rates) == pytest.approx(0.5) and rates.index(max(rates)) == 9
        assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
        assert rates[-1] < 1e-5 and optimizer.param_groups[0]["betas"] == (0.9, 0.999)

    def test_the_shortest_budget(self):
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        schedule = Schedule(choose_schedule("one_cycle", 0.5, number_of_epochs=2, steps_per_epoch=2), optimizer)
        assert max(self.rates(schedule, 4)) == 0.5

    def test_plateau_is_constant_at_first(self):
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        schedule = Schedule(choose_schedule("plateau", 0.5, number_of_epochs=200), optimizer)
        assert not schedule.by_step and self.rates(schedule, 3) == [0.5] * 3
        rates = []
        for epoch in range(1, 91):
            schedule.after_epoch(epoch, loss=epoch / 10)  # it gets worse all the time
            rates.append(schedule.rate)
        assert set(rates[:85]) == {0.5} and rates[-1] < 0.5

    def test_messages(self):
        with pytest.raises(InputError, match="schedule 'cosine' is not known: choose one of plateau, one_cycle"):
            choose_schedule("cosine", 0.5, 4)
        with pytest.raises(InputError, match="needs 4 steps or more in all epochs; found 3"):
            choose_schedule("one_cycle", 0.5, 1, steps_per_epoch=3)
        with pytest.raises(InputError, match="steps_per_epoch is None: give the steps of an epoch"):
            choose_schedule("one_cycle", 0.5, 4)
