"""Released models by name, against stand-ins for the hubs: downloaded, resumed, checked, converted, used."""

import dataclasses
import json
import logging
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.cli import main
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.pretrained import PACKAGED
from mossformer_sb.sharing import downloads as downloading
from mossformer_sb.sharing.folder import export
from mossformer_sb.sharing.released import MODELSCOPE, RELEASED, find_released
from mossformer_sb.sharing.released_cache import cache_folder, is_cached, model_folder
from mossformer_sb.training.finetuning import start_from
from tests.forked import Program
from tests.unit.released_server import COMMIT, Hubs, serve, small_models, small_states, use, write_files

ROOT = Path(__file__).resolve().parents[2]
NAMES = list(RELEASED)
ONE = "mossformer2-wsj0-2mix"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hubs")
    return {
        model.hub_id: write_files(model, small_states(model), root / name) for name, model in small_models().items()
    }


@pytest.fixture
def hubs(folders, monkeypatch, tmp_path, caplog):
    """Hubs that are used, with the models' files in folders that a test may change."""
    own = {hub_id: shutil.copytree(folder, tmp_path / "files" / hub_id) for hub_id, folder in folders.items()}
    hubs = Hubs(own)
    caplog.set_level(logging.INFO)
    with serve(hubs) as endpoint:
        use(monkeypatch, tmp_path, endpoint, small_models())
        yield hubs


def largest(hubs, name):
    """The largest file of a model."""
    model = RELEASED[name]
    return max((hubs.folders[model.hub_id] / file for file in model.files), key=lambda path: path.stat().st_size)


def change(monkeypatch, name, **values):
    """Another entry for a model."""
    from mossformer_sb.sharing import released, released_cache

    models = {**released.RELEASED, name: dataclasses.replace(released.RELEASED[name], **values)}
    monkeypatch.setattr(released, "RELEASED", models)
    monkeypatch.setattr(released_cache, "RELEASED", models)


def load(name):
    return MossFormerSeparation.from_hparams(name, device="cpu")


def speech(tmp_path, rate=8000):
    path = tmp_path / "talk.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(rate), rate)
    return path


@pytest.mark.parametrize("name", NAMES)
class TestEach:
    def test_the_connection_breaks_and_the_same_command_resumes(self, hubs, tmp_path, name, capsys, caplog):
        entry, file = RELEASED[name], largest(hubs, name)
        size = file.stat().st_size
        hubs.breaks_after = size // 4
        arguments = ["separate", str(speech(tmp_path)), "--model", name, "--output_folder", str(tmp_path / "out")]
        assert main([*arguments, "--device", "cpu"]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and "of it are kept: the same command resumes from there" in message
        assert not is_cached(name)
        come = (cache_folder() / "downloads" / name / f"{file.name}.part").stat().st_size
        assert 0 < come < size
        hubs.breaks_after = None
        hubs.requests.clear()
        assert main([*arguments, "--device", "cpu"]) == 0
        assert hubs.got(file.name) == [come]
        found = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert found == [f"talk_spk{number + 1}.wav" for number in range(entry.num_spks)]
        assert not (cache_folder() / "downloads" / name).exists()
        assert {path.name for path in model_folder(name).iterdir()} == {
            *("README.md", "config.json", "model.safetensors", "source.json"),
        }
        hubs.requests.clear()
        load(name)
        assert hubs.requests == []

    def test_the_network_is_the_one_of_the_files(self, hubs, name):
        entry, model = RELEASED[name], load(name)
        assert model.hparams.sample_rate == entry.sample_rate and model.hparams.num_spks == entry.num_spks
        assert getattr(model.mods.masknet, "apply_masks", True) is entry.apply_masks
        assert getattr(model.hparams, "input_level", None) == entry.input_level
        states = small_states(small_models()[name])
        assert torch.equal(model.mods.encoder.conv1d.weight, states["encoder"]["conv1d.weight"])
        assert torch.equal(
            model.mods.masknet.input_projection.weight, states["masknet"]["conv1d_encoder.weight"][..., 0]
        )
        card = (model_folder(name) / "README.md").read_text()
        assert entry.hub_id in card and entry.published in card and f"Licence | {entry.licence or 'not stated'}" in card

    def test_source_files_are_noted(self, hubs, name, caplog):
        load(name)
        entry, file = RELEASED[name], largest(hubs, name)
        note = json.loads((model_folder(name) / "source.json").read_text())
        facts = note["files"][file.name]
        assert note["id"] == entry.hub_id and [*note["files"]] == [*entry.files]
        assert facts["sha256"] == downloading.file_sha256(file) and facts["bytes"] == file.stat().st_size
        if entry.hub == MODELSCOPE:
            assert facts["compared"] == "not compared: unknown" and facts["revision"] == "master"
            assert f"the expected sha256 of {file.name} is unknown, it is {facts['sha256']}" in caplog.text
        else:
            assert facts["compared"] == "as the hub states it" and facts["revision"] == COMMIT
        assert "verified" not in caplog.text

    def test_a_wrong_checksum(self, hubs, name, monkeypatch):
        file = largest(hubs, name)
        change(monkeypatch, name, sha256={file.name: 64 * "0"})
        with pytest.raises(InputError, match=rf"^{name}: .*has the sha256 [0-9a-f]{{64}}, expected 0+: it is damaged"):
            load(name)
        assert not is_cached(name) and not list((cache_folder() / "downloads" / name).glob(f"{file.name}*"))

    def test_a_truncated_file(self, hubs, name, monkeypatch):
        """On the hub: where its size is known, that is said, else that it can't be read."""
        file = largest(hubs, name)
        size = file.stat().st_size
        file.write_bytes(file.read_bytes()[: size // 2])
        with pytest.raises(InputError, match=rf"{file.name}: can't be read as plain weights .*(\n.*)*Remove .* again"):
            load(name)
        (cache_folder() / "downloads" / name / file.name).unlink()
        change(monkeypatch, name, sizes={file.name: size})
        with pytest.raises(InputError, match=f"has {size // 2} bytes, expected {size}: it is truncated"):
            load(name)
        assert not is_cached(name)

    def test_a_changed_key(self, hubs, name):
        file = largest(hubs, name)
        content = torch.load(file, weights_only=True)
        state = content.get("model", content)
        key = next(key for key in state if key.endswith("prelu.weight"))
        state[key.replace("prelu", "relu")] = state.pop(key)
        torch.save(content, file)
        with pytest.raises(InputError, match=rf"2 keys are not those(.|\n)*{file.name} +{key} +- +\[1\]") as error:
            load(name)
        assert "expects other files" in str(error.value) and not is_cached(name)

    def test_another_network(self, hubs, name, monkeypatch):
        change(monkeypatch, name, num_blocks=3)
        with pytest.raises(InputError, match="'num_blocks': 1.*expected a MossFormer.*'num_blocks': 3"):
            load(name)

    def test_put_there_by_hand(self, hubs, name, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        entry = RELEASED[name]
        downloads = cache_folder() / "downloads" / name
        with pytest.raises(InputError) as error:
            load(name)
        assert f"To download manually, put {', '.join(entry.files)} from http" in str(error.value)
        assert f"/{entry.hub_id} into {downloads}" in str(error.value) and hubs.requests == []
        for file in entry.files:
            (downloads / file).write_bytes((hubs.folders[entry.hub_id] / file).read_bytes())
        assert load(name).hparams.num_spks == entry.num_spks


class TestUse:
    def test_every_way_to_name_a_model(self, hubs, tmp_path, capsys):
        torch.manual_seed(1)
        modules = dict(load(ONE).mods.named_children())
        fresh = small_states(small_models()[ONE])
        start_from(modules, ONE, sample_rate=8000)
        assert torch.equal(modules["decoder"].weight, fresh["decoder"]["weight"])
        assert main(["info", ONE]) == 0
        assert "MossFormer2MaskNet" in capsys.readouterr().out
        assert main(["convert", ONE, "--to", "clearvoice", "--output_folder", str(tmp_path / "theirs")]) == 0
        assert MossFormerSeparation.from_hparams(ONE, trust=True, device="cpu").hparams.num_spks == 2
        assert load(RELEASED[ONE].hub_id).hparams.num_spks == 2
        assert load("iic/speech_mossformer2_separation_temporal_8k").hparams.num_spks == 2

    def test_a_cache_of_an_earlier_version_is_converted(self, hubs, tmp_path, caplog):
        """Without a network, with the same weights, and a record of what they were made of."""
        separator, folder = load(ONE), model_folder(ONE)
        source = (folder / "source.json").read_text()
        card = (folder / "README.md").read_text()
        export(tmp_path / "old", dict(separator.mods.named_children()), 8000)
        for name in ("config.json", "model.safetensors"):
            (folder / name).unlink()
        for path in (*(tmp_path / "old").glob("*.ckpt"), tmp_path / "old" / "hyperparams.yaml"):
            shutil.copy(path, folder)
        assert not is_cached(ONE)
        hubs.requests.clear()
        converted = load(ONE)
        assert hubs.requests == [] and f"{ONE} was written by an earlier version, and is converted" in caplog.text
        assert {path.name for path in folder.iterdir()} == {
            *("README.md", "config.json", "model.safetensors", "source.json"),
        }
        assert (folder / "source.json").read_text() == source and (folder / "README.md").read_text() == card
        mixture = torch.randn(1, 3000)
        assert torch.equal(converted.separate_batch(mixture), separator.separate_batch(mixture))

    def test_a_folder_of_that_name_wins(self, hubs, tmp_path, monkeypatch, caplog):
        monkeypatch.chdir(tmp_path)
        export(ONE, dict(MossFormerSeparator.from_size("mini", num_spks=3).named_children()), 8000)
        assert load(ONE).hparams.num_spks == 3 and hubs.requests == []
        assert f"{ONE}: using the folder of this name, not the released model" in caplog.text

    def test_the_list(self, hubs, capsys):
        assert main(["models"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[1:]] == [PACKAGED, *NAMES]
        assert main(["models", ONE, "--download"]) == 0
        assert f"folder      {model_folder(ONE)}" in capsys.readouterr().out.replace("  ", "  ")
        assert main(["models"]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if "in the cache" in line] == [ONE]
        for arguments, message in (
            (["nobody/model"], "is not one of these models. Choose one of mossformer-small-8k, mossformer-wsj0"),
            (["--download"], "needs the name of a model"),
        ):
            assert main(["models", *arguments]) == 2
            assert message in capsys.readouterr().err

    def test_a_mistyped_name(self):
        with pytest.raises(InputError, match="did you mean mossformer2-whamr"):
            find_released("mossformer2-whammr")
        with pytest.raises(InputError, match="did you mean mossformer-small-8k"):
            find_released("mossformer-small8k")
        assert find_released("nobody/model") is None

    @pytest.mark.parametrize("name", ["owner/mossformer-wham", "me/mossformer2-16k", "lab/mossformer-wsj0-2mix-dm"])
    def test_models_of_others_may_have_similar_names(self, name):
        assert find_released(name) is None

    def test_files_in_the_cache_of_hugging_face(self, hubs, tmp_path, monkeypatch):
        name = "mossformer2-16k"
        entry = RELEASED[name]
        snapshot = tmp_path / "hf_cache" / f"models--{entry.hub_id.replace('/', '--')}" / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
        for file in entry.files:
            (snapshot / file).write_bytes((hubs.folders[entry.hub_id] / file).read_bytes())
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert load(name).hparams.sample_rate == 16000 and hubs.requests == []
        assert (snapshot / entry.files[1]).is_file()

    def test_the_file_changes_while_it_is_interrupted(self, hubs):
        file = largest(hubs, ONE)
        hubs.breaks_after = file.stat().st_size // 8
        with pytest.raises(InputError, match="are kept"):
            load(ONE)
        state = torch.load(file, weights_only=True)
        torch.save({**state, "dec.weight": 2 * state["dec.weight"]}, file)
        hubs.breaks_after = None
        assert torch.equal(load(ONE).mods.decoder.weight, 2 * state["dec.weight"])

    def test_a_file_is_absent(self, hubs):
        entry = RELEASED["mossformer2-libri2mix"]
        (hubs.folders[entry.hub_id] / "masknet.ckpt").unlink()
        with pytest.raises(InputError, match="masknet.ckpt: can't be reached .*404.*To download manually"):
            load(entry.name)
        file = largest(hubs, ONE)
        file.unlink()
        with pytest.raises(
            InputError, match="FilePath=pytorch_model.pt: can't be downloaded .*404.*To download manually"
        ):
            load(ONE)

    def test_no_network(self, hubs, monkeypatch):
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(
            InputError, match="can't be downloaded .*refused.*To download manually, put pytorch_model.pt from"
        ):
            load(ONE)

    def test_a_cache_that_cannot_be_written(self, hubs, monkeypatch, tmp_path):
        (tmp_path / "file").touch()
        monkeypatch.setenv("MOSSFORMER_SB_CACHE", str(tmp_path / "file"))
        with pytest.raises(
            InputError, match=f"{ONE}: can't be written to .*file .*Set MOSSFORMER_SB_CACHE to another folder"
        ):
            load(ONE)

    def test_where_the_cache_is(self, monkeypatch, tmp_path):
        monkeypatch.delenv("MOSSFORMER_SB_CACHE", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "mossformer_sb"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path.home() / ".cache" / "mossformer_sb"


PROGRAM = """
import sys
from tests.forked import Program
from tests.unit.released_server import small_models
from mossformer_sb.sharing import released, released_cache
released.RELEASED = released_cache.RELEASED = small_models()
from mossformer_sb.cli import main
sys.exit(main(["models", sys.argv[1], "--download"]))
"""


@pytest.mark.slow
def test_a_killed_process_then_two_at_once(hubs, tmp_path, monkeypatch):
    """Killed in mid-download, the model isn't there; then one of two downloads the rest, and both have it."""
    file, part = largest(hubs, ONE), cache_folder() / "downloads" / ONE / "pytorch_model.pt.part"

    def start():
        return Program(["-c", PROGRAM, ONE], ROOT)

    hubs.pause = 0.5
    first = start()
    deadline = time.monotonic() + 120
    while not (part.is_file() and part.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    first.kill()
    first.wait()
    come = part.stat().st_size
    assert 0 < come < file.stat().st_size and not model_folder(ONE).exists()
    hubs.requests.clear()
    hubs.pause = 0.05
    both = [start(), start()]
    done = [program.wait(200) for program in both]
    assert [program.returncode for program in done] == [0, 0], done
    assert hubs.got(file.name) == [come]
    assert is_cached(ONE)
