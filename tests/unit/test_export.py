"""An exported folder: what it holds, who can load it, and that it gives the trained model's output."""

import os

import pytest
import torch
from speechbrain.inference.separation import SepformerSeparation

from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export
from mossformer_sb.sharing.record import TrainingRecord

RATE = 8000
ON_CPU = {"run_opts": {"device": "cpu"}}


@pytest.fixture(scope="module")
def separator():
    torch.manual_seed(0)
    return MossFormerSeparator.from_size("mini", num_spks=3).eval()


@pytest.fixture(scope="module")
def folder(separator, tmp_path_factory):
    record = TrainingRecord(
        task="separate_noisy",
        corpus="a corpus",
        data="train 0123abcd",
        command="python train.py x.yaml",
        best_epoch=7,
        num_test=5,
        scores={"sdr": 1.0, "sdr_i": 2.25, "si-snr": 3.0, "si-snr_i": 4.125},
    )
    modules = dict(separator.named_children())
    return export(tmp_path_factory.mktemp("export") / "model", modules, RATE, record)


@pytest.mark.parametrize("num_samples", [400, 32000])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("interface", [MossFormerSeparation, SepformerSeparation])
def test_both_interfaces_give_the_models_output_exactly(separator, folder, interface, batch_size, num_samples):
    model = interface.from_hparams(source=str(folder), **ON_CPU)
    mixture = torch.randn(batch_size, num_samples)
    with torch.no_grad():
        expected = separator(mixture)
    assert torch.equal(model.separate_batch(mixture), expected)


def test_lengths(separator, folder):
    model = MossFormerSeparation.from_hparams(source=folder, **ON_CPU)
    mixture, lengths = torch.randn(2, 4000), torch.tensor([4000, 2500])
    alone = model.separate_batch(mixture[1:, :2500])[0]
    torch.testing.assert_close(model.separate_batch(mixture, lengths)[1, :2500], alone, rtol=1e-4, atol=1e-6)


class TestHalfPrecision:
    @pytest.fixture(scope="class")
    def half(self, separator, tmp_path_factory):
        modules = dict(separator.named_children())
        return export(tmp_path_factory.mktemp("half") / "model", modules, RATE, half=True, formats=["ckpt"])

    @pytest.mark.parametrize("interface", [MossFormerSeparation, SepformerSeparation])
    def test_both_interfaces_compute_the_same_in_single_precision(self, separator, half, interface):
        """Exactly what the network gives with rounded weights."""
        rounded = MossFormerSeparator.from_size("mini", num_spks=3).eval()
        rounded.load_state_dict({key: value.half() for key, value in separator.state_dict().items()})
        model = interface.from_hparams(source=str(half), **ON_CPU)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        mixture = torch.randn(2, 4000)
        with torch.no_grad():
            expected, exact = rounded(mixture), separator(mixture)
        assert torch.equal(model.separate_batch(mixture), expected)
        assert 0 < (expected - exact).norm() / exact.norm() < 0.01

    def test_is_a_quarter_as_large_with_one_copy(self, folder, half):
        sizes = [sum(path.stat().st_size for path in where.glob("masknet.*")) for where in (half, folder)]
        assert sizes[0] < 0.27 * sizes[1]
        assert not list(half.glob("*.safetensors"))
        assert "| Weights | half precision" in (half / "README.md").read_text()
        assert "| Weights |" not in (folder / "README.md").read_text()

    def test_a_weight_that_is_too_large(self, tmp_path):
        separator = MossFormerSeparator.from_size("mini")
        with torch.no_grad():
            separator.masknet.prelu.weight.fill_(1e5)
        with pytest.raises(InputError, match="masknet.prelu.weight: has a value that half .* 65504"):
            export(tmp_path / "model", dict(separator.named_children()), RATE, half=True)
        assert not list(tmp_path.iterdir())


def test_the_title_of_the_card(folder, tmp_path):
    single = dict(MossFormerSeparator.from_size("mini", num_spks=1).named_children())
    assert "# MossFormer: 1 speaker, 48000 Hz\n" in (export(tmp_path / "one", single, 48000) / "README.md").read_text()
    assert f"# MossFormer: 3 speakers, {RATE} Hz\n" in (folder / "README.md").read_text()


def test_safetensors_alone(separator, tmp_path):
    folder = export(tmp_path / "model", dict(separator.named_children()), RATE, formats=["safetensors"])
    assert not list(folder.glob("*.ckpt"))
    mixture = torch.randn(1, 4000)
    with torch.no_grad():
        expected = separator(mixture)
    assert torch.equal(MossFormerSeparation.from_hparams(source=folder, **ON_CPU).separate_batch(mixture), expected)


def test_notes_go_into_the_model_card(separator, tmp_path):
    folder = export(tmp_path / "model", dict(separator.named_children()), RATE, notes="## Limits\n\nTwo speakers.\n\n")
    card = (folder / "README.md").read_text()
    assert "\n\n## Limits\n\nTwo speakers.\n\n## Use\n" in card


def test_model_card_has_the_numbers(folder):
    card = (folder / "README.md").read_text()
    for line in (
        "| SI-SNRi | 4.12 dB |",
        "| SDRi | 2.25 dB |",
        "Mean over 5 test mixtures",
        "| Corpus | a corpus |",
        "| Data fingerprint | train 0123abcd |",
        "| Epoch | 7 |",
    ):
        assert line in card
    assert "| Experiment |" not in card  # nothing empty


def test_yaml_names_only_the_three_packages(folder):
    text = (folder / "hyperparams.yaml").read_text()
    named = {word.split(":")[1].split(".")[0] for word in text.split() if word.startswith("!new:")}
    assert named == {"speechbrain", "mossformer_sb"}


def test_all_files_have_the_same_permissions(folder):
    """A folder that is shared must be readable as a whole."""
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_weights_are_plain_state_dicts(folder):
    for path in folder.glob("*.ckpt"):
        assert torch.load(path, weights_only=True)


def test_replaces_an_earlier_export_and_nothing_else(separator, tmp_path):
    modules = dict(separator.named_children())
    first = export(tmp_path / "model", modules, RATE)
    assert export(tmp_path / "model", modules, 16000) == first
    assert "sample_rate: 16000" in (first / "hyperparams.yaml").read_text()
    (tmp_path / "thesis").mkdir()
    with pytest.raises(InputError, match="thesis: exists and is no exported model"):
        export(tmp_path / "thesis", modules, RATE)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "thesis"}


def test_a_failed_export_leaves_nothing(separator, tmp_path, monkeypatch):
    monkeypatch.setattr("mossformer_sb.sharing.folder.model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(tmp_path / "model", dict(separator.named_children()), RATE)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_survives_a_failure(separator, tmp_path, monkeypatch):
    modules = dict(separator.named_children())
    folder = export(tmp_path / "model", modules, RATE)
    replace = os.replace

    def fail_on_new(source, target):
        if str(source).endswith(".tmp"):
            raise OSError("disk trouble")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_new)
    with pytest.raises(OSError, match="disk trouble"):
        export(folder, modules, 16000)
    assert "sample_rate: 8000" in (folder / "hyperparams.yaml").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_loading_something_else(tmp_path):
    with pytest.raises(InputError, match="holds no hyperparams.yaml, so it is no exported model"):
        MossFormerSeparation.from_hparams(source=tmp_path)
