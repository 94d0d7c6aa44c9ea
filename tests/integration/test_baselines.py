"""The peers, each trained, evaluated and exported by train.py on another corpus, at a small size."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from mossformer_sb.dataio import MixtureDataset
from mossformer_sb.inference import MossFormerSeparation
from mossformer_sb.metrics import separation_scores
from tests.unit.trees import write_custom, write_wham, write_wsj0mix

ROOT = Path(__file__).parents[2]
SMALL = {
    "convtasnet": "--channels 32 --bottleneck_channels 8 --hidden_channels 16 --skip_channels 8 --num_repeats 1",
    "dprnn": "--channels 8 --hidden_size 8 --num_layers 1 --chunk_size 40 --encoder_kernel_size 16",
    "sepformer": "--channels 16 --num_layers 1 --num_intra_layers 1 --num_inter_layers 1 --num_heads 2 --ffn_dim 16",
}
RUN = "--segment 0.5 --number_of_epochs 1 --num_workers 0 --device cpu --noprogressbar --output_folder out"


@pytest.mark.parametrize(
    "name, write, options, network, num_spks",
    [
        ("convtasnet", write_wham, [], "Conv-TasNet", 2),
        (
            "dprnn",
            partial(write_wsj0mix, num_spks=3),
            ["--corpus", "wsj0mix", "--task", "separate_clean", "--num_spks", "3"],
            "DPRNN",
            3,
        ),
        ("sepformer", write_custom, ["--corpus", "custom", "--task", "separate"], "SepFormer", 2),
    ],
)
def test_trains_evaluates_and_exports(tmp_path, name, write, options, network, num_spks):
    data = write(tmp_path / "data", frames=6000)
    command = [sys.executable, ROOT / "train.py", ROOT / "hparams" / "baselines" / f"{name}.yaml"]
    command += ["--data_folder", data, *options, *SMALL[name].split(), *RUN.split()]
    result = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr

    card = (tmp_path / "out" / "export" / "README.md").read_text()
    assert f"# {network}: {num_spks} speakers, 8000 Hz" in card and "MossFormer:" not in card

    # The exported model, by itself, gives the scores of the table.
    model = MossFormerSeparation.from_hparams(source=tmp_path / "out" / "export", run_opts={"device": "cpu"})
    item = MixtureDataset(tmp_path / "out" / "manifests" / "test.csv", data, num_spks)[0]
    scores, _ = separation_scores(item.mixture, item.sources, model.separate_batch(item.mixture[None])[0])
    table = pd.read_csv(tmp_path / "out" / "test_results.csv")
    assert table["snt_id"][0] == item.id
    assert scores == pytest.approx(table.iloc[0, 1:].tolist(), abs=1e-3)
    assert torch.tensor(scores).isfinite().all()
