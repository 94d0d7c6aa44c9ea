"""Common variants of corpora: parts of LibriMix, corpora by data_prep.generate, and no test set."""

import csv
import logging
import shutil

import pandas as pd
import pytest

from data_prep.__main__ import main
from data_prep.corpora.custom import prepare_custom
from data_prep.corpora.librimix import prepare_librimix
from data_prep.corpora.librimix_rooms import prepare_librimix_rooms
from data_prep.corpora.minilibrimix import prepare_minilibrimix
from data_prep.corpora.prepare import prepare_corpus
from data_prep.corpora.wham import prepare_wham
from data_prep.corpora.whamr import prepare_whamr
from data_prep.generate.librimix_metadata import file_name, known_speakers
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.errors import InputError
from tests.unit.trees import LIBRI_IDS, WHAMR, write_custom, write_librimix, write_sums, write_wham

SPLITS = ("train-100", "dev", "test")


def read(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def write_info(root, num_spks, speakers, split="train-100"):
    """As `data_prep.generate librimix` writes it."""
    folder = root / "metadata" / f"Libri{num_spks}Mix"
    folder.mkdir(parents=True, exist_ok=True)
    columns = ",".join(f"speaker_{number}_ID" for number in range(1, num_spks + 1))
    rows = "".join(f"{name},{','.join(names)}\n" for name, names in speakers.items())
    (folder / f"libri{num_spks}mix_{split}_info.csv").write_text(f"mixture_ID,{columns}\n{rows}")


class TestLibriMix:
    def test_the_corpus_itself(self, tmp_path):
        root = write_librimix(tmp_path / "data") / "Libri2Mix"
        manifests = prepare_librimix(root, tmp_path / "out")
        assert read(manifests["dev"])[0]["mix_wav"].startswith("$data_root/wav8k/min/dev/mix_clean/")
        renamed = root.rename(tmp_path / "another name")
        assert len(MixtureDataset(prepare_librimix(renamed, tmp_path / "out")["test"], renamed)) == 1

    @pytest.mark.parametrize("itself", [False, True])
    def test_a_split_is_missing(self, tmp_path, itself):
        root = write_librimix(tmp_path / "data", splits=("train-100", "test"))
        with pytest.raises(InputError, match="has Libri2Mix, but not split 'dev'.* and has: test, train-100"):
            prepare_librimix(root / "Libri2Mix" if itself else root, tmp_path / "out")

    def test_another_training_split(self, tmp_path):
        root = write_librimix(tmp_path / "data", splits=("train-360", "dev", "test"))
        with pytest.raises(InputError, match="not split 'train-100'.*There is train-360: give --train_split train-360"):
            prepare_librimix(root, tmp_path / "out")

    def test_one_split_alone(self, tmp_path):
        root = write_librimix(tmp_path / "data", splits=("dev",))
        with pytest.raises(InputError, match="--splits dev uses the existing ones"):
            prepare_librimix(root, tmp_path / "out")
        assert list(prepare_librimix(root, tmp_path / "out", splits=["dev"])) == ["dev"]

    def test_one_speaker(self, tmp_path):
        root = write_librimix(tmp_path / "data")
        row = read(prepare_librimix(root, tmp_path / "out", num_spks=1, task="enhance_single")["test"])[0]
        assert "/mix_single/" in row["mix_wav"] and "s1_wav" in row and "s2_wav" not in row
        with pytest.raises(
            InputError, match="task 'enhance_single' has one speaker, and num_spks is 2: give --num_spks 1"
        ):
            prepare_corpus("librimix", root, tmp_path / "out", 2, 8000, "enhance_single")
        manifests = prepare_corpus("librimix", root, tmp_path / "out", 1, 8000, "enhance_single")
        assert MixtureDataset(manifests["train"], root, num_spks=1)[0].sources.shape[1] == 1


class TestSpeakersOfGeneratedCorpora:
    def test_from_the_metadata(self, tmp_path):
        root = write_librimix(tmp_path / "data")
        (name,) = LIBRI_IDS[2]
        write_info(root, 2, {name: ("ann", "bob")})
        row = read(prepare_librimix(root, tmp_path / "out")["train-100"])[0]
        assert (row["s1_spk"], row["s2_spk"]) == ("ann", "bob")
        row = read(prepare_librimix(root / "Libri2Mix", tmp_path / "out")["train-100"])[0]
        assert (row["s1_spk"], row["s2_spk"]) == ("ann", "bob")

    def test_of_many_speakers(self, tmp_path):
        names = tuple(f"s{number}" for number in range(10))
        write_info(tmp_path, 10, {"_".join(names): names})
        assert known_speakers(tmp_path / "metadata/Libri10Mix", 10) == {file_name("_".join(names), 10): names}
        assert known_speakers(tmp_path / "none", 2) == {}


class TestRooms:
    @pytest.fixture
    def root(self, tmp_path):
        write_sums(tmp_path / "data/Libri2Mix/wav8k/min", WHAMR, ids=["a_b"])
        write_info(tmp_path / "data", 2, {"a_b": ("ann", "bob")})
        return tmp_path / "data"

    @pytest.mark.parametrize("itself", [False, True])
    def test_rows(self, root, tmp_path, itself):
        manifests = prepare_librimix_rooms(root / "Libri2Mix" if itself else root, tmp_path / "out", check_samples=True)
        row = read(manifests["tt"])[0]
        top = "$data_root/" if itself else "$data_root/Libri2Mix/"
        assert row["mix_wav"] == f"{top}wav8k/min/tt/mix_both_reverb/a_b.wav"
        assert row["s2_wav"] == f"{top}wav8k/min/tt/s2_anechoic/a_b.wav" and row["s1_spk"] == "ann"

    def test_whamr_and_librimix_name_the_right_command(self, root, tmp_path):
        for prepare in (prepare_whamr, prepare_librimix):
            with pytest.raises(InputError, match="Use hparams/mossformer_whamr.yaml with --corpus librimix_rooms"):
                prepare(root, tmp_path / "out")

    def test_one_speaker(self, root, tmp_path):
        for prepare, folder in ((prepare_librimix_rooms, root), (prepare_whamr, root / "Libri2Mix")):
            row = read(prepare(folder, tmp_path / "out", 1, task="enhance_single_reverb")["tr"])[0]
            assert "/mix_single_reverb/" in row["mix_wav"] and "s2_wav" not in row


class TestMiniLibriMix:
    @pytest.fixture
    def root(self, tmp_path):
        sums = {"mix_both": ("s1", "s2", "noise"), "mix_clean": ("s1", "s2")}
        write_sums(tmp_path / "MiniLibriMix", sums, ids=LIBRI_IDS[2], splits=("train", "val"), subtype="PCM_16")
        return tmp_path

    def test_rows(self, root):
        for folder in (root, root / "MiniLibriMix"):
            row = read(prepare_minilibrimix(folder, root / "out", task="separate_noisy")["val"])[0]
            assert row["mix_wav"].endswith(f"val/mix_both/{LIBRI_IDS[2][0]}.wav") and row["s1_spk"] == "4077"

    def test_other_corpora_name_the_right_command(self, root):
        for folder in (root, root / "MiniLibriMix"):
            with pytest.raises(InputError, match="layout of MiniLibriMix. .*--corpus minilibrimix"):
                prepare_librimix(folder, root / "out")
            with pytest.raises(InputError, match="layout of MiniLibriMix. .*--corpus minilibrimix"):
                prepare_custom(folder, root / "out", num_spks=2, sample_rate=8000)

    def test_in_an_experiment(self, root):
        arguments = ("minilibrimix", root, root / "out", 2, 8000, "separate_clean")
        assert list(prepare_corpus(*arguments)) == ["train", "valid"]
        with pytest.raises(InputError, match="This corpus has no test set: evaluate on another one"):
            prepare_corpus(*arguments, test_needed=True)


class TestNoTestSet:
    @pytest.mark.parametrize("corpus", ["wham", "librimix", "custom", "csv"])
    def test_the_other_manifests_are_written(self, tmp_path, corpus, caplog):
        write, task = {"wham": (write_wham, "separate_noisy"), "librimix": (write_librimix, "separate_clean")}.get(
            corpus, (write_custom, "separate")
        )
        options = {}
        if corpus == "csv":
            root = write_custom(tmp_path / "data")
            lines = [
                "ID,split,mix_wav,s1_wav,s2_wav",
                *(f"a,{s},{s}/mix/a.wav,{s}/s1/a.wav,{s}/s2/a.wav" for s in ("tr", "cv")),
            ]
            (tmp_path / "list.csv").write_text("\n".join(lines))
            options = {"csv_file": tmp_path / "list.csv"}
        else:
            splits = SPLITS[:2] if corpus == "librimix" else ("tr", "cv")
            root = write(tmp_path / "data", splits=splits)
        (tmp_path / "out").mkdir()
        for name in ("test.csv", "test.json"):
            (tmp_path / "out" / name).write_text("of another corpus")
        arguments = ("custom" if corpus == "csv" else corpus, root, tmp_path / "out", 2, 8000, task)
        manifests = prepare_corpus(*arguments, **options)
        assert list(manifests) == ["train", "valid"] and not (tmp_path / "out" / "test.csv").exists()
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            f"{name}.{ending}" for name in ("train", "valid") for ending in ("csv", "json")
        }
        assert "There is no test set: training continues without one" in caplog.text
        with pytest.raises(InputError, match="but not split|no folder for split|no row of split"):
            prepare_corpus(*arguments, test_needed=True, **options)

    def test_the_test_set_alone_suffices_for_a_test(self, tmp_path):
        root = write_wham(tmp_path / "data", splits=("tt",))
        arguments = ("wham", root, tmp_path / "out", 2, 8000, "separate_noisy")
        assert list(prepare_corpus(*arguments, test_needed=True)) == ["test"]
        with pytest.raises(InputError, match="not split 'tr', 'cv'"):
            prepare_corpus(*arguments)

    def test_no_other_set_may_be_missing(self, tmp_path):
        root = write_wham(tmp_path / "data", splits=("tr", "tt"))
        with pytest.raises(InputError, match="not split 'cv'"):
            prepare_corpus("wham", root, tmp_path / "out", 2, 8000, "separate_noisy")


def test_wham_trimmed(tmp_path):
    root = write_wham(tmp_path / "wham", splits=("tr",))
    assert len(pd.read_csv(prepare_wham(root, tmp_path / "out", splits=["tr"], trim=2)["tr"])) == 2
    with pytest.raises(InputError, match="trim is -1"):
        prepare_wham(root, tmp_path / "out", splits=["tr"], trim=-1)


def test_home_folder_on_the_command_line(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_custom(tmp_path / "own")
    assert main(["custom", "--data_folder=~/own", "--output_folder=~/out"]) == 0
    assert (tmp_path / "out" / "custom_tt.csv").is_file()


@pytest.mark.parametrize(
    ("there", "more"), [("cv", "valid"), ("tt", "test"), ("tr/mix", "tr/mixture"), ("tt/s2", "tt/spk2")]
)
def test_custom_data_with_one_thing_under_two_names(tmp_path, there, more):
    root = write_custom(tmp_path / "data")
    shutil.copytree(root / there, root / more)
    first, second = there.rpartition("/")[2], more.rpartition("/")[2]
    with pytest.raises(InputError, match=f"has the folders ({first} and {second}|{second} and {first}), which mean"):
        prepare_custom(root, tmp_path / "manifests")
