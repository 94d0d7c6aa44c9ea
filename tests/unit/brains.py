"""A Brain around a separator of few parameters, and batches for it."""

from types import SimpleNamespace

import numpy as np
import speechbrain as sb
import torch
from speechbrain.lobes.models.dual_path import Decoder, Encoder

from mossformer_sb.data.datasets import Mixture, SeparationBatch
from mossformer_sb.training.brain import SeparationBrain
from tests.unit.signals import KINDS, signals

LEVELS = (1.0, 0.01, 30.0)


class Gains(torch.nn.Module):
    """Masks that are one learned gain for each speaker and channel."""

    def __init__(self, channels=8, num_spks=2):
        super().__init__()
        self.gains = torch.nn.Parameter(torch.rand(num_spks, 1, channels, 1))

    def forward(self, x, lengths=None):
        return self.gains.expand(-1, *x.shape)


def make_brain(tmp_path, checkpointer=None, masknet=None, device="cpu", lr=0.01, modules=None, **hparams):
    modules = modules or {
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
        modules, lambda p: torch.optim.Adam(p, lr), {**defaults, **hparams}, {"device": device}, checkpointer
    )
    brain.init_optimizers()
    brain.on_stage_start(sb.Stage.TRAIN, epoch=1)
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


def train_at_levels(brain, steps, num_samples=800):
    """Train on mixtures of signals of every kind, at the usual level, 40 dB below it and 30 dB above it in turn."""
    rng = np.random.default_rng(0)
    for brain.step in range(1, steps + 1):
        items = []
        for index in range(2):
            sources = signals(rng, rng.choice(KINDS, 2, replace=False), num_samples)
            sources = torch.from_numpy(0.05 * LEVELS[brain.step % len(LEVELS)] * sources).float()
            items.append(Mixture(str(index), sources.sum(1), sources))
        brain.fit_batch(SeparationBatch.collate(items))


def parameters(brain):
    return torch.cat([p.detach().flatten().clone() for p in brain.modules.parameters()])


def fit(brain, batch):
    brain.step += 1
    before = parameters(brain)
    loss = brain.fit_batch(batch)
    return loss, not torch.equal(parameters(brain), before)
