"""Model folders that are not trusted: malicious ones only raise, valid ones load, from all sources."""

import json
import os
import pickle
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from speechbrain.inference.separation import SepformerSeparation
from speechbrain.utils.fetching import FetchConfig
from speechbrain.utils.run_opts import RunOptions

from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.conversion import from_authors
from mossformer_sb.sharing.earlier_exports import convert_export
from mossformer_sb.sharing.folder import export
from mossformer_sb.training.export import export_training
from mossformer_sb.utils.weights import read_state_dict

RATE = 8000
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.manual_seed(0)
    separator = MossFormerSeparator(encoder_channels=16, num_blocks=1, group_size=16, query_key_dim=8)
    return export(tmp_path_factory.mktemp("export") / "model", dict(separator.named_children()), RATE)


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


@pytest.fixture
def earlier(folder):
    """As an earlier version wrote it: ``hyperparams.yaml`` and checkpoints."""
    for name in (CONFIG, WEIGHTS):
        (folder / name).unlink()
    return folder


def load(folder, **options):
    return MossFormerSeparation.from_hparams(source=folder, device="cpu", **options)


def refused(folder, message):
    """By both loaders, with the same message."""
    for loader in (load, MossFormerSeparator.from_pretrained):
        with pytest.raises(InputError, match=message) as error:
            loader(folder)
    return str(error.value)


def output(model):
    torch.manual_seed(1)
    mixture = torch.randn(2, 3000)
    if isinstance(model, MossFormerSeparator):
        with torch.no_grad():
            return model.requires_grad_(False)(mixture)
    return model.separate_batch(mixture)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


# What a stranger might write into a YAML file; each makes the file MARK where it is obeyed.
HOSTILE = {
    "apply a function": "x: !apply:os.system ['touch MARK']",
    "make an object": "x: !new:subprocess.Popen [[touch, MARK]]",
    "a package that is trusted": "x: !apply:speechbrain.utils.superpowers.run_shell ['touch MARK']",
    "a function, then a call of it": "f: !name:os.system\nx: !apply:map [!ref <f>, ['touch MARK']]",
    "a partial one": "x: !name:os.system ['touch MARK']",
    "nested in an argument": (
        "x: !new:speechbrain.lobes.models.dual_path.Encoder\n    kernel_size: !apply:os.system ['touch MARK']"
    ),
    "nested in lists": "x: {a: [1, {b: [!apply:os.system ['touch MARK']]}]}",
    "in a key": "x: {!apply:os.system ['touch MARK']: 1}",
    "behind an anchor": "x: &a [!apply:os.system ['touch MARK']]\ny: *a",
    "Python's tag": "x: !!python/object/apply:os.system ['touch MARK']",
    "Python's tag in a tuple": "x: (!!python/object/apply:os.system ['touch MARK'])",
    "Python's name": "x: !!python/name:os.system",
    "another file": "x: !include:MORE",
    "a module": "x: !module:json.tool",
    "a function on the tree": "x: !applyref:os.system ['touch MARK']",
    "an attribute": "x: !ref <masknet.forward>",
    "arithmetic": "x: !ref <num_spks> ** 99",
    "a copy": "x: !copy <masknet>",
    "a longer name": "x: !apply:speechbrain.lobes.models.dual_path.Encoder.from_file []",
    "a prefix": "x: !new:mossformer_sb.training.command_line.argparse.FileType [w]",
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


class TestHostileYaml:
    """It is only read with trust=True: nothing in it is even looked at where there is a config.json."""

    @pytest.mark.parametrize("name", HOSTILE)
    def test_beside_a_config_it_does_nothing(self, folder, tmp_path, name):
        expected = output(load(folder))
        mark = self.write(folder, tmp_path, name)
        assert torch.equal(output(load(folder)), expected)
        assert torch.equal(output(MossFormerSeparator.from_pretrained(folder)), expected)
        assert not mark.exists()

    @pytest.mark.parametrize("name", HOSTILE)
    def test_alone_it_is_refused_and_does_nothing(self, earlier, tmp_path, name):
        """Nor when it is converted, where plain values and three networks of it are read, or it is refused."""
        mark = self.write(earlier, tmp_path, name)
        with pytest.raises(
            InputError, match=r"holds hyperparams.yaml and no config.json.*mossformer-sb export .*trust"
        ):
            load(earlier)
        try:
            export_training(earlier, tmp_path / "converted")
        except InputError as error:
            assert "hyperparams.yaml" in str(error)
        assert not mark.exists()

    @pytest.mark.parametrize("name", OBEYED)
    def test_the_same_yaml_is_obeyed_when_trusted(self, folder, tmp_path, name):
        mark = self.write(folder, tmp_path, name)
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
        with open(folder / "hyperparams.yaml", "a") as file:
            file.write("\n" + HOSTILE[name].replace("MARK", str(mark)).replace("MORE", str(more)) + "\n")
        return mark

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("!new:speechbrain.lobes.models.dual_path.Encoder", "!apply:os.system ['touch MARK'] #"),
            ("!new:mossformer_sb.MossFormerMaskNet", "!new:mossformer_sb.MossFormerSeparation"),
            ("num_blocks: 1", "num_blocks: !apply:os.system ['touch MARK']"),
            ("num_blocks: 1", "num_blocks: 2"),
        ],
    )
    def test_networks_of_a_conversion_are_the_known_ones(self, earlier, tmp_path, old, new):
        path = earlier / "hyperparams.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new.replace("MARK", str(tmp_path / "MARK"))))
        with pytest.raises(InputError, match=r"hyperparams.yaml"):
            export_training(earlier, tmp_path / "converted")
        assert not (tmp_path / "MARK").exists() and not (tmp_path / "converted").exists()


def key(**values):
    """A config.json with other values; None: without the key."""
    return lambda config: json.dumps({name: value for name, value in {**config, **values}.items() if value is not None})


def text(old, new):
    return lambda config: json.dumps(config).replace(old, new)


CONFIGS = {
    "a class that is not known": (key(network="os.system"), "network must be one of MossFormer, MossFormer2, Conv-Tas"),
    "a class by its path": (key(network="mossformer_sb.MossFormerMaskNet"), "network must be one of"),
    "no text as the class": (key(network=3), "network must be one of .*; found 3"),
    "another class": (key(network="Conv-TasNet"), "Conv-TasNet does not take out_channels, group_size"),
    "of another program": (key(network=None, model_type="mossformer2"), "has no network, .*`mossformer-sb convert`"),
    "no rate": (key(sample_rate=None), "has no sample_rate, so it does not describe a separator"),
    "no speakers": (key(num_spks=None), "has no num_spks"),
    "an unknown key": (key(jit=True), "MossFormer does not take jit: it takes out_channels, num_blocks"),
    "a key of this program's own": (key(in_channels=16), "MossFormer does not take in_channels"),
    "arguments of arguments": (key(others={"a": 1}), "others must be a plain value; found dict"),
    "code in a list": (key(norm=["!apply:os.system", "ls"]), "norm must be a plain value; found list"),
    "a huge depth": (key(num_blocks=10**9), "num_blocks must be a number up to 1048576; found 1000000000"),
    "a depth beyond the weights": (
        key(num_blocks=900),
        r"num_blocks is 900, and model.safetensors has only \d+ tensors",
    ),
    "a huge width": (key(encoder_channels=2**20), "encoder_channels is 1048576, and .* the largest dimension"),
    "a float as a huge width": (key(expansion_factor=1e12), "expansion_factor is 1000000000000.0, and model.safet"),
    "another width": (key(out_channels=8), r"another network than the 'separator' of .*config.json: \d+ differ"),
    "another depth": (key(num_blocks=2), r"another network than the 'separator' of .*config.json: \d+ differ"),
    "more speakers": (key(num_spks=3), r"another network than .*speaker_projection.weight: \[32, 16\] in the file"),
    "a negative number": (key(num_blocks=-1), "num_blocks must be a whole number of at least 1; found -1"),
    "zero hertz": (key(sample_rate=0), "sample_rate must be a whole number of at least 1; found 0"),
    "text as a number": (key(num_blocks="four"), "num_blocks must be a whole number of at least 1; found 'four'"),
    "true as a number": (key(num_blocks=True), "num_blocks must be a whole number of at least 1; found True"),
    "a fraction as a number": (key(group_size=1.5), "group_size must be a whole number of at least 1; found 1.5"),
    "text as a probability": (key(dropout="0.1"), "dropout must be a number; found '0.1'"),
    "a negative number of shifts": (key(shifts=-1), "shifts must be a whole number from 1, .* found -1"),
    "a number as a name": (key(input_level=3), "input_level 3 is not known"),
    "a norm that is not known": (key(norm="os"), "norm 'os' is not known"),
    "NaN": (text("0.1", "NaN"), r"config.json: can't be read as JSON \(NaN is not a number\)"),
    "infinity": (text("0.1", "-Infinity"), "-Infinity is not a number"),
    "infinity in digits": (text("0.1", "1e999"), "dropout must be a number up to 1048576; found inf"),
    "more digits than are read": (text("0.1", 5000 * "9"), "can't be read as JSON|must be a number up to"),
    "a key twice": (text("{", '{"network": "SepFormer", '), "the key 'network' occurs twice"),
    "no JSON": (text("{", ""), "can't be read as JSON"),
    "a list": (lambda _: "[1]", "has no network, sample_rate, num_spks"),
    "deep nesting": (lambda _: 60000 * "[", "can't be read as JSON"),
    "more than can be meant": (text("{", "{" + 70000 * " "), "has more than 65536 bytes"),
    "nothing": (lambda _: "", "can't be read as JSON"),
    "a pointer of Git LFS": (lambda _: "version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
}


class TestHostileConfig:
    @pytest.mark.parametrize("name", CONFIGS)
    def test_is_refused_in_one_message(self, folder, name):
        change, message = CONFIGS[name]
        (folder / CONFIG).write_text(change(json.loads((folder / CONFIG).read_text())))
        assert CONFIG in refused(folder, message)

    def test_a_width_that_the_weights_seem_to_bear_out(self, folder, monkeypatch):
        """It is refused before anything of that size is made, some 40 GB."""
        state = load_file(folder / WEIGHTS)
        save_file({**state, "masknet.norm.weight": torch.zeros(100000)}, folder / WEIGHTS)
        (folder / CONFIG).write_text(key(out_channels=100000)(json.loads((folder / CONFIG).read_text())))
        built = []
        initialise = torch.nn.Linear.__init__
        monkeypatch.setattr(
            torch.nn.Linear, "__init__", lambda self, *a, **k: initialise(self, *a, **k) or built.append(self)
        )
        refused(folder, "another network than the 'separator'")
        assert built and all(layer.weight.is_meta for layer in built)

    def test_bytes(self, folder):
        (folder / CONFIG).write_bytes(b"\xff\xfe")
        refused(folder, "config.json: can't be read as JSON .*utf-8")

    @pytest.mark.parametrize(
        ("change", "message"),
        [({"input_level": "os"}, "input_level 'os'"), ({"shifts": 2**20}, "shifts must be .* to 64; found 1048576")],
    )
    def test_a_setting_for_recordings(self, folder, change, message):
        (folder / CONFIG).write_text(key(**change)(json.loads((folder / CONFIG).read_text())))
        with pytest.raises(InputError, match=message):
            load(folder)

    @pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
    def test_a_link_to_a_device(self, folder, name):
        """Which would be read without an end."""
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")
        refused(folder, f"holds (hyperparams.yaml and )?no {name}")

    @pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
    def test_a_link_to_a_file_elsewhere_shows_nothing_of_it(self, folder, tmp_path, name):
        (tmp_path / "secret").write_text("hush-hush")
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / "secret")
        with pytest.raises(InputError) as error:
            load(folder)
        assert "hush" not in str(error.value) and name in str(error.value)

    def test_a_card_that_is_a_link_is_not_given_on(self, folder, tmp_path):
        """Copied and pushed, it would give a file of the user's away."""
        (tmp_path / "secret").write_text("hush-hush")
        (folder / "README.md").unlink()
        (folder / "README.md").symlink_to(tmp_path / "secret")
        MossFormerSeparator.from_pretrained(folder).save_pretrained(tmp_path / "copy")
        assert "hush" not in (tmp_path / "copy" / "README.md").read_text()

    def test_nor_are_links_in_an_earlier_export(self, earlier, tmp_path):
        (tmp_path / "secret").write_text("hush-hush")
        (earlier / "examples").mkdir()
        (earlier / "README.md").unlink()
        for name in ("README.md", "examples/a.wav"):
            (earlier / name).symlink_to(tmp_path / "secret")
        (earlier / "examples" / "b.wav").write_text("audio")
        converted = export_training(earlier, tmp_path / "converted")
        assert [path.name for path in (converted / "examples").iterdir()] == ["b.wav"]
        assert "hush" not in (converted / "README.md").read_text()


class TestHostileWeights:
    def test_a_pickle_in_their_place(self, folder, tmp_path):
        mark = tmp_path / "MARK"
        for content in (Touch(mark), {"masknet.norm.weight": Touch(mark)}):
            torch.save(content, folder / WEIGHTS)
            refused(folder, f"{WEIGHTS}: can't be read as plain weights")
            (folder / WEIGHTS).write_bytes(pickle.dumps(content))
            refused(folder, f"{WEIGHTS}: can't be read as plain weights")
        assert not mark.exists()

    def test_no_pickle_is_read_where_there_are_none(self, folder, tmp_path):
        mark = tmp_path / "MARK"
        (folder / WEIGHTS).unlink()
        for name in ("pytorch_model.bin", "model.bin", "masknet.ckpt"):
            torch.save(Touch(mark), folder / name)
        refused(
            folder,
            r"holds no model.safetensors. .* files that can hold code, such as .* pytorch_model.bin and .ckpt, are",
        )
        assert not mark.exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda state: state.pop("decoder.weight"),
                r"1 differ \(decoder.weight: nothing in the file, \[16, 1, 16\]",
            ),
            (lambda state: state.update(more=torch.zeros(1)), r"1 differ \(more: \[1\] in the file, nothing"),
            (lambda state: state["decoder.weight"].fill_(float("nan")), "decoder.weight holds NaN or infinity"),
            (
                lambda state: state.update({"decoder.weight": torch.zeros(16, 1, 16, dtype=torch.int8)}),
                r"1 differ \(decoder.weight: \[16, 1, 16\] of whole numbers",
            ),
        ],
    )
    def test_of_another_network(self, folder, change, message):
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)
        refused(folder, f"{WEIGHTS}: .*{message}")

    def test_damaged(self, folder):
        os.truncate(folder / WEIGHTS, 1000)
        refused(folder, f"{WEIGHTS}: can't be read as plain weights")

    def test_a_pointer_of_git_lfs(self, folder):
        (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n")
        refused(folder, f"{WEIGHTS}: is a pointer of Git LFS, .*`git lfs pull`")

    @pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
    def test_of_an_earlier_export(self, earlier, tmp_path, ending):
        mark = tmp_path / "MARK"
        (earlier / "masknet.ckpt").unlink()
        torch.save({"norm.weight": Touch(mark)}, earlier / f"masknet.{ending}")
        with pytest.raises(InputError, match=f"masknet.{ending}: can't be read as plain weights"):
            export_training(earlier, tmp_path / "converted")
        assert not mark.exists()

    def test_no_files_at_all(self, tmp_path):
        refused(tmp_path, "holds no config.json. A model is loaded from config.json and model.safetensors")

    def test_of_a_type_that_no_network_has(self, folder):
        state = load_file(folder / WEIGHTS)
        save_file({key: value.to(torch.float8_e4m3fn) for key, value in state.items()}, folder / WEIGHTS)
        refused(folder, "has the type torch.float8_e4m3fn, expected torch.float32")

    def test_beyond_the_range_of_the_network(self, folder):
        state = {key: value.double() for key, value in load_file(folder / WEIGHTS).items()}
        state["masknet.norm.weight"][0] = 1e300
        save_file(state, folder / WEIGHTS)
        refused(folder, "masknet.norm.weight holds NaN or infinity")

    @pytest.mark.parametrize(
        "state", [{0: torch.zeros(2)}, {"a": torch.zeros(1).expand(10**12)}, {"a": torch.zeros(2).to_sparse()}]
    )
    def test_no_state_dict(self, tmp_path, state):
        torch.save(state, tmp_path / "a.ckpt")
        with pytest.raises(InputError, match="a.ckpt: must hold a state dict, names and tensors"):
            read_state_dict(tmp_path / "a.ckpt")
        with pytest.raises(InputError, match="a.ckpt: must hold a state dict, names and tensors"):
            from_authors(tmp_path / "a.ckpt", tmp_path / "out")

    def test_a_yaml_that_grows_in_a_message(self, earlier, tmp_path):
        """Ten aliases of ten aliases and so on: some hundred bytes of what would be gigabytes of text."""
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
        yaml = (earlier / "hyperparams.yaml").read_text()
        for key in ("encoder", "sample_rate"):
            changed = re.sub(rf"^{key}:.*?\n(?=\S)", f"{key}: *a11\n", yaml, flags=re.M | re.S)
            (earlier / "hyperparams.yaml").write_text("\n".join(lines) + "\n" + changed)
            with pytest.raises(InputError, match=f"{key} .* a list"):
                convert_export(earlier, tmp_path / "out")


class TestEarlierExport:
    def test_converted_once_it_loads_with_the_same_output(self, earlier, tmp_path):
        with open(earlier / "hyperparams.yaml", "a") as file:
            file.write("input_level: loud_rms\n")
        (earlier / "README.md").write_text("# Its own card\n")
        expected = output(SepformerSeparation.from_hparams(source=str(earlier), run_opts={"device": "cpu"}))
        assert torch.equal(output(load(earlier, trust=True)), expected)
        converted = export_training(earlier, tmp_path / "converted")
        model = load(converted)
        assert torch.equal(output(model), expected) and model.hparams.input_level == "loud_rms"
        assert (converted / "README.md").read_text() == "# Its own card\n"
        with pytest.raises(InputError, match="remove average, examples, or give the output folder of its training"):
            export_training(earlier, tmp_path / "more", average=3, num_examples=1)

    def test_half_precision_stays(self, earlier, tmp_path):
        for path in earlier.glob("*.ckpt"):
            state = torch.load(path, weights_only=True)
            torch.save({name: value.half() for name, value in state.items()}, path)
        expected = output(load(earlier, trust=True))
        converted = export_training(earlier, tmp_path / "converted", speechbrain=False)
        assert {value.dtype for value in load_file(converted / WEIGHTS).values()} == {torch.half}
        assert torch.equal(output(load(converted)), expected)

    def test_of_the_first_exports(self, earlier, tmp_path):
        """With the module's name, where a class is no more."""
        path = earlier / "hyperparams.yaml"
        path.write_text(path.read_text().replace("!new:mossformer_sb.Moss", "!new:mossformer_sb.masknet.Moss"))
        expected = output(load(earlier, trust=True))
        assert torch.equal(output(load(export_training(earlier, tmp_path / "converted"))), expected)

    def test_a_part_is_missing(self, earlier, tmp_path):
        (earlier / "decoder.ckpt").unlink()
        with pytest.raises(InputError, match="holds no weights of decoder. Copy the complete folder"):
            export_training(earlier, tmp_path / "converted")


class TestHonest:
    def test_same_as_trusted_and_as_speechbrains(self, folder):
        expected = output(SepformerSeparation.from_hparams(source=str(folder), run_opts={"device": "cpu"}))
        assert torch.equal(output(load(folder)), expected)
        assert torch.equal(output(load(folder, trust=True)), expected)
        assert torch.equal(output(MossFormerSeparator.from_pretrained(folder)), expected)

    def test_trust_changes_nothing_where_there_is_no_yaml(self, folder):
        expected = output(load(folder))
        (folder / "hyperparams.yaml").unlink()
        assert torch.equal(output(load(folder, trust=True)), expected)
        with pytest.raises(InputError, match="holds no other.yaml"):
            load(folder, trust=True, hparams_file="other.yaml")
        with pytest.raises(InputError, match="hparams_file 'other.yaml' is only read with trust=True"):
            load(folder, hparams_file="other.yaml")

    def test_one_thing_is_built_once(self, folder):
        hparams = load(folder).hparams
        assert hparams.encoder is hparams.modules["encoder"]

    def test_overrides(self, folder):
        model = load(folder, overrides={"sample_rate": 16000, "dropout": 0.3})
        assert model.hparams.sample_rate == 16000 and model.mods.masknet.config["dropout"] == 0.3
        with pytest.raises(InputError, match="MossFormer does not take rate: it takes"):
            load(folder, overrides={"rate": 16000})
        model = load(folder, overrides={"rate": 16000, "precision": "bf16"}, overrides_must_match=False)
        assert (model.hparams.rate, model.precision) == (16000, "bf16")
        assert MossFormerSeparator.from_pretrained(folder, dropout=0.3).config["dropout"] == 0.3

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
        assert (tmp_path / "kept" / ("hyperparams.yaml" if trust else CONFIG)).is_file()


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
        for path in tmp_path.glob("hub/**/model.safetensors"):
            path.unlink()
        with pytest.raises(InputError, match="can't be fetched from the Hugging Face hub"):
            load(self.ID, fetch_config=hub)

    def test_download_only(self, hub, tmp_path):
        assert load(self.ID, fetch_config=hub, savedir=tmp_path / "kept", download_only=True) is None
        assert torch.equal(output(load(tmp_path / "kept")), output(load(self.ID, fetch_config=hub)))

    def test_not_there(self, hub):
        message = (
            "there is no local folder of this name, and it can't be fetched from the Hugging Face hub .*allow_network"
        )
        with pytest.raises(InputError, match=f"somebody/else: {message}"):
            load("somebody/else", fetch_config=hub)
        for source in ("not an id", "/not/a/folder"):
            with pytest.raises(InputError, match=f"{source}: there is no such folder"):
                load(source, fetch_config=hub)
