"""The Brain: losses, gradients, skipped examples, averages and loaders, on a tiny separator."""

import pytest
import speechbrain as sb
import torch
from speechbrain.lobes.models.dual_path import Decoder, Encoder
from speechbrain.utils.epoch_loop import EpochCounter

from mossformer_sb import InputError, MossFormerMaskNet
from mossformer_sb.data.datasets import Mixture, SeparationBatch
from mossformer_sb.training.checkpoint_checks import check_checkpoints
from mossformer_sb.training.checkpoints import Checkpointer
from mossformer_sb.training.epoch_stats import StageStats
from mossformer_sb.training.schedules import OneCycle, choose_schedule
from tests.unit.brains import Gains, batch_of, fit, make_brain, parameters


def test_a_batch_moves_the_weights(tmp_path):
    loss, moved = fit(make_brain(tmp_path), batch_of())
    assert moved and loss.isfinite()


def test_mixed_precision_trains_and_keeps_the_loss_in_float32(tmp_path):
    masknet = MossFormerMaskNet(8, 16, num_blocks=1, group_size=32, query_key_dim=32)
    brain = make_brain(tmp_path, masknet=masknet, precision="bf16")
    seen = []
    masknet.blocks[0].to_values.linear.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    loss, moved = fit(brain, batch_of())
    assert moved and loss.isfinite()
    assert seen == [torch.bfloat16] and loss.dtype == torch.float32


def test_half_precision_on_a_cpu_is_refused_with_a_message(tmp_path):
    with pytest.raises(InputError, match="SpeechBrain can't run with these options: .*fp16"):
        make_brain(tmp_path, precision="fp16")


def test_an_optimizer_that_cannot_be_built_is_refused(tmp_path):
    brain = make_brain(tmp_path)
    brain.opt_class = lambda parameters: torch.optim.Adam(parameters, lr=-1.0)
    with pytest.raises(InputError, match="opt_class can't be built: Invalid learning rate: -1.0. Check lr"):
        brain.init_optimizers()


def test_examples_below_the_loss_threshold_are_skipped_and_counted(tmp_path):
    brain = make_brain(tmp_path, threshold=1000.0)  # every loss is below
    fit(brain, batch_of())
    assert (brain.stats.count, brain.stats.dropped) == (0, 2)


def test_a_batch_with_nothing_left_leaves_weights_and_momentum(tmp_path):
    brain = make_brain(tmp_path)
    fit(brain, batch_of())
    brain.hparams.threshold = 1000.0
    loss, moved = fit(brain, batch_of())
    assert not moved and loss == 0
    assert brain.stats.count == 2  # those of the first batch; no loss of zero in the mean
    assert brain.update_average(loss, 0.0) == -brain.stats.mean


def test_silent_examples_are_skipped(tmp_path):
    brain = make_brain(tmp_path, threshold=None)
    loss, moved = fit(brain, batch_of(num_items=3, silent=(1,)))
    assert moved and loss.isfinite()
    assert (brain.stats.count, brain.stats.dropped) == (2, 1)
    assert -loss.item() == pytest.approx(brain.stats.mean, rel=1e-6)


def test_an_example_with_one_active_speaker_is_trained_on(tmp_path):
    brain = make_brain(tmp_path, threshold=None)
    sources = torch.randn(800, 2) * torch.tensor([1.0, 0.0])
    item = Mixture("one", sources.sum(1) + 0.01 * torch.randn(800), sources)
    loss, moved = fit(brain, SeparationBatch.collate([item]))
    assert moved and loss.isfinite() and (brain.stats.count, brain.stats.dropped) == (1, 0)


def test_validation_has_no_loss_threshold(tmp_path):
    brain = make_brain(tmp_path, threshold=1000.0)
    brain.on_stage_start(sb.Stage.VALID, epoch=1)
    brain.evaluate_batch(batch_of(), sb.Stage.VALID)
    assert brain.stats.count == 2


def test_mean_is_over_examples_for_any_batches(tmp_path):
    brain = make_brain(tmp_path)
    batches = [batch_of(3), batch_of(1)]
    brain.on_stage_start(sb.Stage.VALID, epoch=1)
    losses = [brain.evaluate_batch(batch, sb.Stage.VALID).item() for batch in batches]
    assert -brain.stats.mean == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_networks_are_called_through_modules(tmp_path):
    """And not around a wrapper that was put there, as DDP's is: it would never synchronise gradients."""
    brain = make_brain(tmp_path)
    calls = []
    for name, module in brain.modules.items():
        brain.modules[name] = Wrapper(module, calls)
    fit(brain, batch_of())
    assert [type(module) for module in calls] == [Encoder, Gains, Decoder, Decoder]


class Wrapper(torch.nn.Module):
    """Notes its calls, and has its module where DDP has it."""

    def __init__(self, module, calls):
        super().__init__()
        self.module, self.calls = module, calls

    def forward(self, *args, **kwargs):
        self.calls.append(self.module)
        return self.module(*args, **kwargs)


def test_test_stage_scores_every_item_of_every_batch(tmp_path):
    brain = make_brain(tmp_path, n_audio_to_save=1)
    brain.on_stage_start(sb.Stage.TEST)
    for _ in range(2):
        brain.evaluate_batch(batch_of(3), sb.Stage.TEST)
    brain.on_stage_end(sb.Stage.TEST, 0.0)
    lines = (tmp_path / "test_results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["snt_id", "0", "1", "2", "0", "1", "2", "avg"]
    assert len(list((tmp_path / "audio").glob("*_mix.wav"))) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_source_that_is_not_finite_has_no_scores(tmp_path, value):
    """It would be taken for a silent one, and the other source's score for that of the mixture."""
    brain = make_brain(tmp_path)
    brain.on_stage_start(sb.Stage.TEST)
    batch = batch_of(3)
    batch.sources[1, 5, 0] = value
    with pytest.raises(InputError, match="1: NaN or infinity in its sources, so it has no scores"):
        brain.evaluate_batch(batch, sb.Stage.TEST)


def test_evaluation_needs_a_checkpoint(tmp_path):
    brain = make_brain(tmp_path, Checkpointer(tmp_path / "save"))
    with pytest.raises(InputError, match="save: holds no checkpoint to evaluate"):
        brain.on_evaluate_start(max_key="si-snr")


def test_evaluation_needs_a_checkpoint_that_was_validated(tmp_path):
    """One within the first epoch has no score, by which the best is chosen."""
    checkpointer = Checkpointer(tmp_path / "save")
    brain = make_brain(tmp_path, checkpointer)
    checkpointer.save_checkpoint(end_of_epoch=False)
    with pytest.raises(InputError, match="no checkpoint to evaluate, since its training was interrupted within"):
        check_checkpoints(checkpointer, test_only=True)
    with pytest.raises(InputError, match="interrupted within the first epoch. Resume it"):
        brain.load_best()


@pytest.mark.parametrize("num_to_keep, epochs", [(1, {2, 4}), (2, {2, 3, 4})])
def test_best_checkpoints_are_kept_beside_the_newest(tmp_path, num_to_keep, epochs):
    checkpointer = Checkpointer(tmp_path / "save")
    brain = make_brain(tmp_path, checkpointer, num_to_keep=num_to_keep)
    for epoch, loss in enumerate((-1.0, -5.0, -2.0, -3.0), start=1):
        brain.train_stats = {}
        brain._end_epoch(epoch, StageStats(si_snr=-loss, count=1))
    kept = {checkpoint.meta["epoch"]: checkpoint.meta["si-snr"] for checkpoint in checkpointer.list_checkpoints()}
    assert set(kept) == epochs and kept[2] == 5.0
    assert checkpointer.find_checkpoint(max_key="si-snr").meta["epoch"] == 2


def test_a_resumed_run_follows_its_own_learning_rate(tmp_path):
    for lr in (0.01, 0.001):
        brain = make_brain(tmp_path, Checkpointer(tmp_path / "save"), lr=lr)
        brain.on_fit_start()
        fit(brain, batch_of())
        assert brain.optimizer.param_groups[0]["lr"] == lr
        brain.checkpointer.save_checkpoint()


def test_intra_epoch_checkpoints_wait_for_the_optimisers_step(tmp_path):
    brain = make_brain(tmp_path, Checkpointer(tmp_path / "save"))
    brain.ckpt_interval_steps, brain.ckpt_interval_minutes, brain.grad_accumulation_factor = 1, 0, 4
    due = []
    for brain.step in range(1, 9):
        due.append(brain._should_save_intra_epoch_ckpt(0, steps_since_ckpt=1))
    assert due == [False, False, False, True] * 2


def test_the_gradient_is_the_mean_over_the_valid_examples(tmp_path):
    """Of all batches of a window, whatever their sizes."""
    batches = [batch_of(3, silent=(1,)), batch_of(1)]
    brain = make_brain(tmp_path, threshold=None, grad_accumulation_factor=2, max_grad_norm=-1)
    losses = [
        brain.compute_objectives(brain.compute_forward(batch, sb.Stage.VALID), batch, sb.Stage.VALID)
        for batch in batches
    ]
    expected = torch.autograd.grad(sum(losses) / 3, list(brain.modules.parameters()))
    seen = note_gradients(brain)
    for batch in batches:
        fit(brain, batch)
    for gradient, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(gradient, wanted)


def note_gradients(brain):
    """A list that gets the gradients with which the next step is made."""
    seen = []

    def note(optimizer, *_):
        seen.extend(p.grad.clone() for group in optimizer.param_groups for p in group["params"])

    brain.optimizer.register_step_pre_hook(note)
    return seen


@pytest.mark.parametrize(("max_norm", "clipped"), [(-1, False), (1e-3, True)])
def test_gradients_are_clipped_unless_the_norm_is_negative(tmp_path, max_norm, clipped):
    brain = make_brain(tmp_path, max_grad_norm=max_norm)
    seen = note_gradients(brain)
    fit(brain, batch_of())
    norm = torch.nn.utils.get_total_norm(seen).item()
    assert norm == pytest.approx(1e-3 if clipped else brain.stats.norm, rel=1e-3)
    assert brain.stats.norm_max == brain.stats.norm > 1e-2  # what the log shows is the norm before clipping


def test_an_item_that_is_not_finite_is_skipped_and_counted(tmp_path):
    brain = make_brain(tmp_path, max_grad_norm=-1)
    batch = batch_of(3)
    expected = make_brain(tmp_path, max_grad_norm=-1)
    expected.modules.load_state_dict(brain.modules.state_dict())
    seen, wanted = note_gradients(brain), note_gradients(expected)
    fit(expected, batch.select(torch.tensor([True, False, True])))
    batch.mixture[1, 5] = float("nan")
    loss, moved = fit(brain, batch)
    assert moved and loss.isfinite() and torch.isfinite(parameters(brain)).all()
    assert (brain.stats.count, brain.stats.nonfinite, brain.stats.dropped) == (2, 1, 0)
    for gradient, other in zip(seen, wanted, strict=True):
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize(("count", "is_cut"), [(10, False), (11, True)])
def test_a_warning_names_ten_examples(tmp_path, caplog, count, is_cut):
    batch = batch_of(count)
    batch.mixture[:] = float("nan")
    fit(make_brain(tmp_path), batch)
    assert f"{count} examples without a finite loss" in caplog.text and ("9, …" in caplog.text) == is_cut


def test_the_hook_after_a_batch_gets_batch_estimates_loss_and_whether_there_was_a_step(tmp_path):
    brain, batch, seen = make_brain(tmp_path), batch_of(), []
    brain.on_fit_batch_end = lambda *arguments: seen.append(arguments)
    loss, _ = fit(brain, batch)
    ((of_batch, estimates, of_loss, should_step),) = seen
    assert of_batch is batch and estimates.shape == batch.sources.shape and of_loss is loss and should_step is True


@pytest.mark.parametrize("where", ["mixture", "sources"])
def test_a_batch_of_nothing_finite_leaves_the_weights(tmp_path, where):
    brain = make_brain(tmp_path)
    fit(brain, batch_of())
    batch = batch_of()
    getattr(batch, where)[:, 3] = float("inf")
    loss, moved = fit(brain, batch)
    assert not moved and loss == 0
    assert (brain.stats.count, brain.stats.nonfinite) == (2, 2)


def test_exhausted_patience_ends_the_run_and_names_the_examples(tmp_path):
    brain = make_brain(tmp_path, nonfinite_patience=2)
    bad = batch_of()
    bad.mixture[1] = float("nan")
    for batch in (bad, batch_of(), bad, bad):  # a good step in between starts the count again
        fit(brain, batch)
    with pytest.raises(
        InputError, match=r"3 consecutive steps .*nonfinite_patience: 2.*1 examples without a finite loss \(1\)"
    ):
        fit(brain, bad)
    assert torch.isfinite(parameters(brain)).all()


def test_a_gradient_that_is_not_finite_skips_the_step(tmp_path):
    brain = make_brain(tmp_path, nonfinite_patience=1)
    fit(brain, batch_of())
    gains = brain.modules["masknet"].gains
    gains.register_hook(lambda gradient: gradient * float("inf"))
    _, moved = fit(brain, batch_of())
    assert not moved and (brain.stats.steps, brain.stats.skipped) == (1, 1)
    with pytest.raises(InputError, match=r"2 consecutive steps .*a gradient of norm (inf|nan) \(0, 1\)"):
        fit(brain, batch_of())
    assert torch.isfinite(parameters(brain)).all()


def test_the_scalers_own_search_is_no_failure(tmp_path):
    """As with fp16 on a GPU: it begins with a scale that is too great, on purpose."""
    brain = make_brain(tmp_path, nonfinite_patience=0)
    brain.scaler = torch.GradScaler("cpu", init_scale=1e38)
    _, moved = fit(brain, batch_of())
    assert not moved and brain.stats.skipped == 0 and brain.scaler.get_scale() < 1e38
    brain.scaler = torch.GradScaler("cpu", init_scale=2.0**10)
    before = brain.stats.norm
    _, moved = fit(brain, batch_of())
    assert moved and 0 < brain.stats.norm - before < 1e3


def test_a_gradient_that_no_scale_makes_finite_ends_the_run(tmp_path):
    """The scaler halves its scale with each of them: below 1 there is nothing left to find."""
    brain = make_brain(tmp_path, nonfinite_patience=1)
    brain.scaler = torch.GradScaler("cpu", init_scale=4.0)
    brain.modules["masknet"].gains.register_hook(lambda gradient: gradient * float("inf"))
    for _ in range(3):
        fit(brain, batch_of())
    assert brain.scaler.get_scale() == 0.5 and brain.stats.skipped == 1
    with pytest.raises(InputError, match="2 consecutive steps .*a gradient of norm"):
        fit(brain, batch_of())


def test_validation_counts_and_skips_non_finite_examples(tmp_path):
    brain = make_brain(tmp_path)
    brain.on_stage_start(sb.Stage.VALID, epoch=1)
    batch = batch_of(3)
    batch.mixture[0] = float("nan")
    brain.evaluate_batch(batch, sb.Stage.VALID)
    assert (brain.stats.count, brain.stats.nonfinite) == (2, 1)
    brain.train_stats = {}
    brain.on_stage_end(sb.Stage.VALID, 0.0, epoch=1)
    (entry,) = brain.hparams.train_logger.entries
    assert entry["valid_stats"] == {"si-snr": brain.stats.mean, "nonfinite": 1}


def test_averaged_weights_validate_and_raw_ones_train(tmp_path):
    brain = make_brain(tmp_path, Checkpointer(tmp_path / "save"), ema_decay=0.9)
    brain.checkpointer.add_recoverables(dict(brain.modules))
    for _ in range(3):
        fit(brain, batch_of())
    raw = parameters(brain)
    brain.on_stage_end(sb.Stage.TRAIN, 0.0, epoch=1)
    brain.on_stage_start(sb.Stage.VALID, epoch=1)
    average = parameters(brain)
    assert not torch.equal(average, raw)
    brain.on_stage_end(sb.Stage.VALID, 0.0, epoch=1)
    assert torch.equal(parameters(brain), raw)

    other = make_brain(tmp_path, Checkpointer(tmp_path / "save"), ema_decay=0.9)
    other.checkpointer.add_recoverables(dict(other.modules))
    other.on_evaluate_start(max_key="si-snr")
    other.on_stage_start(sb.Stage.TEST)
    other.scores.add("a", (1.0,) * 4)
    other.on_stage_end(sb.Stage.TEST, 0.0)
    assert torch.equal(parameters(other), average)  # and stay in place for the export


def test_averaged_weights_are_never_ignored(tmp_path):
    def brain(**hparams):
        checkpointer = Checkpointer(tmp_path / "save")
        made = make_brain(tmp_path, checkpointer, **hparams)
        checkpointer.add_recoverables(dict(made.modules))
        return made

    fit(trained := brain(ema_decay=0.9), batch_of())
    trained.checkpointer.save_checkpoint(meta={"si-snr": 1.0})
    with pytest.raises(InputError, match="holds averaged weights, by which it was chosen, .* no ema_decay: give"):
        brain().load_best()
    brain(ema_decay=0.5).load_best()


def test_statistics_resume_in_mid_epoch_and_are_reset_otherwise(tmp_path):
    brain = make_brain(tmp_path)
    brain.stats.merge(StageStats(si_snr=1.0, count=1))
    brain.step = 3  # as after recovery from an intra-epoch checkpoint
    brain.on_stage_start(sb.Stage.TRAIN, epoch=1)
    assert brain.stats.count == 1
    brain.step = 0
    brain.on_stage_start(sb.Stage.TRAIN, epoch=2)
    assert brain.stats.count == 0


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        (sb.Stage.TRAIN, {"drop_last": True}),
        (sb.Stage.TRAIN, {"sampler": [1, 2]}),
        (sb.Stage.VALID, {"shuffle": True}),
    ],
)
def test_conflicting_loader_arguments(tmp_path, stage, options):
    message = f"{stage.name.lower()}_loader: {next(iter(options))} can't be set: the sampler"
    with pytest.raises(InputError, match=message):
        make_brain(tmp_path).make_dataloader([], stage, batch_size=2, **options)


def test_batches_per_epoch_limits_training_alone(tmp_path):
    brain = make_brain(tmp_path, batches_per_epoch=2, grad_accumulation_factor=3)
    items = [Mixture(str(i), torch.zeros(16), torch.zeros(16, 2)) for i in range(9)]
    assert len(list(brain.make_dataloader(items, sb.Stage.TRAIN, batch_size=2))) == 2
    assert len(list(brain.make_dataloader(items, sb.Stage.VALID, batch_size=2))) == 5
    ends = []
    for brain.step in (1, 2):
        ends.append(brain._window_ends())
    assert ends == [False, True]  # the limit ends a window too


def train(folder, epochs, num_items=5, **hparams):
    counter = EpochCounter(epochs)
    checkpointer = Checkpointer(folder / "save", {"epoch_counter": counter})
    brain = make_brain(folder, checkpointer, epoch_counter=counter, noprogressbar=True, **hparams)
    brain.history.draw = lambda: None
    brain.checkpointer.add_recoverables({"brain": brain, **dict(brain.modules)})
    items = [Mixture(str(i), torch.randn(160), torch.randn(160, 2)) for i in range(num_items)]
    brain.fit(counter, items, items[:1])
    return brain


def test_a_run_that_has_taken_all_its_steps_begins_no_epoch(tmp_path):
    for _ in range(2):
        brain = train(tmp_path, epochs=9, optimizer_step_limit=7)
        assert brain.optimizer_step == 7 and brain.hparams.epoch_counter.current == 2
    more = train(tmp_path, epochs=9, optimizer_step_limit=11)
    assert more.optimizer_step == 11 and more.hparams.epoch_counter.current == 3


@pytest.mark.parametrize("threshold", [1000.0, float("nan")])
def test_an_epoch_in_which_no_example_is_used_ends_the_run(tmp_path, threshold):
    with pytest.raises(InputError, match="epoch 1: none of its 5 training examples was used.* threshold"):
        train(tmp_path, epochs=1, threshold=threshold)
    assert not Checkpointer(tmp_path / "save").list_checkpoints()


def gradient(brain, batches):
    """That of a step, [N], by the step that plain SGD at a rate of 1 takes."""
    before = parameters(brain).clone()
    for brain.step, batch in enumerate(batches, 1):
        brain.fit_batch(batch)
    return before - parameters(brain)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_gradient_of_each_batch_is_limited(tmp_path, damaged, scaled):
    """Alone, two batches have gradients of two norms; together with a limit between them, the greater is scaled."""

    def brain_of(**hparams):
        torch.manual_seed(0)
        brain = make_brain(tmp_path, max_grad_norm=-1, threshold=None, **hparams)
        brain.optimizer = torch.optim.SGD(brain.modules.parameters(), lr=1.0)
        brain.schedule.optimizer = brain.optimizer
        if scaled:
            brain.scaler = torch.GradScaler("cpu", init_scale=64.0)
        return brain

    torch.manual_seed(1)
    batches = [batch_of(num_items=1), batch_of(num_items=2)]
    alone = [gradient(brain_of(), [batch]) for batch in batches]
    norms = [found.norm().item() for found in alone]
    limit = sum(norms) / 2
    clipped = [found * min(1.0, limit / norm) for found, norm in zip(alone, norms, strict=True)]
    if damaged:  # the window is computed again without it
        bad = batch_of(num_items=1)
        bad.sources[:] = float("nan")
        batches.append(bad)
    options = {"grad_accumulation_factor": len(batches)}
    together = gradient(brain_of(max_batch_grad_norm=limit, **options), batches)
    expected = (clipped[0] + 2 * clipped[1]) / 3  # every example has the same weight
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-6)
    unlimited = gradient(brain_of(max_batch_grad_norm=1e9, **options), batches)
    torch.testing.assert_close(unlimited, gradient(brain_of(**options), batches), rtol=1e-4, atol=1e-6)
    assert (together - unlimited).norm() > 0.01 * unlimited.norm()


def test_a_gradient_that_is_not_finite_skips_the_step_also_where_it_is_limited(tmp_path):
    brain = make_brain(tmp_path, nonfinite_patience=1, max_batch_grad_norm=1.0)
    brain.modules["masknet"].gains.register_hook(lambda gradient: gradient * float("inf"))
    _, moved = fit(brain, batch_of())
    assert not moved and (brain.stats.steps, brain.stats.skipped) == (0, 1)


@pytest.mark.parametrize(("steps", "warns"), [(6, False), (5, True), (600, True)])
def test_one_cycle_with_another_number_of_steps_is_a_warning(tmp_path, caplog, steps, warns):
    train(tmp_path, epochs=2, grad_accumulation_factor=2, lr_scheduler=OneCycle(0.01, steps))
    assert (f"for {steps} steps in all, and this training has 6" in caplog.text) is warns


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 10),
        ({"grad_accumulation_factor": 2}, 6),
        ({"optimizer_step_limit": 7}, 7),
        ({"optimizer_step_limit": 100}, 10),
        ({"optimizer_step_limit": 7, "epoch_minutes": 60}, 7),
    ],
)
def test_one_cycle_ends_with_the_training(tmp_path, options, steps):
    brain = train(tmp_path, epochs=2, lr_scheduler=choose_schedule("one_cycle", 0.01, number_of_epochs=2), **options)
    assert brain.schedule.scheduler.total_steps == brain.optimizer_step == steps
    assert brain.schedule.rate == pytest.approx(0.01 / 25e4)


def test_one_cycle_resumed_with_more_epochs_goes_on_for_them(tmp_path):
    train(tmp_path, epochs=1, lr_scheduler=choose_schedule("one_cycle", 0.01, 1))
    brain = train(tmp_path, epochs=3, lr_scheduler=choose_schedule("one_cycle", 0.01, 3))
    assert brain.schedule.scheduler.total_steps == 15 and brain.schedule.rate == pytest.approx(0.01 / 25e4)


def test_one_cycle_without_a_known_end(tmp_path):
    with pytest.raises(InputError, match="neither is known: give train_minutes, or leave out epoch_minutes"):
        train(tmp_path, epochs=2, epoch_minutes=1, lr_scheduler=choose_schedule("one_cycle", 0.01, 2))


def test_loaders_leave_the_global_random_state_alone(tmp_path):
    brain = make_brain(tmp_path)
    items = [Mixture(str(i), torch.zeros(16), torch.zeros(16, 2)) for i in range(4)]
    loader = brain.make_dataloader(items, sb.Stage.TRAIN, batch_size=2, shuffle=True)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), before)


class TooLarge(Gains):
    """A mask net that takes more memory than there is."""

    def forward(self, x, lengths=None):
        torch.empty(2**50)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (sb.Stage.TRAIN, ["of training", "smaller --batch_size", "shorter --segment"]),
        (sb.Stage.VALID, ["of validation", "does not crop mixtures", "--valid_batch_size 1"]),
        (sb.Stage.TEST, ["of test", "does not crop mixtures", "--valid_batch_size 1"]),
    ],
)
def test_an_out_of_memory_error_names_the_batch(tmp_path, stage, words):
    brain = make_brain(tmp_path, masknet=TooLarge())
    batch = batch_of(num_items=7, num_samples=8000)
    with pytest.raises(InputError) as caught:
        if stage == sb.Stage.TRAIN:
            fit(brain, batch)
        else:
            brain.evaluate_batch(batch, stage)
    message = str(caught.value)
    for text in [*words, "0 (1.0 s), 1 (1.0 s)", "4 (1.0 s) and 2 more"]:
        assert text in message


def test_other_errors_are_not_reported_as_out_of_memory(tmp_path):
    brain = make_brain(tmp_path)
    batch = batch_of()
    batch.mixture = batch.mixture[0]
    with pytest.raises(InputError, match="a mixture must be"):
        brain.evaluate_batch(batch, sb.Stage.VALID)
    brain.modules["decoder"].forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        brain.evaluate_batch(batch_of(), sb.Stage.VALID)
