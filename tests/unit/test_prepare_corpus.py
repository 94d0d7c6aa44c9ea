"""One preparation for any corpus: the right one runs, manifests have fixed names, wrong options are refused."""

import inspect
from functools import partial

import pandas as pd
import pytest

from data_prep.corpora.prepare import CORPORA, prepare_corpus
from data_prep.corpora.wham import prepare_wham
from mossformer_sb import InputError
from tests.unit.trees import write_custom, write_librimix, write_wham, write_whamr, write_wsj0mix

# Arguments as an experiment file gives them: null for what the user leaves out.
OPTIONS = ("mode", "target", "csv_file", "noise", "mixture_is_sum", "num_train", "num_valid", "num_test")
OPTIONS += ("clips_folder", "recorded_noise_folder", "librispeech_folder")
UNSET = dict.fromkeys((*OPTIONS, "train_split", "check_samples", "on_invalid", "trim"))


def prepare(corpus, root, tmp_path, task, num_spks=2, **options):
    return prepare_corpus(
        corpus, root, tmp_path / "manifests", num_spks=num_spks, sample_rate=8000, task=task, **{**UNSET, **options}
    )


@pytest.mark.parametrize(
    "corpus, write, arguments, columns",
    [
        ("wham", write_wham, {"task": "separate_noisy"}, ["mix_both", "s1", "s2", "noise"]),
        ("wham", write_wham, {"task": "separate_clean", "mode": "min"}, ["mix_clean", "s1", "s2"]),
        (
            "whamr",
            write_whamr,
            {"task": "separate_clean_reverb", "target": "reverb", "check_samples": True},
            ["mix_clean_reverb", "s1_reverb", "s2_reverb"],
        ),
        (
            "wsj0mix",
            partial(write_wsj0mix, num_spks=3),
            {"task": "separate_clean", "num_spks": 3},
            ["mix", "s1", "s2", "s3"],
        ),
        ("librimix", write_librimix, {"task": "separate_noisy"}, ["mix_both", "s1", "s2", "noise"]),
        (
            "custom",
            partial(write_custom, noise=True),
            {"task": "separate", "noise": True, "on_invalid": "skip"},
            ["mix", "s1", "s2", "noise"],
        ),
    ],
)
def test_calls_the_right_one(tmp_path, corpus, write, arguments, columns):
    manifests = prepare(corpus, write(tmp_path / "data"), tmp_path, **arguments)
    assert list(manifests) == ["train", "valid", "test"]
    for name, path in manifests.items():
        assert path == str(tmp_path / "manifests" / f"{name}.csv")
        table = pd.read_csv(path)
        assert [table[column][0].split("/")[-2] for column in table if column.endswith("_wav")] == columns
    names = {f"{name}.{extension}" for name in manifests for extension in ("csv", "json")}
    assert {path.name for path in (tmp_path / "manifests").iterdir()} == names


@pytest.mark.parametrize("given, split", [(None, "train-100"), ("train-360", "train-360")])
def test_train_split(tmp_path, given, split):
    root = write_librimix(tmp_path / "data", splits=(split, "dev", "test"))
    manifests = prepare("librimix", root, tmp_path, "separate_clean", train_split=given)
    splits = [pd.read_csv(path)["mix_wav"][0].split("/")[-3] for path in manifests.values()]
    assert splits == [split, "dev", "test"]


def test_mini(tmp_path, monkeypatch):
    """Generated if it does not exist, with the requested numbers of mixtures."""
    asked = {}

    def make(data_folder, *numbers):
        asked["numbers"] = numbers
        write_wham(data_folder)

    monkeypatch.setattr("data_prep.corpora.mini.make_mini_corpus", make)
    manifests = prepare("mini", tmp_path / "data", tmp_path, "separate_noisy", num_train=7)
    assert asked["numbers"][0] == 7 and list(manifests) == ["train", "valid", "test"]


def test_many_speakers(tmp_path, monkeypatch):
    """The manifests of its three splits, of which there are more."""
    asked = {}

    def make(data_folder, output_folder, librispeech_folder=None, sample_rate=8000, num_test=300):
        asked.update(librispeech_folder=librispeech_folder, num_test=num_test)
        manifests = prepare_wham(write_wham(data_folder), output_folder, sample_rate)
        return {**manifests, "tt_clean": "another"}

    monkeypatch.setitem(CORPORA, "many_speakers", CORPORA["many_speakers"]._replace(prepare=make))
    manifests = prepare(
        "many_speakers", tmp_path / "data", tmp_path, "separate_mixed", librispeech_folder="x", num_test=6
    )
    assert asked == {"librispeech_folder": "x", "num_test": 6} and list(manifests) == ["train", "valid", "test"]


def test_another_corpus_takes_the_place_of_the_manifests(tmp_path):
    prepare("wham", write_wham(tmp_path / "wham"), tmp_path, "separate_noisy")
    prepare("wsj0mix", write_wsj0mix(tmp_path / "wsj0"), tmp_path, "separate_clean")
    assert "mix_both" not in (tmp_path / "manifests" / "train.csv").read_text()
    assert len(list((tmp_path / "manifests").iterdir())) == 6


class TestMessages:
    def test_unknown_corpus(self, tmp_path):
        with pytest.raises(InputError, match="corpus 'WHAM!' is not known: choose one of 'wsj0mix', 'wham', 'whamr'"):
            prepare("WHAM!", tmp_path, tmp_path, "separate_noisy")

    @pytest.mark.parametrize(
        "corpus, task, option, value",
        [
            ("wham", "separate_noisy", "target", "reverb"),
            ("wham", "separate_noisy", "train_split", "train-360"),
            ("custom", "separate", "mode", "max"),
            ("mini", "separate_noisy", "check_samples", True),
            ("librimix", "separate_clean", "noise", False),
        ],
    )
    def test_option_that_the_corpus_does_not_have(self, tmp_path, corpus, task, option, value):
        message = f"{option} is {value!r}, but corpus '{corpus}' has no such option: set it to null. The corpus has "
        with pytest.raises(InputError, match=message):
            prepare(corpus, tmp_path, tmp_path, task, **{option: value})

    def test_names_the_options_that_it_has(self, tmp_path):
        with pytest.raises(InputError, match="The corpus has check_samples, mode, on_invalid, train_split, trim."):
            prepare("librimix", tmp_path, tmp_path, "separate_clean", target="reverb")

    @pytest.mark.parametrize(
        "corpus, only", [("wsj0mix", "separate_clean"), ("custom", "separate"), ("many_speakers", "separate_mixed")]
    )
    def test_task_of_a_corpus_with_one(self, tmp_path, corpus, only):
        message = f"task is 'separate_noisy', but corpus '{corpus}' has only one: give --task {only}."
        with pytest.raises(InputError, match=message):
            prepare(corpus, tmp_path, tmp_path, "separate_noisy")

    def test_task_of_a_corpus_with_several(self, tmp_path):
        with pytest.raises(InputError, match="task 'separate' is not known: choose one of 'separate_noisy_reverb'"):
            prepare("whamr", write_whamr(tmp_path / "data"), tmp_path, "separate")


def test_the_experiment_files_offer_every_option():
    """Every argument of every corpus's preparation can be given, but those that an experiment settles by other keys."""
    settled = {"data_folder", "output_folder", "sample_rate", "num_spks", "task", "splits", "seed"}
    # A corpus that several experiments are to be compared on is made in one way.
    fixed = {"num_rooms", "num_noises", "list_file", "workers"}
    offered = {*UNSET, *settled, *fixed}
    for corpus in CORPORA.values():
        assert set(inspect.signature(corpus.prepare).parameters) <= offered
