"""train.py as a user runs it: from data to an exported model, and given wrong input."""

import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import soundfile
import torch

from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.inference.separation import MossFormerSeparation
from tests.forked import run
from tests.integration.corpora import write_easy_wham
from tests.integration.programs import ROOT, SMALL, WHAM, train
from tests.unit.trees import write_custom


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_easy_wham(tmp_path_factory.mktemp("data") / "wham", {"tr": 80, "cv": 6, "tt": 7})


class TestOneRun:
    @pytest.fixture(scope="class")
    def run(self, corpus, tmp_path_factory):
        folder = tmp_path_factory.mktemp("run")
        options = ["--number_of_epochs", 4, "--dropout", 0, "--valid_batch_size", 3, "--n_audio_to_save", 2, "--report"]
        result = train(WHAM, "--data_folder", corpus, "--output_folder", "out", *SMALL, *options, cwd=folder)
        assert result.returncode == 0, result.stdout
        return folder / "out", result.stdout

    def scores(self, run):
        return pd.read_csv(run[0] / "test_results.csv")

    def test_beats_the_mixture_clearly(self, run):
        average = self.scores(run).iloc[-1]
        assert average["snt_id"] == "avg"
        assert average["si-snr_i"] > 3 and average["sdr_i"] > 3

    def test_results_have_one_row_an_utterance(self, run, corpus):
        names = sorted(path.stem for path in (corpus / "wav8k/min/tt/mix_both").iterdir())
        assert self.scores(run)["snt_id"].tolist() == [*names, "avg"]

    def test_summary_is_on_the_screen(self, run):
        assert re.search(r"7 utterances, scores in dB", run[1]) and re.search(r"si-snr_i +\d+\.\d\d", run[1])

    def test_epochs_are_a_table_and_a_plot(self, run):
        table = pd.read_csv(run[0] / "epochs.csv")
        assert table["epoch"].tolist() == [1, 2, 3, 4] and (table["train_memory-gb"] > 0).all()
        assert (run[0] / "training_curves.png").stat().st_size > 10000

    def test_log_has_a_line_an_epoch_and_validation_rises(self, run):
        lines = (run[0] / "train_log.txt").read_text().splitlines()
        valid = [float(re.search(r"valid si-snr: (\S+)", line)[1]) for line in lines if "valid" in line]
        assert len(valid) == 4 and valid[-1] > valid[0]

    def test_examples_sum_up_to_the_mixture_as_well_as_they_can(self, run):
        audio = run[0] / "audio"
        mixtures = sorted(audio.glob("*_mix.wav"))
        assert len(mixtures) == 2
        for path in mixtures:
            stem = path.name.removesuffix("_mix.wav")
            mixture, rate = soundfile.read(path)
            total = sum(soundfile.read(audio / f"{stem}_estimate{i}.wav")[0] for i in (1, 2))
            assert rate == 8000
            assert total @ mixture == pytest.approx(total @ total, rel=1e-4)
            assert total @ total > 0.1 * (mixture @ mixture)

    def test_export_gives_the_table_again(self, run, corpus, tmp_path):
        """The exported model, moved away from where it was trained, separates the test mixtures as the table says."""
        from mossformer_sb.evaluation.metrics import separation_scores

        shutil.copytree(run[0] / "export", tmp_path / "model")
        model = MossFormerSeparation.from_hparams(source=tmp_path / "model", run_opts={"device": "cpu"})
        row = self.scores(run).iloc[0]
        folder = corpus / "wav8k/min/tt"
        mixture, s1, s2 = (
            torch.from_numpy(read_audio(folder / kind / f"{row['snt_id']}.wav")[0]) for kind in ("mix_both", "s1", "s2")
        )
        estimates = model.separate_batch(mixture[None])[0]
        scores, _ = separation_scores(mixture, torch.stack((s1, s2), -1), estimates)
        # A padded batch differs from the item alone by rounding only.
        assert scores == pytest.approx(row.iloc[1:].tolist(), abs=2e-3)

    def test_report_has_three_examples_with_sound(self, run):
        text = (run[0] / "report.html").read_text()
        assert text.count("<audio") == 3 * 5 and f"{self.scores(run).iloc[-1]['si-snr_i']:.2f}</td>" in text

    def test_model_card_has_the_scores_and_the_command(self, run):
        card = (run[0] / "export" / "README.md").read_text()
        assert f"| SI-SNRi | {self.scores(run).iloc[-1]['si-snr_i']:.2f} dB |" in card
        assert "--number_of_epochs 4" in card and "| Corpus | WHAM! |" in card

    def test_evaluation_alone_with_another_batch_size(self, run, corpus):
        before = self.scores(run)
        options = ["--test_only", "--valid_batch_size", 1]
        result = train(WHAM, "--data_folder", corpus, "--output_folder", run[0], *SMALL, *options, cwd=run[0])
        assert result.returncode == 0, result.stdout
        pd.testing.assert_frame_equal(self.scores(run), before, atol=2e-3)


class TestWrongInput:
    """Each ends with one message that names the error, and exit code 2, before any training."""

    @pytest.fixture
    def tree(self, corpus, tmp_path):
        return Path(shutil.copytree(corpus, tmp_path / "wham"))

    def error(self, *arguments, cwd, hparams=WHAM):
        """The message, checked to be the only thing about the error that is printed."""
        result = train(hparams, *SMALL, "--output_folder", "out", *arguments, cwd=cwd)
        assert result.returncode == 2, result.stdout
        assert "Traceback" not in result.stdout
        assert "Going into epoch" not in result.stdout
        return result.stdout

    def test_no_such_data_folder(self, tmp_path):
        error = self.error("--data_folder", tmp_path / "nowhere", cwd=tmp_path)
        assert f"data_folder '{tmp_path / 'nowhere'}' does not exist" in error

    def test_missing_source_file_and_truncated_one(self, tree, tmp_path):
        names = sorted(path.name for path in (tree / "wav8k/min/tr/s2").iterdir())
        (tree / "wav8k/min/tr/s2" / names[0]).unlink()
        os.truncate(tree / "wav8k/min/cv/s1" / sorted(os.listdir(tree / "wav8k/min/cv/s1"))[0], 5000)
        error = self.error("--data_folder", tree, cwd=tmp_path)
        assert "1 missing files, 1 truncated files" in error and f"wav8k/min/tr/s2/{names[0]} does not exist" in error

    def test_unknown_model_size(self, corpus, tmp_path):
        arguments = ["--data_folder", corpus, "--output_folder", "out", "--model_size", "XL"]
        result = train(WHAM, *arguments, cwd=tmp_path)
        assert result.returncode == 2 and "Traceback" not in result.stdout
        assert "model_size 'XL' is not known: choose one of S, M, L, 2S, 2, small, mini, 2mini" in result.stdout

    def test_mistyped_key(self, corpus, tmp_path):
        error = self.error("--data_folder", corpus, "--number_of_epoch", 3, cwd=tmp_path)
        assert "--number_of_epoch is neither a key of" in error and "--number_of_epochs" in error
        assert not (tmp_path / "out").exists()

    def test_checkpoints_of_another_architecture(self, corpus, tmp_path):
        options = ["--data_folder", corpus, *SMALL, "--output_folder", "out", "--number_of_epochs", 1]
        assert train(WHAM, *options, "--num_spks", 2, "--debug", "--debug_persistently", cwd=tmp_path).returncode == 0
        yaml = tmp_path / "other.yaml"
        text = WHAM.read_text()
        yaml.write_text(
            re.sub(r"masknet: !apply:.*?dropout>\n", MASKNET_OF_OTHER_WIDTH, text, count=1, flags=re.DOTALL)
        )
        error = self.error("--data_folder", corpus, cwd=tmp_path, hparams=yaml)
        assert "has another architecture" in error and "parameters of 'masknet' differ" in error
        assert "in the checkpoint" in error and "another output folder" in error

    def test_nothing_to_evaluate(self, corpus, tmp_path):
        error = self.error("--data_folder", corpus, "--test_only", cwd=tmp_path)
        assert "holds no checkpoint to evaluate. Train first" in error

    def test_a_path_with_an_equals_sign_works(self, corpus, tmp_path):
        shutil.copytree(corpus, tmp_path / "a=b" / "wham")
        options = [*SMALL, "--output_folder", "c=d", "--number_of_epochs", 1, "--debug"]
        result = train(WHAM, f"--data_folder={tmp_path / 'a=b' / 'wham'}", *options, cwd=tmp_path)
        assert result.returncode == 0, result.stdout
        assert (tmp_path / "c=d" / "test_results.csv").is_file()


MASKNET_OF_OTHER_WIDTH = """\
masknet: !new:mossformer_sb.MossFormerMaskNet
    in_channels: 128
    out_channels: 64
    num_blocks: 2
    num_spks: !ref <num_spks>
"""


def test_one_speaker_at_48_khz(tmp_path):
    """Trained on custom data, exported, and used."""
    write_custom(tmp_path / "data", num_spks=1, noise=True, frames=24000, sample_rate=48000)
    words = ["--data_folder", "data", "--num_spks", 1, "--noise", "--sample_rate", 48000, "--output_folder", "out"]
    words += [*SMALL, "--number_of_epochs", 1, "--dropout", 0]
    result = train(ROOT / "hparams" / "mossformer_custom.yaml", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert "# MossFormer: 1 speaker, 48000 Hz" in (tmp_path / "out/export/README.md").read_text()
    scores = pd.read_csv(tmp_path / "out" / "test_results.csv")
    assert scores["snt_id"].tolist() == ["a", "b b", "avg"] and scores.notna().all(axis=None)

    separate = ["separate", "data/tt/mix", "--model", "out/export", "--device", "cpu", "--rest"]
    used = run(["-m", "mossformer_sb", *separate], tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)})
    assert used.returncode == 0, used.stdout
    assert {path.name for path in (tmp_path / "separated").iterdir()} == {
        f"{stem}_{part}.wav" for stem in ("a", "b b") for part in ("spk1", "rest")
    }
    estimate, rate = soundfile.read(tmp_path / "separated" / "a_spk1.wav")
    assert rate == 48000 and len(estimate) == 24000 and estimate.any()
