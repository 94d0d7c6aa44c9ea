"""A run of an earlier version, interrupted in its second epoch, resumes with this one.

``earlier_version/run.tar.gz`` is the output folder of version 0.1.0 at commit b45f85e: its checkpoints, logs, and in
``expected_epochs.csv`` the epochs of the same run without interruption. It was made on the corpus below with the YAML
and the options below, and ended before the ninth batch of the second epoch; the checkpoint within the epoch is after
the fifth. Add an archive for each later version that changes the content of checkpoints.
"""

import tarfile
from pathlib import Path

import pandas as pd
import pytest

from tests.integration.corpora import write_easy_wham
from tests.integration.programs import train, write_tiny_experiment

ARCHIVE = Path(__file__).parent / "earlier_version" / "run.tar.gz"
OPTIONS = (
    "--segment 0.4 --batch_size 2 --lr 0.01 --num_workers 0 --number_of_epochs 3 --ema_decay 0.9 --max_grad_norm 1"
)
OPTIONS += " --ckpt_interval_minutes 0 --ckpt_interval_steps 5 --speed_perturb none --device cpu --noprogressbar"


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    corpus = write_easy_wham(folder / "wham", {"tr": 24, "cv": 3, "tt": 3}, seconds=(0.5, 0.7))
    (folder / "run").mkdir()
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder / "run", filter="data")
    experiment = write_tiny_experiment(folder / "tiny.yaml")
    result = train(experiment, "--data_folder", corpus, "--output_folder", "run", *OPTIONS.split(), cwd=folder)
    assert result.returncode == 0, result.stdout
    return folder / "run", result.stdout


def test_it_resumes_within_the_epoch(resumed):
    _, printed = resumed
    assert "Going into epoch 2" in printed and "Going into epoch 1" not in printed


def test_epochs_are_those_of_the_uninterrupted_run(resumed):
    """With a tolerance for other machines and versions of torch."""
    folder, _ = resumed
    found, expected = (pd.read_csv(folder / name) for name in ("epochs.csv", "expected_epochs.csv"))
    assert found["epoch"].tolist() == expected["epoch"].tolist() == [1, 2, 3]
    for column in ("lr", "train_dropped", "train_nonfinite", "train_skipped-steps"):
        assert found[column].tolist() == expected[column].tolist(), column
    for column in ("train_si-snr", "valid_si-snr"):
        assert found[column].tolist() == pytest.approx(expected[column].tolist(), abs=0.02), column
    assert found["train_grad-norm"].tolist() == pytest.approx(expected["train_grad-norm"].tolist(), rel=0.01)


def test_it_is_evaluated_and_exported(resumed):
    folder, _ = resumed
    assert len(pd.read_csv(folder / "test_results.csv")) == 4  # three mixtures and their average
    assert (folder / "export" / "model.safetensors").is_file()
