"""Every schedule sets its rates at the right time, and resumes from a checkpoint."""

import functools
import inspect
import math

import pytest
import torch
from speechbrain.nnet import schedulers as stock
from torch.optim import lr_scheduler

from mossformer_sb import InputError
from mossformer_sb.training.schedules import OneCycle, Schedule, choose_schedule, supported

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
    "one_cycle": (
        lambda: OneCycle(1.0, total_steps=8, warmup_share=0.25, decay_share=0.5),
        [0.52, 1.0, 1.0, 1.0, 0.8536, 0.5, 0.1464, 4e-6],
    ),
    "CyclicLR": (
        lambda: functools.partial(
            lr_scheduler.CyclicLR,
            base_lr=0.2,
            max_lr=1.0,
            step_size_up=2,
            mode="exp_range",
            gamma=0.5,
            cycle_momentum=False,
        ),
        [
            0.2,
            0.2 + 0.4 * 0.5,
            0.2 + 0.8 * 0.25,
            0.2 + 0.4 * 0.125,
            0.2,
            0.2 + 0.4 * 0.5**5,
            0.2 + 0.8 * 0.5**6,
            0.2 + 0.4 * 0.5**7,
        ],
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
    "LambdaLR": (
        lambda: functools.partial(lr_scheduler.LambdaLR, lr_lambda=lambda n: 1 / (n + 1)),
        [1, 1 / 2, 1 / 3, 1 / 4],
    ),
    "MultiplicativeLR": (
        lambda: functools.partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda n: 1 / (n + 1)),
        [1, 1 / 2, 1 / 6, 1 / 24],
    ),
    "MultiStepLR": (
        lambda: functools.partial(lr_scheduler.MultiStepLR, milestones=[1, 3], gamma=0.1),
        [1.0, 0.1, 0.1, 0.01],
    ),
    "ConstantLR": (lambda: functools.partial(lr_scheduler.ConstantLR, factor=0.1, total_iters=3), [0.1, 0.1, 0.1, 1.0]),
    "LinearLR": (
        lambda: functools.partial(lr_scheduler.LinearLR, start_factor=0.25, total_iters=3),
        [0.25, 0.5, 0.75, 1.0],
    ),
    "ExponentialLR": (lambda: functools.partial(lr_scheduler.ExponentialLR, gamma=0.5), [1.0, 0.5, 0.25, 0.125]),
    "PolynomialLR": (
        lambda: functools.partial(lr_scheduler.PolynomialLR, total_iters=4, power=2.0),
        [1.0, 9 / 16, 4 / 16, 1 / 16],
    ),
    "CosineAnnealingLR": (
        lambda: functools.partial(lr_scheduler.CosineAnnealingLR, T_max=3),
        [1.0, 0.75, 0.25, 0.0],
    ),
    "CosineAnnealingWarmRestarts": (
        lambda: functools.partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=1, T_mult=2),
        [1.0, 1.0, 0.5, 1.0],
    ),
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


def saved_and_loaded(name, folder):
    """A schedule after two epochs, and the same one from its checkpoint."""
    before, after = start(name), start(name)
    rates(before, (1, 2))
    before.save(folder / "schedule.ckpt")
    after.load(folder / "schedule.ckpt", end_of_epoch=True)
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    return before, after


@pytest.mark.parametrize("name", EVERY)
def test_resumes_from_a_checkpoint(name, tmp_path):
    _, after = saved_and_loaded(name, tmp_path)
    assert rates(after, (3, 4)) == pytest.approx(expected(name)[2 * STEPS_IN_EPOCH :], rel=1e-3, abs=1e-9)


def test_a_checkpoint_keeps_no_configuration(tmp_path):
    """A prolonged training needs the new schedule, from its current position."""
    start("LinearScheduler").save(tmp_path / "schedule.ckpt")
    longer = Schedule(stock.LinearScheduler(1.0, 0.5, 2), start("constant").optimizer)
    longer.load(tmp_path / "schedule.ckpt", end_of_epoch=True)
    longer.after_epoch(1, 0.0)
    assert longer.rate == 0.5


@pytest.mark.parametrize("name", EVERY)
def test_resumed_with_the_same_settings_nothing_changes(name, tmp_path):
    before, after = saved_and_loaded(name, tmp_path)
    after.resumed(epochs_done=2)
    assert rates(after, (3, 4)) == rates(before, (3, 4))


class TestResumedWithOtherSettings:
    def resume(self, folder, scheduler, again, lr, weight_decay=0.1, epochs_done=2):
        """Two epochs with a rate of 1, then a checkpoint, from which a run with ``lr`` resumes."""

        def schedule(scheduler, lr, weight_decay):
            group = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "weight_decay": weight_decay}
            return Schedule(scheduler, torch.optim.AdamW([group, {**group, "params": [torch.zeros(2)], "lr": 2 * lr}]))

        before = schedule(scheduler, 1.0, 0.2)
        for epoch in (1, 2):
            before.after_epoch(epoch, LOSSES[epoch - 1])
        before.save(folder / "schedule.ckpt")
        after = schedule(again, lr, weight_decay)
        after.load(folder / "schedule.ckpt", end_of_epoch=True)
        after.optimizer.load_state_dict(before.optimizer.state_dict())
        after.resumed(epochs_done)
        return after

    @pytest.mark.parametrize("of_torch", [False, True])
    def test_a_constant_rate_or_a_plateau_is_scaled(self, tmp_path, of_torch, caplog):
        scheduler = functools.partial(lr_scheduler.ReduceLROnPlateau, patience=5) if of_torch else None
        with caplog.at_level("INFO"):
            after = self.resume(tmp_path, scheduler, scheduler, lr=0.01)
        assert [group["lr"] for group in after.optimizer.param_groups] == pytest.approx([0.01, 0.02])
        assert [group["weight_decay"] for group in after.optimizer.param_groups] == [0.1, 0.1]
        assert "lr was 1: with 0.01 now, the learning rate is 0.01" in caplog.messages
        assert "weight_decay was 0.2, and is 0.1 now" in caplog.messages

    def test_what_a_schedule_has_done_stays(self, tmp_path):
        of_torch = functools.partial(lr_scheduler.StepLR, step_size=1, gamma=0.5)
        assert self.resume(tmp_path, of_torch, of_torch, lr=0.1).rate == pytest.approx(0.1 / 4)
        newbob = [stock.NewBobScheduler(1.0, patient=0, improvement_threshold=2.0) for _ in range(2)]
        after = self.resume(tmp_path, *newbob, lr=0.1)
        assert after.rate == pytest.approx(0.05)
        after.after_epoch(3, LOSSES[2])
        assert after.rate == pytest.approx(0.025)

    @pytest.mark.parametrize("number_of_epochs, rate", [(2, 0.0), (5, 0.05)])
    def test_linear_follows_its_rate_and_its_epochs_at_once(self, tmp_path, number_of_epochs, rate):
        finished, longer = stock.LinearScheduler(1.0, 0.0, 2), stock.LinearScheduler(0.1, 0.0, number_of_epochs)
        assert self.resume(tmp_path, finished, longer, lr=0.1).rate == pytest.approx(rate)

    @pytest.mark.parametrize("lr", [1.0, 0.5])
    def test_torchs_follow_their_new_configuration(self, tmp_path, lr):
        def cosine(epochs):
            return functools.partial(lr_scheduler.CosineAnnealingLR, T_max=epochs)

        resumed = self.resume(tmp_path, cosine(2), cosine(6), lr=lr)
        for epoch in (3, 4, 5, 6):
            assert resumed.rate == pytest.approx(lr * (1 + math.cos(math.pi * (epoch - 1) / 6)) / 2)
            resumed.after_epoch(epoch, 0.0)

    def test_nested_ones_of_torch_too(self, tmp_path):
        def nested(gamma, milestone):
            def build(optimizer):
                parts = [lr_scheduler.ConstantLR(optimizer, 1.0, 1), lr_scheduler.ExponentialLR(optimizer, gamma)]
                return lr_scheduler.SequentialLR(optimizer, parts, [milestone])

            build.func = lr_scheduler.SequentialLR
            return build

        resumed = self.resume(tmp_path, nested(0.5, 3), nested(0.1, 3), lr=1.0)
        rates = []
        for epoch in (3, 4, 5):
            resumed.after_epoch(epoch, 0.0)
            rates.append(resumed.rate)
        assert rates == pytest.approx([1.0, 0.1, 0.01])

    @pytest.mark.parametrize(
        ("again", "rate"),
        [(lambda: stock.ReduceLROnPlateau(dont_halve_until_epoch=85), 0.3), (lambda: None, 0.3)]
        + [(lambda: stock.LinearScheduler(0.3, 0.0, 4), 0.1), (lambda: OneCycle(0.3, 10, 0.5), 0.3 / 25)],
    )
    def test_another_kind_begins_with_the_given_rate(self, tmp_path, again, rate, caplog):
        caplog.set_level("INFO")
        resumed = self.resume(tmp_path, stock.StepScheduler(1.0), again(), lr=0.3)
        assert resumed.rate == pytest.approx(rate)
        assert "The scheduler was StepScheduler, and is " in caplog.text

    def test_checkpoints_of_earlier_versions_know_of_no_settings(self, tmp_path):
        torch.save({}, tmp_path / "schedule.ckpt")
        schedule = start("constant")
        schedule.load(tmp_path / "schedule.ckpt", end_of_epoch=True)
        schedule.resumed(epochs_done=1)
        assert schedule.rate == 1.0


def test_every_schedule_of_speechbrain_is_tested_or_refused():
    module = inspect.getmodule(stock.NoamScheduler)
    classes = {name for name, _ in inspect.getmembers(module, inspect.isclass) if name[0] != "_"}
    own = {name for name in classes if getattr(module, name).__module__ == module.__name__}
    assert own - set(EVERY) == {"ScheduledLoss"} and set(supported()) == own - {"ScheduledLoss"}


def test_every_schedule_of_torch_is_tested_or_made_of_others():
    classes = inspect.getmembers(
        lr_scheduler, lambda obj: inspect.isclass(obj) and issubclass(obj, lr_scheduler.LRScheduler)
    )
    names = {name for name, _ in classes if name[0] != "_"} - {"LRScheduler"}
    # Those that are left take schedules, which take optimisers. One name is SpeechBrain's too, so it is in twice.
    assert names - set(EVERY) == {"SequentialLR", "ChainedScheduler"} and "torch's ReduceLROnPlateau" in EVERY


@pytest.mark.parametrize("scheduler", [torch.nn.Linear(1, 1), stock.StepScheduler, 0.5, lambda epoch: 1.0])
def test_other_objects_than_schedules_are_refused(scheduler):
    with pytest.raises(
        InputError, match="lr_scheduler: unsupported scheduler .*NoamScheduler.*torch.optim.lr_scheduler"
    ):
        Schedule(scheduler, start("constant").optimizer)


def test_torch_schedule_that_lacks_an_argument():
    with pytest.raises(InputError, match="lr_scheduler: torch's StepLR can't be built .*step_size"):
        Schedule(lr_scheduler.StepLR, start("constant").optimizer)


class TestByName:
    """`choose_schedule`, for the experiments with baselines."""

    def rates(self, schedule, steps):
        found = []
        for step in range(1, steps + 1):
            schedule.before_step(step)
            schedule.optimizer.step()
            found.append(schedule.rate)
        return found

    def test_one_cycle_rises_falls_and_ends_with_the_budget(self):
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        chosen = OneCycle(0.5, 40, warmup_share=0.25)
        rates = self.rates(Schedule(chosen, optimizer), 40)
        assert max(rates) == pytest.approx(0.5) and rates.index(max(rates)) == 9
        assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
        assert rates[-1] < 1e-5 and optimizer.param_groups[0]["betas"] == (0.9, 0.999)

    def test_the_shortest_budget(self):
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        schedule = Schedule(OneCycle(0.5, 4), optimizer)
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

    def test_one_cycle_falls_as_torchs_does(self):
        optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5) for _ in range(2)]
        ours = OneCycle(0.5, 40, warmup_share=0.25)
        torchs = functools.partial(lr_scheduler.OneCycleLR, max_lr=0.5, total_steps=40, pct_start=0.25)
        ours, torchs = (self.rates(Schedule(*pair), 40) for pair in zip((ours, torchs), optimizers, strict=True))
        assert ours[9:] == pytest.approx(torchs[9:], rel=1e-6)  # it rises from step 1, not 0

    def test_one_cycle_follows_the_time_that_is_used(self):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        chosen = choose_schedule("one_cycle", 0.5, 1, warmup_share=0.1, decay_share=0.5, train_minutes=60)
        schedule = Schedule(chosen, optimizer)
        rates = {0.0: 0.02, 0.05: 0.26, 0.1: 0.5, 0.3: 0.5, 0.5: 0.5, 0.75: 0.25, 1.0: 2e-6, 1.5: 2e-6}
        assert schedule.rate == pytest.approx(rates[0.0])
        for step, (share, rate) in enumerate(rates.items(), 1):
            schedule.before_step(step, share)
            assert schedule.rate == pytest.approx(rate, rel=1e-3, abs=1e-6)

    def test_shares_are_as_given_whenever_the_steps_are_known(self):
        later = OneCycle(0.5, None, warmup_share=0.0, decay_share=1.0 - 2 / 40)
        with pytest.raises(InputError, match="warmup_share 0.5 and decay_share 0.95"):
            later.for_steps(4)
        later.for_steps(40)
        assert later.warmup_share == 2 / 40

    def test_a_schedule_by_time_needs_the_time(self):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        schedule = Schedule(choose_schedule("one_cycle", 0.5, 1, train_minutes=60), optimizer)
        with pytest.raises(InputError, match="has no number of steps: give it"):
            schedule.before_step(1)

    @pytest.mark.parametrize("shares", [(0.6, 0.5), (-0.1, 0.5), (0.1, 0.0), (1.0, None)])
    def test_shares_that_are_none(self, shares):
        with pytest.raises(InputError, match="warmup_share .* decay_share .* such as 0.05 and 0.25"):
            choose_schedule("one_cycle", 0.5, 1, *shares, train_minutes=60)

    @pytest.mark.parametrize(("final_lr", "expected"), [(0.5, [1.0, 0.75, 0.5]), (0.0, [1.0, 2 / 3, 1 / 3])])
    def test_linear(self, final_lr, expected):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = Schedule(choose_schedule("linear", 1.0, number_of_epochs=3, final_lr=final_lr), optimizer)
        rates = []
        for epoch in (1, 2, 3):
            rates.append(schedule.rate)
            schedule.after_epoch(epoch, loss=0.0)
        assert rates == pytest.approx(expected)

    def test_linear_has_no_end_in_a_time_budget(self):
        with pytest.raises(InputError, match="'linear' follows number_of_epochs, which train_minutes: 60 replaces"):
            choose_schedule("linear", 1.0, number_of_epochs=3, train_minutes=60)

    def test_messages(self):
        with pytest.raises(InputError, match="'cosine' is not known: choose one of plateau, linear, one_cycle"):
            choose_schedule("cosine", 0.5, 4)
        with pytest.raises(InputError, match="needs 4 steps or more in all epochs; found 3"):
            OneCycle(0.5, 3)
