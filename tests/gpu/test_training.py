"""Training on a device: the CPU's steps, no reading between two of them, mixed precision, and resuming."""

import contextlib
import math
import os
import warnings

import pytest
import torch

from mossformer_sb import MossFormerMaskNet, MossFormerSeparator
from tests.unit.brains import batch_of, fit, make_brain, parameters, train_at_levels
from tests.unit.test_resume import figures, train
from tests.unit.test_step_syncs import Reads


def brain_on(device, folder, dropout=0.0, **hparams):
    torch.manual_seed(0)
    masknet = MossFormerMaskNet(8, 16, num_blocks=1, group_size=32, query_key_dim=16, dropout=dropout)
    return make_brain(folder, masknet=masknet, device=device, **hparams)


def batches(count=3, padded=False):
    torch.manual_seed(1)
    made = [batch_of(3, silent=(1,)) for _ in range(count)]
    for batch in made:
        if padded:
            batch.lengths, batch.is_padded = torch.tensor([800, 640, 700]), True
    return made


@contextlib.contextmanager
def no_reading(device, batch):
    """Fails where the host waits for the device."""
    if device == "cpu":
        with Reads(batch.lengths) as reads:
            yield
        assert reads.found == []
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("padded", [False, True])
def test_steps_are_the_cpus(tmp_path, device, padded):
    brain, other = brain_on(device, tmp_path), brain_on("cpu", tmp_path)
    for one, same in zip(batches(padded=padded), batches(padded=padded), strict=True):
        loss, moved = fit(brain, one)
        assert moved and loss.item() == pytest.approx(fit(other, same)[0].item(), abs=1e-3)
    torch.testing.assert_close(parameters(brain).cpu(), parameters(other), rtol=0, atol=1e-4)
    assert brain.stats.count == other.stats.count == 6 and brain.stats.dropped == 3
    assert brain.stats.si_snr == pytest.approx(other.stats.si_snr, abs=1e-2)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_is_read_between_two_steps(tmp_path, device, padded, precision):
    """The first window fills what is kept, such as the permutations."""
    options = {"grad_accumulation_factor": 2, "inactive_threshold": 30, "precision": precision}
    brain = brain_on(device, tmp_path, dropout=0.1, **options)
    for brain.step, batch in enumerate(batches(6, padded), start=1):
        pinned = batch.pin_memory() if device == "cuda" else batch
        quiet = no_reading(device, batch) if brain.step in (3, 5) else contextlib.nullcontext()
        with quiet:
            brain.fit_batch(pinned)
    assert brain.stats.steps == 3 and parameters(brain).isfinite().all()


def test_few_readings_when_a_step_is_due(tmp_path, device):
    """Sums and norm: not more with more batches."""
    if device == "cpu":
        pytest.skip("tests/unit/test_step_syncs.py counts them on a CPU")
    brain = brain_on(device, tmp_path, grad_accumulation_factor=4, inactive_threshold=30)
    counts = []
    for brain.step, batch in enumerate(batches(8), start=1):
        batch = batch.pin_memory()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                brain.fit_batch(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchronizing" in str(warning.message) for warning in caught))
    assert counts[4:7] == [0, 0, 0] and counts[7] <= 5


def test_non_finite_examples_are_skipped(tmp_path, device):
    brain, other = (brain_on(device, tmp_path, grad_accumulation_factor=2) for _ in range(2))
    window, clean = batches(2), batches(2)
    window[0].mixture[2, 5] = float("nan")
    clean[0] = clean[0].select(torch.tensor([True, True, False]))
    for one, items in ((brain, window), (other, clean)):
        for one.step, batch in enumerate(items, start=1):
            assert one.fit_batch(batch).isfinite()
    assert brain.stats.nonfinite == 1 and brain.stats.count == other.stats.count == 3
    torch.testing.assert_close(parameters(brain), parameters(other), rtol=0, atol=1e-5)


def test_fp16_finds_its_scale_and_trains(tmp_path, device):
    if device == "cpu":
        pytest.skip("SpeechBrain refuses fp16 on a CPU")
    brain = brain_on(device, tmp_path, precision="fp16")
    start = parameters(brain)
    for batch in batches(12):
        fit(brain, batch)
    assert brain.scaler.is_enabled() and brain.stats.steps > 0 and brain.stats.skipped == 0
    assert parameters(brain).isfinite().all() and not torch.equal(parameters(brain), start)


@pytest.mark.slow
def test_half_precision_trains_at_any_level(tmp_path, device):
    """Two thousand steps of size M in fp16, at 40 dB below and 30 dB above the usual level in turn."""
    if device == "cpu":
        brain = brain_on(device, tmp_path, precision="bf16", lr=0.001)
        train_at_levels(brain, steps=12)
    else:
        modules = dict(MossFormerSeparator.from_size("M").named_children())
        brain = make_brain(tmp_path, modules=modules, device=device, precision="fp16", lr=1.5e-4)
        train_at_levels(brain, steps=2000, num_samples=16000)
    assert brain.stats.nonfinite == brain.stats.skipped == 0
    searched = 0 if device == "cpu" else 20  # steps in which the scale was halved, or doubled once too often
    assert brain.optimizer_step >= brain.step - searched
    assert parameters(brain).isfinite().all() and math.isfinite(brain.stats.mean)


@pytest.fixture
def deterministic():
    """Restores torch's settings."""
    set_before = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield {"deterministic": True}
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    if set_before is None:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_a_resumed_run_is_bit_identical(tmp_path, device, deterministic):
    options = {"device": device, **deterministic}
    whole = train(tmp_path / "whole", **options)
    killed = train(tmp_path / "killed", killed_at=12, **options)
    resumed = train(tmp_path / "killed", **options)
    assert resumed.optimizer_step == whole.optimizer_step == 8
    assert torch.equal(parameters(resumed), parameters(whole))
    assert figures(killed) + figures(resumed) == figures(whole)


def test_a_run_resumes_on_another_device(tmp_path, device):
    """From a GPU to the CPU and back: checkpoints hold no device."""
    train(tmp_path, killed_at=12, device=device)
    resumed = train(tmp_path, device="cpu")
    assert resumed.optimizer_step == 8 and parameters(resumed).isfinite().all()
