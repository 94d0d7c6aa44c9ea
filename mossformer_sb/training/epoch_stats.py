"""What a stage adds up: scores and counts of items, and how the steps of the optimiser went."""

from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks

from mossformer_sb.training import distributed

_TALLY = ("si_snr", "count", "dropped", "nonfinite")  # of the items of a batch, see `Items.tally`
# What each rank has a share of; the rest is the same on all.
_SHARED_OUT = (*_TALLY, "samples", "failed", "seconds")
_FRACTIONS = ("si_snr", "seconds")


class Items(NamedTuple):
    """What the items of a batch come to, on the device where that was computed."""

    losses: torch.Tensor  # [B], dB
    si_snr: torch.Tensor  # [B], dB
    counted: torch.Tensor  # [B], bool: which of them count
    finite: torch.Tensor  # [B], bool: which of them are finite
    samples: int  # of audio, padding left out

    @property
    def loss(self):
        """Sum over the items that count: []. What is not finite and does not count gives a gradient of NaN."""
        return torch.where(self.counted, self.losses, 0.0).sum()

    @property
    def tally(self):
        """The sum of the scores of the items that count, and the numbers that count, are dropped, are not finite: [4].

        In double precision.
        """
        si_snr = torch.where(self.counted, self.si_snr, 0.0).double().sum()
        numbers = torch.stack((self.counted, self.finite & ~self.counted, ~self.finite)).sum(1)
        return torch.cat((si_snr[None], numbers.double()))

    def only(self, chosen, samples):
        """The items for which a mask [B] is true, which have so many samples."""
        return Items(*(values[chosen] for values in self[:4]), samples)


class WindowSums:
    """What one rank adds up between two steps of the optimiser. Nothing is read from the device before `over_ranks`.

    Reading waits until the device has done all that it was given, which is time in which it then gets nothing to do.

    Example
    -------
    >>> losses = torch.tensor([-1.0, -3.0])
    >>> window = WindowSums()
    >>> window.add(Items(losses, -losses, losses < -2, losses.isfinite(), samples=100))
    >>> sums = window.over_ranks("cpu")
    >>> sums.mean, sums.count, sums.dropped, sums.samples
    (3.0, 1, 1, 100)
    """

    def __init__(self):
        self.reset()

    def reset(self):
        """Begin anew."""
        self._tallies, self.samples, self.failed, self.seconds = [], 0, 0, 0.0

    def add(self, items):
        """Add a batch of `Items`."""
        self._tallies.append(items.tally)
        self.samples += items.samples

    def over_ranks(self, device):
        """`StageSums` of what all the ranks have added."""
        here = torch.tensor([self.samples, self.failed, self.seconds], dtype=torch.float64)
        tally = torch.stack(self._tallies).sum(0) if self._tallies else torch.zeros(len(_TALLY), dtype=torch.float64)
        return StageSums.of(distributed.total(torch.cat((tally, here.to(tally.device))), device))


@register_checkpoint_hooks
@dataclass
class StageSums:
    """Sums over the items and steps of a stage, kept in checkpoints so that a resumed epoch ends with the same ones.

    Example
    -------
    >>> sums = StageSums(si_snr=1.0, count=1)
    >>> sums.merge(StageSums(si_snr=3.0, count=1, dropped=1))
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

    def add_step(self, norm):
        """Add a step of the optimiser, with the norm of its gradient."""
        self.steps += 1
        self.norm += norm
        self.norm_max = max(self.norm_max, norm)

    @classmethod
    def of(cls, values):
        """New sums of what ranks share, in the order of ``_SHARED_OUT``."""
        named = zip(_SHARED_OUT, values, strict=True)
        return cls(**{name: value if name in _FRACTIONS else int(value) for name, value in named})

    def merge(self, other):
        """Add what another has counted of items."""
        for name in _SHARED_OUT:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def over_ranks(self, device):
        """New sums of what all the ranks have counted of items."""
        return StageSums.of(distributed.total([getattr(self, name) for name in _SHARED_OUT], device))

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
