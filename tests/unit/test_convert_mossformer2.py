"""The forms of the authors' MossFormer2 and our model folders: recognised, round trips, and messages."""

import json

import pytest
import torch

from mossformer_sb import InputError, MossFormer2MaskNet, MossFormerSeparator
from mossformer_sb.cli import main
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.network.sizes import Decoder, Encoder
from mossformer_sb.sharing.authors_export import FORMS, to_authors
from mossformer_sb.sharing.conversion import from_authors
from mossformer_sb.sharing.folder import export

WIDTH = 32
IN_MODELSCOPE = {  # a key of each kind, by the name of ours
    "encoder.conv1d.weight": ("enc.conv1d.weight", [WIDTH, 1, 16]),
    "decoder.weight": ("dec.weight", [WIDTH, 1, 16]),
    "masknet.frame_norm.bias": ("mask_net.mdl.intra_mdl.norm.bias", [WIDTH]),
    "masknet.output_norm.weight": ("mask_net.mdl.intra_norm.weight", [WIDTH]),
    "masknet.speaker_projection.weight": ("mask_net.conv1d_out.weight", [3 * WIDTH, WIDTH, 1]),
    "masknet.blocks.0.to_values.depthwise.weight": (
        "mask_net.mdl.intra_mdl.mossformerM.layers.0.to_hidden.mdl.3.sequential.1.conv.weight",
        [4 * WIDTH, 1, 17],
    ),
    "masknet.recurrent.0.bottleneck.weight": (
        "mask_net.mdl.intra_mdl.mossformerM.fsmn.0.conv1.0.weight",
        [256, WIDTH, 1],
    ),
    "masknet.recurrent.0.unit.to_u.linear.weight": (
        "mask_net.mdl.intra_mdl.mossformerM.fsmn.0.gated_fsmn.to_u.mdl.1.weight",
        [256, 256],
    ),
    "masknet.recurrent.0.unit.fsmn.memory.second.conv.weight": (
        "mask_net.mdl.intra_mdl.mossformerM.fsmn.0.gated_fsmn.fsmn.conv.conv2.weight",
        [256, 2, 39, 1],
    ),
}
STANDALONE = {  # the same key there
    "mask_net.mdl.intra_mdl.norm.bias": "masknet.dual_mdl.0.intra_mdl.mdl.norm.norm.bias",
    "mask_net.mdl.intra_norm.weight": "masknet.dual_mdl.0.intra_norm.weight",
    "mask_net.mdl.intra_mdl.mossformerM.fsmn.0.conv1.0.weight": (
        "masknet.dual_mdl.0.intra_mdl.mdl.flashT.fsmn.0.conv1.0.weight"
    ),
    "enc.conv1d.weight": "encoder.conv1d.weight",
    "dec.weight": "decoder.weight",
}


def separator(apply_masks=True, num_spks=3, **sizes):
    """Of the sizes that the authors' source has written into it, but for the width."""
    torch.manual_seed(0)
    masknet = MossFormer2MaskNet(WIDTH, WIDTH, num_blocks=2, num_spks=num_spks, apply_masks=apply_masks, **sizes)
    with torch.no_grad():
        for parameter in masknet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    decoder = Decoder(in_channels=WIDTH, out_channels=1, kernel_size=16, stride=8, bias=False)
    return MossFormerSeparator.from_modules(Encoder(16, WIDTH), masknet, decoder)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    modules = dict(separator().named_children())
    return export(tmp_path_factory.mktemp("export") / "model", modules, 16000)


@pytest.fixture
def theirs(ours, tmp_path):
    return to_authors(ours, tmp_path / "theirs", "modelscope")


def state_of(path):
    state = torch.load(path, weights_only=True)
    return state.get("model", state)


def output(folder):
    torch.manual_seed(1)
    return MossFormerSeparation.from_hparams(folder, device="cpu").separate_batch(torch.randn(2, 3000))


def converted(source, tmp_path, *options):
    """As on the command line."""
    folder = tmp_path / "back"
    assert main(["convert", str(source), "--output_folder", str(folder), *options]) == 0
    return folder


class TestForms:
    def test_names_and_shapes_are_the_authors(self, ours, theirs, tmp_path):
        state, weights = state_of(theirs / "pytorch_model.pt"), MossFormerSeparation.from_hparams(ours, device="cpu")
        for name, (key, shape) in IN_MODELSCOPE.items():
            assert list(state[key].shape) == shape
            assert torch.equal(state[key].flatten(), weights.mods.get_parameter(name).flatten())
        # Of 3 + 15 in a block + 30 in a recurrent module: the authors' 1099 entries for 24 blocks.
        assert len(state) == 19 + 2 * (15 + 30)
        whole = state_of(to_authors(ours, tmp_path / "standalone", "standalone") / "pytorch_model.bin")
        assert len(whole) == len(state)
        for key, name in STANDALONE.items():
            assert torch.equal(whole[name], state[key])
        assert state_of(to_authors(ours, tmp_path / "clear", "clearvoice") / "last_best_checkpoint.pt").keys() == {
            *state
        }

    @pytest.mark.parametrize("form", FORMS)
    def test_there_and_back_again(self, ours, tmp_path, form):
        folder = tmp_path / "theirs"
        assert main(["convert", str(ours), "--output_folder", str(folder), "--to", form]) == 0
        rate = [] if form == "standalone" else ["--sample_rate", "16000"]
        back = converted(folder, tmp_path, *rate)
        assert torch.equal(output(back), output(ours))
        assert MossFormerSeparation.from_hparams(back).hparams.sample_rate == 16000

    def test_standalone_as_one_file(self, ours, tmp_path):
        folder = to_authors(ours, tmp_path / "theirs", "standalone")
        for name in ("encoder", "masknet", "decoder"):
            (folder / f"{name}.ckpt").unlink()
        assert torch.equal(output(converted(folder, tmp_path)), output(ours))

    def test_a_file_instead_of_its_folder(self, theirs, ours, tmp_path):
        assert torch.equal(output(converted(theirs / "pytorch_model.pt", tmp_path)), output(ours))

    def test_other_name_and_no_constants(self, theirs, ours, tmp_path):
        state = {key: value for key, value in state_of(theirs / "pytorch_model.pt").items() if "freq" not in key}
        (theirs / "pytorch_model.pt").unlink()
        torch.save(state, theirs / "pytorch_model.bin")
        assert torch.equal(output(converted(theirs, tmp_path)), output(ours))

    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_a_training_of_clearvoice(self, theirs, ours, tmp_path, prefix):
        state = state_of(theirs / "pytorch_model.pt")
        folder = tmp_path / "checkpoints"
        folder.mkdir()
        content = {
            "model": {prefix + key: value for key, value in state.items()},
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3), "step": 3}}, "param_groups": [{"lr": 1e-4}]},
            "epoch": 3,
            "step": 70,
        }
        torch.save(content, folder / "model.ckpt-3-70.pt")
        assert torch.equal(output(from_authors(folder, tmp_path / "one", 16000)), output(ours))
        torch.save({**content, "model": {}}, folder / "model.ckpt-4-80.pt")
        with pytest.raises(InputError, match="several checkpoints, model.ckpt-3-70.pt, model.ckpt-4-80.pt: give the"):
            from_authors(folder, tmp_path / "two", 16000)
        (folder / "last_best_checkpoint").write_text("model.ckpt-3-70.pt\n")
        back = converted(folder, tmp_path, "--sample_rate", "16000")
        model = MossFormerSeparation.from_hparams(back, device="cpu")
        assert torch.equal(output(back), output(ours)) and model.hparams.input_level == "loud_rms"
        assert torch.equal(
            output(from_authors(folder / "last_best_checkpoint", tmp_path / "three", 16000)), output(ours)
        )

    def test_mapping(self, tmp_path):
        modules = dict(separator(apply_masks=False, num_spks=2).named_children())
        ours = export(tmp_path / "ours", modules, 8000)
        theirs = to_authors(ours, tmp_path / "theirs", "standalone")
        assert json.loads((theirs / "config.json").read_text())["config_name"] == "mossformer2-whamr-2spk"
        assert torch.equal(output(converted(theirs, tmp_path)), output(ours))
        (theirs / "config.json").unlink()
        with pytest.raises(InputError, match="has no sample rate"):
            from_authors(theirs, tmp_path / "b")
        assert torch.equal(
            output(from_authors(theirs, tmp_path / "c", sample_rate=8000, apply_masks=False)), output(ours)
        )
        with pytest.raises(InputError, match="applies no masks, which only the standalone format can store"):
            to_authors(ours, tmp_path / "d", "clearvoice")

    def test_clearvoice_files_have_no_sample_rate(self, ours, tmp_path):
        folder = to_authors(ours, tmp_path / "theirs", "clearvoice")
        with pytest.raises(InputError, match="theirs: has no sample rate.* --sample_rate 16000"):
            from_authors(folder, tmp_path / "back")

    def test_what_their_programs_cannot_build(self, tmp_path):
        modules = dict(separator(recurrent_channels=16, group_size=64).named_children())
        ours = export(tmp_path / "ours", modules, 8000)
        with pytest.raises(
            InputError, match=r"with group_size 64 \(needed 256\), recurrent_channels 16 \(needed 256\)"
        ):
            to_authors(ours, tmp_path / "theirs", "modelscope")
        assert not (tmp_path / "theirs").exists()

    def test_mossformer_has_one_form(self, tmp_path):
        modules = dict(MossFormerSeparator.from_size("mini").named_children())
        ours = export(tmp_path / "ours", modules, 8000)
        with pytest.raises(InputError, match="for which the authors have one format: --to modelscope"):
            to_authors(ours, tmp_path / "theirs", "clearvoice")
        with pytest.raises(InputError, match="form 'onnx' is not known: choose one of modelscope, standalone"):
            to_authors(ours, tmp_path / "theirs", "onnx")
        theirs = to_authors(ours, tmp_path / "theirs", "modelscope")
        with pytest.raises(InputError, match="is a MossFormer, whose masks are always applied: remove --mapping"):
            from_authors(theirs, tmp_path / "back", apply_masks=False)


class TestMistakes:
    def fails(self, message, source, tmp_path, **options):
        with pytest.raises(InputError, match=message):
            from_authors(source, tmp_path / "back", **options)
        assert not (tmp_path / "back").exists()

    @pytest.mark.parametrize("form", FORMS)
    def test_an_unknown_a_missing_and_a_wrong_one(self, ours, tmp_path, form):
        folder = to_authors(ours, tmp_path / "theirs", form)
        name, beginning, inner = {
            "modelscope": ("pytorch_model.pt", "mask_net.", "mdl.intra_mdl.norm"),
            "standalone": ("masknet.ckpt", "", "dual_mdl.0.intra_mdl.mdl.norm.norm"),
            "clearvoice": ("last_best_checkpoint.pt", "mask_net.", "mdl.intra_mdl.norm"),
        }[form]
        content = torch.load(folder / name, weights_only=True)
        state = content.get("model", content)
        state[beginning + "extra"] = state.pop(f"{beginning}{inner}.bias")
        state[f"{beginning}prelu.weight"] = torch.zeros(7)
        torch.save(content, folder / name)
        table = (
            r"theirs: 3 keys are not those of a separator of this size. The file is damaged, or of another network:\n"
            r"file +key +found +needed\n"
            rf"{name} +{beginning}{inner}.bias +- +\[32\]\n"
            rf"{name} +{beginning}prelu.weight +\[7\] +\[1\]\n"
            rf"{name} +{beginning}extra +\[32\] +-"
        )
        self.fails(table, folder, tmp_path, sample_rate=8000)

    def test_a_block_is_missing(self, theirs, tmp_path):
        state = {key: value for key, value in state_of(theirs / "pytorch_model.pt").items() if ".fsmn.1." not in key}
        torch.save(state, theirs / "pytorch_model.pt")
        self.fails("30 keys are not(.|\n)*fsmn.1(.|\n)*and 10 more", theirs, tmp_path)

    def test_no_key_of_theirs(self, theirs, tmp_path):
        torch.save(
            {**state_of(theirs / "pytorch_model.pt"), "head.weight": torch.zeros(1)}, theirs / "pytorch_model.pt"
        )
        self.fails("pytorch_model.pt: .* unknown key 'head.weight'. Their keys begin with enc.", theirs, tmp_path)

    def test_a_truncated_file(self, theirs, tmp_path):
        path = theirs / "pytorch_model.pt"
        path.write_bytes(path.read_bytes()[:-1000])
        self.fails("pytorch_model.pt: can't be read as plain weights", theirs, tmp_path)

    def test_a_pickle_that_would_run_code(self, theirs, tmp_path):
        torch.save({"model": {"enc.conv1d.weight": print}}, theirs / "pytorch_model.pt")
        self.fails("can't be read as plain weights", theirs, tmp_path)

    def test_nothing_plain(self, theirs, tmp_path):
        torch.save({"model": 3, "epoch": 1}, theirs / "pytorch_model.pt")
        self.fails("must hold a state dict, names and tensors, or one under 'model'; found neither", theirs, tmp_path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("gone.pt", "refers to gone.pt, which is not in its folder"),
            ("../up.pt", "must hold the name of one file in its folder; found '../up.pt'"),
            ("", "must hold the name of one file"),
            ("mossformer.pt\ngenerator.pt", "is ClearerVoice's MossFormer2_SR_48K, which raises the sample rate"),
        ],
    )
    def test_what_last_best_checkpoint_names(self, tmp_path, text, message):
        (tmp_path / "last_best_checkpoint").write_text(text)
        self.fails(message, tmp_path, tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"model": {"module.mossformer.norm.weight": torch.zeros(1)}}, "MossFormer2_SE_48K, which enhances"),
            ({"model": {"sep_network.encoder.x": torch.zeros(1)}}, "AV_MossFormer2_TSE_16K, which extracts"),
            ({"dense_encoder.conv_1.0.weight": torch.zeros(1)}, "MossFormerGAN_SE_16K, which enhances"),
            ({"model": {"unet.encoder.x": torch.zeros(1)}}, "FRCRN_SE_16K, which enhances"),
            ({"generator": {"conv_pre.weight": torch.zeros(1)}}, "MossFormer2_SR_48K, which raises"),
        ],
    )
    def test_other_networks_are_named(self, tmp_path, content, message):
        torch.save(content, tmp_path / "last_best_checkpoint.pt")
        (tmp_path / "last_best_checkpoint").write_text("last_best_checkpoint.pt")
        self.fails(f"is ClearerVoice's {message}(.|\n)*not supported", tmp_path, tmp_path)

    def test_features_instead_of_a_waveform(self, theirs, tmp_path):
        state = state_of(theirs / "pytorch_model.pt")
        torch.save({**state, "enc.conv1d.weight": torch.zeros(WIDTH, 180, 16)}, theirs / "pytorch_model.pt")
        message = (
            r"its encoder is not that of a separator of one channel: enc.conv1d.weight has .* found \[32, 180, 16\]"
        )
        self.fails(message, theirs, tmp_path)

    def test_config_json(self, ours, tmp_path):
        folder = to_authors(ours, tmp_path / "theirs", "standalone")
        for text, message in (("{", "is not valid JSON"), ("[]", "must hold keys and values; found list")):
            (folder / "config.json").write_text(text)
            self.fails(f"config.json: {message}", folder, tmp_path)

    def test_folders_of_something_else(self, ours, tmp_path):
        self.fails("is already a model folder, and needs no conversion", ours, tmp_path)
        (tmp_path / "empty").mkdir()
        self.fails("empty: holds no checkpoint of the authors. Expected encoder.bin", tmp_path / "empty", tmp_path)
        self.fails("gone: there is no such folder or file", tmp_path / "gone", tmp_path)
