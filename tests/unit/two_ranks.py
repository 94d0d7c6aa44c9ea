"""A program that trains on as many ranks as its environment says, in double precision, and writes down what came out.

    RANK=0 WORLD_SIZE=2 … python -m tests.unit.two_ranks FOLDER

`results` does the same in the calling process, as the only rank; `kill` begins a training that all then go on with.
"""

import os
import sys
from pathlib import Path

import torch
from speechbrain.utils.epoch_loop import EpochCounter
from torch.utils.data import Dataset

from mossformer_sb import InputError, MossFormerMaskNet
from mossformer_sb.data.datasets import Mixture
from mossformer_sb.training import distributed
from mossformer_sb.training.checkpoints import Checkpointer
from mossformer_sb.training.finetuning import freeze
from tests.unit.brains import Recorder, make_brain

# For tests/gpu, which runs it with two GPUs.
DEVICE, BACKEND = (
    os.environ.get(f"TWO_RANKS_{name}", default) for name, default in (("DEVICE", "cpu"), ("BACKEND", "gloo"))
)
GLOBAL_BATCH = 4
NUM_ITEMS = 14  # three global batches and a half
# Without shuffling, item i is rank i % 2's. From name to what is special about the items, and hyperparameters.
SCENARIOS = {
    "plain": ({}, {}),
    "dropped": ({"silent": [5]}, {}),
    "nonfinite": ({"nan": [2]}, {}),
    "nothing left on one rank": ({"nan": [1, 3], "silent": [4]}, {}),
    "nothing left at all": ({"silent": [4, 5, 6, 7]}, {}),
    "good enough": ({}, {"threshold": 20.0}),
    "accumulation": ({"nan": [9], "silent": [2]}, {"grad_accumulation_factor": 3}),
    "average": ({}, {"ema_decay": 0.5}),
    "shuffled": ({}, {"shuffle": True}),
    "frozen": ({"silent": [5]}, {"freeze": ["encoder.*", "masknet.blocks.*"]}),
    "checkpointed": ({}, {"checkpoint_blocks": True, "freeze": "decoder.*", "grad_accumulation_factor": 2}),
    "time": ({}, {"train_minutes": 0.4}),  # four steps of six seconds
}


class Noise(Dataset):
    """Mixtures of noises, of different lengths, in double precision; some silent, some not a number."""

    def __init__(self, num_items=NUM_ITEMS, silent=(), nan=(), unreadable=()):
        self.num_items, self.silent, self.nan, self.unreadable = num_items, silent, nan, unreadable
        self.seen = []

    def __len__(self):
        return self.num_items

    def __getitem__(self, index):
        if index in self.unreadable:
            raise InputError(f"{index}.wav: can't be read")
        self.seen.append(index)
        generator = torch.Generator().manual_seed(index)
        sources = torch.randn(400 + 16 * index, 2, generator=generator, dtype=torch.float64)
        mixture = sources.sum(1) + 0.1 * torch.randn(len(sources), generator=generator, dtype=torch.float64)
        mixture = mixture * (float("nan") if index in self.nan else 1)
        return Mixture(str(index), mixture, sources * (index not in self.silent))


# How the two ranks go on with what one process began: batches of each, with the same global batch and with another.
RESUMED = {"same": GLOBAL_BATCH // 2, "other": 3}


class Killed(Exception):
    """Stands for the end of a process."""


def kill(folder):
    """Train in this process on one global batch and leave its checkpoint: indices of the items that it has had."""
    data = Noise()
    brain, loader = _brain(folder, ckpt_interval_steps=1, shuffle=True)
    _keep(brain, folder)
    fit_batch = brain.fit_batch

    def killing(batch):
        if brain.step > 1:
            raise Killed
        return fit_batch(batch)

    brain.fit_batch = killing
    try:
        brain.fit(EpochCounter(1), data, train_loader_kwargs=loader)
    except Killed:
        return data.seen[:GLOBAL_BATCH]


def _keep(brain, folder):
    brain.checkpointer = Checkpointer(folder / "save", {"brain": brain, "stage_loss": brain.stats, **brain.modules})


def _resume(folder, batch_size):
    data = Noise()
    brain, loader = _brain(folder, shuffle=True)
    _keep(brain, folder)
    brain.fit(EpochCounter(1), data, train_loader_kwargs={**loader, "batch_size": batch_size})
    weights = {name.replace(".module.", "."): p.detach().clone() for name, p in brain.raw_modules.named_parameters()}
    return {"seen": data.seen, "steps": brain.optimizer_step, "weights": weights, "items": brain.stats.items}


def results(folder):
    """Run all the scenarios: name to parameters, items seen and figures; and what ends a run to its message."""
    folder = Path(folder)
    runs = {name: _run(folder / name, *scenario) for name, scenario in SCENARIOS.items()}
    return runs | {
        "patience": _message(folder / "patience", Noise(nan=[4, 5]), nonfinite_patience=0),
        "unreadable": _message(folder / "unreadable", Noise(unreadable=[1]), grad_accumulation_factor=2),
        "unreadable in validation": _message(folder / "validation", Noise(), Noise(5, unreadable=[3])),
        "resumed": {name: _resume(folder / name, size) for name, size in RESUMED.items() if (folder / name).exists()},
    }


class StepClock:
    """Six seconds a step in the main process; another's runs much faster, and decides nothing."""

    def __init__(self, brain):
        self.brain = brain

    def seconds(self):
        return self.brain.step * (6.0 if distributed.rank() == 0 else 600.0)


def _brain(folder, **hparams):
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    checkpoint_blocks = hparams.pop("checkpoint_blocks", False)
    size = {"num_blocks": 1, "group_size": 32, "query_key_dim": 32, "dropout": 0.0}
    masknet = MossFormerMaskNet(8, 16, **size, checkpoint_blocks=checkpoint_blocks)
    shuffle, patterns = hparams.pop("shuffle", False), hparams.pop("freeze", ())
    hparams |= {"noprogressbar": True, "train_logger": Recorder(), "distributed_backend": BACKEND, "device": DEVICE}
    brain = make_brain(folder, masknet=masknet, **hparams)
    brain.history.draw = lambda: None  # it takes its time
    for module in brain.modules.values():
        module.double()
    if patterns:
        freeze(brain.modules, patterns)
    if "train_minutes" in hparams:
        brain._clock = StepClock(brain)
    loader = {"batch_size": GLOBAL_BATCH // distributed.world_size(), "shuffle": shuffle}
    return brain, loader


def _run(folder, special, hparams):
    brain, loader = _brain(folder, n_audio_to_save=2, **hparams)
    data = Noise(**special)
    evaluation = {"batch_size": loader["batch_size"]}
    brain.fit(EpochCounter(1), data, Noise(5), train_loader_kwargs=loader, valid_loader_kwargs=evaluation)
    weights = {name: p.detach().clone() for name, p in brain.raw_modules.named_parameters()}
    if folder.name == "plain":
        brain.evaluate(Noise(5), test_loader_kwargs=evaluation)
    return {
        "weights": {name.replace(".module.", "."): weight for name, weight in weights.items()},
        "seen": data.seen,
        "steps": brain.optimizer_step,
        "log": brain.hparams.train_logger.entries,
        "scores": brain.scores.to_frame().to_dict("list") if folder.name == "plain" else None,
        "random": torch.rand(1).item(),
    }


def _message(folder, data, valid=None, **hparams):
    brain, loader = _brain(folder, **hparams)
    try:
        brain.fit(EpochCounter(1), data, valid, train_loader_kwargs=loader, valid_loader_kwargs={"batch_size": 1})
    except InputError as error:
        return str(error)


if __name__ == "__main__":
    distributed.start({"distributed_backend": BACKEND})
    torch.save(results(sys.argv[1]), Path(sys.argv[1]) / f"rank{distributed.rank()}.pt")
    distributed.stop()
