"""Model folders that are not trusted: hostile ones do nothing but raise, honest ones load, from wherever they come."""

import os
import pickle
import shutil

import pytest
import torch
from speechbrain.inference.separation import SepformerSeparation
from speechbrain.utils.fetching import FetchConfig
from speechbrain.utils.run_opts import RunOptions

from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export
from mossformer_sb.sharing.loading import NETWORKS, Tree

RATE = 8000
ENCODER = "!new:speechbrain.lobes.models.dual_path.Encoder {kernel_size: 32, out_channels: 8}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    return export(tmp_path_factory.mktemp("export") / "model", modules, RATE)


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def load(folder, **options):
    return MossFormerSeparation.from_hparams(source=folder, device="cpu", **options)


def replaced(folder, old, new):
    path = folder / "hyperparams.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


# What a stranger might write into a YAML file; each makes the file MARK where it is obeyed.
HOSTILE = {
    "apply a function": ("!apply:os.system", "x: !apply:os.system ['touch MARK']"),
    "make an object": ("!new:subprocess.Popen", "x: !new:subprocess.Popen [[touch, MARK]]"),
    "a package that is trusted": (
        "!apply:speechbrain.utils.superpowers.run_shell",
        "x: !apply:speechbrain.utils.superpowers.run_shell ['touch MARK']",
    ),
    "a function, then a call of it": (
        "!name:os.system",
        "f: !name:os.system\nx: !apply:map [!ref <f>, ['touch MARK']]",
    ),
    "a partial one": ("!name:os.system", "x: !name:os.system ['touch MARK']"),
    "nested in an argument": (
        "!apply:os.system",
        "x: !new:speechbrain.lobes.models.dual_path.Encoder\n    kernel_size: !apply:os.system ['touch MARK']",
    ),
    "nested in lists": ("!apply:os.system", "x: {a: [1, {b: [!apply:os.system ['touch MARK']]}]}"),
    "in a key": ("a key", "x: {!apply:os.system ['touch MARK']: 1}"),
    "behind an anchor": ("!apply:os.system", "x: &a [!apply:os.system ['touch MARK']]\ny: *a"),
    "Python's tag": ("python/object/apply:os.system", "x: !!python/object/apply:os.system ['touch MARK']"),
    "Python's tag in a tuple": ("a tuple", "x: (!!python/object/apply:os.system ['touch MARK'])"),
    "Python's name": ("python/name:os.system", "x: !!python/name:os.system"),
    "another file": ("!include:MORE", "x: !include:MORE"),
    "a module": ("!module:json.tool", "x: !module:json.tool"),
    "a function on the tree": ("!applyref:os.system", "x: !applyref:os.system ['touch MARK']"),
    "an attribute": ("more than the name of a key", "x: !ref <masknet.forward>"),
    "arithmetic": ("more than the name of a key", "x: !ref <num_spks> ** 99"),
    "a copy": ("!copy", "x: !copy <masknet>"),
    "a longer name": ("Encoder.from_file", "x: !apply:speechbrain.lobes.models.dual_path.Encoder.from_file []"),
    "a prefix": (
        "!new:mossformer_sb.training.command_line",
        "x: !new:mossformer_sb.training.command_line.argparse.FileType [w]",
    ),
}
OBEYED = [  # when trusted: the proof that these are dangerous, and that the test would see it
    "apply a function",
    "make an object",
    "a package that is trusted",
    "nested in an argument",
    "nested in lists",
    "behind an anchor",
    "Python's tag in a tuple",
    "another file",
    "a function on the tree",
]


class TestHostile:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_yaml_is_refused_by_name_and_does_nothing(self, folder, tmp_path, name):
        expected, mark, more = self.write(folder, tmp_path, name)
        with pytest.raises(InputError, match=r"hyperparams.yaml, line \d+: .* is refused") as error:
            load(folder)
        assert expected.replace("MORE", str(more)) in str(error.value)
        assert not mark.exists()

    @pytest.mark.parametrize("name", OBEYED)
    def test_the_same_yaml_is_obeyed_when_trusted(self, folder, tmp_path, name):
        _, mark, _ = self.write(folder, tmp_path, name)
        try:
            model = load(folder, trust=True)
            for value in vars(model.hparams).values():
                if hasattr(value, "wait"):
                    value.wait()
        except Exception:
            pass  # obeyed first
        assert mark.exists()

    def write(self, folder, tmp_path, name):
        mark, more = tmp_path / "MARK", tmp_path / "more.yaml"
        more.write_text(f"z: !apply:os.system ['touch {mark}']\n")
        expected, text = HOSTILE[name]
        with open(folder / "hyperparams.yaml", "a") as file:
            file.write("\n" + text.replace("MARK", str(mark)).replace("MORE", str(more)) + "\n")
        return expected, mark, more

    @pytest.mark.parametrize("key", ["paths", "custom_hooks", "collect_in", "conditions"])
    def test_a_pretrainer_takes_nothing_but_its_loadables(self, folder, key):
        replaced(folder, "    loadables:", f"    {key}: {{encoder: /etc/passwd}}\n    loadables:")
        with pytest.raises(InputError, match=f"{key} in the Pretrainer is refused"):
            load(folder)

    def test_loadables_are_networks_with_plain_names(self, folder):
        replaced(
            folder, "        encoder: !ref <encoder>\n        masknet", "        ../e: !ref <encoder>\n        masknet"
        )
        with pytest.raises(InputError, match="'../e' in the Pretrainer, which is no network, is refused"):
            load(folder)

    def test_loadables_that_are_no_networks(self, folder):
        replaced(folder, "        encoder: !ref <encoder>\n        masknet", "        encoder: 3\n        masknet")
        with pytest.raises(InputError, match="'encoder' in the Pretrainer, which is no network, is refused"):
            load(folder)

    @pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
    def test_a_pickle_in_the_place_of_weights(self, folder, tmp_path, ending):
        mark = tmp_path / "MARK"
        for path in folder.glob("masknet.*"):
            path.unlink()
        weights = folder / f"masknet.{ending}"
        for content in (Touch(mark), {"norm.weight": Touch(mark)}):
            torch.save(content, weights)
            with pytest.raises(InputError, match=rf"masknet.{ending}: can't be read as plain weights"):
                load(folder)
            weights.write_bytes(pickle.dumps(content))
            with pytest.raises(InputError, match=rf"masknet.{ending}: can't be read as plain weights"):
                load(folder)
        assert not mark.exists()

    def test_deep_nesting_and_loops(self, folder, tmp_path):
        cases = {
            "nested too deeply": "x: " + 1500 * "[" + 1500 * "]",
            "a node that contains itself": "x: &a [*a]",
            "leads back to itself": "x: !ref <y>\ny: !ref <x>",
            "given twice": "x: 1\nx: 2",
        }
        path = folder / "hyperparams.yaml"
        text = path.read_text()
        for message, more in cases.items():
            path.write_text(text + "\n" + more)
            with pytest.raises(InputError, match=message):
                load(folder)

    def test_a_bomb_of_aliases_stays_small(self):
        lines = ["a0: &a0 [1, 1, 1]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
        tree = Tree("\n".join(lines), "x.yaml", NETWORKS)
        tree.check()
        assert len(tree.build("a29")) == 9


class TestDamaged:
    def test_no_weights(self, folder):
        for path in folder.glob("decoder.*"):
            path.unlink()
        message = "model: holds no weights for 'decoder', neither decoder.safetensors nor decoder.ckpt"
        with pytest.raises(InputError, match=message):
            load(folder)

    def test_no_yaml(self, tmp_path):
        with pytest.raises(InputError, match="holds no hyperparams.yaml, so it is no exported model"):
            load(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "the key pretrainer has to be"),
            (b"- 1", "has to hold keys and values; found list"),
            (b"a: [1", "is not valid YAML"),
            (b"\xff\xfe", "is not text in UTF-8"),
        ],
    )
    def test_yaml_of_something_else(self, folder, content, message):
        (folder / "hyperparams.yaml").write_bytes(content)
        with pytest.raises(InputError, match=message):
            load(folder)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("sample_rate: 8000", "sample_rate: fast", "no usable sample_rate"),
            ("num_spks: 2\n\n", "\n", "no usable num_spks"),
            ("    decoder: !ref <decoder>\n\npre", "\npre", "no usable modules: decoder"),
            ("!ref <encoder>", "!ref <coder>", "line .*: !ref <coder> is an undefined reference"),
            ("num_blocks: 4", "num_blocks: four", r"line \d+: mossformer_sb.MossFormerMaskNet: num_blocks must be"),
            ("num_blocks: 4", "blocks: 4", r"MossFormerMaskNet does not take blocks: it takes in_channels"),
            ("num_blocks: 4", "num_blocks: 3", r"of another network than the 'masknet' of its YAML file: \d+ differ"),
            ("out_channels: 128", "out_channels: 1000000000000", "Encoder can't be built"),
            ("!new:mossformer_sb.M", "!new:mossformer_sb.baselines.X", "is refused"),
        ],
    )
    def test_yaml_with_a_mistake(self, folder, old, new, message):
        replaced(folder, old, new)
        with pytest.raises(InputError, match=message):
            load(folder)

    def test_many_references_in_a_chain(self, folder):
        chain = "\n".join(f"a{number}: !ref <a{number + 1}>" for number in range(3000)) + "\na3000: 1\n"
        with open(folder / "hyperparams.yaml", "a") as file:
            file.write(f"\n{chain}")
        with pytest.raises(InputError, match="has references or lists in each other, more than 100 deep"):
            load(folder)

    def test_a_network_that_this_version_does_not_have(self):
        tree = Tree("x: !new:mossformer_sb.Later", "x.yaml", {"mossformer_sb.Later"})
        with pytest.raises(InputError, match="there is no mossformer_sb.Later here. Install a newer"):
            tree.build("x")
        with pytest.raises(InputError, match="has no key 'y'"):
            tree.build("y")

    def test_a_state_dict_of_something_else(self, folder):
        (folder / "encoder.safetensors").unlink(missing_ok=True)
        torch.save([1, 2], folder / "encoder.ckpt")
        with pytest.raises(InputError, match="encoder.ckpt: has to hold a state dict"):
            load(folder)


def output(model):
    torch.manual_seed(1)
    return model.separate_batch(torch.randn(2, 3000))


class TestHonest:
    def test_same_as_trusted_and_as_speechbrains(self, folder):
        expected = output(SepformerSeparation.from_hparams(source=str(folder), run_opts={"device": "cpu"}))
        assert torch.equal(output(load(folder)), expected)
        assert torch.equal(output(load(folder, trust=True)), expected)

    def test_one_thing_is_built_once(self, folder):
        hparams = load(folder).hparams
        assert hparams.encoder is hparams.modules["encoder"]

    def test_without_safetensors(self, folder):
        expected = output(load(folder))
        for path in folder.glob("*.safetensors"):
            path.unlink()
        assert torch.equal(output(load(folder)), expected)

    def test_a_model_does_not_configure_the_program(self, folder, caplog):
        """SpeechBrain takes run options from hyperparameters; only the caller may give them."""
        expected = output(load(folder))
        with open(folder / "hyperparams.yaml", "a") as file:
            file.write("\njit: True\ncompile: True\nprecision: bf16\ndevice: 'cuda:7'\naudio_normalizer: 3\n")
        with caplog.at_level("WARNING", "mossformer_sb"):
            model = load(folder)
        assert torch.equal(output(model), expected) and (model.precision, model.jit) == ("fp32", False)
        assert callable(model.audio_normalizer) and not hasattr(model.hparams, "jit")
        assert "can't set audio_normalizer, compile, device, jit, precision for this program" in caplog.text
        assert load(folder, overrides={"precision": "bf16"}).precision == "bf16"

    def test_overrides(self, folder):
        assert load(folder, overrides={"sample_rate": 16000, "masknet": {"dropout": 0.3}}).hparams.sample_rate == 16000
        with pytest.raises(InputError, match="has no key 'rate' to override; it has sample_rate"):
            load(folder, overrides={"rate": 16000})
        assert load(folder, overrides={"rate": 16000}, overrides_must_match=False).hparams.rate == 16000

    def test_run_options(self, folder):
        for run_opts in ({"device": "cpu", "precision": "bf16"}, RunOptions.from_dictionary({"precision": "bf16"})):
            model = MossFormerSeparation.from_hparams(folder, run_opts=run_opts, device="cpu")
            assert (model.device, model.precision) == ("cpu", "bf16")

    @pytest.mark.parametrize("trust", [False, True])
    def test_without_symbolic_links(self, folder, tmp_path, monkeypatch, trust):
        def fail(*_, **__):
            raise OSError("a required privilege is not held by the client")

        monkeypatch.setattr(os, "symlink", fail)
        monkeypatch.setattr("pathlib.Path.symlink_to", fail)
        model = load(folder, savedir=tmp_path / "kept", trust=trust)
        shutil.rmtree(folder)
        assert output(model).isfinite().all()
        assert (tmp_path / "kept" / "hyperparams.yaml").is_file()


class TestHub:
    ID = "somebody/mossformer"

    @pytest.fixture
    def hub(self, folder, tmp_path):
        """The hub's cache, as its own library lays it out, with the model in it; and no network."""
        repository = tmp_path / "hub" / f"models--{self.ID.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0123abcd")
        shutil.copytree(folder, repository / "snapshots" / "0123abcd")
        return FetchConfig(allow_network=False, huggingface_cache_dir=str(tmp_path / "hub"))

    @pytest.mark.parametrize("trust", [False, True])
    def test_by_its_id(self, folder, hub, trust):
        assert torch.equal(output(load(self.ID, fetch_config=hub, trust=trust)), output(load(folder)))

    def test_checkpoints_alone(self, folder, hub, tmp_path):
        for path in tmp_path.glob("hub/**/*.safetensors"):
            path.unlink()
        assert torch.equal(output(load(self.ID, fetch_config=hub)), output(load(folder)))

    def test_download_only(self, hub, tmp_path):
        assert load(self.ID, fetch_config=hub, savedir=tmp_path / "kept", download_only=True) is None
        assert torch.equal(output(load(tmp_path / "kept")), output(load(self.ID, fetch_config=hub)))

    def test_not_there(self, hub):
        message = (
            "there is no folder of this name here, and it can't be fetched from the Hugging Face hub .*allow_network"
        )
        with pytest.raises(InputError, match=f"somebody/else: {message}"):
            load("somebody/else", fetch_config=hub)
        for source in ("not an id", "/not/a/folder"):
            with pytest.raises(InputError, match=f"{source}: there is no such folder"):
                load(source, fetch_config=hub)
