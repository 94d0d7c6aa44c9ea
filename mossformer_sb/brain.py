"""Training and evaluation of a separator, as a SpeechBrain Brain."""

import logging
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.nnet.schedulers import ReduceLROnPlateau, update_learning_rate
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from speechbrain.utils.distributed import if_main_process, is_distributed_initialized

from mossformer_sb.dataio import SeparationBatch
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation import ScoreTable, save_example
from mossformer_sb.losses import pit_si_snr_loss
from mossformer_sb.metrics import separation_scores
from mossformer_sb.random_state import RandomState
from mossformer_sb.separator import separate

logger = logging.getLogger(__name__)

RESULTS_FILE = "test_results.csv"
BEST_KEY = "si-snr"  # validation score, in a checkpoint's meta, by which the best is known


class SeparationBrain(sb.Brain):
    """Train with negative SI-SNR under permutation invariance; evaluate with SI-SNRi and SDRi.

    ``modules`` are ``encoder``, ``masknet`` and ``decoder``, as in SpeechBrain's separation recipes, and are always
    called through ``self.modules``, so that gradients are synchronised over several GPUs. Batches are
    `SeparationBatch`.

    A run that is killed goes on where its last checkpoint stands, to the same numbers: besides what SpeechBrain saves,
    a checkpoint holds the random states and the epoch's sums.

    Read from ``hparams``: ``sample_rate``; ``output_folder``, for the results; ``threshold``, the loss in dB below
    which an item is good enough to be left out (null: none is); ``lr_scheduler``, a scheduler of SpeechBrain's
    (null: constant); ``train_logger`` and ``epoch_counter``; ``n_audio_to_save``, how many test utterances to write
    as audio.

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
        try:
            super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        except ValueError as error:  # SpeechBrain's way to refuse an option, such as fp16 on a CPU
            raise InputError(f"SpeechBrain can't run with these options: {error}") from error
        self.stage_loss = LossMean()
        self.random_state = RandomState()
        self.train_dataset = None
        if checkpointer is not None:
            checkpointer.add_recoverables({"stage_loss": self.stage_loss, "random_state": self.random_state})

    # ---- one batch

    def compute_forward(self, batch, stage):
        """SeparationBatch → estimates [B, T, S]."""
        batch = batch.to(self.device)
        networks = self.modules
        return separate(
            networks.encoder, networks.masknet, networks.decoder, batch.mixture, lengths=batch.padded_lengths
        )

    def compute_objectives(self, predictions, batch, stage):
        """Mean loss of the batch in dB; at test, also score each item."""
        result = pit_si_snr_loss(
            predictions, batch.sources, batch.padded_lengths, getattr(self.hparams, "silence_snr", None)
        )
        counted = result.num_active > 0
        if stage == sb.Stage.TRAIN and self.hparams.threshold is not None:
            counted = counted & (result.losses.detach() > self.hparams.threshold)
        self.stage_loss.add(result.losses.detach()[counted], dropped=int((~counted).sum()))
        if stage == sb.Stage.TEST:
            self._score(batch, predictions)
        # With no item left this is zero with zero gradients; `optimizers_step` then leaves the weights as they are.
        self._items_since_step += int(counted.sum())
        return (result.losses * counted).sum() / counted.sum().clamp(min=1)

    def _score(self, batch, estimates):
        for index, utterance_id in enumerate(batch.ids):
            length = int(batch.lengths[index])
            mixture, sources, estimate = (
                x[index, :length].float().cpu() for x in (batch.mixture, batch.sources, estimates)
            )
            scores, permutation = separation_scores(mixture, sources, estimate)
            if len(self.scores) < self.hparams.n_audio_to_save and if_main_process():
                folder = Path(self.hparams.output_folder) / "audio"
                save_example(folder, utterance_id, mixture, sources, estimate, permutation, self.hparams.sample_rate)
            self.scores.add(utterance_id, scores)

    def on_fit_batch_start(self, batch, should_step):
        """Restore the random state of the checkpoint that the run was resumed from, now that it is to be used."""
        self.random_state.apply_pending()

    def optimizers_step(self):
        """Step, unless every item since the last step was dropped: Adam would move on its momentum alone."""
        if self._sum_over_ranks(self._items_since_step):
            super().optimizers_step()
        else:
            self.zero_grad(set_to_none=True)
        self._items_since_step = 0

    def _sum_over_ranks(self, count):
        """One rank must not step where another does not, or their weights part."""
        if not is_distributed_initialized():
            return count
        total = torch.tensor(count, device=self.device)
        torch.distributed.all_reduce(total)
        return int(total)

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        """Only between two steps of the optimiser: a checkpoint holds no half-accumulated gradients."""
        between_steps = self.step % self.grad_accumulation_factor == 0
        return between_steps and super()._should_save_intra_epoch_ckpt(last_ckpt_time, steps_since_ckpt)

    def update_average(self, loss, avg_loss):
        """The stage's mean over items that count, for the progress bar: a dropped item is no loss of zero."""
        return self.stage_loss.mean

    # ---- stages

    def on_stage_start(self, stage, epoch=None):
        """Reset the sums, unless training goes on in mid-epoch."""
        resumed_mid_epoch = stage == sb.Stage.TRAIN and self.step > 0
        if not resumed_mid_epoch:
            self.stage_loss.reset()
        self._items_since_step = 0
        if stage == sb.Stage.TRAIN and hasattr(self.train_dataset, "set_epoch"):
            self.train_dataset.set_epoch(epoch)
        if stage == sb.Stage.TEST:
            self.scores = ScoreTable()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log; after validation, set the learning rate and save a checkpoint; after test, write the scores."""
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"si-snr": -self.stage_loss.mean, "dropped": self.stage_loss.dropped}
        elif stage == sb.Stage.VALID:
            self._end_epoch(epoch, valid_loss=self.stage_loss.mean)
        else:
            self._end_test()

    def _end_epoch(self, epoch, valid_loss):
        old_rate, new_rate = self._next_learning_rate(epoch, valid_loss)
        update_learning_rate(self.optimizer, new_rate)
        self.hparams.train_logger.log_stats(
            stats_meta={"epoch": epoch, "lr": old_rate},
            train_stats=self.train_stats,
            valid_stats={"si-snr": -valid_loss},
        )
        if self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(meta={BEST_KEY: -valid_loss, "epoch": epoch}, max_keys=[BEST_KEY])

    def _next_learning_rate(self, epoch, valid_loss):
        scheduler = self.hparams.lr_scheduler
        if scheduler is None:
            return (self.optimizer.param_groups[0]["lr"],) * 2
        if isinstance(scheduler, ReduceLROnPlateau):
            return scheduler([self.optimizer], epoch, valid_loss)
        return scheduler(epoch)

    def _end_test(self):
        if not if_main_process():
            return
        path = Path(self.hparams.output_folder) / RESULTS_FILE
        self.scores.write(path)
        self.hparams.train_logger.log_stats(
            stats_meta={"epoch loaded": self.hparams.epoch_counter.current}, test_stats=self.scores.average()
        )
        logger.info("%s\nAll scores are in %s", self.scores.summary(), path)

    # ---- data and checkpoints

    def make_dataloader(self, dataset, stage, ckpt_prefix="dataloader-", **loader_kwargs):
        """As SpeechBrain's, for datasets of `mossformer_sb.dataio.Mixture`."""
        loader_kwargs.setdefault("collate_fn", SeparationBatch.collate)
        # A loader draws its workers' seed. From a generator of its own, since the global one's state is part of a
        # checkpoint, and a resumed run starts its loaders at another moment.
        loader_kwargs.setdefault("generator", torch.Generator())
        loader_kwargs.setdefault("pin_memory", self.device_type == "cuda")
        if stage == sb.Stage.TRAIN:
            self.train_dataset = dataset
        return super().make_dataloader(dataset, stage, ckpt_prefix, **loader_kwargs)

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Load the best checkpoint; there must be one."""
        super().on_evaluate_start(max_key, min_key)
        if self.checkpointer is not None and not self.checkpointer.list_checkpoints():
            raise InputError(
                f"{self.checkpointer.checkpoints_dir}: holds no checkpoint to evaluate. Train first (without "
                f"--test_only), or give the --output_folder of a finished training."
            )


@register_checkpoint_hooks
class LossMean:
    """Mean loss over the items of a stage, kept in checkpoints so that a resumed epoch ends with the same mean.

    Example
    -------
    >>> loss = LossMean()
    >>> loss.add(torch.tensor([-1.0, -3.0]), dropped=1)
    >>> loss.mean, loss.dropped
    (-2.0, 1)
    """

    def __init__(self):
        self.reset()

    def reset(self):
        """Begin anew."""
        self.total, self.count, self.dropped = 0.0, 0, 0

    def add(self, losses, dropped=0):
        """Add the losses of items that count, and how many did not."""
        self.total += losses.double().sum().item()
        self.count += len(losses)
        self.dropped += dropped

    @property
    def mean(self):
        """Mean loss; NaN before the first item."""
        return self.total / self.count if self.count else float("nan")

    @mark_as_saver
    def _save(self, path):
        torch.save({"total": self.total, "count": self.count, "dropped": self.dropped}, path)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        del end_of_epoch  # The next stage's start resets what a finished epoch left.
        for name, value in torch.load(path, weights_only=True).items():
            setattr(self, name, value)
