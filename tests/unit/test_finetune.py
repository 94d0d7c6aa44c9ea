"""Starting from a trained model as far as it fits, and freezing: what is loaded, what is kept, and the log."""

import logging
import os
import pickle

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from speechbrain.lobes.models.dual_path import Decoder, Encoder
from speechbrain.utils import checkpoints as stock

from mossformer_sb import InputError, MossFormer2MaskNet, MossFormerMaskNet, MossFormerSeparator
from mossformer_sb.network.separator import separate
from mossformer_sb.sharing.folder import MODULES, export
from mossformer_sb.training.checkpoints import BEST_KEY, Checkpointer
from mossformer_sb.training.ema import AveragedWeights
from mossformer_sb.training.finetuning import freeze, start_from
from mossformer_sb.training.losses import pit_si_snr_loss
from mossformer_sb.training.parameter_names import merge_numbers
from tests.unit.hub import Hub, serve

RATE = 8000


def networks(num_spks=2, num_blocks=2, width=16, channels=16, kernel_size=16, seed=0):
    torch.manual_seed(seed)
    return {
        "encoder": Encoder(kernel_size=kernel_size, out_channels=channels),
        "masknet": MossFormerMaskNet(channels, width, num_blocks, num_spks, group_size=20, query_key_dim=8),
        "decoder": Decoder(channels, 1, kernel_size=kernel_size, stride=kernel_size // 2, bias=False),
    }


def copies(modules):
    return {
        f"{name}.{key}": value.clone() for name, module in modules.items() for key, value in module.state_dict().items()
    }


def equal_names(one, other):
    """Names that both have with equal values. Norms begin as ones and zeros, equal in all networks."""
    return {name for name in one if name in other and torch.equal(one[name], other[name])}


@pytest.fixture
def trained(tmp_path):
    """A model whose every value is its own, as after training."""
    modules = networks(seed=1)
    with torch.no_grad():
        for module in modules.values():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.rand_like(parameter))
    return modules


@pytest.fixture
def folder(trained, tmp_path):
    """As an earlier version wrote it, with checkpoints alone: a test that changes one changes what is read."""
    folder = export(tmp_path / "model", trained, RATE)
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
    return folder


class TestWhatIsLoaded:
    def test_the_same_network_is_loaded_whole(self, trained, folder):
        modules = networks()
        comparisons = start_from(modules, folder, RATE)
        here, there = copies(modules), copies(trained)
        assert equal_names(here, there) == set(there)
        assert sum(len(comparison.loaded) for comparison in comparisons.values()) == len(there)

    def test_masks_are_no_mapping(self, tmp_path):
        """The weights fit, and would compute something else."""
        masking, mapping = (
            dict(MossFormerSeparator.from_size("2mini", apply_masks=masks).named_children()) for masks in (True, False)
        )
        folder = export(tmp_path / "model", mapping, RATE)
        before = copies(masking)
        with pytest.raises(InputError, match="was trained with apply_masks False, and apply_masks is True here.*Give"):
            start_from(masking, folder, RATE)
        assert equal_names(copies(masking), before) == set(before)
        start_from(mapping, folder, RATE)
        with pytest.raises(InputError, match="was trained with apply_masks True, and apply_masks is False here"):
            start_from(mapping, export(tmp_path / "other", masking, RATE), RATE)

    @pytest.mark.parametrize("has_file", [True, False])
    def test_masks_are_no_mapping_for_a_training_without_an_export(self, tmp_path, has_file):
        masking, mapping = (
            dict(MossFormerSeparator.from_size("2mini", apply_masks=masks).named_children()) for masks in (True, False)
        )
        saved = Checkpointer(tmp_path / "save", mapping).save_checkpoint()
        if not has_file:  # as in checkpoints of earlier versions
            (saved.path / "settings.json").unlink()
            (saved.path / "files.json").unlink()
        settings = f"output_folder: {tmp_path}\nsave_folder: {tmp_path}/save\nsample_rate: {RATE}\n"
        (tmp_path / "hyperparams.yaml").write_text(settings + ("" if has_file else "apply_masks: False\n"))
        with pytest.raises(InputError, match="was trained with apply_masks False, and apply_masks is True here"):
            start_from(masking, tmp_path, RATE)
        start_from(mapping, tmp_path, RATE)

    def test_another_group_size_is_a_warning(self, trained, tmp_path, caplog):
        folder = export(tmp_path / "model", trained, RATE)
        modules = networks()
        modules["masknet"] = MossFormerMaskNet(16, 16, 2, 2, group_size=40, query_key_dim=8)
        start_from(modules, folder, RATE)
        assert "was trained with groups of 20 frames, and group_size is 40 here" in caplog.text

    def test_another_number_of_speakers(self, trained, folder):
        modules = networks(num_spks=3)
        before = copies(modules)
        comparisons = start_from(modules, folder, RATE)
        after = copies(modules)
        projection = {"masknet.speaker_projection.weight", "masknet.speaker_projection.bias"}
        assert equal_names(after, copies(trained)) == set(after) - projection
        assert equal_names(after, before) == projection
        assert comparisons["masknet"].reshaped["speaker_projection.weight"] == ([32, 16], [48, 16])

    def test_another_sample_rate_renews_encoder_and_decoder_though_shapes_fit(self, trained, folder):
        modules = networks()
        before = copies(modules)
        comparisons = start_from(modules, folder, 2 * RATE)
        after = copies(modules)
        filters = {"encoder.conv1d.weight", "decoder.weight"}
        assert equal_names(after, before) == filters
        assert equal_names(after, copies(trained)) == set(after) - filters
        assert comparisons["encoder"].renewed == ["conv1d.weight"] and comparisons["masknet"].renewed == []

    def test_more_blocks(self, trained, folder):
        modules = networks(num_blocks=4)
        before = copies(modules)
        comparisons = start_from(modules, folder, RATE)
        after = copies(modules)
        new = {name for name in after if name.startswith(("masknet.blocks.2.", "masknet.blocks.3."))}
        assert new and equal_names(after, copies(trained)) == set(after) - new
        assert not equal_names(after, before)
        assert {f"masknet.{name}" for name in comparisons["masknet"].missing} == new

    @pytest.mark.parametrize("num_blocks", [3, 4, 5])
    def test_new_blocks_leave_the_function_as_it_is_and_learn(self, trained, folder, num_blocks):
        modules = networks(num_blocks=num_blocks)
        start_from(modules, folder, RATE)
        mixture = torch.randn(2, 2000)
        for module in (*modules.values(), *trained.values()):
            module.eval()
        assert torch.equal(separate(**modules, mixture=mixture), separate(**trained, mixture=mixture))

        separate(**modules, mixture=mixture).square().sum().backward()
        for block, copied in zip(modules["masknet"].blocks[2:], [0, 1, 0], strict=False):
            assert block.to_output.linear.weight.grad.abs().sum() > 0
            assert torch.equal(block.to_values.linear.weight, trained["masknet"].blocks[copied].to_values.linear.weight)

    def test_mossformer2_begins_as_the_mossformer_it_starts_from(self, trained, folder):
        modules = networks(seed=2)
        masknet = MossFormer2MaskNet(16, 16, 3, 2, group_size=20, query_key_dim=8, recurrent_channels=8)
        modules["masknet"] = masknet
        comparisons = start_from(modules, folder, RATE)
        assert all(name.startswith(("blocks.2.", "recurrent.")) for name in comparisons["masknet"].missing)
        mixture = torch.randn(2, 2000)
        for module in (*modules.values(), *trained.values()):
            module.eval()
        assert torch.equal(separate(**modules, mixture=mixture), separate(**trained, mixture=mixture))
        assert masknet.recurrent[0].bottleneck.weight.abs().min() > 0

    def test_new_blocks_of_a_mossformer2_are_copies_with_their_recurrent_modules(self, tmp_path):
        def network(num_blocks):
            masknet = MossFormer2MaskNet(16, 16, num_blocks, 2, group_size=20, query_key_dim=8, recurrent_channels=8)
            return {**networks(), "masknet": masknet.eval()}

        there, here = network(2), network(3)
        start_from(here, export(tmp_path / "model", there, RATE), RATE)
        mixture = torch.randn(1, 2000)
        assert torch.equal(separate(**here, mixture=mixture), separate(**there, mixture=mixture))
        new, copied = here["masknet"].recurrent[2], there["masknet"].recurrent[0]
        assert torch.equal(new.bottleneck.weight, copied.bottleneck.weight) and not new.output.weight.any()

    def test_blocks_of_another_width_are_not_new(self, trained, folder):
        modules = networks()
        modules["masknet"] = MossFormerMaskNet(16, 16, 2, group_size=20, query_key_dim=16)
        start_from(modules, folder, RATE)
        assert all(block.to_output.linear.weight.any() for block in modules["masknet"].blocks)

    def test_fewer_blocks(self, trained, folder):
        modules = networks(num_blocks=1)
        comparisons = start_from(modules, folder, RATE)
        assert equal_names(copies(modules), copies(trained)) == set(copies(modules))
        assert all(name.startswith("blocks.1.") for name in comparisons["masknet"].unexpected)

    def test_other_filters_at_the_same_rate(self, trained, folder):
        modules = networks(kernel_size=32)
        comparisons = start_from(modules, folder, RATE)
        assert comparisons["encoder"].reshaped == {"conv1d.weight": ([16, 1, 16], [16, 1, 32])}
        assert not comparisons["masknet"].reshaped

    def test_half_precision_weights_arrive_in_the_networks_own(self, trained, tmp_path):
        for module in trained.values():
            module.half()
        modules = networks()
        start_from(modules, export(tmp_path / "half", trained, RATE), RATE)
        assert modules["decoder"].weight.dtype == torch.float32
        assert torch.equal(modules["decoder"].weight, trained["decoder"].weight.float())


class TestReport:
    def lines(self, caplog, modules, folder, rate=RATE):
        with caplog.at_level(logging.INFO):
            start_from(modules, folder, rate)
        return caplog.messages[-1].splitlines()

    def test_everything(self, caplog, folder):
        lines = self.lines(caplog, networks(), folder)
        assert lines[0] == f"Starting from {folder}, 8000 Hz"
        assert lines[1].split() == ["loaded", "missing", "unexpected", "reshaped", "renewed"]
        assert [line.split() for line in lines[2:]] == [
            ["encoder", "1", "0", "0", "0", "0"],
            ["masknet", str(len(networks()["masknet"].state_dict())), "0", "0", "0", "0"],
            ["decoder", "1", "0", "0", "0", "0"],
        ]

    def test_reshaped(self, caplog, folder):
        lines = self.lines(caplog, networks(num_spks=3), folder)
        assert lines[5:] == [
            "reshaped: masknet.speaker_projection.weight, [32, 16] there, [48, 16] here, new",
            "reshaped: masknet.speaker_projection.bias, [32] there, [48] here, new",
        ]

    def test_whole_blocks_are_one_line(self, caplog, folder):
        in_block = len(networks()["masknet"].blocks[0].state_dict())
        assert self.lines(caplog, networks(num_blocks=5), folder)[5:] == [
            f"missing: masknet.blocks.{{2…4}}.* ({3 * in_block}), new",
            "masknet.blocks.{2…4}.* (3) add nothing at first",
        ]
        assert self.lines(caplog, networks(num_blocks=1), folder)[5:] == [
            f"unexpected: masknet.blocks.1.* ({in_block}), skipped"
        ]

    def test_same_change_in_every_block_is_one_line(self, caplog, folder):
        modules = networks()
        modules["masknet"] = MossFormerMaskNet(16, 16, 2, group_size=20, query_key_dim=16)
        assert (
            "reshaped: masknet.blocks.{0…1}.to_query_key.linear.weight (2), [8, 16] there, [16, 16] here, new"
            in self.lines(caplog, modules, folder)
        )

    def test_rates(self, caplog, folder):
        lines = self.lines(caplog, networks(), folder, rate=16000)
        assert lines[0] == f"Starting from {folder}, 8000 Hz, for 16000 Hz"
        assert lines[5:] == [
            "renewed: encoder.conv1d.weight, of another sample rate",
            "renewed: decoder.weight, of another sample rate",
        ]

    def test_numbers_with_gaps_are_listed(self):
        names = ["a.0.b.1.c", "a.2.b.1.c", "a.5.b.1.c", "a.2.d", "e"]
        assert list(merge_numbers(names)) == ["a.{0,2,5}.b.1.c (3)", "a.2.d", "e"]


class TestSources:
    def check(self, trained, source):
        modules = networks()
        start_from(modules, source, RATE)
        assert equal_names(copies(modules), copies(trained)) == set(copies(trained))

    def test_safetensors(self, trained, folder):
        for name in MODULES:
            (folder / f"{name}.ckpt").write_bytes(b"not to be read")
            save_file(trained[name].state_dict(), folder / f"{name}.safetensors")
        self.check(trained, folder)

    def test_an_export(self, trained, tmp_path):
        for options in ({}, {"speechbrain": False}):
            folder = export(tmp_path / "model", trained, RATE, **options)
            for path in folder.glob("*.ckpt"):
                path.write_bytes(b"not to be read")
            self.check(trained, folder)

    def test_an_export_on_the_hub(self, trained, tmp_path, monkeypatch):
        folder = export(tmp_path / "model", trained, RATE, speechbrain=False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        with serve(Hub({("somebody/separator", "main"): folder}), monkeypatch):
            self.check(trained, "somebody/separator")

    def test_export_in_a_training_folder(self, trained, tmp_path):
        export(tmp_path / "run" / "export", trained, RATE)
        self.check(trained, tmp_path / "run")

    @pytest.fixture
    def run(self, trained, tmp_path):
        """A training folder without an export. Its best checkpoint is not its newest."""
        run = tmp_path / "run"
        modules = networks(seed=2)
        checkpointer = Checkpointer(run / "save", modules)
        (run / "hyperparams.yaml").write_text(f"sample_rate: {RATE}\nmasknet: !apply:os.abort\n")
        for module, best in ((modules, False), (trained, True), (modules, False)):
            checkpointer.recoverables = dict(module)
            checkpointer.save_checkpoint(meta={BEST_KEY: 9.0 if best else 1.0})
        return run

    def test_best_checkpoint(self, trained, run):
        self.check(trained, run)

    def test_newest_checkpoint_of_a_run_without_scores(self, trained, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "hyperparams.yaml").write_text(f"sample_rate: {RATE}\n")
        Checkpointer(tmp_path / "run" / "save", dict(trained)).save_checkpoint()
        self.check(trained, tmp_path / "run")

    @pytest.fixture
    def averaged(self, trained, tmp_path):
        """A run with averages, of which ``trained`` is one; the raw weights are others. One checkpoint has no score."""
        run = tmp_path / "run"
        raw = networks(seed=2)
        averages = AveragedWeights(trained, 0.5)
        averages.update()
        checkpointer = Checkpointer(run / "save", {**raw, "averaged_weights": averages})
        (run / "hyperparams.yaml").write_text(f"sample_rate: {RATE}\n")
        return run, checkpointer

    @pytest.mark.parametrize("meta", [{BEST_KEY: 9.0}, {}])
    def test_averaged_weights_where_these_are_scored(self, trained, averaged, meta):
        run, checkpointer = averaged
        checkpointer.save_checkpoint(meta=meta)
        self.check(trained, run)

    def test_averages_before_the_first_step_are_the_weights_themselves(self, trained, tmp_path):
        empty = AveragedWeights(trained, 0.5)
        Checkpointer(tmp_path / "run" / "save", {**trained, "averaged_weights": empty}).save_checkpoint()
        (tmp_path / "run" / "hyperparams.yaml").write_text(f"sample_rate: {RATE}\n")
        self.check(trained, tmp_path / "run")

    @pytest.mark.parametrize("output_folder", ["results/a", "/scratch/a"])
    @pytest.mark.parametrize("where", ["mine", "deep/er"])
    def test_folders_have_the_names_that_the_yaml_gives(self, trained, run, tmp_path, output_folder, where):
        """And the whole run has been moved since."""
        (run / where).parent.mkdir(exist_ok=True)
        (run / "save").rename(run / where)
        settings = f"sample_rate: {RATE}\noutput_folder: {output_folder}\nsave_folder: {output_folder}/{where}\n"
        (run / "hyperparams.yaml").write_text(settings)
        self.check(trained, run)

        for checkpoint in (run / where).iterdir():
            (checkpoint / "masknet.ckpt").write_bytes(b"not to be read")
        export(run / "models" / "best", trained, RATE)
        (run / "hyperparams.yaml").write_text(f"{settings}export_folder: {output_folder}/models/best\n")
        self.check(trained, run)

    def test_a_save_folder_elsewhere(self, trained, run, tmp_path):
        (run / "save").rename(tmp_path / "elsewhere")
        (run / "hyperparams.yaml").write_text(f"sample_rate: {RATE}\nsave_folder: {tmp_path / 'elsewhere'}\n")
        self.check(trained, run)

    @pytest.fixture
    def of_a_recipe(self, trained, tmp_path):
        """The output folder of one of SpeechBrain's recipes, which keeps the best by the loss, and the newest."""
        run = tmp_path / "recipe"
        for modules, loss, number in ((trained, -10.0, 1), (networks(seed=2), -5.0, 2)):
            checkpointer = stock.Checkpointer(run / "save", modules)
            checkpointer.save_checkpoint(meta={BEST_KEY: loss}, name=f"{number}")
        (run / "hyperparams.yaml").write_text(f"sample_rate: {RATE}\nsave_folder: results/sepformer/1234/save\n")
        return run

    def test_the_lowest_loss_of_a_recipe(self, trained, of_a_recipe):
        self.check(trained, of_a_recipe)

    def test_the_lowest_loss_of_a_recipe_with_safe_checkpoints(self, trained, tmp_path):
        """With our Checkpointer in its YAML, which lists the files."""
        run = tmp_path / "recipe"
        for modules, loss in ((trained, -10.0), (networks(seed=2), -5.0)):
            checkpointer = Checkpointer(run / "save", {**modules, "counter": torch.nn.Identity()})
            checkpointer.save_checkpoint(meta={BEST_KEY: loss})
        (run / "hyperparams.yaml").write_text(f"sample_rate: {RATE}\n")
        self.check(trained, run)

    def test_runs_whose_scores_cant_be_compared(self, of_a_recipe):
        Checkpointer(of_a_recipe / "save", networks()).save_checkpoint(meta={BEST_KEY: 3.0})
        with pytest.raises(InputError, match="recipe': save/ holds checkpoints of this package and of one of"):
            start_from(networks(), of_a_recipe, RATE)

    @pytest.mark.parametrize("extension", ["ckpt", "safetensors"])
    def test_hub(self, trained, folder, tmp_path, monkeypatch, extension):
        """A stand-in of the hub, with one model."""
        if extension == "safetensors":
            for name in MODULES:
                (folder / f"{name}.ckpt").unlink()
                save_file(trained[name].state_dict(), folder / f"{name}.safetensors")

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        with serve(Hub({("somebody/separator", "main"): folder}), monkeypatch):
            self.check(trained, "somebody/separator")
            with pytest.raises(InputError) as error:
                start_from(networks(), "somebody/else", RATE)
        message = str(error.value)
        assert message.startswith(
            "init_from: somebody/else: there is no local folder of this name, and its config.json can't be fetched "
            "from the Hugging Face hub (401 Client Error"
        )
        assert message.endswith("Check the name and the connection.")

    def test_nothing_of_the_yaml_is_built(self, trained, folder):
        (folder / "hyperparams.yaml").write_text("sample_rate: 8000\nx: !apply:os.abort\ny: !new:no.such.thing\n")
        self.check(trained, folder)


class TestMessages:
    """And nothing has been changed then."""

    def error(self, source, modules=None):
        modules = modules or networks()
        before = copies(modules)
        with pytest.raises(InputError) as error:
            start_from(modules, source, RATE)
        assert equal_names(before, copies(modules)) == set(before)
        return str(error.value)

    def test_no_such_folder(self, tmp_path):
        assert "there is no such folder. Give an exported model" in self.error(tmp_path / "none")

    def test_something_else(self, tmp_path):
        assert (
            "holds no model, neither model.safetensors nor encoder, masknet, decoder as .safetensors or .ckpt"
            in self.error(tmp_path)
        )

    def test_a_part_is_missing(self, folder):
        (folder / "encoder.ckpt").unlink()
        assert f"{folder} holds no weights of encoder, only of the others" in self.error(folder)

    def test_damaged_checkpoints_only(self, trained, tmp_path):
        checkpoint = Checkpointer(tmp_path / "save", dict(trained)).save_checkpoint()
        os.truncate(checkpoint.paramfiles["masknet"], 10)
        assert "holds no complete checkpoint" in self.error(tmp_path)

    def test_another_width(self, folder):
        error = self.error(folder, networks(width=32, channels=32))
        assert (
            f"init_from '{folder}' is of another network: " in error and "% of its mask net fits, needed 20%" in error
        )
        assert (
            "example, blocks.0.to_output.linear.weight" in error or "example, blocks.0.to_values.linear.weight" in error
        )
        assert "Choose its size (and experiment file)" in error

    def test_another_kind_of_network(self, folder):
        torch.save({"net.weight": torch.zeros(3)}, folder / "masknet.ckpt")
        assert "is of another network: 0% of its mask net fits, needed 20%. Choose" in self.error(folder)

    def test_hostile_pickle(self, folder, tmp_path):
        class Hostile:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "harm"),)

        for write in (torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb, protocol=2))):
            write({"weight": Hostile()}, folder / "decoder.ckpt")
            assert "decoder.ckpt: can't be read as plain weights" in self.error(folder)
        assert not (tmp_path / "harm").exists()

    def test_damaged_weights(self, folder):
        os.truncate(folder / "masknet.ckpt", 1000)
        assert "masknet.ckpt: can't be read as plain weights" in self.error(folder)
        for junk in (b"", b"junk", b"\x80\x02.", b"\x80\x02)e."):  # the last two begin as a pickle does
            (folder / "masknet.ckpt").write_bytes(junk)
            assert "masknet.ckpt: can't be read as plain weights" in self.error(folder)
        (folder / "masknet.safetensors").write_bytes(b"junk")
        assert "masknet.safetensors: can't be read as plain weights" in self.error(folder)

    @pytest.mark.parametrize("state", [[1, 2], {"epoch": 3}, torch.zeros(1)])
    def test_no_state_dict(self, folder, state):
        torch.save(state, folder / "masknet.ckpt")
        assert "masknet.ckpt: must hold a state dict, names and tensors; found " in self.error(folder)

    @pytest.mark.parametrize("text, found", [("a: 1", "nothing"), ("sample_rate: !ref <x>", "'<x>'")])
    def test_sample_rate(self, folder, text, found):
        (folder / "hyperparams.yaml").write_text(text)
        assert f"sample_rate has to be a whole number in Hz, found {found}" in self.error(folder)

    def test_no_yaml(self, folder):
        (folder / "hyperparams.yaml").unlink()
        assert "hyperparams.yaml: can't read the YAML file (No such file or directory)" in self.error(folder)


class TestFreeze:
    def names(self, modules):
        return [f"{name}.{key}" for name, module in modules.items() for key, _ in module.named_parameters()]

    @pytest.mark.parametrize(
        "patterns, prefixes",
        [
            ("masknet.blocks.*", ("masknet.blocks.",)),
            (["encoder.*", "decoder.*"], ("encoder.", "decoder.")),
            ("masknet.blocks.[01].*", ("masknet.blocks.",)),
            ("*.prelu.weight", ("masknet.prelu.",)),
        ],
    )
    def test_wildcards(self, patterns, prefixes):
        modules = networks()
        expected = [name for name in self.names(modules) if name.startswith(prefixes)]
        assert freeze(modules, patterns) == expected != []
        trained = [
            f"{name}.{key}"
            for name, module in modules.items()
            for key, p in module.named_parameters()
            if p.requires_grad
        ]
        assert sorted([*expected, *trained]) == sorted(self.names(modules))

    def test_log(self, caplog):
        with caplog.at_level(logging.INFO):
            freeze(networks(), ["encoder.*"])
        total = sum(p.numel() for module in networks().values() for p in module.parameters())
        count = len(self.names(networks()))
        expected = f"Frozen: 1 of {count} parameters. {(total - 256) / 1e6:.3f} M of {total / 1e6:.3f} M values train."
        assert caplog.messages == [expected]

    @pytest.mark.parametrize(
        "optimizer",
        [
            lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.5),
            lambda parameters: torch.optim.SGD(parameters, lr=0.01, weight_decay=0.5, momentum=0.9),
        ],
    )
    def test_frozen_parameters_stay_and_others_move(self, optimizer):
        modules = networks()
        frozen = freeze(modules, ["encoder.*", "masknet.blocks.0.*", "masknet.prelu.weight"])
        before = copies(modules)
        optimizer = optimizer([p for module in modules.values() for p in module.parameters()])  # all, as the Brain does
        for _ in range(3):
            mixture = torch.randn(2, 400)
            estimates = separate(*modules.values(), mixture)
            pit_si_snr_loss(estimates, torch.randn(2, 400, 2)).losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert equal_names(before, copies(modules)) == set(frozen)

    def test_no_pattern_freezes_nothing(self):
        assert freeze(networks(), []) == []

    def test_a_pattern_that_matches_nothing(self):
        modules = networks()
        message = (
            r"freeze: 'masknet.block.\*' matches no parameter; did you mean masknet.blocks.\* or .*\? Give names as "
            r"module.parameter, \* for anything."
        )
        with pytest.raises(InputError, match=message):
            freeze(modules, ["encoder.*", "masknet.block.*"])
        assert all(p.requires_grad for p in modules["encoder"].parameters())
        with pytest.raises(InputError, match=r"'encoder' matches no parameter; did you mean encoder.\*"):
            freeze(modules, "encoder")
        with pytest.raises(InputError, match="'zzz' matches no parameter; names are such as encoder.conv1d.weight, "):
            freeze(modules, "zzz")

    def test_a_number_for_a_pattern(self):
        with pytest.raises(InputError, match="freeze: 3 matches no parameter"):
            freeze(networks(), [3])

    def test_everything(self):
        modules = networks()
        count = len(self.names(modules))
        with pytest.raises(InputError, match=rf"freeze \['\*'\] matches all {count} parameters: leave some to train"):
            freeze(modules, "*")
        assert all(p.requires_grad for module in modules.values() for p in module.parameters())


def test_freeze_takes_names():
    with pytest.raises(InputError, match="freeze is -1: give names of parameters"):
        freeze({"encoder": torch.nn.Linear(1, 1)}, -1)
