"""Training and evaluation of a separator, as a SpeechBrain Brain: stages, logs, checkpoints and data.

The training step is `mossformer_sb.training.step`.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.train_logger import TensorboardLogger

from mossformer_sb.data.datasets import SeparationBatch
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.examples import AUDIO_FOLDER, save_example
from mossformer_sb.evaluation.metrics import check_finite, separation_scores
from mossformer_sb.evaluation.results import RESULTS_FILE, ScoreTable
from mossformer_sb.training import distributed, numerics
from mossformer_sb.training.budget import Progress, TimeBudget
from mossformer_sb.training.checkpoint_checks import check_scored
from mossformer_sb.training.checkpoints import BEST_KEY
from mossformer_sb.training.data_loading import GlobalBatches, RankLoader
from mossformer_sb.training.epoch_stats import History, StageStats, peak_memory, reset_peak_memory
from mossformer_sb.training.out_of_memory import naming_the_batch
from mossformer_sb.training.schedules import OneCycle
from mossformer_sb.training.step import StepBrain

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from speechbrain import Stage
    from speechbrain.utils.epoch_loop import EpochCounter

    from mossformer_sb.training.checkpoints import Checkpointer

logger = logging.getLogger(__name__)

TENSORBOARD_FOLDER = "tensorboard"


class SeparationBrain(StepBrain):
    """Train with negative SI-SNR under permutation invariance; evaluate with SI-SNRi and SDRi.

    ``modules`` are ``encoder``, ``masknet`` and ``decoder``, as in SpeechBrain's separation recipes. In training they
    are called through ``self.modules``, so that gradients are synchronized over several GPUs; in evaluation the
    unwrapped modules are called. Batches are `SeparationBatch`.

    An interrupted run resumes from its last checkpoint, and ends bit-identical to an uninterrupted one: in addition to
    SpeechBrain's state, a checkpoint holds the random states, the epoch's statistics, the schedule's state and the
    averaged weights. On a GPU bit-identity also needs ``deterministic``. With another batch size, accumulation or
    number of ranks, an interrupted epoch resumes with its remaining examples.

    Read from ``hparams``, besides what `StepBrain` reads: ``sample_rate``; ``output_folder``, for the results;
    ``seed``; ``train_logger`` and ``epoch_counter``; ``n_audio_to_save``, how many test utterances to write as audio;
    and optionally ``batches_per_epoch``, the maximum number of batches per rank and epoch; ``num_to_keep``, how many of
    the best checkpoints, and of the newest, to keep (1); ``tensorboard``, whether to log to TensorBoard too;
    ``deterministic``, see `mossformer_sb.training.numerics.make_deterministic`.

    Arguments
    ---------
    modules, opt_class, hparams, run_opts, checkpointer
        As for ``speechbrain.Brain``.

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
        if (hparams or {}).get("deterministic", False):  # before the networks go to a GPU
            numerics.make_deterministic()
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        self.history = History(self.hparams.output_folder)
        self.train_dataset = None
        self._tensorboard = None
        self._progress = None
        self.on_stage = lambda stage: None  # called on all ranks when a stage begins

    def fit_batch(self, batch: SeparationBatch | None) -> torch.Tensor:
        """As `StepBrain` does; an out-of-memory error names the batch."""
        with naming_the_batch(batch, sb.Stage.TRAIN, self.hparams.sample_rate):
            return super().fit_batch(batch)

    # ---- validation and test

    def evaluate_batch(self, batch: SeparationBatch, stage: Stage) -> torch.Tensor:
        """As SpeechBrain does; an out-of-memory error names the batch."""
        with naming_the_batch(batch, stage, self.hparams.sample_rate):
            return super().evaluate_batch(batch, stage)

    def compute_forward(self, batch: SeparationBatch, stage: Stage) -> torch.Tensor:
        """SeparationBatch → estimates [B, T, S]."""
        return self._separate(self.modules if stage == sb.Stage.TRAIN else distributed.unwrapped(self.modules), batch)

    def compute_objectives(self, predictions: torch.Tensor, batch: SeparationBatch, stage: Stage) -> torch.Tensor:
        """Sum of the losses in dB of the valid examples; at test, also score each one. Training has `fit_batch`."""
        result = self._batch_result(predictions, batch, stage)
        self.stats.merge(StageStats.of([*result.totals.tolist(), result.samples, 0, 0.0]))
        if stage == sb.Stage.TEST:
            self._score(batch, predictions)
        return result.loss

    def _score(self, batch, estimates):
        for index, utterance_id in enumerate(batch.ids):
            length = int(batch.lengths[index])
            mixture, sources, estimate = (
                x[index, :length].float().cpu() for x in (batch.mixture, batch.sources, estimates)
            )
            check_finite(utterance_id, mixture, sources, estimate)
            scores, permutation = separation_scores(mixture, sources, estimate)
            # Each rank scores every n-th utterance, see GlobalBatches, and writes its own files.
            place = len(self.scores) * distributed.world_size() + distributed.rank()
            if place < self.hparams.n_audio_to_save:
                folder = Path(self.hparams.output_folder) / AUDIO_FOLDER
                save_example(folder, utterance_id, mixture, sources, estimate, permutation, self.hparams.sample_rate)
            self.scores.add(utterance_id, scores)

    # ---- stages

    def fit(
        self,
        epoch_counter: EpochCounter,
        train_set: torch.utils.data.Dataset,
        valid_set: torch.utils.data.Dataset | None = None,
        progressbar: bool | None = None,
        **loader_kwargs: Any,
    ) -> None:
        """As SpeechBrain's; with a time budget, as many epochs as it allows, and a progress bar in minutes.

        Arguments
        ---------
        epoch_counter, train_set, valid_set, progressbar, **loader_kwargs
            As for ``speechbrain.Brain.fit``. With ``train_minutes`` the counter's limit has no effect.
        """
        if self.budget.minutes is None:
            epochs = self._up_to_the_step_limit(self.budget.epochs(epoch_counter))
            super().fit(epochs, train_set, valid_set, progressbar, **loader_kwargs)
            return
        self._draws_bar = not self.noprogressbar if progressbar is None else progressbar
        try:
            epochs = self._up_to_the_step_limit(self.budget.epochs(epoch_counter, is_begun=lambda: self.step > 0))
            super().fit(epochs, train_set, valid_set, progressbar=False, **loader_kwargs)
        finally:
            if self._progress is not None:
                self._progress.close()

    def _up_to_the_step_limit(self, epochs):
        """The epochs; none if a resumed run has taken all steps of ``optimizer_step_limit``, unless one is begun."""
        while self.step > 0 or not self._optimizer_step_limit_exceeded:
            try:
                yield next(epochs)
            except StopIteration:
                return

    def on_fit_start(self) -> None:
        """Give each rank its own random numbers, then prepare as SpeechBrain does, and recover."""
        distributed.seed_each_rank(self._seed)
        if getattr(self.hparams, "tensorboard", False):
            self._tensorboard = _tensorboard_logger(Path(self.hparams.output_folder) / TENSORBOARD_FOLDER)
        distributed.run_on_all_ranks(super().on_fit_start)
        self.schedule.resumed(getattr(self.hparams.epoch_counter, "current", 0))
        self._set_steps_of_schedule()
        if if_main_process():
            compiled = bool(self.compile or self.compile_module_keys)
            logger.info(numerics.describe(self.device, self.precision, self.eval_precision, compiled))
            if compiled and torch.device(self.device).type == "cpu":
                logger.warning(
                    "--compile is slower on a CPU than training without it: the fast implementations for CPUs are not "
                    "used in compiled networks. Leave it out."
                )
        if self.budget.minutes is not None:
            self._report_budget()
            if if_main_process():
                self._progress = Progress(self.budget, bar=self._draws_bar)

    def _set_steps_of_schedule(self):
        """Give `OneCycle` the steps of this training, unless it follows time; warn if it was given others."""
        schedule = self.schedule.scheduler
        if not isinstance(schedule, OneCycle):
            return
        steps = self._steps_of_training()
        if schedule.total_steps is None and self.budget.minutes is None:
            if steps is None:
                raise InputError(
                    "schedule one_cycle follows the time or the number of steps, and neither is known: give "
                    "train_minutes, or leave out epoch_minutes."
                )
            schedule.for_steps(steps)
        elif None in (schedule.total_steps, steps) or not if_main_process():
            return
        elif abs(schedule.total_steps / steps - 1) > 0.01:
            logger.warning(
                "schedule one_cycle: the rate is for %d steps in all, and this training has %d. Leave out "
                "total_steps, which is then set.",
                *(schedule.total_steps, steps),
            )

    def _steps_of_training(self):
        """Number of steps of the optimizer in all epochs, as far as it is known before them."""
        epochs = getattr(self.hparams.epoch_counter, "limit", None)
        if None in (epochs, self.train_batches) or self.budget.epoch_minutes is not None:
            return self.optimizer_step_limit
        steps = epochs * math.ceil(len(self.train_batches) / self.grad_accumulation_factor)
        return steps if self.optimizer_step_limit is None else min(steps, self.optimizer_step_limit)

    def _report_budget(self):
        """Log the time left and, if a resumed run has another time budget, the change of the learning rate."""
        budget, schedule = self.budget, self.schedule.scheduler
        logger.info("%.1f of %g minutes of training are left", budget.minutes_left, budget.minutes)
        if budget.previous_minutes in (None, budget.minutes) or not isinstance(schedule, OneCycle):
            return
        before = TimeBudget(budget.previous_minutes)
        before.add(budget.used)
        logger.info(
            "train_minutes was %g: with %g now, the learning rate continues with %.3g instead of %.3g",
            *(before.minutes, budget.minutes, schedule.rate_at(budget.share), schedule.rate_at(before.share)),
        )

    @property
    def _seed(self):
        return getattr(self.hparams, "seed", 0)

    def optimizers_step(self) -> None:
        """A step, see `StepBrain`; with a time budget, show how much of it is used."""
        super().optimizers_step()
        if self._progress is not None:
            self._progress.update(self.hparams.epoch_counter.current, self.step, -self.stats.mean)

    def on_stage_start(self, stage: Stage, epoch: int | None = None) -> None:
        """Reset the statistics, unless training resumes within an epoch; select the stage's weights."""
        self.on_stage(stage)
        resumed_mid_epoch = stage == sb.Stage.TRAIN and self.step > 0
        if not resumed_mid_epoch:
            self.stats.reset()
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
            # A checkpoint is saved between two windows: the statistics hold all processed examples of the epoch.
            self.train_batches.set_epoch(epoch, items_done=self.stats.items, batches_done=self.step)
        reset_peak_memory(self.device)
        self._seconds_since_last()

    def _use_averaged_weights(self, averaged):
        if self.averaged is not None:
            (self.averaged.use if averaged else self.averaged.restore)()

    def on_stage_end(self, stage: Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Log; after validation, set the learning rate and save a checkpoint; after test, write the scores.

        After test the evaluated weights stay in the modules, for the export.
        """
        self._check_loading(stage)
        if stage == sb.Stage.TRAIN:
            self._check_used_examples(epoch)
            self.train_stats = self._train_stats()
        elif stage == sb.Stage.VALID:
            self._use_averaged_weights(False)
            self._end_epoch(epoch, self.stats.over_ranks(self.device))
        else:
            self._end_test()

    def _check_used_examples(self, epoch):
        """Raise InputError if no example of an epoch was used: the networks would be saved as they were."""
        if self.stats.dropped and self.stats.dropped == self.stats.items:
            raise InputError(
                f"epoch {epoch}: none of its {self.stats.items} training examples was used. An example is left out if "
                f"its loss is below threshold, {self.hparams.threshold} dB, or if all its sources are silent. Set "
                f"threshold to null, or to a loss that is better than any, such as -30; or check the data."
            )

    def _train_stats(self):
        """Statistics of a training epoch over all ranks, from name to value."""
        stats = self.stats
        seconds = stats.seconds or float("nan")
        return {
            "si-snr": stats.mean,
            "dropped": stats.dropped,
            "nonfinite": stats.nonfinite,
            "skipped-steps": stats.skipped,
            "grad-norm": stats.mean_norm,
            "grad-norm-max": stats.norm_max,
            "seconds": stats.seconds,
            "items/s": stats.items / seconds,
            "audio-s/s": stats.samples / self.hparams.sample_rate / seconds,
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
        distributed.run_on_main(self.history.add, row)
        distributed.run_on_main(self.history.draw)
        if self._tensorboard is not None:
            # The logger counts its calls; a resumed run has to continue with the epoch.
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
        distributed.run_on_main(self.scores.write, path)
        self.hparams.train_logger.log_stats(
            stats_meta={"epoch loaded": self.hparams.epoch_counter.current}, test_stats=self.scores.average()
        )
        if if_main_process():
            logger.info("%s\nAll scores are in %s", self.scores.summary(), path)

    # ---- data and checkpoints

    def make_dataloader(
        self,
        dataset: torch.utils.data.Dataset,
        stage: Stage,
        ckpt_prefix: str | None = "dataloader-",
        **loader_kwargs: Any,
    ) -> torch.utils.data.DataLoader:
        """A loader of `SeparationBatch`, which gives each rank its share; see `GlobalBatches`.

        Its position is not saved in checkpoints: it follows from the epoch and the number of examples, both saved.

        Arguments
        ---------
        dataset : torch.utils.data.Dataset
            Dataset of `mossformer_sb.data.datasets.Mixture`.
        stage : speechbrain.Stage
            Training differs in the order and the last batch.
        ckpt_prefix : str, optional
            Ignored.
        **loader_kwargs : dict
            ``batch_size``, ``shuffle``, and other arguments of ``torch.utils.data.DataLoader``.

        Returns
        -------
        torch.utils.data.DataLoader

        Raises
        ------
        InputError
            If an argument conflicts with the sampling.
        """
        refused = sorted({"sampler", "batch_sampler", "drop_last"} & set(loader_kwargs))
        training = stage == sb.Stage.TRAIN
        shuffle = loader_kwargs.pop("shuffle", False)
        if shuffle and not training:
            refused.append("shuffle")
        if refused:
            name = f"{stage.name.lower()}_loader"
            raise InputError(
                f"{name}: {', '.join(refused)} can't be set: the sampler determines the order of the examples and "
                f"their division among processes. Remove it; in train_loader, shuffle chooses between two orders."
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
        # A loader draws its workers' seed from its own generator, since the global generator's state is part of a
        # checkpoint, and a resumed run creates its loaders at another time.
        loader_kwargs.setdefault("generator", torch.Generator())
        loader_kwargs.setdefault("pin_memory", self.device_type == "cuda")
        if training:
            self.train_dataset, self.train_batches = dataset, batches
            if self.checkpointer is not None:  # optional: earlier versions did not save it
                self.checkpointer.add_recoverable("data_order", batches, optional_load=True)
        ended = self._epoch_is_over if training else None
        self._loaders[stage] = RankLoader(
            dataset, batch_sampler=batches, none_after_error=training, ended=ended, **loader_kwargs
        )
        return self._loaders[stage]

    def evaluate(
        self,
        test_set: torch.utils.data.Dataset,
        max_key: str | None = None,
        min_key: str | None = None,
        progressbar: bool | None = None,
        test_loader_kwargs: dict | None = None,
    ) -> float | None:
        """As SpeechBrain's."""
        return super().evaluate(test_set, max_key, min_key, progressbar, dict(test_loader_kwargs or {}))

    def load_best(self) -> None:
        """Load the best checkpoint, with the weights that were validated, without evaluating it."""
        self.on_evaluate_start(max_key=BEST_KEY)
        self._use_averaged_weights(True)

    def on_evaluate_start(self, max_key: str | None = None, min_key: str | None = None) -> None:
        """Load the best checkpoint; there must be one with a score."""
        self._use_averaged_weights(False)
        if self.checkpointer is not None:
            distributed.run_on_all_ranks(check_scored, self.checkpointer, max_key or min_key)
        distributed.run_on_all_ranks(super().on_evaluate_start, max_key, min_key)


def _tensorboard_logger(folder):
    try:
        return TensorboardLogger(str(folder))
    except ImportError as error:
        raise InputError(
            'tensorboard: True needs the package tensorboard, which is missing: pip install "mossformer_sb[report]", '
            "or set it to False."
        ) from error
