"""Training and evaluation of a separator, as a SpeechBrain Brain."""

import logging
import math
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.train_logger import TensorboardLogger

from mossformer_sb.data.datasets import Mixture, SeparationBatch
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.examples import AUDIO_FOLDER, save_example
from mossformer_sb.evaluation.metrics import separation_scores
from mossformer_sb.evaluation.results import RESULTS_FILE, ScoreTable
from mossformer_sb.network.separator import separate
from mossformer_sb.training import distributed, numerics
from mossformer_sb.training.budget import Progress, RunningClock, TimeBudget
from mossformer_sb.training.data_loading import GlobalBatches, RankLoader
from mossformer_sb.training.ema import AveragedWeights
from mossformer_sb.training.epoch_stats import Items, StageSums, WindowSums
from mossformer_sb.training.history import History
from mossformer_sb.training.losses import pit_si_snr_loss
from mossformer_sb.training.memory import peak_memory, reset_peak
from mossformer_sb.training.random_state import RandomState
from mossformer_sb.training.schedules import OneCycle, Schedule

logger = logging.getLogger(__name__)

TENSORBOARD_FOLDER = "tensorboard"
BEST_KEY = "si-snr"  # validation score, in a checkpoint's meta, by which the best is known
SHOWN_IDS = 10  # of items with something non-finite
_SILENCE = Mixture("", torch.zeros(4096), torch.zeros(4096, 1))


class SeparationBrain(sb.Brain):
    """Train with negative SI-SNR under permutation invariance; evaluate with SI-SNRi and SDRi.

    ``modules`` are ``encoder``, ``masknet`` and ``decoder``, as in SpeechBrain's separation recipes. In training they
    are called through ``self.modules``, so that gradients are synchronised over several GPUs; in evaluation around
    that wrapping. Batches are `SeparationBatch`.

    The gradient of a step is the sum over the items that count, of all accumulated batches and all ranks, divided by
    their number. An item does not count if it is good enough (``threshold``), has no active source, or has no finite
    loss. So neither the batch's size, nor the number of ranks, nor what is left out changes an item's weight. With
    nothing left, or a gradient that is not finite, there is no step.

    Between two steps nothing is read from an accelerator, so that it always has work waiting. What is not finite shows
    when a step is due; the batches since the last one are then gone through again, without those items.

    A run that is killed goes on where its last checkpoint stands, to the same numbers: besides what SpeechBrain saves,
    a checkpoint holds the random states, the epoch's sums, the schedule's state and the averaged weights. On a GPU the
    same numbers also take ``deterministic``. With another batch size, accumulation or number of ranks, an epoch that
    had begun goes on with the items that it has not had.

    Read from ``hparams``: ``sample_rate``; ``output_folder``, for the results; ``seed``; ``threshold``, the loss in dB
    below which an item is good enough to be left out (null: none is); ``silence_snr``, see `pit_si_snr_loss`;
    ``lr_scheduler``, see `Schedule` (null: constant); ``train_logger`` and ``epoch_counter``; ``n_audio_to_save``, how
    many test utterances to write as audio; and, if they are there, ``train_minutes`` and ``epoch_minutes``, see
    `TimeBudget`; ``ema_decay``, see `AveragedWeights`; ``batches_per_epoch``, how many batches of each rank make an
    epoch at most; ``num_to_keep``, how many of the best checkpoints, and of the newest, to keep (1); ``tensorboard``,
    whether to log there too; ``deterministic``, see `mossformer_sb.training.numerics.make_deterministic`.

    Arguments
    ---------
    modules, opt_class, hparams, run_opts, checkpointer
        As for ``speechbrain.Brain``.

    Raises
    ------
    InputError
        If SpeechBrain refuses a run option.
    """

    def __init__(self, modules=None, opt_class=None, hparams=None, run_opts=None, checkpointer=None):
        if (hparams or {}).get("deterministic", False):  # before the networks go to a GPU
            numerics.make_deterministic()
        try:
            super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        except ValueError as error:  # SpeechBrain's way to refuse an option, such as fp16 on a CPU
            raise InputError(f"SpeechBrain can't run with these options: {error}") from error
        self.sums = StageSums()  # of the stage
        self._window = WindowSums()  # of this rank alone, since the last step of the optimiser
        self._window_batches, self._nonfinite_ids = [], []
        self._first_step = 0  # batches of this epoch that came before this process
        self.random_state = RandomState()
        self.history = History(self.hparams.output_folder)
        self.train_dataset, self.train_batches = None, None
        self._loaders = {}  # by stage
        self._tensorboard = None
        self._clock, self._lap_start, self._progress = RunningClock(), 0.0, None
        self.budget = TimeBudget(
            getattr(self.hparams, "train_minutes", None), getattr(self.hparams, "epoch_minutes", None)
        )
        self.on_stage = lambda stage: None  # called on all ranks when a stage begins
        decay = getattr(self.hparams, "ema_decay", None)
        self.averaged = None if decay is None else AveragedWeights(self.modules, decay)
        if checkpointer is not None:
            checkpointer.add_recoverables({"stage_loss": self.sums, "random_state": self.random_state})
            checkpointer.add_recoverable("time_budget", self.budget, optional_load=True)  # older checkpoints have none
            if self.averaged is not None:
                checkpointer.add_recoverables({"averaged_weights": self.averaged})

    # ---- one batch

    def compute_forward(self, batch, stage):
        """SeparationBatch → estimates [B, T, S]."""
        return self._separate(self.modules if stage == sb.Stage.TRAIN else distributed.unwrapped(self.modules), batch)

    def _separate(self, networks, batch):
        batch = batch.to(self.device)
        encoder, masknet, decoder = (networks[name] for name in ("encoder", "masknet", "decoder"))
        return separate(encoder, masknet, decoder, batch.mixture, lengths=batch.padded_lengths)

    def compute_objectives(self, predictions, batch, stage):
        """Sum of the losses in dB of the items that count; at test, also score each item. Training has `fit_batch`."""
        items = self._score_items(predictions, batch, stage)
        self.sums.merge(StageSums.of([*items.tally.tolist(), items.samples, 0, 0.0]))
        if stage == sb.Stage.TEST:
            self._score(batch, predictions)
        return items.loss

    def _score_items(self, estimates, batch, stage):
        silence_snr = getattr(self.hparams, "silence_snr", None)
        result = pit_si_snr_loss(estimates, batch.sources, batch.padded_lengths, silence_snr)
        # A source that is NaN would pass for silent, and leave no trace in the loss.
        finite = result.losses.isfinite() & _all_finite(estimates) & _all_finite(batch.sources)
        counted = finite & (result.num_active > 0)
        if stage == sb.Stage.TRAIN and self.hparams.threshold is not None:
            counted = counted & (result.losses.detach() > self.hparams.threshold)
        return Items(result.losses, result.si_snr, counted, finite, samples=sum(batch.lengths.tolist()))

    def _score(self, batch, estimates):
        for index, utterance_id in enumerate(batch.ids):
            length = int(batch.lengths[index])
            mixture, sources, estimate = (
                x[index, :length].float().cpu() for x in (batch.mixture, batch.sources, estimates)
            )
            scores, permutation = separation_scores(mixture, sources, estimate)
            # Each rank scores every n-th utterance, see GlobalBatches, and writes its own: no two write one file.
            place = len(self.scores) * distributed.world_size() + distributed.rank()
            if place < self.hparams.n_audio_to_save:
                folder = Path(self.hparams.output_folder) / AUDIO_FOLDER
                save_example(folder, utterance_id, mixture, sources, estimate, permutation, self.hparams.sample_rate)
            self.scores.add(utterance_id, scores)

    def on_fit_batch_start(self, batch, should_step):
        """Restore the random state of the checkpoint that the run was resumed from, now that it is to be used."""
        self.random_state.apply_pending()

    def fit_batch(self, batch):
        """Train on a batch: add up gradients, and step where a window of ``grad_accumulation_factor`` batches ends.

        Arguments
        ---------
        batch : SeparationBatch
            Of this rank.

        Returns
        -------
        torch.Tensor
            Mean loss in dB over the items that count, where it was computed; zero without any.

        Raises
        ------
        InputError
            If too many steps in a row had something that was not finite.
        """
        should_step = self._window_ends()
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            estimates, loss, count = self._training_loss(batch)
            self.scaler.scale(loss).backward()
        mean = loss.detach() / count
        if should_step:
            self.optimizers_step()
        self.on_fit_batch_end(batch, estimates, mean, should_step)
        return mean

    def _window_ends(self):
        """After the last batch of a window. The last of an epoch may be shorter."""
        last = math.inf if self.train_batches is None else len(self.train_batches)
        if self.debug:
            last = min(last, self.debug_batches)
        return self._window_is_full() or self.step == last

    def _window_is_full(self):
        return (self.step - self._first_step) % self.grad_accumulation_factor == 0

    def _training_loss(self, batch):
        """Estimates, the sum of the losses of the items that count, and how many do, at least 1."""
        self._window_batches.append(batch)
        if batch is None:
            return None, self._loss_without_data(), 1
        with self.training_ctx:
            estimates = self._separate(self.modules, batch)
            items = self._score_items(estimates, batch, sb.Stage.TRAIN)
        self._window.add(items)
        return estimates, items.loss, items.counted.sum().clamp(min=1)

    def _loss_without_data(self):
        """Where this rank's data can't be read, see `RankLoader`: DDP still counts on a forward."""
        silence = SeparationBatch.collate([_SILENCE])
        silence.mixture = silence.mixture.to(next(self.modules.parameters()).dtype)
        with self.training_ctx:
            self._separate(self.modules, silence)
        return self._zero_loss()

    def _repeat_window(self):
        """Compute the gradients of the window again, without the items that are not finite; the window's sums anew.

        All the ranks do it, or none, and each goes through the networks as often as before.
        """
        self.zero_grad(set_to_none=True)
        seconds = self._window.seconds
        self._window.reset()
        self._window.seconds = seconds
        for number, batch in enumerate(self._window_batches, start=1):
            with self.no_sync(number < len(self._window_batches)):
                loss = self._loss_without_data() if batch is None else self._finite_loss(batch)
                self.scaler.scale(loss).backward()
        return self._window.over_ranks(self.device)

    def _finite_loss(self, batch):
        """The sum of the losses of the items that count. Only finite items take part.

        Zero times NaN is NaN, so no mask can take an item out of a gradient: the others go through the network again.
        """
        networks = self.modules
        while len(batch):
            with self.training_ctx:
                estimates = self._separate(networks, batch)
                items = self._score_items(estimates, batch, sb.Stage.TRAIN)
            if items.finite.all():
                self._window.add(items)
                return items.loss
            others, batch = batch.select(~items.finite), batch.select(items.finite)
            self._nonfinite_ids += others.ids
            self._window.add(items.only(~items.finite, int(others.lengths.sum())))
            # Around DDP: its forward might wait for the other ranks; its backward hangs on the parameters, not on it.
            networks = distributed.unwrapped(self.modules)
        return self._zero_loss()

    def _zero_loss(self):
        """With a gradient of zero for every parameter: the other ranks wait for them all."""
        return sum((0 * parameter).sum() for parameter in self.modules.parameters() if parameter.requires_grad)

    # ---- one step of the optimiser

    def optimizers_step(self):
        """Step along the mean gradient over the items that count, on all ranks alike, or on none."""
        self._window.failed = int(getattr(self._loaders.get(sb.Stage.TRAIN), "error", None) is not None)
        seconds = self._lap()
        self._window.seconds = seconds if distributed.rank() == 0 else 0.0
        window = self._window.over_ranks(self.device)
        if window.failed:
            self._check_loading(sb.Stage.TRAIN)
        if window.nonfinite:
            window = self._repeat_window()
        self.sums.merge(window)
        # Without any item Adam would move on its momentum alone.
        norm = self._step(window.count) if window.count else None
        self.zero_grad(set_to_none=True)
        self._watch(window.nonfinite, norm)
        self._reset_window()
        self.budget.add(window.seconds)
        if self._progress is not None:
            self._progress.update(self.hparams.epoch_counter.current, self.step, -self.sums.mean)

    def _reset_window(self):
        self._window.reset()
        self._window_batches, self._nonfinite_ids = [], []

    def _step(self, count):
        """Step, unless the gradient is not finite; return its norm."""
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [parameter.grad for parameter in parameters]
        # These are sums over the items of a rank, and DDP has averaged them over the ranks.
        torch._foreach_mul_(gradients, distributed.world_size() / count)
        total_norm = torch.nn.utils.get_total_norm(gradients)
        norm = total_norm.item()
        if math.isfinite(norm):
            if self.max_grad_norm >= 0:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, total_norm)
            self.schedule.before_step(self.optimizer_step + 1, self.budget.share)
            self.scaler.step(self.optimizer)
            self.optimizer_step += 1
            self.sums.add_step(norm)
            if self.averaged is not None:
                self.averaged.update()
        self.scaler.update()
        return norm

    def _watch(self, num_nonfinite, norm):
        """Count what was not finite, and end the run when that happens again and again."""
        bad_gradient = norm is not None and not math.isfinite(norm)
        if bad_gradient and self.scaler.is_enabled():
            bad_gradient = False  # it is looking for the greatest scale that works: that is its way
        self.sums.skipped += bad_gradient
        if not num_nonfinite and not bad_gradient:
            self.sums.streak = 0
            return
        self.sums.streak += 1
        of_window = [item_id for batch in self._window_batches if batch is not None for item_id in batch.ids]
        ids = self._nonfinite_ids if num_nonfinite else of_window
        ids = [item_id for ids_of_rank in distributed.gather(ids) for item_id in ids_of_rank]
        found = f"{num_nonfinite} items without a finite loss" if num_nonfinite else f"a gradient of norm {norm}"
        found += f" ({', '.join(ids[:SHOWN_IDS])}{', …' if len(ids) > SHOWN_IDS else ''})"
        if self.sums.streak > self.nonfinite_patience:
            raise distributed.SharedError(
                f"Training stopped: {self.sums.streak} steps in a row had something that was not finite, more than "
                f"nonfinite_patience: {self.nonfinite_patience} allows; the last {found}. Go on from the last "
                f"checkpoint with a lower lr or with precision: fp32; check the data with --deep True; "
                f"if it began with the first steps, look at the weights that training starts from."
            )
        if if_main_process():
            logger.warning("Epoch step %d had %s: left out.", self.step, found)

    def _check_loading(self, stage):
        """Raise what one of the ranks could not read, on all of them."""
        if stage in self._loaders:
            distributed.everywhere(self._loaders[stage].check)

    def _lap(self):
        """Seconds since the last call."""
        before, self._lap_start = self._lap_start, self._clock.seconds()
        return self._lap_start - before

    def _epoch_is_over(self):
        """Whether the time of an epoch is used up: between two steps of the optimiser, and alike on all ranks."""
        return self._window_is_full() and self.budget.ends_epoch(self.sums.seconds)

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        """Only between two steps of the optimiser: a checkpoint holds no half-accumulated gradients."""
        return self._window_ends() and super()._should_save_intra_epoch_ckpt(last_ckpt_time, steps_since_ckpt)

    def _save_intra_epoch_ckpt(self):
        """As SpeechBrain does. What that takes is no time of training."""
        super()._save_intra_epoch_ckpt()
        self._lap()

    def update_average(self, loss, avg_loss):
        """The stage's mean over items that count, for the progress bar: a dropped item is no loss of zero."""
        return -self.sums.mean

    # ---- stages

    def fit(self, epoch_counter, train_set, valid_set=None, progressbar=None, **loader_kwargs):
        """As SpeechBrain's; with a budget in time, as many epochs as it takes, and a bar in minutes.

        Arguments
        ---------
        epoch_counter, train_set, valid_set, progressbar, **loader_kwargs
            As for ``speechbrain.Brain.fit``. With ``train_minutes`` the counter's limit has no effect.
        """
        if self.budget.minutes is None:
            super().fit(self.budget.epochs(epoch_counter), train_set, valid_set, progressbar, **loader_kwargs)
            return
        self._draws_bar = not self.noprogressbar if progressbar is None else progressbar
        try:
            super().fit(self.budget.epochs(epoch_counter), train_set, valid_set, progressbar=False, **loader_kwargs)
        finally:
            if self._progress is not None:
                self._progress.close()

    def on_fit_start(self):
        """Give each rank its own random numbers, then prepare as SpeechBrain does, and recover."""
        distributed.seed_apart(self._seed)
        if getattr(self.hparams, "tensorboard", False):
            self._tensorboard = _tensorboard_logger(Path(self.hparams.output_folder) / TENSORBOARD_FOLDER)
        distributed.everywhere(super().on_fit_start)
        if if_main_process():
            logger.info(numerics.describe(self.device, self.precision, self.eval_precision))
        if self.budget.minutes is not None:
            self._report_budget()
            if if_main_process():
                self._progress = Progress(self.budget, bar=self._draws_bar)

    def _report_budget(self):
        """Say how much of the time is left and, where a resumed run was given another time, how the rate moves."""
        budget, schedule = self.budget, self.schedule.scheduler
        logger.info("%.1f of %g minutes of training are left", budget.minutes_left, budget.minutes)
        if budget.previous_minutes in (None, budget.minutes) or not isinstance(schedule, OneCycle):
            return
        before = TimeBudget(budget.previous_minutes)
        before.add(budget.used)
        logger.info(
            "train_minutes was %g: with %g now, the learning rate goes on with %.3g instead of %.3g",
            *(before.minutes, budget.minutes, schedule.rate_at(budget.share), schedule.rate_at(before.share)),
        )

    @property
    def _seed(self):
        return getattr(self.hparams, "seed", 0)

    def init_optimizers(self):
        """As SpeechBrain does; the schedule belongs to the optimiser."""
        try:
            super().init_optimizers()
        except (TypeError, ValueError) as error:  # an optimiser's way to refuse its arguments, such as a negative lr
            raise InputError(f"opt_class can't be built: {error}. Check lr and the other settings of it.") from error
        self.schedule = Schedule(self.hparams.lr_scheduler, self.optimizer)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverables({"lr_scheduler": self.schedule})

    def on_stage_start(self, stage, epoch=None):
        """Reset the sums, unless training goes on in mid-epoch; put the weights in place that the stage is about."""
        self.on_stage(stage)
        resumed_mid_epoch = stage == sb.Stage.TRAIN and self.step > 0
        if not resumed_mid_epoch:
            self.sums.reset()
        self._use_averaged_weights(stage != sb.Stage.TRAIN)
        if stage == sb.Stage.TRAIN:
            self._start_training_epoch(epoch)
        if stage == sb.Stage.TEST:
            self.scores = ScoreTable()

    def _start_training_epoch(self, epoch):
        self._reset_window()
        self._first_step = self.step
        if hasattr(self.train_dataset, "set_epoch"):
            self.train_dataset.set_epoch(epoch)
        if self.train_batches is not None:
            # A checkpoint stands between two steps, after which the epoch's sums hold all items that it has had.
            self.train_batches.set_epoch(epoch, items_done=self.sums.items, batches_done=self.step)
        reset_peak(self.device)
        self._lap()

    def _use_averaged_weights(self, averaged):
        if self.averaged is not None:
            (self.averaged.use if averaged else self.averaged.restore)()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log; after validation, set the learning rate and save a checkpoint; after test, write the scores.

        After test the weights that were measured stay in place, for the export.
        """
        self._check_loading(stage)
        if stage == sb.Stage.TRAIN:
            self.train_stats = self._train_stats()
        elif stage == sb.Stage.VALID:
            self._use_averaged_weights(False)
            self._end_epoch(epoch, self.sums.over_ranks(self.device))
        else:
            self._end_test()

    def _train_stats(self):
        """Figures of a training epoch over all ranks, from name to value."""
        sums = self.sums
        seconds = sums.seconds or float("nan")
        return {
            "si-snr": sums.mean,
            "dropped": sums.dropped,
            "nonfinite": sums.nonfinite,
            "skipped-steps": sums.skipped,
            "grad-norm": sums.mean_norm,
            "grad-norm-max": sums.norm_max,
            "seconds": sums.seconds,
            "items/s": sums.items / seconds,
            "audio-s/s": sums.samples / self.hparams.sample_rate / seconds,
            "memory-gb": max(distributed.gather(peak_memory(self.device))) / 1e9,
        }

    def _end_epoch(self, epoch, valid):
        rate = self.schedule.rate  # of this epoch, or of its last step
        self.schedule.after_epoch(epoch, loss=-valid.mean)
        valid_stats = {"si-snr": valid.mean}
        if valid.nonfinite:
            valid_stats["nonfinite"] = valid.nonfinite
        self._log_epoch({"epoch": epoch, "lr": rate}, self.train_stats, valid_stats)
        if self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(
                meta={BEST_KEY: valid.mean, "epoch": epoch},
                max_keys=[BEST_KEY],
                num_to_keep=getattr(self.hparams, "num_to_keep", 1),
            )

    def _log_epoch(self, meta, train, valid):
        self.hparams.train_logger.log_stats(stats_meta=meta, train_stats=train, valid_stats=valid)
        row = dict(meta)
        for stage, stats in (("train", train), ("valid", valid)):
            row.update({f"{stage}_{name}": value for name, value in stats.items()})
        distributed.on_main(self.history.add, row)
        distributed.on_main(self.history.draw)
        if self._tensorboard is not None:
            # It counts its calls. The epoch is what a resumed run must go on with.
            before = meta["epoch"] - 1
            self._tensorboard.global_step = {
                "meta": before,
                "train": dict.fromkeys(train, before),
                "valid": dict.fromkeys(valid, before),
                "test": {},
            }
            self._tensorboard.log_stats(stats_meta={"lr": meta["lr"]}, train_stats=train, valid_stats=valid)

    def _end_test(self):
        self.scores = ScoreTable.interleaved(distributed.gather(self.scores))
        path = Path(self.hparams.output_folder) / RESULTS_FILE
        distributed.on_main(self.scores.write, path)
        self.hparams.train_logger.log_stats(
            stats_meta={"epoch loaded": self.hparams.epoch_counter.current}, test_stats=self.scores.average()
        )
        if if_main_process():
            logger.info("%s\nAll scores are in %s", self.scores.summary(), path)

    # ---- data and checkpoints

    def make_dataloader(self, dataset, stage, ckpt_prefix="dataloader-", **loader_kwargs):
        """A loader of `SeparationBatch`, which gives each rank its share; see `GlobalBatches`.

        Its position is no file in a checkpoint: the epoch and the number of items, which are there, say all.

        Arguments
        ---------
        dataset : torch.utils.data.Dataset
            Of `mossformer_sb.data.datasets.Mixture`.
        stage : speechbrain.Stage
            Training has its own rules for the order and the last batch.
        ckpt_prefix : str, optional
            Without effect.
        **loader_kwargs : dict
            ``batch_size``, ``shuffle``, and what else ``torch.utils.data.DataLoader`` takes.

        Returns
        -------
        torch.utils.data.DataLoader

        Raises
        ------
        InputError
            If an argument would get in the way of the sampling.
        """
        refused = sorted({"sampler", "batch_sampler", "drop_last"} & set(loader_kwargs))
        training = stage == sb.Stage.TRAIN
        shuffle = loader_kwargs.pop("shuffle", False)
        if shuffle and not training:
            refused.append("shuffle")
        if refused:
            name = f"{stage.name.lower()}_loader"
            raise InputError(
                f"{name}: {', '.join(refused)} can't be set here, for the order of the items and their division among "
                f"processes are decided in one place. Remove it; in train_loader, shuffle chooses between two orders."
            )
        batches = GlobalBatches(
            len(dataset),
            loader_kwargs.pop("batch_size", 1),
            shuffle=shuffle,
            seed=self._seed,
            limit=getattr(self.hparams, "batches_per_epoch", None) if training else None,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            even=training,
        )
        loader_kwargs.setdefault("collate_fn", SeparationBatch.collate)
        # A loader draws its workers' seed. From a generator of its own, since the global one's state is part of a
        # checkpoint, and a resumed run starts its loaders at another moment.
        loader_kwargs.setdefault("generator", torch.Generator())
        loader_kwargs.setdefault("pin_memory", self.device_type == "cuda")
        if training:
            self.train_dataset, self.train_batches = dataset, batches
            if self.checkpointer is not None:  # optional: earlier versions did not save it
                self.checkpointer.add_recoverable("data_order", batches, optional_load=True)
        ended = self._epoch_is_over if training else None
        self._loaders[stage] = RankLoader(
            dataset, batch_sampler=batches, goes_on=training, ended=ended, **loader_kwargs
        )
        return self._loaders[stage]

    def evaluate(self, test_set, max_key=None, min_key=None, progressbar=None, test_loader_kwargs=None):
        """As SpeechBrain's."""
        return super().evaluate(test_set, max_key, min_key, progressbar, dict(test_loader_kwargs or {}))

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Load the best checkpoint; there must be one."""
        self._use_averaged_weights(False)
        distributed.everywhere(super().on_evaluate_start, max_key, min_key)
        if self.checkpointer is not None and not self.checkpointer.list_checkpoints():
            raise distributed.SharedError(nothing_to_evaluate(self.checkpointer.checkpoints_dir))


def nothing_to_evaluate(folder):
    """The message for a folder of checkpoints that has none."""
    return (
        f"{folder}: holds no checkpoint to evaluate. Train first (without --test_only), or give the --output_folder of "
        f"a finished training. An exported model is evaluated with: mossformer-sb evaluate MODEL --manifest CSV"
    )


def _all_finite(signals):
    """[B, …] → [B], bool."""
    return signals.detach().isfinite().flatten(1).all(1)


def _tensorboard_logger(folder):
    try:
        return TensorboardLogger(str(folder))
    except ImportError as error:
        raise InputError(
            'tensorboard: True needs the package tensorboard, which is missing: pip install "mossformer_sb[report]", '
            "or set it to False."
        ) from error
