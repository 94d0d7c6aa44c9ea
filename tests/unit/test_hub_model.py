"""Saving, pushing and pulling a separator as huggingface_hub does, against a stand-in of the hub."""

import json

import pytest
import torch
from huggingface_hub import ModelCard, constants

from mossformer_sb import InputError, MossFormerSeparation, MossFormerSeparator
from mossformer_sb.network.separator import NETWORKS
from mossformer_sb.sharing.folder import export
from mossformer_sb.sharing.record import TrainingRecord
from tests.unit.hub import Hub, serve

SMALL = {"encoder_channels": 16, "num_spks": 3, "sample_rate": 16000}
ARGUMENTS = {
    "MossFormer": {"num_blocks": 1, "group_size": 16, "query_key_dim": 8},
    "MossFormer2": {"num_blocks": 1, "group_size": 16, "query_key_dim": 8, "recurrent_channels": 8},
    "Conv-TasNet": {"bottleneck_channels": 8, "hidden_channels": 16, "num_blocks": 2, "num_repeats": 1},
    "DPRNN": {"hidden_size": 8, "num_layers": 1, "chunk_size": 20},
    "SepFormer": {"num_layers": 1, "num_intra_layers": 1, "num_inter_layers": 1, "ffn_dim": 16, "chunk_size": 20},
}
MIXTURE = 0.1 * torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
TOKEN = "hf_secret"


def build(network="MossFormer", **options):
    torch.manual_seed(0)
    return MossFormerSeparator(network, **{**SMALL, **ARGUMENTS[network], **options}).eval()


def same(one, other):
    with torch.no_grad():
        return torch.equal(one(MIXTURE), other(MIXTURE))


def test_saving_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    build().save_pretrained("~/model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        *("README.md", "config.json", "model.safetensors"),
    ]
    assert same(build(), MossFormerSeparator.from_pretrained(tmp_path / "model"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # not in all versions
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serve(Hub({}, TOKEN, tmp_path / "hub"), monkeypatch) as hub:
        yield hub


class TestValues:
    def test_every_network_has_a_case_here(self):
        assert set(ARGUMENTS) == set(NETWORKS)

    @pytest.mark.parametrize("network", ARGUMENTS)
    def test_saved_and_loaded(self, network, tmp_path):
        separator = build(network)
        assert separator.save_pretrained(tmp_path / "model") is None
        assert {path.name for path in (tmp_path / "model").iterdir()} == {
            *("README.md", "config.json", "model.safetensors"),
        }
        assert json.loads((tmp_path / "model" / "config.json").read_text()) == separator.config
        loaded = MossFormerSeparator.from_pretrained(tmp_path / "model")
        assert same(loaded, separator) and loaded.config == separator.config and not loaded.training
        assert (loaded.sample_rate, loaded.masknet.num_spks) == (16000, 3)
        model = MossFormerSeparation.from_hparams(tmp_path / "model", device="cpu")
        assert (model.hparams.sample_rate, model.hparams.num_spks) == (16000, 3)
        torch.testing.assert_close(model.separate_batch(MIXTURE), separator(MIXTURE).detach())

    @pytest.mark.parametrize("size", ["mini", "2mini"])
    def test_a_published_size_is_built_of_its_values(self, size):
        one = MossFormerSeparator.from_size(size, num_spks=3, dropout=0.0)
        other = MossFormerSeparator(**one.config)
        assert other.config == one.config
        other.load_state_dict(one.state_dict())
        assert same(other.eval(), one.eval())

    def test_a_mapping_and_a_level(self, tmp_path):
        build("MossFormer2", apply_masks=False, input_level="loud_rms").save_pretrained(tmp_path)
        loaded = MossFormerSeparator.from_pretrained(tmp_path)
        assert loaded.masknet.apply_masks is False and loaded.input_level == "loud_rms"
        assert MossFormerSeparation.from_hparams(tmp_path, device="cpu").hparams.input_level == "loud_rms"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"network": "Mossformer"}, "network must be one of MossFormer, .*; found 'Mossformer'"),
            (
                {"network": torch.nn.Linear(1, 1)},
                r"found a Linear. Ready networks are put together by .*from_modules\(",
            ),
            ({"blocks": 3}, "MossFormer does not take blocks: it takes out_channels, num_blocks"),
            ({"encoder_channels": 0}, "encoder_channels must be a whole number of at least 1; found 0"),
            ({"encoder_kernel_size": 1}, "encoder_kernel_size must be at least 2"),
            ({"decoder_bias": 1}, "decoder_bias must be True or False; found 1"),
            ({"sample_rate": 8000.0}, "sample_rate must be a whole number of at least 1; found 8000.0"),
        ],
    )
    def test_mistakes(self, arguments, message):
        with pytest.raises(InputError, match=message):
            MossFormerSeparator(**{**SMALL, **arguments})

    def test_ready_networks_of_other_kinds_are_not_saved(self, tmp_path):
        separator = build()
        separator.encoder = torch.nn.Conv1d(1, 16, 16)
        (tmp_path / "config.json").write_text("of before")
        with pytest.raises(InputError, match="the encoder is a Conv1d .* describe SpeechBrain's Encoder and Decoder"):
            separator.save_pretrained(tmp_path)
        assert (tmp_path / "config.json").read_text() == "of before"


class TestCard:
    @pytest.fixture
    def exported(self, tmp_path):
        modules = dict(build().named_children())
        return export(tmp_path / "exported", modules, 16000, TrainingRecord(corpus="a corpus", licence="mit"))

    def test_of_an_export_is_kept_with_its_weights(self, exported, tmp_path):
        loaded = MossFormerSeparator.from_pretrained(exported)
        loaded.save_pretrained(tmp_path / "saved")
        assert (tmp_path / "saved" / "README.md").read_text() == (exported / "README.md").read_text()
        assert "| Corpus | a corpus |" in (tmp_path / "saved" / "README.md").read_text()

    def test_of_other_weights_is_not(self, exported, tmp_path):
        """Trained further, its scores would be wrong."""
        loaded = MossFormerSeparator.from_pretrained(exported)
        with torch.no_grad():
            loaded.decoder.weight.add_(1e-6)
        loaded.save_pretrained(tmp_path / "saved")
        card = (tmp_path / "saved" / "README.md").read_text()
        assert "a corpus" not in card and "| sample_rate | 16000 |" in card
        assert ModelCard(card).data.library_name == "mossformer_sb"

    def test_one_that_is_there_stays(self, tmp_path):
        (tmp_path / "README.md").write_text("# Mine")
        build().save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_text() == "# Mine"


class TestHub:
    def test_pushed_and_pulled(self, hub, tmp_path):
        separator = build()
        address = separator.push_to_hub("me/pushed", token=TOKEN)
        assert address.commit_url.startswith(f"{constants.ENDPOINT}/me/pushed/commit/")
        assert {path.name for path in (tmp_path / "hub" / "me" / "pushed").iterdir()} == {
            *("README.md", "config.json", "model.safetensors"),
        }
        assert same(MossFormerSeparator.from_pretrained("me/pushed", token=TOKEN), separator)
        model = MossFormerSeparation.from_hparams("me/pushed", device="cpu", use_auth_token=TOKEN)
        torch.testing.assert_close(model.separate_batch(MIXTURE), separator(MIXTURE).detach())

    def test_an_export_is_pushed_with_its_card(self, hub, tmp_path):
        folder = export(tmp_path / "exported", dict(build().named_children()), 16000, TrainingRecord(corpus="a corpus"))
        MossFormerSeparator.from_pretrained(folder).push_to_hub("me/pushed", token=TOKEN)
        pulled = MossFormerSeparator.from_pretrained("me/pushed", token=TOKEN)
        assert "| Corpus | a corpus |" in (tmp_path / "hub" / "me" / "pushed" / "README.md").read_text()
        pulled.save_pretrained(tmp_path / "again")
        assert (tmp_path / "again" / "README.md").read_text() == (folder / "README.md").read_text()

    def test_without_a_network_from_the_cache(self, hub, monkeypatch):
        separator = build()
        separator.push_to_hub("me/pushed", token=TOKEN)
        MossFormerSeparator.from_pretrained("me/pushed", token=TOKEN)
        hub.requests.clear()
        assert same(MossFormerSeparator.from_pretrained("me/pushed", local_files_only=True), separator)
        assert hub.requests == []

    def test_a_pickle_is_not_asked_for(self, hub, tmp_path):
        """Which huggingface_hub's own class would load in the place of safetensors."""
        separator = build()
        separator.push_to_hub("me/pushed", token=TOKEN)
        folder = tmp_path / "hub" / "me" / "pushed"
        (folder / "model.safetensors").unlink()
        torch.save(separator.state_dict(), folder / "pytorch_model.bin")
        for load in (
            lambda: MossFormerSeparator.from_pretrained("me/pushed", token=TOKEN),
            lambda: MossFormerSeparation.from_hparams("me/pushed", device="cpu", use_auth_token=TOKEN),
        ):
            with pytest.raises(
                InputError, match="me/pushed: holds no model.safetensors. .* pytorch_model.bin and .ckpt"
            ):
                load()
        assert not any("pytorch_model.bin" in request for request in hub.requests)

    def test_what_is_not_there(self, hub):
        for source, message in (("me/none", "401"), ("a--b/c", "Cannot have"), ("/not/a/folder", "Repo id must")):
            with pytest.raises(InputError, match=f"{source}: there is no local folder of this name, .*{message}"):
                MossFormerSeparator.from_pretrained(source, token=TOKEN)

    def test_an_export_of_an_earlier_version_on_the_hub(self, hub, tmp_path):
        folder = export(tmp_path / "hub" / "old", dict(build().named_children()), 16000)
        for name in ("config.json", "model.safetensors"):
            (folder / name).unlink()
        hub.folders["me/old", "main"] = folder
        with pytest.raises(
            InputError, match="me/old: holds hyperparams.yaml and no config.json.*`mossformer-sb export"
        ):
            MossFormerSeparation.from_hparams("me/old", device="cpu", use_auth_token=TOKEN)
        model = MossFormerSeparation.from_hparams("me/old", device="cpu", use_auth_token=TOKEN, trust=True)
        torch.testing.assert_close(model.separate_batch(MIXTURE), build()(MIXTURE).detach())
