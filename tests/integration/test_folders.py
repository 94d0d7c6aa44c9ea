"""A training's output folder describes it, whatever is tried in it afterwards."""

import json
import re
import shutil

import pandas as pd
import pytest

from mossformer_sb.cli import main as command_line
from mossformer_sb.sharing.record import TrainingRecord
from mossformer_sb.training.export import export_training
from tests.integration.corpora import write_easy_wham
from tests.integration.programs import WHAM, contents, refused_in_turn, train, train_anew

SMALL = {"output_folder": "out", "model_size": "mini", "segment": 0.8, "batch_size": 4, "lr": 0.002, "num_workers": 0}
SMALL |= {"device": "cpu", "noprogressbar": True}
TRAINED = {"number_of_epochs": 1, "dropout": 0, "n_audio_to_save": 2, "threshold": -25}
OF_THE_TRAINING = ["hyperparams.yaml", "env.log", "train.py", "epochs.csv", "training_curves.png"]


def words(*flags, **options):
    return [WHAM, *(word for name, value in (SMALL | options).items() for word in (f"--{name}", value)), *flags]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two, of which the second has another test set."""
    folder = tmp_path_factory.mktemp("data")
    sizes = {"one": {"tr": 8, "cv": 2, "tt": 3}, "two": {"tr": 6, "cv": 2, "tt": 5}}
    return [write_easy_wham(folder / name, size) for name, size in sizes.items()]


@pytest.fixture(scope="module")
def trained(corpora, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    result = train(*words(data_folder=corpora[0], **TRAINED), cwd=folder)
    assert result.returncode == 0, result.stdout
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def test_refused_runs_leave_a_finished_training_as_it_was(folder, corpora, tmp_path):
    """Whatever the reason: data, another size, a key, an option, a device; before data is prepared, or after."""
    one, two = corpora
    damaged = shutil.copytree(two, tmp_path / "damaged")
    next((damaged / "wav8k/min/cv/s1").iterdir()).unlink()
    other = shutil.copytree(folder / "out" / "manifests", tmp_path / "manifests")
    pd.read_csv(other / "test.csv").drop(columns=["s2_wav"]).to_csv(other / "test.csv", index=False)
    cases = {
        "does not exist": words(data_folder="nowhere"),
        "has another architecture": words(data_folder=two, model_size="small"),
        "'XL' is not known": words(data_folder=one, model_size="XL"),
        "is neither a key": words(data_folder=one, number_of_epoch=3),
        "lr must be a number": words(data_folder=one, lr="fast"),
        "SpeechBrain can't run with these options": words(data_folder=two, precision="fp16"),
        "device 'cuda:9' is not available": words(data_folder=one, device="cuda:9"),
        "Check that num_spks: 2 is right": words("--skip_prep", data_folder=two, manifest_folder=other),
        "1 missing files": words(data_folder=damaged),
        "recordings have [8000] Hz": words("--skip_prep", data_folder=one, sample_rate=16000),
        "opt_class can't be built": words(data_folder=two, lr=-1, number_of_epochs=3),
        "holds no averaged_weights": words(data_folder=two, ema_decay=0.9, number_of_epochs=3),
        "a debug run would replace": words("--debug", data_folder=one),
        "debug and test_only exclude each other": words("--debug", "--test_only", data_folder=one),
        "jit is not supported": words("--jit", data_folder=one),
        "max_grad_norm is 0, so that all gradients would be zero": words("--max_grad_norm", "0", data_folder=one),
        "ckpt_interval_steps exclude each other": words(
            data_folder=one, ckpt_interval_steps=2, ckpt_interval_minutes=15
        ),
        "valid_batch_size must be a whole number": words(data_folder=one, valid_batch_size=0),
    }
    results = refused_in_turn(cases.values(), cwd=folder)
    allowed = {"1 missing files": ["out/manifests/wham_problems.csv"]}
    for expected, (message, changed) in zip(cases, results, strict=True):
        assert expected in message and changed == allowed.get(expected, []), (expected, message, changed)


def test_a_first_start_that_is_refused_leaves_nothing(corpora, tmp_path):
    cases = {
        "does not exist": words(data_folder="nowhere"),
        "'XL' is not known": words(data_folder=corpora[0], model_size="XL"),
        "holds no checkpoint to evaluate": words("--test_only", data_folder=corpora[0]),
        "export_folder .: is replaced by each export": words(data_folder=corpora[0], export_folder="."),
        "there is no such folder": words(data_folder=corpora[0], init_from="no/such/model/here"),
        "SpeechBrain can't run with these options": words(data_folder=corpora[0], precision="fp16"),
        "opt_class can't be built": words(data_folder=corpora[0], lr=-1),
        "output_folder '/proc/xx' can't be written (No such file or directory)": words(
            data_folder=corpora[0], output_folder="/proc/xx"
        ),
    }
    for expected, (message, changed) in zip(cases, refused_in_turn(cases.values(), cwd=tmp_path), strict=True):
        assert expected in message and changed == [], (expected, message, changed)


class TestEvaluation:
    """With another test set and a minimal command line, without the options of the training."""

    @pytest.fixture(scope="class")
    def run(self, trained, corpora, tmp_path_factory):
        folder = shutil.copytree(trained, tmp_path_factory.mktemp("evaluation") / "copy")
        before = contents(folder / "out")
        options = {"data_folder": corpora[1], "output_folder": "out", "model_size": "mini", "device": "cpu"}
        command = [WHAM, *(word for name, value in options.items() for word in (f"--{name}", value)), "--test_only"]
        result = train(*command, cwd=folder)
        assert result.returncode == 0, result.stdout
        return folder / "out", before, contents(folder / "out")

    def test_files_about_the_training_are_kept(self, run):
        folder, before, after = run
        manifests = [name for name in before if name.startswith(("manifests", "save"))]
        assert len(manifests) > 8
        for name in [*OF_THE_TRAINING, *manifests]:
            assert after[name] == before[name], name
        assert sorted(path.name for path in folder.iterdir()) == sorted({name.split("/")[0] for name in before})

    def test_results_are_new(self, run, corpora):
        folder, before, after = run
        names = sorted(path.stem for path in (corpora[1] / "wav8k/min/tt/mix_both").iterdir())
        assert pd.read_csv(folder / "test_results.csv")["snt_id"].tolist() == [*names, "avg"]
        assert pd.read_csv(folder / "test_manifest.csv")["ID"].tolist() == names
        assert after["log.txt"].startswith(before["log.txt"]) and len(after["log.txt"]) > len(before["log.txt"])

    def test_record_and_card_have_the_trainings_command_and_the_new_scores(self, run):
        folder, before, _ = run
        old, new = json.loads(before["training_record.json"]), TrainingRecord.read(folder)
        assert new.command == old["command"] and "--threshold -25" in new.command
        assert "--test_only" in new.test_command and old["test_command"] == ""
        assert (old["num_test"], new.num_test, new.best_epoch) == (3, 5, 1)
        parts = [dict(part.split(" ") for part in record.split(", ")) for record in (old["data"], new.data)]
        assert [list(part) for part in parts] == [["train", "valid", "test"]] * 2
        assert [parts[0][name] == parts[1][name] for name in parts[0]] == [True, True, False]
        card = (folder / "export" / "README.md").read_text()
        assert f"| Command | `{new.command}` |" in card and f"| Evaluated by | `{new.test_command}` |" in card
        assert f"| Data fingerprint | {new.data} |" in card and "Mean over 5 test mixtures" in card
        score = pd.read_csv(folder / "test_results.csv").iloc[-1]["si-snr_i"]
        assert f"| SI-SNRi | {score:.2f} dB |" in card
        again = (export_training(folder, folder.parent / "again") / "README.md").read_text()
        assert f"| SI-SNRi | {score:.2f} dB |" in again and f"| Command | `{new.command}` |" in again

    def test_report_without_testing_again(self, run, tmp_path, capsys):
        folder, _, _ = run
        before = contents(folder)
        assert command_line(["report", str(folder), "--output", str(tmp_path / "page.html"), "--device", "cpu"]) == 0
        page = (tmp_path / "page.html").read_text()
        score = pd.read_csv(folder / "test_results.csv").iloc[-1]["si-snr_i"]
        assert page.count("<audio") == 3 * 5 and f'<td class="number">{score:.2f}</td>' in page
        assert "--threshold -25" in page and "<h2>Training</h2>" in page
        assert contents(folder) == before and str(tmp_path / "page.html") in capsys.readouterr().out


def test_the_same_command_again_keeps_the_record_of_the_training(folder, corpora):
    """All epochs are done, so nothing is trained, whatever the settings."""
    before = contents(folder / "out")
    options = {"data_folder": corpora[1], "dropout": 0.3, "number_of_epochs": 1}
    result = train(*words(**options), cwd=folder)
    assert result.returncode == 0, result.stdout
    after = contents(folder / "out")
    for name in [*OF_THE_TRAINING, *(name for name in before if name.startswith("manifests"))]:
        assert after[name] == before[name], name
    assert "--dropout 0.3" in TrainingRecord.read(folder / "out").test_command


def test_a_training_resumed_with_other_settings_records_these(folder, corpora):
    result = train(*words(data_folder=corpora[1], dropout=0.3, number_of_epochs=2), cwd=folder)
    assert result.returncode == 0, result.stdout
    record = TrainingRecord.read(folder / "out")
    assert "dropout: 0.3" in (folder / "out" / "hyperparams.yaml").read_text()
    assert "--dropout 0.3" in record.command and record.test_command == "" and record.num_test == 5
    assert len(pd.read_csv(folder / "out" / "manifests" / "test.csv")) == 5
    assert not [path for path in (folder / "out").iterdir() if path.name.startswith(".")]


def test_log_has_the_results_and_no_debug_messages(trained):
    lines = (trained / "out" / "log.txt").read_text().splitlines()
    assert any("Data fingerprints" in line for line in lines) and any("WHAM!: 8 mixtures" in line for line in lines)
    assert not [line for line in lines if re.search(r" - (matplotlib|PIL)\b.*DEBUG", line)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:9"}, "device 'cuda:9' is not available; available: "),
        ({"lr": "fast"}, "lr must be a number, as 0.00015 in "),
        ({"output_folder": "/proc/xx"}, "output_folder '/proc/xx' can't be written (No such file or directory)"),
    ],
)
def test_the_program_ends_with_one_line_and_exit_code_2(corpora, tmp_path, options, message):
    result = train_anew(*words(data_folder=corpora[0], **options), cwd=tmp_path)
    lines = [line for line in result.stdout.splitlines() if "torchvision" not in line]
    assert result.returncode == 2 and len(lines) == 1 and message in lines[0], result.stdout
    assert not list(tmp_path.iterdir())
