"""MossFormer2 as a model: exported, loaded, described, started from a MossFormer, and as ONNX."""

import logging

import pytest
import torch
from speechbrain.inference.separation import SepformerSeparation

from mossformer_sb import MossFormerSeparator
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export
from mossformer_sb.sharing.model_info import describe
from mossformer_sb.sharing.onnx import export_onnx
from mossformer_sb.training.finetuning import start_from

RATE = 8000
ON_CPU = {"run_opts": {"device": "cpu"}}


def separator(size="2mini", **options):
    """Every value its own, as after training."""
    torch.manual_seed(0)
    found = MossFormerSeparator.from_size(size, **options)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.1 * parameter.std(correction=0) * torch.randn_like(parameter))
    return found.eval()


def write(separator, folder, **options):
    return export(folder, dict(separator.named_children()), RATE, **options)


@pytest.fixture(scope="module")
def masking():
    return separator(num_spks=3)


@pytest.fixture(scope="module")
def folder(masking, tmp_path_factory):
    return write(masking, tmp_path_factory.mktemp("exported") / "model")


@pytest.mark.parametrize("interface", [MossFormerSeparation, SepformerSeparation])
def test_both_interfaces_give_the_models_output_exactly(masking, folder, interface):
    model = interface.from_hparams(source=str(folder), **ON_CPU)
    mixture = torch.randn(2, 5000)
    with torch.no_grad():
        expected = masking(mixture)
    assert torch.equal(model.separate_batch(mixture), expected)


def test_half_precision_weights(masking, tmp_path):
    model = MossFormerSeparation.from_hparams(source=write(masking, tmp_path / "half", half=True), **ON_CPU)
    mixture = torch.randn(1, 5000)
    with torch.no_grad():
        exact = masking(mixture)
    assert 0 < (model.separate_batch(mixture) - exact).norm() / exact.norm() < 0.02


def test_what_is_said_of_it(folder):
    card = (folder / "README.md").read_text()
    assert "# MossFormer2: 3 speakers, 8000 Hz" in card and "- mossformer2" in card and "ICASSP 2024" in card
    assert "`SepformerSeparation.from_hparams` loads it too" in card
    hyperparams = (folder / "hyperparams.yaml").read_text()
    assert "!new:mossformer_sb.MossFormer2MaskNet" in hyperparams and "recurrent_channels: 64" in hyperparams
    facts = describe(folder)
    assert (facts["network"], facts["recurrent_channels"]) == ("MossFormer2MaskNet", 64)
    assert facts["parameters"] == "0.82 M"


class TestMapping:
    @pytest.fixture(scope="class")
    def mapping(self):
        return separator(apply_masks=False)

    def test_ours_loads_it_and_speechbrains_files_are_not_written(self, mapping, tmp_path, caplog):
        with caplog.at_level(logging.WARNING):
            folder = write(mapping, tmp_path / "model")
        assert "No files for SpeechBrain's classes are written: with apply_masks: False" in caplog.text
        assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
        assert '"apply_masks": false' in (folder / "config.json").read_text()
        card = " ".join((folder / "README.md").read_text().split())
        assert "SpeechBrain's own classes can't load it: they multiply" in card and "loads it too" not in card
        mixture = torch.randn(2, 5000)
        with torch.no_grad():
            expected = mapping(mixture)
        assert torch.equal(MossFormerSeparation.from_hparams(source=folder, **ON_CPU).separate_batch(mixture), expected)

    def test_a_recording_is_separated_at_its_own_level(self, mapping, tmp_path):
        """The network's level does not follow the recording's; what comes out does, as with masks."""
        model = MossFormerSeparation.from_hparams(source=write(mapping, tmp_path / "model"), **ON_CPU)
        recording = 0.1 * torch.randn(8000)
        for level in ("mixture", "none"):
            loud, soft = (model.separate(gain * recording, RATE, level=level) for gain in (1.0, 0.01))
            torch.testing.assert_close(soft, 0.01 * loud, rtol=1e-3, atol=1e-6)


class TestStartingFromAMossFormer:
    def test_blocks_load_and_recurrent_modules_are_new(self, tmp_path, caplog):
        mossformer = separator("mini")
        folder = write(mossformer, tmp_path / "mossformer")
        modules = dict(separator("2mini").named_children())
        with torch.no_grad():
            for parameter in modules["masknet"].parameters():
                parameter.add_(1.0)
        before = {key: value.clone() for key, value in modules["masknet"].state_dict().items()}
        with caplog.at_level(logging.INFO):
            comparisons = start_from(modules, folder, RATE)
        theirs = mossformer.masknet.state_dict()
        for key, value in modules["masknet"].state_dict().items():
            if ".output." in key:  # zero, so that the scores are those of the MossFormer at first
                assert not value.any(), key
            else:
                assert torch.equal(value, theirs[key] if key in theirs else before[key]), key
        assert set(comparisons["masknet"].loaded) == theirs.keys()
        assert "missing: masknet.recurrent.* (120), new" in caplog.text

    def test_the_other_way_the_recurrent_modules_are_skipped(self, folder, caplog):
        modules = dict(separator("mini", num_spks=3).named_children())
        with caplog.at_level(logging.INFO):
            comparisons = start_from(modules, folder, RATE)
        assert set(comparisons["masknet"].loaded) == modules["masknet"].state_dict().keys()
        assert "unexpected: masknet.recurrent.* (120), skipped" in caplog.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_onnx_of_any_batch_and_length(tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    ours = separator()
    del ours.masknet.blocks[1:], ours.masknet.recurrent[1:]  # the exporter takes its time for each
    export_onnx(tmp_path / "x.onnx", ours.encoder, ours.masknet, ours.decoder)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    for batch_size, num_samples in ((1, 32), (1, 1000), (3, 1040), (2, 20001)):
        mixture = torch.randn(batch_size, num_samples)
        (found,) = session.run(["estimates"], {"mixture": mixture.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), ours(mixture), rtol=1e-3, atol=2e-4)
