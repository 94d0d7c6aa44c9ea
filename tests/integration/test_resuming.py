"""train.py killed and started again."""

import json
import re
import time

import pytest
import torch
from speechbrain.utils import checkpoints as stock
from speechbrain.utils.epoch_loop import EpochCounter

from tests.forked import run
from tests.integration.corpora import write_easy_wham
from tests.integration.programs import (
    ENVIRONMENT,
    ROOT,
    SMALL,
    WHAM,
    start_training,
    train,
    train_anew,
    write_tiny_experiment,
)


def weights(output_folder):
    return {
        f"{path.stem}.{key}": value
        for path in sorted((output_folder / "export").glob("*.ckpt"))
        for key, value in torch.load(path, weights_only=True).items()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_easy_wham(tmp_path_factory.mktemp("data") / "wham", {"tr": 40, "cv": 3, "tt": 3})


def test_interrupted_runs_end_bit_identical_to_an_uninterrupted_one(corpus, tmp_path):
    """Dropout and dynamic mixing on, SIGKILL in the middle of the second epoch."""
    options = [WHAM, "--data_folder", corpus, *SMALL, "--number_of_epochs", 2, "--dropout", 0.2]
    options += ["--dynamic_mixing", "--speed_perturb", "continuous", "--single_speaker_rate", 0.1]
    options += ["--turn_rate", 0.4, "--turn_segment", 0.9, "--max_pause", 0.3]  # in batches of their own
    options += ["--ckpt_interval_minutes", 0, "--ckpt_interval_steps", 4]
    assert train(*options, "--output_folder", "whole", cwd=tmp_path).returncode == 0

    output = tmp_path / "killed"
    kill_in_second_epoch(*options, "--output_folder", "killed", cwd=tmp_path)
    assert "epoch: 2" not in (output / "train_log.txt").read_text()

    resumed = train_anew(*options, "--output_folder", "killed", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout
    assert "Loading a checkpoint" in resumed.stdout and "Going into epoch 1" not in resumed.stdout
    assert log_without_times(output) == log_without_times(tmp_path / "whole")
    expected = weights(tmp_path / "whole")
    found = weights(output)
    assert expected and found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert (output / "test_results.csv").read_bytes() == (tmp_path / "whole" / "test_results.csv").read_bytes()


def log_without_times(output_folder):
    """The lines of the log without values that differ from run to run: time, speed, memory."""
    text = (output_folder / "train_log.txt").read_text()
    fields = "|".join(map(re.escape, ("seconds", "items/s", "audio-s/s", "memory-gb")))
    text, found = re.subn(rf", train (?:{fields}): [^,\n]*?(?=,| - |\n)", "", text)
    assert found == 4 * text.count("epoch: ")
    return text


def kill_in_second_epoch(*arguments, cwd, limit=300):
    """Start a training, and kill it after the first checkpoint within the second epoch."""
    program = start_training(*arguments, cwd=cwd)
    folder = cwd / arguments[arguments.index("--output_folder") + 1]
    end = time.time() + limit
    try:
        while not intra_epoch_checkpoint_after_first_epoch(folder):
            assert program.poll() is None, program.output()
            assert time.time() < end, "the run did not come so far"
            time.sleep(0.02)
    finally:
        program.kill()
        program.wait()


def intra_epoch_checkpoint_after_first_epoch(output_folder):
    """Two checkpoints: that of epoch 1, and one within epoch 2."""
    metas = [path.read_text() for path in output_folder.glob("save/CKPT*/CKPT.yaml")]
    return any("si-snr" in meta for meta in metas) and any("intra" in meta.lower() for meta in metas)


@pytest.mark.parametrize("options", [[], ["--test_only"]])
def test_the_folder_of_a_speechbrain_recipe_is_refused_and_left_as_it_was(tmp_path, options):
    modules = {name: torch.nn.Linear(1, 1) for name in ("encoder", "masknet", "decoder")}
    recipe = stock.Checkpointer(tmp_path / "out" / "save", {**modules, "counter": EpochCounter(3)})
    recipe.save_checkpoint(meta={"si-snr": -5.0})
    (tmp_path / "out" / "hyperparams.yaml").write_text("of: the recipe")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = train(WHAM, "--data_folder", "nowhere", "--output_folder", "out", *SMALL, *options, cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stdout
    assert "out/save: holds checkpoints of one of SpeechBrain's own recipes" in result.stdout
    assert "--init_from with the folder of that recipe's run" in result.stdout
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


IN_ONE_PROCESS = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from mossformer_sb.training.brain import SeparationBrain
from train import main
options = json.loads(sys.argv[2])
fit_batch = SeparationBrain.fit_batch
seen = []

def interrupting(brain, batch):
    seen.append(batch.ids)
    if len(seen) == 9:  # in the second epoch, after a checkpoint within it
        raise KeyboardInterrupt
    return fit_batch(brain, batch)

main([*options, "--output_folder", "whole"])
SeparationBrain.fit_batch = interrupting
try:
    main([*options, "--output_folder", "interrupted"])
    sys.exit("it was not interrupted")
except KeyboardInterrupt:
    print("CHECKPOINTS", len(os.listdir("interrupted/save")))
SeparationBrain.fit_batch = fit_batch
main([*options, "--output_folder", "interrupted"])
"""


def test_runs_in_one_process_as_in_a_notebook(tmp_path):
    """One after the other; the second is interrupted from the keyboard, and resumes, bit-identical to the first."""
    corpus = write_easy_wham(tmp_path / "wham", {"tr": 24, "cv": 3, "tt": 3}, seconds=(0.5, 0.7))
    experiment = write_tiny_experiment(tmp_path / "tiny.yaml")
    options = [experiment, "--data_folder", corpus, "--segment", 0.4, "--number_of_epochs", 2, "--batch_size", 4]
    options += [
        "--num_workers",
        0,
        "--device",
        "cpu",
        "--noprogressbar",
        "--ckpt_interval_minutes",
        0,
        "--ckpt_interval_steps",
        1,
        "--n_audio_to_save",
        0,
    ]
    done = run(["-c", IN_ONE_PROCESS, ROOT, json.dumps([*map(str, options)])], tmp_path, ENVIRONMENT)
    assert done.returncode == 0 and "CHECKPOINTS 2" in done.stdout, done.stdout
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    assert log_without_times(interrupted) == log_without_times(whole)
    expected, found = weights(whole), weights(interrupted)
    assert expected and found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    logs = {folder: (folder / "log.txt").read_text() for folder in (whole, interrupted)}
    assert logs[whole].count("Output folder: whole") == 1 and "interrupted" not in logs[whole]
    assert logs[interrupted].count("Output folder: interrupted") == 2 and "KeyboardInterrupt" in logs[interrupted]
    assert logs[interrupted].count("Going into epoch 1") == 1 and logs[interrupted].count("Going into epoch 2") == 2
