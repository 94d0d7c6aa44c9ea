"""Every experiment file: it loads, its header describes it, every key is used, and the files agree."""

import inspect
import re
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.run_opts import RunOptions

from data_prep.corpora import prepare
from data_prep.corpora.prepare import CORPORA, prepare_experiment
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.data.training_data import training_data
from mossformer_sb.training import experiment
from mossformer_sb.training.command_line import parse_arguments
from mossformer_sb.training.experiment import build_dataset, complete, fitting_workers, loader_options
from mossformer_sb.training.experiment_file import AUGMENTATION, DYNAMIC_MIXING

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "hparams").rglob("*.yaml"))
# What train.py and the Brain read by name; everything else must be referred to within the file.
PROGRAM = "".join(
    (ROOT / name).read_text()
    for name in (
        "train.py",
        "data_prep/corpora/prepare.py",
        "mossformer_sb/data/corpora.py",
        *(f"mossformer_sb/{part}.py" for part in ("training/brain", "training/step", "training/experiment")),
        "mossformer_sb/sharing/record.py",
    )
)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request):
    return request.param


def small_options(path):
    """Options that make the network small: those that the header gives, or the size that there is for that."""
    small = re.search(r"^# Small: +(.*?)gives", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return small[1].replace("#", "").split() if small else ["--model_size", "mini"]


@pytest.fixture
def hparams(path, tmp_path):
    given = ["--data_folder", str(tmp_path / "data"), "--output_folder", str(tmp_path), *small_options(path)]
    _, _, overrides = parse_arguments([str(path), *given])
    with open(path, encoding="utf-8") as file:
        return load_hyperpyyaml(file, overrides)


def test_there_are_experiments():
    assert {"mossformer_mini", "mossformer_wham", "mossformer2_wsj0mix", "dprnn"} <= {path.stem for path in FILES}


def test_header_has_paper_command_and_result(path):
    header = path.read_text().split("\n\n")[0]
    assert header.startswith("# ") and "Paper:" in header and re.search("Published:|Our result:", header)
    command = re.search(r"Command: +python train.py (\S+)", header)
    assert (ROOT / command[1]) == path


def test_every_key_is_used(path):
    text = path.read_text()
    options = RunOptions().as_dict()
    for key in re.findall(r"^(\w+):", text, flags=re.MULTILINE):
        used = f"<{key}>" in text or re.search(rf'hparams(\.|\[")(key_)?{key}\b', PROGRAM) or f'"{key}"' in PROGRAM
        used = used or key in (*AUGMENTATION, *DYNAMIC_MIXING)  # arguments of classes, read by experiment.py
        assert used or key in options or key.startswith("__"), f"{key} in {path.name} has no use"


def test_small_version_is_as_small_as_the_header_says(hparams, path):
    said = re.search(r"gives (\S+) M parameters", path.read_text())
    count = sum(p.numel() for module in hparams["modules"].values() for p in module.parameters()) / 1e6
    assert 0.5 < count < 1 and (said is None or round(count, 1) == float(said[1]))


def test_builds_its_networks(hparams):
    assert set(hparams["modules"]) == {"encoder", "masknet", "decoder"}
    recovered = complete(hparams)["checkpointer"].recoverables
    assert set(recovered) == {*hparams["modules"], "epoch_counter"}
    assert recovered["epoch_counter"] is hparams["epoch_counter"]
    assert hparams["epoch_counter"].limit == hparams["number_of_epochs"]


def test_prepares_its_corpus(hparams, monkeypatch):
    """With options that exist, none missing, and those that are set are the corpus's own."""
    called = {}
    for name in ("prepare_corpus", "prepare_mixing"):
        original = getattr(prepare, name)
        bind = inspect.signature(original).bind
        monkeypatch.setattr(prepare, name, lambda bind=bind, name=name, **given: called.update({name: bind(**given)}))
    prepare_experiment(hparams)
    assert list(called) == ["prepare_corpus", "prepare_mixing"]
    options = called["prepare_corpus"].arguments.get("options", {})
    given = {key for key, value in options.items() if value is not None}
    assert given <= {*inspect.signature(CORPORA[hparams["corpus"]].prepare).parameters}
    mixing = called["prepare_mixing"].arguments
    manifests = Path(hparams["manifest_folder"])
    assert (mixing["manifest"], mixing["test_manifest"]) == (manifests / "train.csv", manifests / "test.csv")
    assert mixing.get("target") == hparams.get("target")
    called.clear()
    prepare_experiment(hparams, test_only=True)
    assert list(called) == ["prepare_corpus"]


def test_training_data_takes_every_key_of_mixing(hparams, monkeypatch):
    given = {}
    monkeypatch.setattr(experiment, "training_data", lambda **options: given.update(options))
    build_dataset(hparams, "train")
    inspect.signature(training_data).bind(**given)
    mixing = set(given) - {*inspect.signature(training_data).parameters}
    assert mixing <= {*inspect.signature(DynamicMixtureDataset).parameters}
    assert {"speech_table", "noise_table", "rir_folder", "level_distribution", "min_seconds"} <= mixing
    assert given["segment"] > 0 and given["augmentation"].speed_perturb == hparams["speed_perturb"]


def test_training_shuffles_by_default(hparams):
    assert loader_options(hparams, "train")["shuffle"] is True
    for name in ("valid", "test"):
        assert loader_options(hparams, name) == {
            "batch_size": hparams["valid_batch_size"],
            "num_workers": fitting_workers() if hparams["num_workers"] is None else hparams["num_workers"],
        }


class TestAgreement:
    """Lines of different files that have the same key are the same, but for what is listed here."""

    # What belongs to a corpus or a network; a comment may differ, too.
    OWN = {"data_folder", "output_folder", "corpus", "task", "sample_rate", "level_distribution", "speech_layout"}
    OWN |= {"model_size", "dropout", "encoder", "masknet", "decoder", "encoder_kernel_size", "chunk_size"}
    OWN |= {"channels", "num_layers", "num_blocks", "rir_folder", "apply_masks"}
    # Baselines serve all corpora: null stands for the default of each, and the comment says whose option it is.
    ANY_CORPUS = {"mode", "target", "train_split", "csv_file", "noise", "mixture_is_sum", "corpus_name", "clips_folder"}
    ANY_CORPUS |= {"recorded_noise_folder", "librispeech_folder", "num_train", "num_valid", "num_test"}
    ANY_CORPUS |= {"check_samples", "on_invalid", "trim"}
    SMALL = {"number_of_epochs", "batch_size", "segment", "num_workers", "lr", "schedule", "final_lr", "speed_perturb"}
    SMALL |= {"ckpt_interval_minutes", "valid_batch_size", "n_audio_to_save"}
    # Values that an experiment has of its own. The comments are the same.
    DIFFERENT = {
        "mossformer_custom": {"speed_perturb"},  # nothing is published that it should follow
        **{f"mossformer2_{corpus}": {"number_of_epochs"} for corpus in ("wsj0mix", "wham", "whamr", "librimix")},
        "mossformer_mini": SMALL,  # minutes on a CPU
        "mossformer_many_speakers": {
            *("dynamic_mixing", "speech_folder", "noise_folder", "room_rate", "noise_rate", "mixtures_per_epoch"),
            *("speed_perturb", "speed_range", "level_imbalance", "single_speaker_rate", "number_of_epochs"),
            *("num_workers", "lr", "schedule", "precision", "ema_decay"),
            *("num_train", "num_valid", "num_test", "train_minutes", "epoch_minutes", "dropout"),
            *("optimizer", "warmup_share", "decay_share", "ckpt_interval_minutes", "turn_rate", "max_pause"),
            *("turn_segment", "similar_pitch_rate", "max_batch_grad_norm", "grad_accumulation_factor"),
        },
        "convtasnet": {"lr"},  # as published for each
        "dprnn": {"lr"},
    }
    COMMENTS = {"lr"}  # baselines say how the published rule differs

    @staticmethod
    def lines(path):
        """Top-level key to its value, with the lines of a node below it, and its comment."""
        found = {}
        text = re.sub(r"(?m)^ *#.*\n", "", path.read_text())
        for key, value, node in re.findall(r"(?m)^(\w+):(.*)\n((?:    .*\n)*)", text):
            plain, _, comment = value.partition(" # ")
            found[key] = (plain.strip() + node, comment.strip())
        return found

    @pytest.fixture(scope="class")
    def files(self):
        return {path.stem: self.lines(path) for path in FILES}

    def expected(self, files, key):
        """As the first file has the line that may not have it in its own way."""
        order = ["mossformer_wham", *(name for name in files if name != "mossformer_wham")]
        return next((files[name][key] for name in order if key in files[name] and not self.own(name, key)), None)

    def own(self, name, key):
        baseline = not name.startswith("mossformer")
        return key in self.OWN or (baseline and key in self.ANY_CORPUS) or key in self.DIFFERENT.get(name, ())

    def test_values(self, path, files):
        for key, (value, _) in files[path.stem].items():
            expected = self.expected(files, key)
            assert self.own(path.stem, key) or expected is None or value == expected[0], key

    def test_comments(self, path, files):
        baseline = not path.stem.startswith("mossformer")
        for key, (_, comment) in files[path.stem].items():
            if key in self.OWN | self.COMMENTS or (baseline and key in self.ANY_CORPUS):
                continue
            others = {lines[key][1] for name, lines in files.items() if key in lines and name.startswith("mossformer")}
            assert others <= {comment}, key

    def test_differences_are_some(self, files):
        """The list holds nothing that is the same, or not there."""
        for name, keys in self.DIFFERENT.items():
            for key in keys:
                expected = self.expected(files, key)
                assert expected is None or files[name][key][0] != expected[0], f"{key} of {name}"

    def test_keys_come_in_one_order(self, path, files):
        common = [key for key in files["mossformer_wham"] if key in files[path.stem] and key not in self.OWN]
        assert [key for key in files[path.stem] if key in common] == common

    def test_every_experiment_has_the_keys_of_training(self, path, files):
        """So that a comparison of networks can give the same options to all."""
        shared = set.intersection(*(set(lines) for lines in files.values()))
        training = [*files["mossformer_wham"]]
        training = training[training.index("dynamic_mixing") :]
        own_mixing = {
            "speech_layout",
            "speaker_pattern",
            "num_rooms",
            "rooms_csv",
        }  # the corpus of many speakers brings its own
        assert {*training} - shared <= own_mixing
        assert set(files[path.stem]) >= shared

    def test_files_are_short(self, path):
        lines = path.read_text().splitlines()
        assert len(lines) <= 160 and max(map(len, lines)) <= 120


def test_mossformer2_is_mossformer_except_for_the_network_and_its_published_training():
    """Each experiment of MossFormer2 has its namesake's lines."""
    of_mossformer2 = [path for path in FILES if path.stem.startswith("mossformer2_")]
    assert len(of_mossformer2) == 4
    for path in of_mossformer2:
        lines, theirs = (
            TestAgreement.lines(file) for file in (path, path.with_name(path.name.replace("mossformer2", "mossformer")))
        )
        assert lines.keys() - theirs.keys() == {"apply_masks"} and theirs.keys() <= lines.keys()
        different = {key for key in theirs if lines[key] != theirs[key]}
        assert different == {"output_folder", "model_size", "masknet", "number_of_epochs"}
        assert lines["apply_masks"][0] == str(path.stem != "mossformer2_whamr")
