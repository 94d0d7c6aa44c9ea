"""The experiment of the packaged model, from recordings to a half-precision export, on a few short files."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from speechbrain.inference.separation import SepformerSeparation

from mossformer_sb.cli import main
from mossformer_sb.inference.separation import MossFormerSeparation
from tests.integration.programs import train_in_turn
from tests.unit.small_corpus import write_source

YAML = Path(__file__).parents[2] / "hparams" / "mossformer_many_speakers.yaml"
SMALL = (
    "--model_size mini --segment 0.5 --turn_segment 0.9 --max_pause 0.2 --number_of_epochs 2 --mixtures_per_epoch 6 "
    "--num_workers 0 --num_train 3 --num_valid 3 --num_test 3 --corpus_rooms 2 --num_noises 4 --precision fp32 "
    "--n_audio_to_save 1"
)
SMALL += " --train_minutes null --epoch_minutes null --optimizer adam"
SMALL += " --output_folder out --device cpu --noprogressbar --check_samples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    source = write_source(folder)
    given = [word for key, path in source.items() for word in (f"--{key}", path)]
    result = train_in_turn([[YAML, *given, *SMALL.split()]], cwd=folder)
    assert result.returncode == 0, result.stdout
    return folder / "out"


def test_trains_within_its_budget(folder):
    epochs = pd.read_csv(folder / "epochs.csv")
    assert len(epochs) == 2 and epochs["lr"].iloc[-1] < 1e-5  # the cosine has come down
    scores = pd.read_csv(folder / "test_results.csv")["snt_id"]
    assert {name.split("_")[0] for name in scores[:-1]} == {"clean", "noisy", "reverb"}
    assert "| Conditions | speech alone, in noise, or in rooms" in (folder / "export" / "README.md").read_text()


def test_half_precision_scores_nearly_the_same(folder):
    options = ["--output_folder", str(folder / "half"), "--half", "--license", "cc-by-4.0"]
    assert main(["export", str(folder), *options]) == 0
    mixture = torch.randn(1, 8000)
    whole, half = (
        MossFormerSeparation.from_hparams(folder / name, device="cpu").separate_batch(mixture)
        for name in ("export", "half")
    )
    assert (whole - half).norm() < 0.01 * whole.norm()
    stock = SepformerSeparation.from_hparams(source=str(folder / "half"), run_opts={"device": "cpu"})
    assert torch.equal(stock.separate_batch(mixture), half)
