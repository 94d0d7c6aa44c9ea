"""Fixtures of all tests: CPU threads, and random numbers that are independent of the order of the tests."""

import logging
import os

# With several pytest workers, each takes its share of the cores. In the environment, so that the programs which tests
# start follow it too; before torch is imported, which reads it once.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))

import random  # noqa: E402

import numpy  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from speechbrain.utils import importutils  # noqa: E402

from tests import forked  # noqa: E402

forked.preload()

# hypothesis asks every module for its file. SpeechBrain's lazy ones would import what they stand for to answer, and
# fail where that needs a package that is missing.
importutils.LazyModule.__file__ = importutils.__file__


@pytest.fixture(autouse=True)
def seed():
    """Seed Python, NumPy and torch before each test."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def log_level():
    """Restore the level of the package's logger, which the command line sets: other tests count messages."""
    logger = logging.getLogger("mossformer_sb")
    level = logger.level
    yield
    logger.setLevel(level)
