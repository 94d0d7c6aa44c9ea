"""Two GPUs with nccl: the program that tests/unit/test_ranks.py runs on two processes of the CPU with gloo."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.unit import two_ranks

ROOT = Path(__file__).parents[2]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_train_as_one_would(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"TWO_RANKS_DEVICE": "cuda", "TWO_RANKS_BACKEND": "nccl"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.unit.two_ranks", str(tmp_path)],
            cwd=ROOT,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        single = two_ranks.results(tmp_path / "one")
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=False, map_location="cpu")
        for scenario in two_ranks.SCENARIOS:
            assert found[scenario]["steps"] == single[scenario]["steps"]
            for name, weight in single[scenario]["weights"].items():
                torch.testing.assert_close(found[scenario]["weights"][name].cpu(), weight, rtol=0, atol=1e-8)
