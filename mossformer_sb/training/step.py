"""One step of the optimizer: a window of accumulated batches over all ranks, without non-finite values.

Invariants
----------
Weight of an example
    The gradient of a step is the sum over the valid examples of all batches of the window and all ranks, divided by
    their number. Each rank adds up its losses, DDP averages over the ranks, and `StepBrain._step` multiplies by ranks /
    valid examples. So the weight is independent of batch size, number of ranks, and skipped examples.
Ranks in step
    In a window each rank runs the wrapped networks forward and backward equally often, and synchronizes gradients only
    in the last backward; a rank without data or without a valid example contributes a loss of zero. All decisions
    about the next operation (a retry, a skipped step, the end of an epoch or of the run) are computed from all-reduced
    values, so they are the same on all ranks, and no rank hangs.
No reads between steps
    No value is read from an accelerator before a step is due, so that it always has work queued. If a loss is not
    finite, all ranks then compute the window again, without those examples.
Non-finite values never reach the weights
    Neither directly nor through the optimizer's moments or the averaged weights: with a gradient that is not finite, or
    without a valid example, the step is skipped.
Checkpoints are saved between two windows
    They hold no partially accumulated gradients; their statistics hold all processed examples of the epoch. With the
    states of random generators, schedule, averages and time budget, a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process

from mossformer_sb.data.datasets import Mixture, SeparationBatch
from mossformer_sb.errors import InputError
from mossformer_sb.network.separator import separate
from mossformer_sb.training import distributed
from mossformer_sb.training.batch_clipping import BatchClipping
from mossformer_sb.training.budget import RunningClock, TimeBudget
from mossformer_sb.training.ema import AveragedWeights
from mossformer_sb.training.epoch_stats import BatchResult, StageStats, WindowStats
from mossformer_sb.training.losses import pit_si_snr_loss
from mossformer_sb.training.optimizers import naming_opt_class
from mossformer_sb.training.random_state import RandomState
from mossformer_sb.training.schedules import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from mossformer_sb.training.checkpoints import Checkpointer

logger = logging.getLogger(__name__)

SHOWN_IDS = 10  # maximum number of examples in a message
_SILENCE = Mixture("", torch.zeros(4096), torch.zeros(4096, 1))


class StepBrain(sb.Brain):
    """A Brain with the training step of a separator; see the invariants at the top of this module.

    An example is valid if its loss is finite and above ``threshold``, and it has an active source.

    Read from ``hparams``: ``threshold``, the loss in dB below which an example is skipped (null: none is);
    ``inactive_threshold``, see `pit_si_snr_loss`; ``lr_scheduler``, see `Schedule`; and optionally ``ema_decay``, see
    `AveragedWeights`; ``train_minutes`` and ``epoch_minutes``, see `TimeBudget`; ``max_batch_grad_norm``, see
    `BatchClipping`.

    Arguments
    ---------
    modules, opt_class, hparams, run_opts, checkpointer
        As for ``speechbrain.Brain``; ``modules`` are ``encoder``, ``masknet`` and ``decoder``. All objects with a state
        are added to the checkpointer.

    Attributes
    ----------
    stats : StageStats
        Statistics of the stage.
    schedule : Schedule
    budget : TimeBudget
    averaged : AveragedWeights or None
    clipping : BatchClipping or None
    random_state : RandomState
    train_batches : object or None
        Object whose length is the number of batches of the epoch, if it is known.

    Raises
    ------
    InputError
        If SpeechBrain refuses a run option.
    """

    def __init__(
        self,
        modules: dict[str, torch.nn.Module] | None = None,
        opt_class: Callable | None = None,
        hparams: dict | None = None,
        run_opts: dict | None = None,
        checkpointer: Checkpointer | None = None,
    ) -> None:
        try:
            super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        except ValueError as error:  # SpeechBrain refuses an option, such as fp16 on a CPU
            raise InputError(f"SpeechBrain can't run with these options: {error}") from error
        self.stats = StageStats()
        self._window_stats = WindowStats()  # of this rank only
        self._window_batches, self._nonfinite_ids = [], []
        self._first_step = 0  # batches of this epoch before the run was resumed
        self.train_batches = None
        self._loaders = {}  # by stage
        self.random_state = RandomState()
        self._clock, self._last_seconds = RunningClock(), 0.0
        self.budget = TimeBudget(
            getattr(self.hparams, "train_minutes", None), getattr(self.hparams, "epoch_minutes", None)
        )
        decay = getattr(self.hparams, "ema_decay", None)
        self.averaged = None if decay is None else AveragedWeights(self.modules, decay)
        limit = getattr(self.hparams, "max_batch_grad_norm", None)
        self.clipping = None if limit is None else BatchClipping(self.modules.parameters(), limit)
        if checkpointer is not None:
            checkpointer.add_recoverables({"stage_loss": self.stats, "random_state": self.random_state})
            checkpointer.add_recoverable("time_budget", self.budget, optional_load=True)  # not in older checkpoints
            if self.averaged is not None:
                checkpointer.add_recoverables({"averaged_weights": self.averaged})

    def init_optimizers(self) -> None:
        """As SpeechBrain does; the schedule belongs to the optimizer."""
        with naming_opt_class():
            super().init_optimizers()
        self.schedule = Schedule(self.hparams.lr_scheduler, self.optimizer)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverables({"lr_scheduler": self.schedule})

    # ---- one batch

    def _separate(self, networks, batch):
        """SeparationBatch → estimates [B, T, S]."""
        batch = batch.to(self.device)
        encoder, masknet, decoder = (networks[name] for name in ("encoder", "masknet", "decoder"))
        return separate(encoder, masknet, decoder, batch.mixture, lengths=batch.padded_lengths)

    def _batch_result(self, estimates, batch, stage):
        """`BatchResult` of estimates [B, T, S]."""
        inactive_threshold = getattr(self.hparams, "inactive_threshold", None)
        result = pit_si_snr_loss(estimates, batch.sources, batch.padded_lengths, inactive_threshold)
        # A source that is NaN would count as silent, without an effect on the loss.
        finite = result.losses.isfinite() & _all_finite(estimates) & _all_finite(batch.sources)
        valid = finite & (result.num_active > 0)
        if stage == sb.Stage.TRAIN and self.hparams.threshold is not None:
            valid = valid & (result.losses.detach() > self.hparams.threshold)
        return BatchResult(result.losses, result.si_snr, valid, finite, samples=sum(batch.lengths.tolist()))

    def on_fit_batch_start(self, batch: SeparationBatch, should_step: bool) -> None:
        """Restore the random state of the checkpoint that the run was resumed from."""
        self.random_state.apply_pending()

    def fit_batch(self, batch: SeparationBatch | None) -> torch.Tensor:
        """Train on a batch: add up gradients, and step where a window of ``grad_accumulation_factor`` batches ends.

        Arguments
        ---------
        batch : SeparationBatch or None
            Batch of this rank; None if it can't be read, see `RankLoader`.

        Returns
        -------
        torch.Tensor
            Mean loss in dB over the valid examples; zero without any.

        Raises
        ------
        InputError
            If too many consecutive steps had a non-finite loss or gradient.
        """
        should_step = self._window_ends()
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step or self.clipping is not None):
            estimates, loss, count = self._training_loss(batch)
            self._backward(loss, count)
        mean = loss.detach() / count
        if should_step:
            self.optimizers_step()
        self.on_fit_batch_end(batch, estimates, mean, should_step)
        return mean

    def _backward(self, loss, count):
        """Add the gradients of a batch with this sum of losses over ``count`` examples."""
        self.scaler.scale(loss).backward()
        if self.clipping is not None:
            self.clipping.add(count, self.scaler.get_scale())

    def _training_loss(self, batch):
        """Estimates, the sum of the losses of the valid examples, and their number, at least 1."""
        self._window_batches.append(batch)
        if batch is None:
            return None, self._loss_without_data(), 1
        with self.training_ctx:
            estimates = self._separate(self.modules, batch)
            result = self._batch_result(estimates, batch, sb.Stage.TRAIN)
        self._window_stats.add(result)
        return estimates, result.loss, result.valid.sum().clamp(min=1)

    def _loss_without_data(self):
        """A loss of zero if this rank's data can't be read: DDP still needs a forward."""
        silence = SeparationBatch.collate([_SILENCE])
        silence.mixture = silence.mixture.to(next(self.modules.parameters()).dtype)
        with self.training_ctx:
            self._separate(self.modules, silence)
        return self._zero_loss()

    def _zero_loss(self):
        """A loss with a gradient of zero for every parameter: the other ranks wait for all of them."""
        return sum((0 * parameter).sum() for parameter in self.modules.parameters() if parameter.requires_grad)

    # ---- the window

    def _window_ends(self):
        """Whether this is the last batch of a window. The last window of an epoch may be shorter."""
        last = math.inf if self.train_batches is None else len(self.train_batches)
        if self.debug:
            last = min(last, self.debug_batches)
        return self._window_is_full() or self.step == last

    def _window_is_full(self):
        return (self.step - self._first_step) % self.grad_accumulation_factor == 0

    def _reset_window(self):
        self._window_stats.reset()
        self._window_batches, self._nonfinite_ids = [], []

    def _remove_gradients(self):
        self.zero_grad(set_to_none=True)
        if self.clipping is not None:
            self.clipping.reset()

    def _repeat_window(self):
        """Compute gradients and statistics of the window again, without the non-finite examples.

        Either all ranks do it or none, and each calls the wrapped networks as often as before.
        """
        self._remove_gradients()
        seconds = self._window_stats.seconds
        self._window_stats.reset()
        self._window_stats.seconds = seconds
        for number, batch in enumerate(self._window_batches, start=1):
            with self.no_sync(number < len(self._window_batches) or self.clipping is not None):
                self._backward(*((self._loss_without_data(), 1) if batch is None else self._finite_loss(batch)))
        return self._window_stats.over_ranks(self.device)

    def _finite_loss(self, batch):
        """The sum of the losses of the valid examples, and their number, at least 1, of the finite ones alone.

        Zero times NaN is NaN, so a mask can't remove an example from a gradient: the others are computed again.
        """
        networks = self.modules
        while len(batch):
            with self.training_ctx:
                estimates = self._separate(networks, batch)
                result = self._batch_result(estimates, batch, sb.Stage.TRAIN)
            if result.finite.all():
                self._window_stats.add(result)
                return result.loss, result.valid.sum().clamp(min=1)
            others, batch = batch.select(~result.finite), batch.select(result.finite)
            self._nonfinite_ids += others.ids
            self._window_stats.add(result.only(~result.finite, int(others.lengths.sum())))
            # Without DDP, whose forward might wait for the other ranks. Its backward hooks are on the parameters.
            networks = distributed.unwrapped(self.modules)
        return self._zero_loss(), 1

    # ---- the step

    def optimizers_step(self) -> None:
        """Step with the mean gradient over the valid examples, on all ranks or on none."""
        self._window_stats.failed = int(getattr(self._loaders.get(sb.Stage.TRAIN), "error", None) is not None)
        seconds = self._seconds_since_last()
        self._window_stats.seconds = seconds if distributed.rank() == 0 else 0.0
        window = self._window_stats.over_ranks(self.device)
        if window.failed:
            self._check_loading(sb.Stage.TRAIN)
        if window.nonfinite:
            window = self._repeat_window()
        self.stats.merge(window)
        # Without a valid example Adam would still move by its momentum.
        norm = self._step(window.count) if window.count else None
        self._remove_gradients()
        self._check_nonfinite(window.nonfinite, norm)
        self._reset_window()
        self.budget.add(window.seconds)

    def _step(self, count):
        """Step, unless the gradient is not finite; return its norm."""
        if self.clipping is not None:
            self.clipping.restore()
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [parameter.grad for parameter in parameters]
        # These are sums over the examples of a rank, and DDP has averaged them over the ranks.
        torch._foreach_mul_(gradients, distributed.world_size() / count)
        total_norm = torch.nn.utils.get_total_norm(gradients)
        norm = total_norm.item()
        if math.isfinite(norm):
            if self.max_grad_norm >= 0:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, total_norm)
            self.schedule.before_step(self.optimizer_step + 1, self.budget.share)
            self.scaler.step(self.optimizer)
            self.optimizer_step += 1
            self.stats.add_step(norm)
            if self.averaged is not None:
                self.averaged.update()
        self.scaler.update()
        return norm

    def _check_nonfinite(self, num_nonfinite, norm):
        """Count non-finite losses and gradients, and end the run after too many consecutive steps with any."""
        bad_gradient = norm is not None and not math.isfinite(norm)
        if bad_gradient and self.scaler.is_enabled() and self.scaler.get_scale() >= 1:
            bad_gradient = False  # the scaler finds the greatest possible scale, 1 or more, by exceeding it
        self.stats.skipped += bad_gradient
        if not num_nonfinite and not bad_gradient:
            self.stats.consecutive_nonfinite = 0
            return
        self.stats.consecutive_nonfinite += 1
        of_window = [item_id for batch in self._window_batches if batch is not None for item_id in batch.ids]
        ids = self._nonfinite_ids if num_nonfinite else of_window
        ids = [item_id for ids_of_rank in distributed.gather(ids) for item_id in ids_of_rank]
        found = f"{num_nonfinite} examples without a finite loss" if num_nonfinite else f"a gradient of norm {norm}"
        found += f" ({', '.join(ids[:SHOWN_IDS])}{', …' if len(ids) > SHOWN_IDS else ''})"
        if self.stats.consecutive_nonfinite > self.nonfinite_patience:
            raise distributed.SharedError(
                f"Training stopped: {self.stats.consecutive_nonfinite} consecutive steps had a non-finite loss or "
                f"gradient, more than nonfinite_patience: {self.nonfinite_patience} allows; the last had {found}. "
                f"Resume from the last checkpoint with a lower lr or with precision: fp32; check the data with "
                "--check_samples True; if it began with the first steps, check the initial weights."
            )
        if if_main_process():
            logger.warning("Epoch step %d had %s: skipped.", self.step, found)

    def _check_loading(self, stage):
        """Raise on all ranks the reading error of any of them."""
        if stage in self._loaders:
            distributed.run_on_all_ranks(self._loaders[stage].check)

    def update_average(self, loss: float, avg_loss: float) -> float:
        """The stage's mean loss over valid examples, for the progress bar."""
        return -self.stats.mean

    # ---- time, and checkpoints between two windows

    def _seconds_since_last(self):
        """Seconds since the last call, excluding time in which the process was stopped."""
        before, self._last_seconds = self._last_seconds, self._clock.seconds()
        return self._last_seconds - before

    def _epoch_is_over(self):
        """Whether the time of an epoch is used up. Times change only at the end of a window, equally on all ranks."""
        return self.budget.ends_epoch(self.stats.seconds)

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        """Save only between two windows: a checkpoint holds no partially accumulated gradients."""
        return self._window_ends() and super()._should_save_intra_epoch_ckpt(last_ckpt_time, steps_since_ckpt)

    def _save_intra_epoch_ckpt(self):
        """As SpeechBrain does. Its time doesn't count as training."""
        super()._save_intra_epoch_ckpt()
        self._seconds_since_last()


def _all_finite(signals):
    """[B, …] → [B], bool."""
    return signals.detach().isfinite().flatten(1).all(1)
