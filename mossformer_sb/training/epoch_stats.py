"""Statistics of an epoch: examples and steps over all ranks, peak memory, and the table of all epochs."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks

from mossformer_sb.evaluation import plots
from mossformer_sb.training import distributed
from mossformer_sb.utils.devices import in_double
from mossformer_sb.utils.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

TABLE_FILE = "epochs.csv"
CURVES_FILE = "training_curves.png"

_TOTALS = ("si_snr", "count", "dropped", "nonfinite")  # sums over the examples of a batch, see `BatchResult.totals`
# These differ between ranks; the other statistics are the same on all ranks.
_PER_RANK = (*_TOTALS, "samples", "failed", "seconds")
_FLOATS = ("si_snr", "seconds")
_SAVED_AS = {"consecutive_nonfinite": "streak"}  # the name in checkpoints


# ---- statistics of examples and steps


class BatchResult(NamedTuple):
    """Losses and scores of the examples of a batch, on the device where they were computed."""

    losses: torch.Tensor  # [B], dB
    si_snr: torch.Tensor  # [B], dB
    valid: torch.Tensor  # [B], bool: which examples the loss includes
    finite: torch.Tensor  # [B], bool: which examples are finite
    samples: int  # of audio, without padding

    @property
    def loss(self) -> torch.Tensor:
        """Sum over the valid examples: []. A non-finite example is not valid, but gives a gradient of NaN."""
        return torch.where(self.valid, self.losses, 0.0).sum()

    @property
    def totals(self) -> torch.Tensor:
        """Sum of the valid examples' SI-SNR; numbers of valid, skipped and non-finite examples: [4], float64."""
        si_snr = in_double(torch.where(self.valid, self.si_snr, 0.0)).sum()
        numbers = torch.stack((self.valid, self.finite & ~self.valid, ~self.finite)).sum(1)
        return torch.cat((si_snr[None], in_double(numbers)))

    def only(self, chosen: torch.Tensor, samples: int) -> BatchResult:
        """The examples for which a mask [B] is true, with this many samples."""
        return BatchResult(*(values[chosen] for values in self[:4]), samples)


class WindowStats:
    """Running statistics of one rank between two steps of the optimizer.

    No value is read from the device before `over_ranks`: a read waits for all queued work, and leaves the device idle.
    Only Apple's MPS, which has no float64, is read after each batch.

    Example
    -------
    >>> losses = torch.tensor([-1.0, -3.0])
    >>> window = WindowStats()
    >>> window.add(BatchResult(losses, -losses, losses < -2, losses.isfinite(), samples=100))
    >>> stats = window.over_ranks("cpu")
    >>> stats.mean, stats.count, stats.dropped, stats.samples
    (3.0, 1, 1, 100)
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start from zero."""
        self._totals, self.samples, self.failed, self.seconds = [], 0, 0, 0.0

    def add(self, result: BatchResult) -> None:
        """Add a `BatchResult`."""
        self._totals.append(result.totals)
        self.samples += result.samples

    def over_ranks(self, device: str | torch.device) -> StageStats:
        """`StageStats` of all the ranks' windows together."""
        here = torch.tensor([self.samples, self.failed, self.seconds], dtype=torch.float64)
        totals = torch.stack(self._totals).sum(0) if self._totals else torch.zeros(len(_TOTALS), dtype=torch.float64)
        return StageStats.of(distributed.sum_over_ranks(torch.cat((totals, here.to(totals.device))), device))


@register_checkpoint_hooks
@dataclass
class StageStats:
    """Running statistics of a stage, kept in checkpoints, so that a resumed epoch ends with the same ones.

    Example
    -------
    >>> stats = StageStats(si_snr=1.0, count=1)
    >>> stats.merge(StageStats(si_snr=3.0, count=1, dropped=1))
    >>> stats.mean, stats.count, stats.items
    (2.0, 2, 3)
    """

    si_snr: float = 0.0  # dB, sum over the valid examples
    count: int = 0  # valid examples
    dropped: int = 0  # skipped examples: below the loss threshold, or without an active source
    nonfinite: int = 0  # examples without a finite loss
    samples: int = 0  # of audio, without padding
    failed: int = 0  # ranks whose data could not be read
    steps: int = 0  # of the optimizer
    skipped: int = 0  # steps skipped because the gradient was not finite
    consecutive_nonfinite: int = 0  # latest consecutive steps with a non-finite loss or gradient
    norm: float = 0.0  # norm of the gradients before clipping, sum over the steps
    norm_max: float = 0.0
    seconds: float = 0.0  # of training steps, by the main process's clock

    def reset(self) -> None:
        """Start from zero, except for consecutive failures, which are counted across epochs."""
        for field in fields(self):
            if field.name != "consecutive_nonfinite":
                setattr(self, field.name, field.default)

    def add_step(self, norm: float | None) -> None:
        """Add a step of the optimizer, with the norm of its gradient."""
        self.steps += 1
        self.norm += norm
        self.norm_max = max(self.norm_max, norm)

    @classmethod
    def of(cls, values: Sequence) -> StageStats:
        """New statistics from the values that differ between ranks, in the order of ``_PER_RANK``."""
        named = zip(_PER_RANK, values, strict=True)
        return cls(**{name: value if name in _FLOATS else int(value) for name, value in named})

    def merge(self, other: StageStats) -> None:
        """Add the examples of other statistics."""
        for name in _PER_RANK:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def over_ranks(self, device: str | torch.device) -> StageStats:
        """New statistics of the examples of all ranks."""
        return StageStats.of(distributed.sum_over_ranks([getattr(self, name) for name in _PER_RANK], device))

    @property
    def mean(self) -> float:
        """Mean SI-SNR in dB; NaN before the first valid example."""
        return self.si_snr / self.count if self.count else float("nan")

    @property
    def items(self) -> int:
        """Number of examples, valid or not."""
        return self.count + self.dropped + self.nonfinite

    @property
    def mean_norm(self) -> float:
        """Mean norm of the gradients; NaN before the first step."""
        return self.norm / self.steps if self.steps else float("nan")

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Save them."""
        torch.save({_SAVED_AS.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}, path)

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Load the statistics. Values that an older version did not save get their defaults."""
        del end_of_epoch  # the start of the next stage resets the statistics of a finished epoch
        saved = torch.load(path, weights_only=True)
        for field in fields(self):
            setattr(self, field.name, saved.get(_SAVED_AS.get(field.name, field.name), field.default))


# ---- peak memory


def reset_peak_memory(device: str | torch.device) -> None:
    """Start a new measurement on a GPU. On a CPU the peak is that of the process, and can't be reset."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: str | torch.device) -> float:
    """Peak in bytes: what torch allocated on a GPU, or the resident set of this process on a CPU.

    NaN where the operating system doesn't report it.

    Example
    -------
    >>> peak_memory("cpu") > 1e6
    True
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


# ---- the table of all epochs


class History:
    """The statistics of all epochs: ``epochs.csv``, one row per epoch, and its curves, ``training_curves.png``.

    Both are written atomically.

    Arguments
    ---------
    folder : str or Path
        Output folder.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for epoch, score in ((1, 2.0), (2, 5.5), (2, 5.25)):  # the second was trained twice
    ...     History(folder).add({"epoch": epoch, "valid_si-snr": score})
    >>> (folder / TABLE_FILE).read_text().splitlines()
    ['epoch,valid_si-snr', '1,2', '2,5.25']
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._draws = True

    def add(self, row: dict) -> None:
        """Add an epoch; rows of the same and of later ones are of a training that was discarded."""
        path = self.folder / TABLE_FILE
        table = pd.DataFrame([row])
        if path.is_file():
            before = pd.read_csv(path)
            table = pd.concat([before[before["epoch"] < row["epoch"]], table], ignore_index=True)
        with atomic_write(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")

    def draw(self) -> None:
        """Draw the curves; without matplotlib, log once how to install it."""
        if not self._draws:
            return
        try:
            figure = plots.draw_training(pd.read_csv(self.folder / TABLE_FILE))
        except ImportError:
            self._draws = False
            logger.warning(
                '%s is drawn by matplotlib, which is not installed: pip install "mossformer_sb[report]"', CURVES_FILE
            )
            return
        plots.save_png(figure, self.folder / CURVES_FILE, dpi=120)
