"""What a stage adds up: scores and counts of items, and how the steps of the optimiser went."""

from dataclasses import asdict, dataclass, fields

import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks

from mossformer_sb import ranks

# What each rank has a share of; the rest is the same on all.
_SHARED_OUT = ("si_snr", "count", "dropped", "nonfinite", "samples", "failed", "seconds")
_FRACTIONS = ("si_snr", "seconds")


@register_checkpoint_hooks
@dataclass
class StageSums:
    """Sums over the items and steps of a stage, kept in checkpoints so that a resumed epoch ends with the same ones.

    Example
    -------
    >>> sums = StageSums()
    >>> sums.add_items(torch.tensor([1.0, 3.0]), dropped=1)
    >>> sums.mean, sums.count, sums.items
    (2.0, 2, 3)
    """

    si_snr: float = 0.0  # dB, over the items that count
    count: int = 0  # items that count
    dropped: int = 0  # items that are good enough, or have no active source
    nonfinite: int = 0  # items without a finite loss
    samples: int = 0  # of audio, padding left out
    failed: int = 0  # ranks whose data could not be read
    steps: int = 0  # of the optimiser
    skipped: int = 0  # steps that were left out, since the gradient was not finite
    streak: int = 0  # steps in a row, up to now, with something that was not finite
    norm: float = 0.0  # of the gradients before clipping, over the steps
    norm_max: float = 0.0
    seconds: float = 0.0  # of training steps, by the main process's clock

    def reset(self):
        """Begin anew. The streak goes on: it may cross from one epoch to the next."""
        for field in fields(self):
            if field.name != "streak":
                setattr(self, field.name, field.default)

    def add_items(self, si_snr, dropped=0, nonfinite=0, samples=0):
        """Add the scores of the items that count [·], and how many did not."""
        self.si_snr += si_snr.double().sum().item()
        self.count += len(si_snr)
        self.dropped += dropped
        self.nonfinite += nonfinite
        self.samples += samples

    def add_step(self, norm):
        """Add a step of the optimiser, with the norm of its gradient."""
        self.steps += 1
        self.norm += norm
        self.norm_max = max(self.norm_max, norm)

    def merge(self, other):
        """Add what another has counted of items."""
        for name in _SHARED_OUT:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def over_ranks(self, device):
        """New sums of what all the ranks have counted of items."""
        totals = dict(zip(_SHARED_OUT, ranks.total([getattr(self, n) for n in _SHARED_OUT], device), strict=True))
        return StageSums(**{name: value if name in _FRACTIONS else int(value) for name, value in totals.items()})

    @property
    def mean(self):
        """Mean SI-SNR in dB; NaN before the first item."""
        return self.si_snr / self.count if self.count else float("nan")

    @property
    def items(self):
        """Number of items, whether they count or not."""
        return self.count + self.dropped + self.nonfinite

    @property
    def mean_norm(self):
        """Mean norm of the gradients; NaN before the first step."""
        return self.norm / self.steps if self.steps else float("nan")

    @mark_as_saver
    def save(self, path):
        """Save them."""
        torch.save(asdict(self), path)

    @mark_as_loader
    def load(self, path, end_of_epoch):
        """Load them. What an older version did not count stays as it is."""
        del end_of_epoch  # The next stage's start resets what a finished epoch left.
        saved = torch.load(path, weights_only=True)
        for field in fields(self):
            setattr(self, field.name, saved.get(field.name, field.default))
