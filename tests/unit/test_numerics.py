"""The log line on device, precision and kernels, and the effect of `deterministic`."""

import logging
import os

import pytest
import torch

from mossformer_sb.training import numerics
from tests.unit.brains import batch_of, fit, make_brain, parameters


@pytest.fixture
def restored(monkeypatch):
    """Restores torch's settings."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.deterministic = before[1]
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_one_line_at_the_start_of_training(tmp_path, caplog):
    brain = make_brain(tmp_path, precision="bf16")
    with caplog.at_level(logging.INFO):
        brain.on_fit_start()
    (line,) = [message for message in caplog.messages if message.startswith("Computes on")]
    told = f"Computes on cpu ({torch.get_num_threads()} threads), 1 process, in bf16, evaluates in fp32; "
    assert line.startswith(told) and "\n" not in line
    for fact in (
        "deterministic kernels: off",
        "fast paths: on",
        f"torch {torch.__version__}",
        "speechbrain 1.",
        "mossformer_sb ",
    ):
        assert fact in line
    assert "TF32" not in line  # a CPU has none
    assert not any("--compile" in message for message in caplog.messages)


@pytest.mark.parametrize("matmul", [True, False])
def test_tf32_is_stated_for_a_gpu(monkeypatch, matmul):
    """SpeechBrain turns it on at import: float32 is not float32 then, and nobody has asked."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    before = torch.backends.cuda.matmul.allow_tf32
    assert before  # as SpeechBrain leaves it
    try:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        line = numerics.describe("cuda:0", "fp32", "fp32")
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert line.startswith("Computes on cuda:0 (some GPU), 1 process, in fp32, evaluates in fp32; TF32 in float32: ")
    assert f"matmul {'on' if matmul else 'off'}, convolutions on (SpeechBrain turns it on; SB_DISABLE_QUIRKS=" in line
    assert "CUDA " in line and "cuDNN " in line


def test_deterministic_is_off_by_default(tmp_path, restored):
    make_brain(tmp_path, deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_deterministic_turns_on_what_torch_has_and_trains(tmp_path, restored):
    brain = make_brain(tmp_path, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "deterministic kernels: on" in numerics.describe("cpu", "fp32", "fp32")
    _, moved = fit(brain, batch_of(3, silent=(1,)))
    assert moved and parameters(brain).isfinite().all()


def test_a_workspace_that_is_set_stays(restored, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    numerics.make_deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
