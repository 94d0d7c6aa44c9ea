"""The authors' MossFormer and our model folders: round trips, and tables of differences."""

import json

import pytest
import torch

from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.cli import main
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.authors_export import to_authors
from mossformer_sb.sharing.conversion import from_authors
from mossformer_sb.sharing.folder import MODULES, export
from mossformer_sb.sharing.loading import load_model

GROUP = 64  # of size mini


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini", num_spks=3).named_children())
    return export(tmp_path_factory.mktemp("export") / "model", modules, 16000)


@pytest.fixture
def theirs(ours, tmp_path):
    return to_authors(ours, tmp_path / "theirs", "modelscope")


def output(folder):
    torch.manual_seed(1)
    return MossFormerSeparation.from_hparams(folder, device="cpu").separate_batch(torch.randn(2, 3000))


def changed(folder, name, change):
    state = torch.load(folder / f"{name}.bin", weights_only=True)
    change(state)
    torch.save(state, folder / f"{name}.bin")


def test_modelscopes_configuration(ours, theirs, tmp_path):
    """It says what the weights don't; an argument takes precedence over it."""
    path = theirs / "configuration.json"
    configuration = json.loads(path.read_text())
    assert configuration["model"]["group_size"] == GROUP != 256
    assert torch.equal(output(from_authors(theirs, tmp_path / "back")), output(ours))
    configuration["model"]["group_size"] = 4 * GROUP
    path.write_text(json.dumps(configuration))
    assert not torch.equal(output(from_authors(theirs, tmp_path / "other")), output(ours))
    assert torch.equal(output(from_authors(theirs, tmp_path / "given", group_size=GROUP)), output(ours))
    path.unlink()
    assert load_model(from_authors(theirs, tmp_path / "without")).masknet.config["group_size"] == 256


@pytest.mark.parametrize("model", [None, [], {}, {"type": "other"}])
def test_a_configuration_without_the_networks_arguments(theirs, tmp_path, model):
    (theirs / "configuration.json").write_text(json.dumps({"model": model, "framework": "pytorch"}))
    assert load_model(from_authors(theirs, tmp_path / "back")).masknet.config["group_size"] == 256


@pytest.mark.parametrize(("key", "value"), [("causal", True), ("norm", "cln"), ("stride", 4)])
def test_a_configuration_of_another_network(theirs, tmp_path, key, value):
    """Its weights would fit, and give other estimates."""
    path = theirs / "configuration.json"
    configuration = json.loads(path.read_text())
    configuration["model"][key] = value
    path.write_text(json.dumps(configuration))
    with pytest.raises(InputError, match=f"its configuration.json has {key} {value!r}; only networks with"):
        from_authors(theirs, tmp_path / "back")


def test_dropout_is_kept(tmp_path):
    separator = MossFormerSeparator(encoder_channels=16, out_channels=16, num_blocks=1, dropout=0.05)
    ours = export(tmp_path / "ours", dict(separator.named_children()), 8000)
    back = from_authors(to_authors(ours, tmp_path / "theirs", "modelscope"), tmp_path / "back")
    assert load_model(back).masknet.config["dropout"] == 0.05


def test_settings_that_their_formats_have_no_place_for(tmp_path, caplog):
    modules = dict(MossFormerSeparator(encoder_channels=16, out_channels=16, num_blocks=1).named_children())
    ours = export(tmp_path / "ours", modules, 8000, settings={"shifts": 4, "input_level": "loud_rms"})
    to_authors(ours, tmp_path / "theirs", "modelscope")
    assert f"{ours}: this format has no place for shifts 4 and input_level loud_rms" in caplog.text


def test_options_that_only_the_other_direction_has(ours, tmp_path, capsys):
    words = ["convert", str(ours), "--output_folder", str(tmp_path / "theirs"), "--to", "modelscope"]
    assert main([*words, "--sample_rate", "16000", "--mapping"]) == 2
    assert "--sample_rate, --mapping: only for the authors' checkpoints" in capsys.readouterr().err


def test_a_home_folder_is_not_replaced(ours, tmp_path, monkeypatch):
    """~ is the same folder in the check and in writing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "thesis.txt").touch()
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    for write in (lambda folder: to_authors(ours, folder, "modelscope"), lambda folder: export(folder, modules, 8000)):
        with pytest.raises(InputError, match="keep"):
            write("~/keep")
        assert [path.name for path in (tmp_path / "keep").iterdir()] == ["thesis.txt"]
    assert export("~/model", modules, 8000) == tmp_path / "model"


def test_parallel_training(theirs, ours, tmp_path):
    for name in MODULES:
        state = torch.load(theirs / f"{name}.bin", weights_only=True)
        torch.save({f"module.{key}": value for key, value in state.items()}, theirs / f"{name}.bin")
    assert torch.equal(output(from_authors(theirs, tmp_path / "back")), output(ours))


def test_modelscopes_pipeline_takes_8_khz(ours, tmp_path, caplog):
    to_authors(ours, tmp_path / "theirs", "modelscope")
    assert f"{ours}: is for 16000 Hz; ModelScope's pipeline takes recordings of 8000 Hz only." in caplog.text


@pytest.mark.parametrize(("key", "value", "needed"), [("kernel_size", 9, "17"), ("expansion_factor", 2.0, "4.0")])
def test_a_mossformer_that_their_program_cannot_build(tmp_path, key, value, needed):
    separator = MossFormerSeparator("MossFormer", encoder_channels=16, out_channels=16, **{key: value})
    export(tmp_path / "ours", dict(separator.named_children()), 8000)
    with pytest.raises(InputError, match=rf"can't build a MossFormer with {key} {value} \(needed {needed}\)"):
        to_authors(tmp_path / "ours", tmp_path / "theirs", "modelscope")
    assert not (tmp_path / "theirs").exists()


def test_a_decoder_with_a_bias(tmp_path):
    sizes = {"encoder_channels": 16, "out_channels": 16, "num_blocks": 1, "decoder_bias": True}
    for network in ("MossFormer", "MossFormer2"):
        modules = dict(MossFormerSeparator(network, **sizes).named_children())
        export(tmp_path / network, modules, 8000, speechbrain=False)
    back = from_authors(to_authors(tmp_path / "MossFormer", tmp_path / "theirs", "modelscope"), tmp_path / "back")
    assert torch.equal(output(back), output(tmp_path / "MossFormer"))
    with pytest.raises(InputError, match="MossFormer2: its decoder has a bias, which that of the authors' MossFormer2"):
        to_authors(tmp_path / "MossFormer2", tmp_path / "second", "modelscope")


def test_there_and_back_again(ours, theirs, tmp_path):
    assert sorted(path.name for path in theirs.iterdir()) == [
        *("configuration.json", "decoder.bin", "encoder.bin", "masknet.bin")
    ]
    assert main(["convert", str(theirs), "--output_folder", str(tmp_path / "back")]) == 0
    assert torch.equal(output(tmp_path / "back"), output(ours))
    assert MossFormerSeparation.from_hparams(tmp_path / "back").hparams.sample_rate == 16000
    assert (
        main(["convert", str(tmp_path / "back"), "--output_folder", str(tmp_path / "again"), "--to", "modelscope"]) == 0
    )
    for name in MODULES:
        first, second = (
            torch.load(folder / f"{name}.bin", weights_only=True) for folder in (theirs, tmp_path / "again")
        )
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_older_files_lack_the_constants(theirs, tmp_path, ours):
    changed(theirs, "masknet", lambda state: [state.pop(key) for key in list(state) if "freq" in key])
    assert torch.equal(output(from_authors(theirs, tmp_path / "back", group_size=GROUP)), output(ours))


class TestMistakes:
    def fails(self, message, folder, tmp_path):
        with pytest.raises(InputError, match=message):
            from_authors(folder, tmp_path / "back")
        assert not (tmp_path / "back").exists()

    def test_a_file_is_absent(self, theirs, tmp_path):
        (theirs / "decoder.bin").unlink()
        self.fails("holds encoder.bin, masknet.bin, but no decoder.bin. All three are needed", theirs, tmp_path)

    def test_another_network(self, theirs, tmp_path):
        torch.save({"weight": torch.zeros(1)}, theirs / "masknet.bin")
        self.fails("the key or the shape of 'conv1d_encoder.weight' does not match", theirs, tmp_path)

    def test_differences_come_as_a_table(self, theirs, tmp_path):
        def change(state):
            state["conv1d_out.bias"] = torch.zeros(7)
            state["extra.weight"] = state.pop("prelu.weight")

        changed(theirs, "masknet", change)
        table = (
            r"3 keys are not those of a separator of this size. The file is damaged, or of another network:\n"
            r"file +key +found +needed\n"
            r"masknet.bin +prelu.weight +- +\[1\]\n"
            r"masknet.bin +conv1d_out.bias +\[7\] +\[384\]\n"
            r"masknet.bin +extra.weight +\[1\] +-"
        )
        self.fails(table, theirs, tmp_path)

    def test_numbers_that_are_not_real(self, theirs, tmp_path):
        changed(theirs, "masknet", lambda state: state.update({"conv1d_out.bias": state["conv1d_out.bias"].int()}))
        changed(theirs, "decoder", lambda state: state.update(weight=state["weight"] * 1j))
        self.fails(
            r"2 keys(.|\n)*bias +\[384\] of whole numbers +\[384\]\n"
            r"decoder.bin +weight +(\[.*\]) of complex numbers +\[",
            theirs,
            tmp_path,
        )

    def test_a_long_table_is_cut(self, theirs, tmp_path):
        changed(theirs, "masknet", lambda state: state.update({f"x{number}": torch.zeros(1) for number in range(25)}))
        self.fails("25 keys are not(.|\n)*x19 .*\nand 5 more", theirs, tmp_path)

    def test_a_pickle(self, theirs, tmp_path):
        torch.save({"conv1d.weight": print}, theirs / "encoder.bin")
        self.fails("encoder.bin: can't be read as plain weights", theirs, tmp_path)

    def test_back_into_a_folder_that_exists(self, ours, theirs):
        with pytest.raises(InputError, match="theirs: already exists"):
            to_authors(ours, theirs, "modelscope")

    def test_back_from_another_network(self, tmp_path):
        from speechbrain.lobes.models.dual_path import Decoder, Encoder

        from mossformer_sb.network.baselines import ConvTasNetMaskNet

        masknet = ConvTasNetMaskNet(16, 8, 16, 8, num_blocks=1, num_repeats=1)
        decoder = Decoder(in_channels=16, out_channels=1, kernel_size=16, stride=8, bias=False)
        modules = {"encoder": Encoder(16, 16), "masknet": masknet, "decoder": decoder}
        folder = export(tmp_path / "peer", modules, 8000)
        with pytest.raises(InputError, match="is a ConvTasNetMaskNet; the authors' formats are only for MossFormers"):
            to_authors(folder, tmp_path / "theirs", "modelscope")
