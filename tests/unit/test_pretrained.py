"""The packaged model: the default, and one clear message if it is missing."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mossformer_sb import InputError, MossFormerSeparator, pretrained
from mossformer_sb.cli import main
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.pretrained import PACKAGED, default_model
from mossformer_sb.sharing.folder import export
from mossformer_sb.training.finetuning import start_from

ROOT = Path(__file__).parents[2]
MISSING = "no model is given, and this version of mossformer_sb has no packaged model"


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A stand-in for the package's folder, with a tiny model in it."""
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "package")
    return export(tmp_path / "package" / PACKAGED, modules, 8000, half=True, speechbrain=False)


@pytest.fixture
def recording(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("talk.wav", 0.1 * np.random.randn(4000), 8000)
    return "talk.wav"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)


def test_python_uses_it(packaged, no_network):
    mixture = torch.randn(1, 4000)
    expected = MossFormerSeparation.from_hparams(packaged, device="cpu").separate_batch(mixture)
    assert torch.equal(MossFormerSeparation.from_hparams(device="cpu").separate_batch(mixture), expected)


def test_separate_needs_nothing_but_a_recording(packaged, recording, no_network):
    assert main(["separate", recording, "--device", "cpu"]) == 0
    assert sorted(path.name for path in Path("separated").iterdir()) == ["talk_spk1.wav", "talk_spk2.wav"]
    estimates = MossFormerSeparation.from_hparams(packaged, device="cpu").separate(recording)
    np.testing.assert_array_equal(soundfile.read("separated/talk_spk1.wav", dtype="float32")[0], estimates[:, 0])


def test_a_package_without_a_model(packaged, recording, capsys):
    shutil.rmtree(packaged)
    with pytest.raises(InputError, match=MISSING):
        default_model()
    with pytest.raises(InputError, match="--model on the command line, source in Python"):
        MossFormerSeparation.from_hparams()
    assert main(["separate", recording]) == 2
    assert MISSING in capsys.readouterr().err and not Path("separated").exists()


@pytest.fixture
def spectrogram():
    """The functions of the example program."""
    return runpy.run_path(str(ROOT / "examples" / "spectrogram.py"))


def test_example_draws_with_the_packages_model(packaged, recording, spectrogram):
    path = spectrogram["main"](recording, "out")
    assert path.read_bytes()[1:4] == b"PNG"
    estimates = MossFormerSeparation.from_hparams(packaged).separate(recording)
    np.testing.assert_array_equal(soundfile.read("out/talk_spk2.wav", dtype="float32")[0], estimates[:, 1])


def test_example_draws_with_the_model_that_is_given(packaged, recording, spectrogram):
    other = packaged.rename(packaged.with_name("other"))
    assert spectrogram["main"](recording, "out", str(other)) == Path("out/talk.png")
    assert Path("out/talk.png").is_file() and Path("out/talk_spk1.wav").is_file()
    with pytest.raises(InputError, match=MISSING):
        spectrogram["main"](recording, "out")


def test_the_packaged_model_loads(tmp_path):
    """Where there is a model, it loads, for two speakers at 8 kHz, and is no larger than 12 MB."""
    folder = pretrained.FOLDER / PACKAGED
    if not folder.exists():
        pytest.skip("this version comes without a model")
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 12e6
    model = MossFormerSeparation.from_hparams(device="cpu")
    assert (model.hparams.num_spks, model.hparams.sample_rate) == (2, 8000)


class TestName:
    """mossformer-small-8k, wherever a model is given."""

    def test_loads_it(self, packaged, no_network):
        by_name, default = (MossFormerSeparation.from_hparams(*name, device="cpu") for name in ([PACKAGED], []))
        assert all(map(torch.equal, by_name.mods.parameters(), default.mods.parameters()))
        modules = dict(MossFormerSeparator.from_size("mini").named_children())
        start_from(modules, PACKAGED, sample_rate=8000)
        assert torch.equal(modules["masknet"].prelu.weight, by_name.mods.masknet.prelu.weight)

    def test_is_a_folder_if_there_is_one(self, packaged, no_network, tmp_path, monkeypatch, caplog):
        monkeypatch.chdir(tmp_path)
        caplog.set_level("INFO")
        export(PACKAGED, dict(MossFormerSeparator.from_size("mini", num_spks=3).named_children()), 8000)
        assert MossFormerSeparation.from_hparams(PACKAGED, device="cpu").hparams.num_spks == 3
        assert f"{PACKAGED}: using the folder of this name, not the packaged model" in caplog.text

    def test_is_described_whatever_is_in_the_current_folder(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / PACKAGED).mkdir()
        for arguments in ([], ["--download"]):
            assert main(["models", PACKAGED, *arguments]) == 0
            printed = capsys.readouterr().out
            assert "in the package" in printed and f"folder      {default_model()}" in printed
