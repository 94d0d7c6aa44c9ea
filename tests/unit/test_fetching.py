"""Fetching a model: always the one that was named, found quickly, or refused with one message."""

import json
import os
import shutil
import threading
import time

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from speechbrain.utils.fetching import FetchConfig, FetchFrom, FetchSource, LocalStrategy

from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.fetching import NOTE, ModelSource
from mossformer_sb.sharing.folder import export
from mossformer_sb.sharing.record import TrainingRecord
from tests.unit.hub import Hub, point_to, serve

RATE = 8000
ID = "somebody/mossformer"
MIXTURE = 0.1 * torch.randn(1, 2000, generator=torch.Generator().manual_seed(0))


def make(folder, seed, num_spks=2, **options):
    torch.manual_seed(seed)
    return export(folder, dict(MossFormerSeparator.from_size("mini", num_spks).named_children()), RATE, **options)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three models, of other weights and, the last, of another number of speakers."""
    root = tmp_path_factory.mktemp("models")
    return [make(root / f"m{seed}", seed, num_spks) for seed, num_spks in ((0, 2), (1, 2), (2, 3))]


def load(source, **options):
    return MossFormerSeparation.from_hparams(source, device="cpu", **options)


def output(model):
    return model.separate_batch(MIXTURE)


def same(model, other):
    return torch.equal(output(model), output(other))


@pytest.fixture
def offline(monkeypatch):
    """A hub that can't be reached: nothing listens there."""
    point_to("http://127.0.0.1:9", monkeypatch)


@pytest.fixture
def config(tmp_path):
    return FetchConfig(huggingface_cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("strategy", [LocalStrategy.COPY, LocalStrategy.SYMLINK])
class TestSavedir:
    def test_another_model_in_the_same_folder(self, models, tmp_path, trust, strategy):
        for source in (*models, models[0]):
            options = {"savedir": tmp_path / "kept", "local_strategy": strategy, "trust": trust}
            assert same(load(source, **options), load(source))

    def test_a_model_that_was_exported_again(self, models, tmp_path, trust, strategy):
        folder = shutil.copytree(models[0], tmp_path / "model")
        options = {"savedir": tmp_path / "kept", "local_strategy": strategy, "trust": trust}
        before = output(load(folder, **options))
        make(folder, seed=7)
        assert not torch.equal(output(load(folder, **options)), before)

    def test_a_folder_of_another_model_stays_as_it_is(self, models, tmp_path, trust, strategy):
        """Of the same settings and other weights; not fetched, so not to be overwritten."""
        own = shutil.copytree(models[1], tmp_path / "own")
        before = {path.name: path.read_bytes() for path in own.iterdir()}
        with pytest.raises(InputError, match=r"savedir .*own: holds a \w+.\w+ that does not belong to .*m0"):
            load(models[0], savedir=own, local_strategy=strategy, trust=trust)
        assert {name: (own / name).read_bytes() for name in before} == before

    def test_savedir_is_the_source(self, models, tmp_path, trust, strategy):
        own = shutil.copytree(models[1], tmp_path / "own")
        assert same(load(own, savedir=own, local_strategy=strategy, trust=trust), load(models[1]))


@pytest.mark.parametrize("strategy", [LocalStrategy.NO_LINK, LocalStrategy.COPY_SKIP_CACHE])
def test_other_strategies(models, tmp_path, strategy):
    for source in models[:2]:
        assert same(load(source, savedir=tmp_path / "kept", local_strategy=strategy), load(source))


def test_nothing_of_an_earlier_model_is_left_in_savedir(models, tmp_path):
    kept = tmp_path / "kept"
    load(models[0], savedir=kept)
    assert {path.name for path in kept.iterdir()} == {NOTE, "config.json", "model.safetensors"}
    other = make(tmp_path / "other", seed=3)
    load(other, savedir=kept, trust=True)
    assert {path.name for path in kept.iterdir()} == {
        NOTE,
        "hyperparams.yaml",
        *(f"{name}.ckpt" for name in ("encoder", "masknet", "decoder")),
    }
    assert same(load(kept, trust=True), load(other))


def test_savedir_that_cannot_be_written(models, tmp_path):
    (tmp_path / "kept").write_text("a file is in the way")
    with pytest.raises(InputError, match=r"savedir .*kept: can't write config.json \(File exists\)"):
        load(models[0], savedir=tmp_path / "kept")


class TestNames:
    def test_home(self, models, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        shutil.copytree(models[0], tmp_path / "mine")
        for trust in (False, True):
            assert same(load("~/mine", savedir="~/kept", trust=trust), load(models[0]))
        assert (tmp_path / "kept" / "config.json").is_file() and (tmp_path / "kept" / "hyperparams.yaml").is_file()

    def test_speechbrains_own_kind_of_source(self, models):
        assert same(load(FetchSource(FetchFrom.LOCAL, str(models[0]))), load(models[0]))

    @pytest.mark.parametrize("name", ["/not/a/folder", "a b", "../x", "owner/name/part"])
    def test_what_can_be_no_id(self, name):
        with pytest.raises(InputError, match=f"{name}: there is no such folder. Give the folder of an exported model"):
            load(name)

    def test_a_path_object_is_no_id(self, tmp_path):
        with pytest.raises(InputError, match="there is no such folder"):
            load(tmp_path / "none")

    def test_a_file(self, models):
        with pytest.raises(InputError, match="hyperparams.yaml: is a file; a model is a folder"):
            load(models[0] / "hyperparams.yaml")

    def test_a_typing_mistake(self, models, offline, config, monkeypatch):
        monkeypatch.chdir(models[0].parent)
        for name in ("m00", str(models[0]) + "0"):
            with pytest.raises(InputError, match=r"(there is no such folder|of this name) \(did you mean .*m0\?\)"):
                load(name, fetch_config=config)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [("pymodule_file", "custom.py", "pymodule_file is not supported: no code of a model folder is loaded")],
    )
    def test_arguments_of_earlier_speechbrain_that_are_refused(self, models, name, value, message):
        with pytest.raises(InputError, match=message):
            load(models[0], **{name: value})

    def test_arguments_of_earlier_speechbrain_without_effect_here(self, models):
        assert load(models[0], use_auth_token=None, revision=None, pymodule_file=None)


@pytest.mark.parametrize("absolute", [False, True])
def test_a_note_from_elsewhere_deletes_nothing_beside_the_folder(models, tmp_path, absolute):
    kept, other = tmp_path / "kept", tmp_path / "victim.txt"
    kept.mkdir()
    other.touch()
    listed = str(other) if absolute else "../victim.txt"
    (kept / NOTE).write_text(json.dumps({"source": "o/m", "revision": None, "files": [listed, "old.txt"]}))
    (kept / "old.txt").touch()
    load(models[0], savedir=kept)
    assert other.exists() and not (kept / "old.txt").exists()


class TestOutputFolderOfATraining:
    @pytest.fixture
    def training(self, models, tmp_path):
        folder = tmp_path / "results"
        shutil.copytree(models[0], folder / "export")
        (folder / "hyperparams.yaml").write_text("x: !apply:os.abort\nsave_folder: results/save\n")
        return folder

    @pytest.mark.parametrize("trust", [False, True])
    def test_its_export_is_taken(self, models, training, trust):
        assert same(load(training, trust=trust), load(models[0]))

    def test_under_the_name_that_the_settings_give_it(self, models, training):
        (training / "export").rename(training / "shared")
        (training / "hyperparams.yaml").write_text(
            "output_folder: r\nexport_folder: r/shared\nsave_folder: r/save\n", encoding="utf-8"
        )
        assert same(load(training), load(models[0]))

    def test_without_an_export(self, training):
        shutil.rmtree(training / "export")
        TrainingRecord().write(training)
        with pytest.raises(InputError, match="results: is the output folder of a training. .*mossformer-sb export .*"):
            load(training)


class TestHub:
    @pytest.fixture
    def hub(self, models, monkeypatch):
        with serve(Hub({(ID, "main"): models[0], (ID, "v2"): models[2]}), monkeypatch) as hub:
            yield hub

    @pytest.mark.parametrize("trust", [False, True])
    def test_a_public_model(self, models, hub, config, trust):
        assert same(load(ID, fetch_config=config, trust=trust), load(models[0]))

    @pytest.mark.parametrize("trust", [False, True])
    def test_a_revision(self, models, hub, config, tmp_path, trust):
        config = FetchConfig(revision="v2", huggingface_cache_dir=config.huggingface_cache_dir)
        assert same(load(ID, fetch_config=config, savedir=tmp_path / "kept", trust=trust), load(models[2]))
        # Another revision in the same savedir.
        config = FetchConfig(huggingface_cache_dir=config.huggingface_cache_dir)
        assert same(load(ID, fetch_config=config, savedir=tmp_path / "kept", trust=trust), load(models[0]))

    def test_arguments_that_speechbrain_had_before(self, models, hub, tmp_path):
        model = load(ID, use_auth_token=False, revision="v2", huggingface_cache_dir=str(tmp_path / "cache"))
        assert same(model, load(models[2]))

    def test_a_token(self, models, hub, config, monkeypatch):
        hub.token = "hf_secret"
        with pytest.raises(
            InputError, match="mossformer: there is no local folder of this name, and it can't be fetched"
        ):
            load(ID, fetch_config=config)
        with_token = FetchConfig(token="hf_secret", huggingface_cache_dir=config.huggingface_cache_dir)
        assert same(load(ID, fetch_config=with_token), load(models[0]))

    def test_the_token_of_the_machine(self, models, hub, tmp_path, monkeypatch):
        """As for a private model, by name alone: on the command line, or with --init_from."""
        hub.token = "hf_secret"
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        assert ModelSource(ID, savedir=tmp_path / "kept").file("config.json").is_file()
        assert same(load(ID, huggingface_cache_dir=str(tmp_path / "cache")), load(models[0]))

    @pytest.mark.parametrize(
        ("name", "revision", "reason"),
        [
            ("somebody/else", None, "401 Client Error"),
            (ID, "v3", "404 Client Error"),
            ("a--b/c", None, "Cannot have -- or .."),
        ],
    )
    def test_what_is_not_there(self, hub, config, name, revision, reason):
        config = FetchConfig(revision=revision, huggingface_cache_dir=config.huggingface_cache_dir)
        with pytest.raises(InputError, match=f"{name}: .* can't be fetched from the Hugging Face hub .{reason}"):
            load(name, fetch_config=config)

    def test_a_model_without_some_weights(self, models, hub, config, tmp_path):
        part = shutil.copytree(models[0], tmp_path / "part")
        (part / "model.safetensors").unlink()
        hub.folders["somebody/part", "main"] = part
        with pytest.raises(
            InputError, match="somebody/part: holds no model.safetensors. A model is loaded from config"
        ):
            load("somebody/part", fetch_config=config)

    def test_all_files_are_of_one_commit(self, models, hub, config):
        """The hub moves on while a model is fetched."""
        source = ModelSource(ID, fetch_config=config)
        source.file("config.json")
        hub.folders[ID, "earlier"] = hub.folders[ID, "main"]
        hub.folders[ID, "main"] = models[1]
        assert source.file("model.safetensors").read_bytes() == (models[0] / "model.safetensors").read_bytes()

    def test_files_in_the_cache_need_no_network(self, models, hub, config, monkeypatch):
        load(ID, fetch_config=config)
        requests = len(hub.requests)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert same(load(ID, fetch_config=config), load(models[0]))
        assert len(hub.requests) == requests

    def test_files_in_savedir_are_of_one_commit(self, models, hub, config, tmp_path, monkeypatch):
        """The author's next version comes after the first of the files."""
        kept, first = tmp_path / "kept", ModelSource(ID, savedir=tmp_path / "kept", fetch_config=config)
        first.first_of(["config.json"])
        hub.folders[ID, "v1"] = hub.folders[ID, "main"]  # the commit stays
        hub.folders[ID, "main"] = models[2]
        shutil.rmtree(config.huggingface_cache_dir)
        assert same(load(ID, fetch_config=config, savedir=kept), load(models[0]))
        (kept / "config.json").unlink()
        assert same(load(ID, fetch_config=config, savedir=kept), load(models[2]))

    def test_files_in_savedir_need_no_network(self, models, hub, config, tmp_path, monkeypatch):
        load(ID, fetch_config=config, savedir=tmp_path / "kept")
        shutil.rmtree(config.huggingface_cache_dir)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert same(load(ID, fetch_config=config, savedir=tmp_path / "kept"), load(models[0]))
        with pytest.raises(InputError, match=f"somebody/else.*The files in savedir .*kept belong to {ID}"):
            load("somebody/else", fetch_config=config, savedir=tmp_path / "kept")

    def test_updates_are_fetched_on_request(self, models, hub, config):
        load(ID, fetch_config=config)
        hub.folders[ID, "main"] = models[1]
        assert same(load(ID, fetch_config=config), load(models[0]))
        updating = FetchConfig(allow_updates=True, huggingface_cache_dir=config.huggingface_cache_dir)
        assert same(load(ID, fetch_config=updating), load(models[1]))


class TestWithoutNetwork:
    def test_one_attempt_and_one_message(self, offline, config, monkeypatch, caplog):
        """No retries, which take half a minute; the hint that there is no such folder comes before the attempt."""
        caplog.set_level("INFO")
        waits, sleep, here = [], time.sleep, threading.current_thread()
        # Other threads, such as those of process pools, may sleep as long as they like.
        monkeypatch.setattr("time.sleep", lambda s: (waits.append if threading.current_thread() is here else sleep)(s))
        with pytest.raises(
            InputError, match="my-modle: there is no local folder of this name, and it can't be fetched"
        ):
            load("my-modle", fetch_config=config)
        assert not waits
        assert caplog.messages[0].startswith("There is no local folder my-modle")

    def test_offline_mode(self, config, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        # Before version 1, a connection that was opened before stays what it is.
        reset = getattr(huggingface_hub.utils, "reset_sessions", lambda: None)
        reset()
        try:
            with pytest.raises(InputError, match="somebody/none: there is no local folder .*offline mode"):
                load("somebody/none", fetch_config=config)
        finally:
            reset()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_pointers_of_git_lfs(models, tmp_path, name):
    folder = shutil.copytree(models[0], tmp_path / "cloned")
    (folder / name).write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4096\n", encoding="utf-8"
    )
    with pytest.raises(InputError, match=f"{name}: is a pointer of Git LFS, .*`git lfs pull`"):
        load(folder)


def test_a_web_address(models, tmp_path, monkeypatch):
    """Served by the stand-in: any server that has the files would do."""
    with serve(Hub({(ID, "main"): models[0]}), monkeypatch):
        address = f"{constants.ENDPOINT}/{ID}/resolve/main"
        with pytest.raises(InputError, match="give savedir, a folder for the files that are downloaded"):
            load(address)
        assert same(load(address, savedir=tmp_path / "kept"), load(models[0]))
        assert json.loads((tmp_path / "kept" / NOTE).read_text())["source"] == address
    assert same(load(address, savedir=tmp_path / "kept"), load(models[0]))  # nothing is served any more
    assert os.listdir(tmp_path) == ["kept"]
