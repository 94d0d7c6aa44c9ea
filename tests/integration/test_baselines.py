"""The baselines, each trained, evaluated and exported by train.py on another corpus, at a small size."""

from pathlib import Path

import pandas as pd
import pytest

from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.evaluation.metrics import separation_scores
from mossformer_sb.inference.separation import MossFormerSeparation
from tests.integration.programs import train_in_turn
from tests.unit.trees import write_custom, write_wham, write_wsj0mix

BASELINES = Path(__file__).parents[2] / "hparams" / "baselines"
RUN = "--segment 0.5 --number_of_epochs 1 --num_workers 0 --device cpu --noprogressbar"
EXPERIMENTS = {
    "convtasnet": "--channels 32 --bottleneck_channels 8 --hidden_channels 16 --skip_channels 8 --num_blocks 3 "
    "--num_repeats 1",
    "dprnn": "--channels 8 --hidden_size 8 --num_layers 1 --chunk_size 40 --encoder_kernel_size 16 "
    "--corpus wsj0mix --task separate_clean --num_spks 3",
    "sepformer": "--channels 16 --num_layers 1 --num_intra_layers 1 --num_inter_layers 1 --num_heads 2 --ffn_dim 16 "
    "--corpus custom --task separate",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All three experiments, each in the folder of its name, data beside."""
    folder = tmp_path_factory.mktemp("baselines")
    write_wham(folder / "convtasnet_data", frames=6000)
    write_wsj0mix(folder / "dprnn_data", num_spks=3, frames=6000)
    write_custom(folder / "sepformer_data", frames=6000)
    result = train_in_turn(
        [
            f"{BASELINES / name}.yaml --data_folder {name}_data --output_folder {name} {options} {RUN}".split()
            for name, options in EXPERIMENTS.items()
        ],
        cwd=folder,
    )
    assert result.returncode == 0, result.stdout
    return folder


@pytest.mark.parametrize(
    "name, network, num_spks", [("convtasnet", "Conv-TasNet", 2), ("dprnn", "DPRNN", 3), ("sepformer", "SepFormer", 2)]
)
def test_exported_model_gives_the_scores_of_the_table(folder, name, network, num_spks):
    card = (folder / name / "export" / "README.md").read_text()
    assert f"# {network}: {num_spks} speakers, 8000 Hz" in card and "# MossFormer" not in card
    model = MossFormerSeparation.from_hparams(source=folder / name / "export", run_opts={"device": "cpu"})
    item = MixtureDataset(folder / name / "manifests" / "test.csv", folder / f"{name}_data", num_spks)[0]
    scores, _ = separation_scores(item.mixture, item.sources, model.separate_batch(item.mixture[None])[0])
    row = pd.read_csv(folder / name / "test_results.csv").iloc[0].tolist()
    assert row[0] == item.id
    assert scores == pytest.approx(row[1:], abs=1e-3)
