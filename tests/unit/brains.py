"""A Brain around a separator of few parameters, and batches for it."""

from types import SimpleNamespace

import speechbrain as sb
import torch
from speechbrain.lobes.models.dual_path import Decoder, Encoder

from mossformer_sb.data.datasets import Mixture, SeparationBatch
from mossformer_sb.training.brain import SeparationBrain


class Gains(torch.nn.Module):
    """Masks that are one learned gain for each speaker and channel."""

    def __init__(self, channels=8, num_spks=2):
        super().__init__()
        self.gains = torch.nn.Parameter(torch.rand(num_spks, 1, channels, 1))

    def forward(self, x, lengths=None):
        return self.gains.expand(-1, *x.shape)


def make_brain(tmp_path, checkpointer=None, masknet=None, device="cpu", **hparams):
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
        modules, lambda p: torch.optim.Adam(p, 0.01), {**defaults, **hparams}, {"device": device}, checkpointer
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


def parameters(brain):
    return torch.cat([p.detach().flatten().clone() for p in brain.modules.parameters()])


def fit(brain, batch):
    brain.step += 1
    before = parameters(brain)
    loss = brain.fit_batch(batch)
    return loss, not torch.equal(parameters(brain), before)
