"""An exported folder: what it holds, who can load it, and that it gives the trained model's output."""

import json
import os

import pytest
import torch
from speechbrain.inference.separation import SepformerSeparation
from speechbrain.lobes.models.dual_path import Decoder

from mossformer_sb import InputError, MossFormerMaskNet, MossFormerSeparator
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
def test_both_interfaces_give_the_models_output(separator, folder, interface, batch_size, num_samples):
    model = interface.from_hparams(source=str(folder), **ON_CPU)
    mixture = torch.randn(batch_size, num_samples)
    with torch.no_grad():
        expected = separator(mixture)
    # SpeechBrain's calls its decoder itself, whose sums are in another order than those of the fast one.
    tolerance = {"rtol": 0, "atol": 0} if interface is MossFormerSeparation else {}
    torch.testing.assert_close(model.separate_batch(mixture), expected, **tolerance)


def test_lengths(separator, folder):
    model = MossFormerSeparation.from_hparams(source=folder, **ON_CPU)
    mixture, lengths = torch.randn(2, 4000), torch.tensor([4000, 2500])
    alone = model.separate_batch(mixture[1:, :2500])[0]
    torch.testing.assert_close(model.separate_batch(mixture, lengths)[1, :2500], alone, rtol=1e-4, atol=1e-6)


class TestHalfPrecision:
    @pytest.fixture(scope="class")
    def half(self, separator, tmp_path_factory):
        modules = dict(separator.named_children())
        return export(tmp_path_factory.mktemp("half") / "model", modules, RATE, half=True)

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

    def test_is_a_quarter_as_large_with_one_copy(self, separator, folder, half, tmp_path):
        modules = dict(separator.named_children())
        single = export(tmp_path / "single", modules, RATE, half=True, speechbrain=False)
        sizes = [sum(path.stat().st_size for path in where.iterdir()) for where in (single, folder)]
        assert sizes[0] < 0.27 * sizes[1]
        assert {path.name for path in single.iterdir()} == {"README.md", "config.json", "model.safetensors"}
        assert "| Weights | half precision" in (half / "README.md").read_text()
        assert "| Weights |" not in (folder / "README.md").read_text()

    def test_a_weight_that_is_too_large(self, tmp_path):
        separator = MossFormerSeparator.from_size("mini")
        with torch.no_grad():
            separator.masknet.prelu.weight.fill_(1e5)
        with pytest.raises(InputError, match="masknet.prelu.weight: has a value above the maximum of half .* 65504"):
            export(tmp_path / "model", dict(separator.named_children()), RATE, half=True)
        assert not list(tmp_path.iterdir())


def test_the_title_of_the_card(folder, tmp_path):
    single = dict(MossFormerSeparator.from_size("mini", num_spks=1).named_children())
    assert "# MossFormer: 1 speaker, 48000 Hz\n" in (export(tmp_path / "one", single, 48000) / "README.md").read_text()
    assert f"# MossFormer: 3 speakers, {RATE} Hz\n" in (folder / "README.md").read_text()


def test_nothing_for_speechbrain(separator, tmp_path):
    folder = export(tmp_path / "model", dict(separator.named_children()), RATE, speechbrain=False)
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    card = (folder / "README.md").read_text()
    assert "SpeechBrain's own classes can't load it" in card and "library_name: mossformer_sb" in card
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


def test_config_json_has_plain_values_of_the_network(separator, folder):
    config = json.loads((folder / "config.json").read_text())
    assert config == separator.config
    assert (config["network"], config["sample_rate"], config["num_spks"]) == ("MossFormer", RATE, 3)
    assert all(isinstance(value, (str, int, float)) for value in config.values())


class Own(MossFormerMaskNet):
    """A researcher's own mask net."""


class TestNetworksThatAreNotDescribed:
    """A training must not end without its export; the class's module is somebody's own."""

    def test_is_for_those_who_trust_it(self, tmp_path, caplog):
        modules = dict(MossFormerSeparator.from_size("mini").named_children())
        modules["masknet"] = Own(128, 128, num_blocks=1, group_size=16, query_key_dim=8)
        folder = export(tmp_path / "model", modules, RATE)
        assert "No config.json is written: the mask net is a Own" in caplog.text
        assert not (folder / "config.json").exists() and not (folder / "model.safetensors").exists()
        with pytest.raises(InputError, match="holds hyperparams.yaml and no config.json.*with trust=True"):
            MossFormerSeparation.from_hparams(folder, **ON_CPU)
        model = MossFormerSeparation.from_hparams(folder, trust=True, **ON_CPU)
        assert type(model.mods.masknet) is Own
        with pytest.raises(InputError, match="can't export without the files for SpeechBrain: the mask net is a Own"):
            export(tmp_path / "other", modules, RATE, speechbrain=False)

    def test_a_decoder_of_another_hop(self, separator, tmp_path):
        modules = {**dict(separator.named_children()), "decoder": Decoder(128, 1, kernel_size=32, stride=8, bias=False)}
        with pytest.raises(InputError, match=r"are \(1, 128, 1, 32, 8\); .* describe \(1, 128, 1, 32, 16\)"):
            export(tmp_path / "model", modules, RATE, speechbrain=False)

    def test_a_decoder_with_a_bias_is_described(self, separator, tmp_path):
        modules = {**dict(separator.named_children()), "decoder": Decoder(128, 1, kernel_size=32, stride=16, bias=True)}
        folder = export(tmp_path / "model", modules, RATE, speechbrain=False)
        assert MossFormerSeparator.from_pretrained(folder).decoder.bias is not None


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
    with pytest.raises(InputError, match="thesis: exists and is not an exported model"):
        export(tmp_path / "thesis", modules, RATE)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "thesis"}


@pytest.mark.parametrize("other", ["save/CKPT+1/masknet.ckpt", "train_log.txt", ".git/HEAD"])
def test_a_folder_that_holds_more_than_an_export_is_not_replaced(separator, tmp_path, other):
    """Trainings have a hyperparams.yaml, too; and an export may be a repository with a history."""
    modules = dict(separator.named_children())
    folder = export(tmp_path / "model", modules, RATE)
    (folder / other).parent.mkdir(parents=True, exist_ok=True)
    (folder / other).write_text("irreplaceable")
    with pytest.raises(InputError, match=f"model: is not replaced.* holds .*{other.split('/')[0]}.*another export"):
        export(folder, modules, 16000)
    assert (folder / other).read_text() == "irreplaceable"
    assert "sample_rate: 8000" in (folder / "hyperparams.yaml").read_text()


def test_an_output_folder_of_a_training_is_not_replaced(separator, tmp_path):
    (tmp_path / "hyperparams.yaml").write_text("save_folder: save\n")
    (tmp_path / "training_record.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds .*training_record\.json"):
        export(tmp_path, dict(separator.named_children()), RATE)


def test_all_that_an_export_can_hold_is_replaced(separator, tmp_path):
    modules = dict(separator.named_children())
    audio = tmp_path / "mix.wav"
    audio.write_bytes(b"audio")
    folder = export(tmp_path / "model", modules, RATE, examples=[audio])
    for name in ("separator.onnx", "separator-int8.onnx"):
        (folder / name).write_bytes(b"old")
    export(folder, modules, RATE)
    assert not list(folder.glob("*.onnx"))
    assert not (folder / "examples").exists()


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
    with pytest.raises(InputError, match="holds no config.json. A model is loaded from config.json and"):
        MossFormerSeparation.from_hparams(source=tmp_path)


@pytest.mark.parametrize("half", [False, True])
def test_weights_that_can_not_be_loaded_replace_nothing(tmp_path, half):
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    folder = export(tmp_path / "model", modules, RATE)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        modules["masknet"].norm.weight[0] = float("nan")
    with pytest.raises(InputError, match="masknet.norm.weight: holds NaN or infinity, and can't be used"):
        export(folder, modules, RATE, half=half)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_rate_that_loading_would_refuse(tmp_path):
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    with pytest.raises(InputError, match="sample_rate must be at most 1048576 Hz; found 1048577"):
        export(tmp_path / "model", modules, 2**20 + 1)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"shifts": 100}, "shifts must be .* to 64; found 100"), ({"input_level": "peak"}, "input_level 'peak' is not")],
)
def test_settings_that_loading_would_refuse(separator, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        export(tmp_path / "model", dict(separator.named_children()), RATE, settings=settings)
    with pytest.raises(InputError, match=message):
        MossFormerSeparator.from_modules(**dict(separator.named_children()), **settings)
    assert not list(tmp_path.iterdir())
