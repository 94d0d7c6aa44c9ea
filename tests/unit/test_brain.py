"""What the Brain does with losses, dropped items, schedules and random states, on a separator of one parameter."""

from types import SimpleNamespace

import pytest
import speechbrain as sb
import torch
from speechbrain.lobes.models.dual_path import Decoder, Encoder

from mossformer_sb import InputError, MossFormerMaskNet
from mossformer_sb.brain import SeparationBrain
from mossformer_sb.checkpoints import Checkpointer
from mossformer_sb.dataio import Mixture, SeparationBatch
from mossformer_sb.sums import StageSums


class Gains(torch.nn.Module):
    """Masks that are one learned gain for each speaker and channel."""

    def __init__(self, channels=8, num_spks=2):
        super().__init__()
        self.gains = torch.nn.Parameter(torch.rand(num_spks, 1, channels, 1))

    def forward(self, x, lengths=None):
        return self.gains.expand(-1, *x.shape)


def make_brain(tmp_path, checkpointer=None, masknet=None, **hparams):
    modules = {
        "encoder": Encoder(kernel_size=16, out_channels=8),
        "masknet": masknet or Gains(),
        "decoder": Decoder(in_channels=8, out_channels=1, kernel_size=16, stride=8, bias=False),
    }
    defaults = {
        "threshold": -30,
        "lr_scheduler": None,
        "sample_rate": 8000,
        "output_folder": str(tmp_path),
        "n_audio_to_save": 0,
        "train_logger": Recorder(),
        "epoch_counter": SimpleNamespace(current=1),
    }
    brain = SeparationBrain(
        modules, lambda p: torch.optim.Adam(p, 0.01), {**defaults, **hparams}, {"device": "cpu"}, checkpointer
    )
    brain.init_optimizers()
    brain.on_stage_start(sb.Stage.TRAIN, epoch=1)
    brain.nonfinite_count = 0
    return brain


class Recorder:
    """A train logger that keeps what it gets."""

    def __init__(self):
        self.entries = []

    def log_stats(self, stats_meta, **stats):
        self.entries.append({**stats_meta, **stats})


def batch_of(num_items=2, num_samples=800, silent=()):
    items = []
    for index in range(num_items):
        sources = torch.randn(num_samples, 2) * (index not in silent)
        items.append(Mixture(str(index), sources.sum(1) + 0.01 * torch.randn(num_samples), sources))
    return SeparationBatch.collate(items)


def parameters(brain):
    return torch.cat([p.detach().flatten().clone() for p in brain.modules.parameters()])


def fit(brain, batch):
    brain.step += 1
    before = parameters(brain)
    loss = brain.fit_batch(batch)
    return loss, not torch.equal(parameters(brain), before)


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


def test_items_that_are_good_enough_are_dropped_and_counted(tmp_path):
    brain = make_brain(tmp_path, threshold=1000.0)  # every loss is below
    fit(brain, batch_of())
    assert (brain.sums.count, brain.sums.dropped) == (0, 2)


def test_a_batch_with_nothing_left_leaves_weights_and_momentum(tmp_path):
    brain = make_brain(tmp_path)
    fit(brain, batch_of())
    brain.hparams.threshold = 1000.0
    loss, moved = fit(brain, batch_of())
    assert not moved and loss == 0
    assert brain.sums.count == 2  # those of the first batch; no loss of zero in the mean
    assert brain.update_average(loss, 0.0) == -brain.sums.mean


def test_silent_items_are_dropped(tmp_path):
    brain = make_brain(tmp_path, threshold=None)
    loss, moved = fit(brain, batch_of(num_items=3, silent=(1,)))
    assert moved and loss.isfinite()
    assert (brain.sums.count, brain.sums.dropped) == (2, 1)
    assert -loss.item() == pytest.approx(brain.sums.mean, rel=1e-6)


def test_validation_drops_nothing_for_being_good(tmp_path):
    brain = make_brain(tmp_path, threshold=1000.0)
    brain.on_stage_start(sb.Stage.VALID, epoch=1)
    brain.evaluate_batch(batch_of(), sb.Stage.VALID)
    assert brain.sums.count == 2


def test_mean_is_over_items_whatever_the_batches(tmp_path):
    brain = make_brain(tmp_path)
    batches = [batch_of(3), batch_of(1)]
    brain.on_stage_start(sb.Stage.VALID, epoch=1)
    losses = [brain.evaluate_batch(batch, sb.Stage.VALID).item() for batch in batches]
    assert -brain.sums.mean == pytest.approx(sum(losses) / 4, rel=1e-5)


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


def test_evaluation_needs_a_checkpoint(tmp_path):
    brain = make_brain(tmp_path, Checkpointer(tmp_path / "save"))
    with pytest.raises(InputError, match="save: holds no checkpoint to evaluate"):
        brain.on_evaluate_start(max_key="si-snr")


def test_best_checkpoint_is_kept_beside_the_newest(tmp_path):
    checkpointer = Checkpointer(tmp_path / "save")
    brain = make_brain(tmp_path, checkpointer)
    for epoch, loss in enumerate((-1.0, -5.0, -2.0, -3.0), start=1):
        brain.train_stats = {}
        brain._end_epoch(epoch, StageSums(si_snr=-loss, count=1))
    kept = {checkpoint.meta["epoch"]: checkpoint.meta["si-snr"] for checkpoint in checkpointer.list_checkpoints()}
    assert kept == {2: 5.0, 4: 3.0}
    assert checkpointer.find_checkpoint(max_key="si-snr").meta["epoch"] == 2


def test_intra_epoch_checkpoints_wait_for_the_optimisers_step(tmp_path):
    brain = make_brain(tmp_path, Checkpointer(tmp_path / "save"))
    brain.ckpt_interval_steps, brain.ckpt_interval_minutes, brain.grad_accumulation_factor = 1, 0, 4
    due = []
    for brain.step in range(1, 9):
        due.append(brain._should_save_intra_epoch_ckpt(0, steps_since_ckpt=1))
    assert due == [False, False, False, True] * 2


def test_sums_go_on_in_mid_epoch_and_begin_anew_otherwise(tmp_path):
    brain = make_brain(tmp_path)
    brain.sums.add_items(torch.tensor([1.0]))
    brain.step = 3  # as after recovery from an intra-epoch checkpoint
    brain.on_stage_start(sb.Stage.TRAIN, epoch=1)
    assert brain.sums.count == 1
    brain.step = 0
    brain.on_stage_start(sb.Stage.TRAIN, epoch=2)
    assert brain.sums.count == 0


def test_loaders_leave_the_global_random_state_alone(tmp_path):
    brain = make_brain(tmp_path)
    items = [Mixture(str(i), torch.zeros(16), torch.zeros(16, 2)) for i in range(4)]
    loader = brain.make_dataloader(items, sb.Stage.TRAIN, batch_size=2, shuffle=True)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), before)
