"""train.py with MossFormer2: trained, killed, resumed, exported, loaded."""

import re

import pandas as pd
import pytest
import torch
from speechbrain.inference.separation import SepformerSeparation

from mossformer_sb.inference.separation import MossFormerSeparation
from tests.integration.corpora import write_easy_wham, write_easy_wsj0mix
from tests.integration.programs import ROOT, SMALL, train
from tests.integration.test_resuming import kill_in_second_epoch, log_without_times, weights

WSJ0MIX = ROOT / "hparams" / "mossformer2_wsj0mix.yaml"
COMMON = [*SMALL[SMALL.index("--segment") :], "--n_audio_to_save", 0]  # but for the size
OPTIONS = ["--model_size", "2mini", *COMMON, "--dropout", 0.1]
OPTIONS += ["--ckpt_interval_minutes", 0, "--ckpt_interval_steps", 4]
ON_CPU = {"run_opts": {"device": "cpu"}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of an uninterrupted run, ``whole``, and of one that was killed in its second epoch, ``killed``."""
    folder = tmp_path_factory.mktemp("runs")
    corpus = write_easy_wsj0mix(folder / "corpus", {"tr": 40, "cv": 4, "tt": 4})
    options = [WSJ0MIX, "--data_folder", corpus, *OPTIONS, "--number_of_epochs", 2]
    result = train(*options, "--output_folder", "whole", cwd=folder)
    assert result.returncode == 0, result.stdout
    kill_in_second_epoch(*options, "--output_folder", "killed", cwd=folder)
    assert "epoch: 2" not in (folder / "killed" / "train_log.txt").read_text()
    resumed = train(*options, "--output_folder", "killed", cwd=folder)
    assert resumed.returncode == 0 and "Loading a checkpoint" in resumed.stdout, resumed.stdout
    return folder


def test_it_learns(runs):
    average = pd.read_csv(runs / "whole" / "test_results.csv").iloc[-1]
    assert average["snt_id"] == "avg" and average["si-snr_i"] > 3


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(runs):
    assert log_without_times(runs / "killed") == log_without_times(runs / "whole")
    found, expected = weights(runs / "killed"), weights(runs / "whole")
    assert found.keys() == expected.keys() and any(".recurrent." in key for key in found)
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


def test_its_export_loads_in_speechbrains_class_with_the_same_bits(runs):
    folder = runs / "whole" / "export"
    assert "# MossFormer2: 2 speakers" in (folder / "README.md").read_text()
    mixture = torch.randn(2, 9000)
    ours, theirs = (
        interface.from_hparams(source=str(folder), **ON_CPU).separate_batch(mixture)
        for interface in (MossFormerSeparation, SepformerSeparation)
    )
    assert torch.equal(ours, theirs)


def test_fine_tuning_from_a_mossformer(runs):
    """Its blocks are loaded, the recurrent modules are new."""
    common = ["--data_folder", runs / "corpus", *COMMON, "--batches_per_epoch", 1, "--number_of_epochs", 1]
    mossformer = ROOT / "hparams" / "mossformer_wsj0mix.yaml"
    first = train(mossformer, *common, "--model_size", "mini", "--output_folder", "mini", cwd=runs)
    assert first.returncode == 0, first.stdout
    common += ["--model_size", "2mini"]
    second = train(WSJ0MIX, *common, "--init_from", "mini", "--output_folder", "tuned", cwd=runs)
    assert second.returncode == 0, second.stdout
    assert re.search(r"masknet +72 +120 +0 +0 +0", second.stdout)
    assert "missing: masknet.recurrent.* (120), new" in second.stdout


def test_mapping(tmp_path):
    """WHAMR!'s network, here on WHAM!: trained, evaluated and exported for our interface."""
    corpus = write_easy_wham(tmp_path / "wham", {"tr": 8, "cv": 2, "tt": 2})
    hparams = ROOT / "hparams/mossformer2_wham.yaml"
    options = ["--data_folder", corpus, *OPTIONS, "--number_of_epochs", 1, "--apply_masks", "False"]
    result = train(hparams, *options, "--output_folder", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert "No files for SpeechBrain's classes are written: with apply_masks: False" in result.stdout
    export = tmp_path / "out" / "export"
    assert not (export / "masknet.ckpt").exists()
    model = MossFormerSeparation.from_hparams(source=export, **ON_CPU)
    assert model.mods.masknet.config["apply_masks"] is False
