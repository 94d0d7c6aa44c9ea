"""Evaluating a model on a manifest: the numbers of the training's own evaluation, and of scoring its files."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from data_prep.corpora.wham import prepare_wham
from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.cli import main
from mossformer_sb.cli.training_report import report_training
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.data.manifests import read_manifest
from mossformer_sb.evaluation.examples import example_of_row, save_example
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export
from mossformer_sb.sharing.record import TrainingRecord
from tests.unit.trees import write_wham

ROOT = Path(__file__).resolve().parents[2]
RATE = 8000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    return export(tmp_path_factory.mktemp("export") / "model", modules, RATE)


@pytest.fixture
def corpus(tmp_path):
    return write_wham(tmp_path / "wham", frames=6000, ids=("a", "b", "c"), splits=("tt",))


@pytest.fixture
def manifest(corpus, tmp_path):
    return prepare_wham(corpus, tmp_path / "manifests", splits=("tt",))["tt"]


def test_same_numbers_as_separating_and_scoring_files(model, corpus, manifest, tmp_path, capsys):
    words = ["evaluate", str(model), "--manifest", manifest, "--data_root", str(corpus), "--device", "cpu"]
    assert main([*words, "--output", str(tmp_path / "new" / "scores.csv")]) == 0
    assert "3 utterances, scores in dB" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "new" / "scores.csv")
    assert table["snt_id"].tolist() == ["a", "b", "c", "avg"]
    mixtures = str(corpus / "wav8k/min/tt/mix_both")
    main(["separate", mixtures, "--model", str(model), "--output_folder", str(tmp_path / "est"), "--device", "cpu"])
    words = ["score", "--estimates", str(tmp_path / "est"), "--references", manifest, "--data_root", str(corpus)]
    assert main([*words, "--output", str(tmp_path / "scored.csv")]) == 0
    pd.testing.assert_frame_equal(table, pd.read_csv(tmp_path / "scored.csv"), atol=1e-3)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, RuntimeError])
def test_interrupted(model, corpus, manifest, tmp_path, monkeypatch, capsys, interrupt):
    """It does not resume, and says so; the scores until then are kept."""
    calls, original = [], MossFormerSeparation.separate_batch

    def separate(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise interrupt
        return original(self, *arguments)

    monkeypatch.setattr(MossFormerSeparation, "separate_batch", separate)
    output = tmp_path / "scores.csv"
    words = ["evaluate", str(model), "--manifest", manifest, "--data_root", str(corpus), "--device", "cpu"]
    if interrupt is KeyboardInterrupt:
        assert main([*words, "--output", str(output)]) == 130
    else:
        with pytest.raises(RuntimeError):
            main([*words, "--output", str(output)])
    messages = capsys.readouterr().err
    assert f"The scores of the first 2 of 3 utterances are in {output}.partial." in messages
    assert "resumes" not in messages
    assert pd.read_csv(f"{output}.partial")["snt_id"].tolist() == ["a", "b", "avg"] and not output.exists()
    assert main([*words, "--output", str(output)]) == 0
    assert output.exists() and not Path(f"{output}.partial").exists()


def test_output_that_is_another_file(model, corpus, manifest, tmp_path, capsys):
    before = Path(manifest).read_bytes()
    words = ["evaluate", str(model), "--manifest", manifest, "--data_root", str(corpus), "--device", "cpu"]
    assert main([*words, "--output", manifest]) == 2
    assert f"--output {manifest}: is also another file of this command" in capsys.readouterr().err
    page = str(tmp_path / "page.html")
    assert main([*words, "--output", page, "--report", page]) == 2
    assert f"--report {page}: is also another file of this command" in capsys.readouterr().err
    assert Path(manifest).read_bytes() == before and not Path(page).exists()


def test_a_network_that_overflows(model, corpus, manifest, tmp_path, monkeypatch, capsys):
    def separate(self, mixture, lengths=None):
        raise InputError("the network's output is NaN")

    monkeypatch.setattr(MossFormerSeparation, "separate_batch", separate)
    words = ["evaluate", str(model), "--manifest", manifest, "--data_root", str(corpus), "--device", "cpu"]
    assert main([*words, "--output", str(tmp_path / "scores.csv")]) == 2
    assert "a: the network's output is NaN" in capsys.readouterr().err


def test_report(model, corpus, manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", str(model), "--manifest", manifest, "--data_root", "wham", "--device", "cpu"]
    assert main([*words, "--report", "pages/page.html", "--corpus", "WHAM!"]) == 0
    page = Path("pages/page.html").read_text()
    assert page.count("<audio") == 3 * 5 and "published results on WHAM!" in page and f"<td>{manifest}</td>" in page
    assert Path("test_results.csv").is_file()


def test_an_example_has_the_length_of_the_manifest(corpus, tmp_path):
    """With trim, files are longer than their mixture, each by another number of samples."""
    path = corpus / "wav8k/min/tt/s2/a.wav"
    samples, rate = soundfile.read(path)
    soundfile.write(path, np.concatenate((samples, np.ones(3))), rate)
    manifest = prepare_wham(corpus, tmp_path / "m", splits=("tt",), trim=3)["tt"]
    row = read_manifest(manifest, corpus).iloc[0]
    example = example_of_row("best", row, 2, lambda mixture: torch.stack((mixture, -mixture), -1))
    item = MixtureDataset(manifest, corpus, trim=3)[0]
    assert len(example.mixture) == 6000
    assert np.array_equal(example.sources, item.sources) and np.array_equal(example.mixture, item.mixture)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--manifest", "none.csv"], "none.csv: there is no such manifest"),
        (["--data_root", "nowhere"], "mix_both/a.wav: there is no such audio file"),
        (["--metrics", "mos"], "metric 'mos' is not known"),
        (["--device", "cuda:9"], "device 'cuda:9' is not available"),
    ],
)
def test_mistakes(model, corpus, manifest, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    words = {"--manifest": manifest, "--data_root": str(corpus), "--device": "cpu"} | {change[0]: change[1]}
    assert main(["evaluate", str(model), *(word for pair in words.items() for word in pair)]) == 2
    assert message in capsys.readouterr().err and not Path("test_results.csv").exists()


def test_a_manifest_elsewhere_than_its_data(model, manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(model), "--manifest", manifest, "--device", "cpu"]) == 2
    assert "Give the folder of the corpus with --data_root" in capsys.readouterr().err
    assert not Path("test_results.csv").exists()


def test_another_number_of_speakers_or_rate(model, corpus, tmp_path, capsys):
    for column, value, message in (
        ("s3_wav", "x", "has mixtures of 3 speakers; the model is for 2 speakers at 8000 Hz. Choose another model, or"),
        ("sample_rate", 16000, "has mixtures of 16000 Hz; the model is for 2 speakers at 8000 Hz"),
    ):
        table = pd.read_csv(prepare_wham(corpus, tmp_path / "m", splits=("tt",))["tt"])
        table[column] = value
        table.to_csv(tmp_path / "other.csv", index=False)
        words = ["evaluate", str(model), "--manifest", str(tmp_path / "other.csv"), "--data_root", str(corpus)]
        assert main([*words, "--device", "cpu"]) == 2
        assert message in capsys.readouterr().err


class TestReportOfATraining:
    """From a training's output folder, if the corpus or the model is no longer available."""

    @pytest.fixture
    def training(self, model, corpus, manifest, tmp_path):
        folder = tmp_path / "training"
        folder.mkdir()
        words = ["evaluate", str(model), "--manifest", manifest, "--data_root", str(corpus), "--device", "cpu"]
        assert main([*words, "--output", str(folder / "test_results.csv")]) == 0
        shutil.copytree(model, folder / "export")
        shutil.copy(manifest, folder / "test_manifest.csv")
        TrainingRecord(command="python train.py x", test_set={"data_root": str(corpus)}).write(folder)
        item = MixtureDataset(manifest, corpus)[0]
        estimates = MossFormerSeparation.from_hparams(model, device="cpu").separate_batch(item.mixture[None])[0]
        save_example(folder / "audio", "a", item.mixture, item.sources, estimates, torch.tensor([0, 1]), RATE)
        return folder

    def test_with_both(self, training):
        page = report_training(training).read_text()
        assert page.count("<audio") == 3 * 5 and "python train.py x" in page

    @pytest.mark.parametrize("missing", ["corpus", "model", "record"])
    def test_examples_that_were_kept(self, training, corpus, caplog, missing):
        if missing == "corpus":
            shutil.rmtree(corpus)
        elif missing == "model":
            shutil.rmtree(training / "export")
        else:
            (training / "training_record.json").unlink()
        page = report_training(training).read_text()
        assert page.count("<audio") == 5 and re.search(r"best \(-?[\d.]+ dB SI-SNRi, -?[\d.]+ dB SDRi\): a</h2>", page)
        assert "The examples are from" in caplog.text

    def test_without_any(self, training, corpus):
        shutil.rmtree(corpus)
        shutil.rmtree(training / "audio")
        assert "<audio" not in report_training(training).read_text()

    def test_no_evaluation(self, tmp_path, capsys):
        assert main(["report", str(tmp_path)]) == 2
        assert "holds no test_results.csv, so there is no evaluation to report" in capsys.readouterr().err


WITHOUT_TORCHMETRICS = """
import sys
sys.modules["torchmetrics"] = None  # importing it fails
import mossformer_sb.cli, mossformer_sb.inference, mossformer_sb.training.brain
import mossformer_sb.evaluation.report, mossformer_sb.sharing.modelscope
from mossformer_sb.evaluation.metrics import score_signals
import torch
sources = torch.randn(8000, 2)
print(score_signals("a", sources.sum(1), sources, sources.flip(1), 8000)[1].si_snr > 50)
from mossformer_sb.evaluation.extra_metrics import check_metrics
sys.modules["pystoi"] = sys  # as if it were installed
try:
    check_metrics(["stoi"])
except ValueError as error:
    print(error)
"""


def test_torchmetrics_is_for_more_metrics_only():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCHMETRICS], cwd=ROOT, capture_output=True, text=True)
    message = "STOI needs the package torchmetrics, which is not installed: pip install 'mossformer_sb[score]'."
    assert done.stdout.splitlines()[-2:] == ["True", message], done.stdout + done.stderr


def test_required_packages_are_those_that_the_core_imports():
    """No package that only an extra needs is among the requirements."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    required = set(re.findall(r"^[\w.-]+(?=[<>=])", config["options"]["install_requires"], re.MULTILINE))
    source = "\n".join(path.read_text() for path in (ROOT / "mossformer_sb").rglob("*.py"))
    called = {"yaml": "pyyaml", "ruamel": "ruamel.yaml"}
    imported = {called.get(name, name) for name in re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)}
    assert required - imported == {"torchaudio"}  # SpeechBrain's, and paired with torch here
    assert "torchmetrics" in config["options.extras_require"]["score"]
