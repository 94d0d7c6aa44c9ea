"""From a training's output folder to a model folder: which checkpoint, what the card says, and that it stands alone."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.corpora.librimix import TASKS as LIBRIMIX_TASKS
from data_prep.corpora.prepare import CORPORA
from data_prep.corpora.wham import TASKS as WHAM_TASKS
from data_prep.corpora.whamr import TASKS as WHAMR_TASKS
from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.cli import main
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.record import TrainingRecord, conditions
from mossformer_sb.training.checkpoints import BEST_KEY, Checkpointer
from mossformer_sb.training.ema import AveragedWeights
from mossformer_sb.training.export import export_training
from tests.forked import run

ROOT = Path(__file__).resolve().parents[2]
HPARAMS = """\
prepare: !name:data_prep.not_here.prepare
save_folder: elsewhere/save
sample_rate: 8000
task: separate_noisy
corpus: a corpus
encoder: &id001 !apply:mossformer_sb.build_encoder
  size: mini
masknet: &id002 !apply:mossformer_sb.build_masknet
  size: mini
decoder: !apply:mossformer_sb.build_decoder
  size: mini
modules: {encoder: *id001, masknet: *id002}
"""
SCORES = {"sdr": 1.0, "sdr_i": 2.0, "si-snr": 3.0, "si-snr_i": 4.0}


def filled(value):
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    for module in modules.values():
        for parameter in module.parameters():
            parameter.data.fill_(value)
    return modules


@pytest.fixture
def training(tmp_path):
    """Three epochs, of which the second is the best and the first the worst; all weights are the epoch's number."""
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(HPARAMS)
    for epoch, value in ((1, 5.0), (2, 9.0), (3, 8.0)):
        checkpointer = Checkpointer(folder / "save", recoverables=filled(float(epoch)))
        checkpointer.save_checkpoint(meta={BEST_KEY: value, "epoch": epoch}, name=f"epoch{epoch}")
    record = TrainingRecord(command="python train.py x.yaml", best_epoch=2, num_test=7, scores=SCORES)
    record.write(folder)
    return folder


def weights(folder):
    (value,) = {value for value in torch.load(folder / "masknet.ckpt", weights_only=True)["norm.bias"].tolist()}
    return value


def test_the_best_checkpoint_with_its_scores(training, tmp_path):
    folder = export_training(training, tmp_path / "model", licence="cc-by-4.0")
    assert weights(folder) == 2
    card = (folder / "README.md").read_text()
    for line in (
        "| SI-SNRi | 4.00 dB |",
        "| Corpus | a corpus |",
        "| Conditions | speech in noise; the estimates are to be free of it |",
        "| Epoch | 2 |",
        "| Command | `python train.py x.yaml` |",
        "| Licence | cc-by-4.0 |",
        "license: cc-by-4.0\n---",
    ):
        assert line in card


def test_a_named_checkpoint_has_not_the_scores_of_the_best(training, tmp_path):
    folder = export_training(training, tmp_path / "model", checkpoint="CKPT+epoch3")
    card = (folder / "README.md").read_text()
    assert weights(folder) == 3
    assert "| Checkpoint | CKPT+epoch3 |" in card and "SI-SNRi" not in card and "| Licence | not stated |" in card


def test_an_average_of_the_best(training, tmp_path):
    folder = export_training(training, tmp_path / "model", average=2)
    card = (folder / "README.md").read_text()
    assert weights(folder) == 2.5
    assert "| Checkpoint | average of the 2 best, epochs 2, 3 |" in card and "SI-SNRi" not in card


def test_the_running_average_of_a_run_that_kept_one(training, tmp_path):
    modules = filled(4.0)
    averaged = AveragedWeights(modules, decay=0.9)
    averaged.update()
    for module in modules.values():
        for parameter in module.parameters():
            parameter.data.fill_(99.0)
    checkpointer = Checkpointer(training / "save", recoverables={**modules, "averaged_weights": averaged})
    checkpointer.save_checkpoint(meta={BEST_KEY: 10.0, "epoch": 4}, name="epoch4")
    assert weights(export_training(training, tmp_path / "model")) == 4


def test_examples(training, tmp_path):
    names = [f"{stem}_{kind}.wav" for stem in ("a", "b") for kind in ("mix", "source1", "estimate1")]
    (training / "audio").mkdir()
    for name in names:
        (training / "audio" / name).touch()
    folder = export_training(training, tmp_path / "model", num_examples=1)
    found = sorted(path.name for path in (folder / "examples").iterdir())
    assert found == ["a_estimate1.wav", "a_mix.wav", "a_source1.wav"]
    assert "[a_mix.wav](examples/a_mix.wav)" in (folder / "README.md").read_text()
    with pytest.raises(InputError, match="holds 2 examples; 3 are needed"):
        export_training(training, tmp_path / "model", num_examples=3)


def test_examples_of_names_with_brackets(training, tmp_path):
    (training / "audio").mkdir()
    for kind in ("mix", "source1", "estimate1"):
        (training / "audio" / f"call[1]_{kind}.wav").touch()
    folder = export_training(training, tmp_path / "model", num_examples=1)
    assert len(list((folder / "examples").iterdir())) == 3


FRESH = """
import sys, torch
from speechbrain.inference.separation import SepformerSeparation
from mossformer_sb.inference.separation import MossFormerSeparation
torch.set_num_threads(1)
options = {"run_opts": {"device": "cpu"}}
mixture = torch.load(sys.argv[2])
classes = (MossFormerSeparation, SepformerSeparation)
outputs = [one.from_hparams(sys.argv[1], **options).separate_batch(mixture) for one in classes]
torch.save(outputs, sys.argv[3])
"""


def test_stands_alone(training, tmp_path):
    """Bit-equal in ours and in SpeechBrain's class, in a fresh process, elsewhere, when the training folder is gone."""
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    checkpointer = Checkpointer(training / "save", recoverables=modules)
    checkpointer.save_checkpoint(meta={BEST_KEY: 11.0, "epoch": 5}, name="epoch5")
    folder = export_training(training, tmp_path / "first")
    mixture = torch.randn(2, 3000)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = MossFormerSeparation.from_hparams(folder, device="cpu").separate_batch(mixture)
    torch.set_num_threads(threads)
    shutil.move(folder, tmp_path / "moved")
    shutil.rmtree(training)
    (tmp_path / "elsewhere").mkdir()
    torch.save(mixture, tmp_path / "mixture.pt")
    words = ["-c", FRESH, tmp_path / "moved", tmp_path / "mixture.pt", tmp_path / "out.pt"]
    done = run(words, tmp_path / "elsewhere", {**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout
    for output in torch.load(tmp_path / "out.pt"):
        assert torch.equal(output, expected)


class TestMistakes:
    def test_no_training_folder(self, tmp_path):
        with pytest.raises(InputError, match="holds no hyperparams.yaml, so it is not the output folder of a training"):
            export_training(tmp_path, tmp_path / "model")

    def test_no_checkpoints(self, training, tmp_path):
        shutil.rmtree(training / "save")
        with pytest.raises(InputError, match="save: holds no checkpoints"):
            export_training(training, tmp_path / "model")

    def test_no_such_checkpoint(self, training, tmp_path):
        with pytest.raises(InputError, match=r"has no checkpoint 'best'; there are CKPT\+epoch1, CKPT\+epoch2"):
            export_training(training, tmp_path / "model", checkpoint="best")

    def test_too_many_to_average(self, training, tmp_path):
        with pytest.raises(InputError, match="has 3 checkpoints with a validation score, and 4 are to be exported"):
            export_training(training, tmp_path / "model", average=4)

    def test_an_average_of_one_that_is_named(self, training, tmp_path):
        for options in ({"average": 0}, {"average": 2, "checkpoint": "CKPT+epoch1"}):
            with pytest.raises(InputError, match="average is how many of the best checkpoints"):
                export_training(training, tmp_path / "model", **options)


def test_command(training, tmp_path, capsys):
    assert main(["export", str(training), "--output_folder", str(tmp_path / "model"), "--license", "mit"]) == 0
    assert weights(tmp_path / "model") == 2
    assert main(["info", str(tmp_path / "model")]) == 0
    shown = capsys.readouterr().out
    assert "MossFormerMaskNet" in shown and "0.63 M" in shown and "num_blocks" in shown
    assert main(["info", str(tmp_path / "model" / "README.md")]) == 2
    assert "is neither a model folder nor a manifest" in capsys.readouterr().err


def test_info_of_a_model_with_its_own_shifts_and_tables(training, tmp_path, capsys):
    notes = "| shifts | clean |  noisy |\n|---|---|---|\n| 1 | 7.9 | 6.9 |\n\n| | |\n|---|---|\n| Mood | fine |\n"
    export_training(training, tmp_path / "model", shifts=4, notes=notes)
    assert main(["info", str(tmp_path / "model")]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["shifts", "4"] in shown and ["card:", "Mood", "fine"] in shown
    assert not {"1", "shifts"} & {words[1] for words in shown if words[0] == "card:"}


def test_command_for_a_small_model(training, tmp_path, capsys):
    """Half precision, one copy of the weights, and notes for the model card; and the option of earlier versions."""
    (tmp_path / "notes.md").write_text("## Limits\n\nTwo speakers.\n")
    words = ["export", str(training), "--output_folder", str(tmp_path / "model"), "--half"]
    for option in (["--no-speechbrain"], ["--weights", "safetensors"]):
        assert main([*words, *option, "--notes", str(tmp_path / "notes.md")]) == 0
        names = {path.name for path in (tmp_path / "model").iterdir()}
        assert names == {"README.md", "config.json", "model.safetensors"}
    assert load_file(tmp_path / "model" / "model.safetensors")["encoder.conv1d.weight"].dtype == torch.half
    assert main([*words, "--weights", "ckpt"]) == 2
    assert "--weights ckpt: must be both or safetensors" in capsys.readouterr().err
    assert main([*words, "--weights", "both"]) == 0 and (tmp_path / "model" / "masknet.ckpt").is_file()
    assert main([*words, "--notes", str(tmp_path / "notes.md")]) == 0
    assert "Two speakers." in (tmp_path / "model" / "README.md").read_text()
    assert main([*words, "--notes", str(tmp_path / "none.md")]) == 2
    assert "none.md: can't be read" in capsys.readouterr().err


def test_command_for_a_model_with_its_own_shifts(training, tmp_path, capsys):
    words = ["export", str(training), "--output_folder", str(tmp_path / "model")]
    for options, shifts in (([], 1), (["--shifts", "4"], 4)):
        assert main([*words, *options]) == 0
        for trust in (False, True):
            assert MossFormerSeparation.from_hparams(tmp_path / "model", device="cpu", trust=trust).shifts == shifts
    assert main([*words, "--shifts", "65"]) == 2
    assert "shifts must be a whole number from 1, which is no averaging, to 64; found 65" in capsys.readouterr().err


def test_info_of_a_manifest(tmp_path, capsys):
    manifest = tmp_path / "tt.csv"
    manifest.write_text(
        "ID,duration,sample_rate,mix_wav,s1_wav,s2_wav,s1_spk,s2_spk\n"
        "a,1.5,8000,$data_root/m,$data_root/1,$data_root/2,ann,bob\n"
        "b,2.5,8000,$data_root/m,$data_root/1,$data_root/2,ann,cid\n"
    )
    assert main(["info", str(manifest)]) == 0
    shown = capsys.readouterr().out
    for fact in ("mixtures           2", "speakers           2", "8000 Hz", "1.50 s, 2.50 s", "voices             3"):
        assert fact in shown


@pytest.mark.parametrize("where", ["training/a/b", "outside"])
def test_checkpoints_are_where_the_yaml_says(training, tmp_path, where):
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (training / "save").rename(tmp_path / where)
    given = "there/training/a/b" if where.startswith("training") else str(tmp_path / where)
    text = HPARAMS.replace("save_folder: elsewhere/save", f"output_folder: there/training\nsave_folder: {given}")
    (training / "hyperparams.yaml").write_text(text)
    assert weights(export_training(training, tmp_path / "model")) == 2


def test_damaged_weights_end_with_a_message(training, tmp_path):
    for path in training.glob("save/*/masknet.ckpt"):
        path.write_bytes(b"junk")
    for path in training.glob("save/*/files.json"):
        path.unlink()  # nothing to verify with
    with pytest.raises(InputError, match="masknet.ckpt: can't be read as plain weights"):
        export_training(training, tmp_path / "model")


class TestSettingsThatDoNotFit:
    def test_another_size(self, training, tmp_path, capsys):
        path = training / "hyperparams.yaml"
        path.write_text(path.read_text().replace("size: mini", "size: S"))
        with pytest.raises(
            InputError, match=r"encoder.ckpt: holds the weights of another network than the 'encoder' of "
        ):
            export_training(training, tmp_path / "model")
        with pytest.raises(InputError, match="Use the settings and the weights that were saved together"):
            export_training(training, tmp_path / "model", average=2)
        assert main(["export", str(training), "--output_folder", str(tmp_path / "model")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "model").exists()

    def test_an_exported_model(self, training, tmp_path):
        folder = export_training(training, tmp_path / "model")
        with pytest.raises(InputError, match="model: is not the output folder of a training, but an exported model"):
            export_training(folder, tmp_path / "again")


class TestRecord:
    def test_of_an_earlier_version(self, training, tmp_path):
        """Without the fields that came later; what the settings say is taken from these."""
        old = {"task": "separate_noisy", "corpus": "WHAM!", "data": "train 0123456789ab, valid 1, test 2"}
        old |= {"experiment": "x.yaml", "command": "python train.py x.yaml", "best_epoch": 2, "num_test": 7}
        old |= {"scores": SCORES, "checkpoint": "", "licence": ""}
        (training / "training_record.json").write_text(json.dumps(old))
        card = (export_training(training, tmp_path / "model") / "README.md").read_text()
        assert "| Data fingerprint | train 0123456789ab, valid 1, test 2 |" in card and "| SI-SNRi | 4.00 dB |" in card
        assert "| Conditions | speech in noise; the estimates are to be free of it |" in card
        assert "Evaluated by" not in card

    def test_of_a_later_version(self, tmp_path):
        (tmp_path / "training_record.json").write_text('{"task": "separate_clean", "moon": "full"}')
        assert TrainingRecord.read(tmp_path) == TrainingRecord(task="separate_clean")

    @pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
    def test_that_is_damaged(self, tmp_path, content):
        (tmp_path / "training_record.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(InputError, match="training_record.json: can't be read .*Restore a backup, or remove it"):
            TrainingRecord.read(tmp_path)

    def test_a_resumed_training_keeps_the_scores_until_the_next_evaluation(self):
        old = TrainingRecord(data="train a, valid b, test c", command="one", scores=SCORES, num_test=7)
        new = old.of_training(TrainingRecord(data="train d, valid e, test f", command="two", corpus="x"))
        assert (new.command, new.data, new.corpus) == ("two", "train d, valid e, test c", "x")
        assert (new.scores, new.num_test) == (SCORES, 7)

    def test_conditions_of_the_settings(self, training, tmp_path):
        path = training / "hyperparams.yaml"
        path.write_text(path.read_text().replace("separate_noisy", "separate_noisy_reverb") + "target: reverb\n")
        card = (export_training(training, tmp_path / "model") / "README.md").read_text()
        assert (
            "| Conditions | speech in rooms, in noise; the estimates are to be free of noise and keep the rev" in card
        )


class TestConditions:
    """For every task and target that a corpus has."""

    @pytest.mark.parametrize("target", ["anechoic", "reverb", None])
    @pytest.mark.parametrize("task", WHAMR_TASKS)
    def test_rooms(self, task, target):
        text = conditions(task, target)
        heard, _, wanted = text.partition("; ")
        reverberant = task.endswith("_reverb")
        assert ("rooms" in heard) == reverberant
        assert ("in noise" in heard) == (not task.startswith("separate_clean"))
        assert ("one speaker" in heard) == task.startswith("enhance_single")
        kept = reverberant and target == "reverb"
        assert (("keep" in wanted) or ("keeps" in wanted)) == kept
        if reverberant and not kept:
            assert wanted.endswith("free of reverberation" if "clean" in task else "free of both")
        if not reverberant:
            assert wanted == ("" if "clean" in task else wanted) and "reverberation" not in wanted

    @pytest.mark.parametrize(
        ("task", "text"),
        [
            ("separate_clean", "speech alone, without noise or reverberation"),
            ("separate_noisy", "speech in noise; the estimates are to be free of it"),
            ("enhance_single", "one speaker in noise; the estimate is to be free of it"),
            ("separate_noisy_anechoic", "speech in noise; the estimates are to be free of it"),
            (
                "separate_mixed",
                "speech alone, in noise, or in rooms and in noise; the estimates are to be free of both",
            ),
            ("sing", ""),
        ],
    )
    def test_without_a_target(self, task, text):
        assert conditions(task) == text

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({}, ""),
            ({"noise": False, "mixture_is_sum": True}, "speech without noise"),
            ({"noise": True, "mixture_is_sum": True}, "speech in noise; the estimates are to be free of it"),
            (
                {"noise": False, "mixture_is_sum": False},
                "speech without noise; the mixtures are not the sum of sources, as where only the mixtures are reverb",
            ),
        ],
    )
    def test_of_custom_data(self, options, text):
        assert conditions("separate", **options).startswith(text)
        assert bool(conditions("separate", **options)) == bool(text)

    def test_every_task_of_every_corpus_has_some(self):
        for task in {*WHAM_TASKS, *LIBRIMIX_TASKS, *WHAMR_TASKS, *(item.only_task for item in CORPORA.values())} - {
            None
        }:
            assert conditions(task, noise=True, mixture_is_sum=True), task

    def test_a_target_that_is_not_known_is_not_guessed(self):
        assert conditions("separate_noisy_reverb", "") == "speech in rooms, in noise"
