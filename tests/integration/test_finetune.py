"""Fine-tuning as a user does it: from a two-speaker model to custom data of three speakers, in noise."""

from pathlib import Path

import pytest
import torch

from mossformer_sb import MossFormerSeparator
from mossformer_sb.sharing.folder import export
from tests.integration.programs import train_in_turn
from tests.unit.trees import write_custom

YAML = Path(__file__).parents[2] / "hparams" / "mossformer_custom.yaml"
RUN = "--data_folder data --output_folder out --num_spks 3 --noise --model_size mini --segment 0.5 --num_workers 0"
RUN += " --device cpu --noprogressbar --init_from model --freeze masknet.blocks.*"


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(1)
    return MossFormerSeparator.from_size("mini")


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    """One epoch, then a second one with the same command: the run resumes."""
    folder = tmp_path_factory.mktemp("finetune")
    export(folder / "model", dict(source.named_children()), sample_rate=8000)
    write_custom(folder / "data", num_spks=3, noise=True, frames=6000)
    runs = [[YAML, *RUN.split(), "--number_of_epochs", epochs] for epochs in (1, 2)]
    result = train_in_turn(runs, cwd=folder)
    assert result.returncode == 0, result.stdout
    return folder / "out", result.stdout


def test_logs_what_it_started_from_and_that_it_resumes(run):
    log = run[1]
    assert log.count("Starting from model, 8000 Hz") == 1
    assert "reshaped: masknet.speaker_projection.weight, [256, 128] there, [384, 128] here, new" in log
    assert log.count("Resuming the run in out/save; init_from only applies to a new run") == 1
    assert log.count("Frozen: ") == 2 and "Going into epoch 2" in log


def test_frozen_parameters_are_the_sources_and_others_have_moved(run, source):
    trained = torch.load(run[0] / "export" / "masknet.ckpt", weights_only=True)
    before = source.masknet.state_dict()
    blocks = [name for name in before if name.startswith("blocks.")]
    assert blocks and all(torch.equal(trained[name], before[name]) for name in blocks)
    assert not torch.equal(trained["input_projection.weight"], before["input_projection.weight"])
    moved = trained["input_projection.weight"] - before["input_projection.weight"]
    assert moved.abs().max() < 0.01  # a few steps away: training began at the source


def test_the_model_card_has_the_command(run):
    assert "--init_from model" in (run[0] / "export" / "README.md").read_text()
