"""The corpus of many speakers: its content, that it is generated once, and each message."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from data_prep.__main__ import main
from data_prep.choices import SPLITS
from data_prep.corpora.many_speakers import CONDITIONS, prepare_many_speakers
from data_prep.corpora.many_speakers_list import read_list
from mossformer_sb import InputError
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.evaluation.si_snr import si_snr
from tests.unit.small_corpus import NUMBERS, SPEAKERS, write_source


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    """The data folder and the manifests."""
    root = tmp_path_factory.mktemp("made")
    return root / "data", prepare_many_speakers(
        root / "data", root / "manifests", **source, **NUMBERS, check_samples=True
    )


def read(folder, path):
    samples, rate = soundfile.read(folder / path, dtype="float32")
    assert rate == 8000
    return samples


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".wav", ".npy", ".csv")}


def test_the_committed_list_divides_the_speakers():
    splits = read_list()
    speakers = {split: {clip.speaker for clip in clips} for split, clips in splits.items()}
    numbers = {"tr": 3548, "cv": 20, "tt": 10, "tt_commonvoice": 40, "tt_so762": 20}
    assert {split: len(found) for split, found in speakers.items()} == numbers
    assert len(set().union(*speakers.values())) == sum(numbers.values())
    assert sum(map(len, splits.values())) == 12162
    sources = {split: {clip.source for clip in clips} for split, clips in splits.items()}
    assert sources["cv"] == {"libri_devclean"} and sources["tt"] == {"librispeech"}
    assert sources["tt_so762"] == {"so762"} and all(name.startswith("cv") for name in sources["tt_commonvoice"])
    assert not {"librispeech", "libri_devclean"} & sources["tr"]
    assert {clip.file.split("/")[0] for clip in splits["tt"]} == {"test-other"}


def test_manifests_list_all_conditions(made):
    folder, manifests = made
    tables = {name: pd.read_csv(path) for name, path in manifests.items()}
    sizes = {"tr": 3, "cv": 3, "tt": 6, "tt_clean": 2, "tt_noisy": 2, "tt_reverb": 2}
    sizes |= {"tt_commonvoice": 2, "tt_so762": 2}
    assert {name: len(table) for name, table in tables.items()} == sizes
    for split, speakers in SPEAKERS.items():
        assert set(tables[split]["s1_spk"].astype(str)) <= set(speakers)
        conditions = set(CONDITIONS) if split in SPLITS else {"clean"}
        assert {name.split("_")[0] for name in tables[split]["ID"]} == conditions
    assert (tables["tt"]["s1_spk"] != tables["tt"]["s2_spk"]).all()
    row = tables["tt_clean"].iloc[0]
    assert row["mix_wav"] == f"$data_root/tt/clean/mix/{row['ID']}.wav"
    facts = {name: json.loads(Path(path).with_suffix(".json").read_text()) for name, path in manifests.items()}
    is_sum = {name: found["mixture_is_sum"] for name, found in facts.items()}
    assert is_sum["tt_clean"] and not is_sum["tt_noisy"] and not is_sum["tt"]
    assert len(MixtureDataset(manifests["tt"], folder, num_spks=2, sample_rate=8000)[0].mixture) > 8000


def test_mixtures_match_their_condition(made):
    folder, manifests = made
    tables = {condition: pd.read_csv(manifests[f"tt_{condition}"]) for condition in CONDITIONS}
    for number in range(2):
        names = {condition: table["ID"][number] for condition, table in tables.items()}
        assert len({name.partition("_")[2] for name in names.values()}) == 1  # the same utterances
        signals = {
            condition: [read(folder, f"tt/{condition}/{signal}/{name}.wav") for signal in ("mix", "s1", "s2")]
            for condition, name in names.items()
        }
        noise = read(folder, f"tt/noisy/noise/{names['noisy']}.wav")
        mixture, s1, s2 = signals["clean"]
        np.testing.assert_allclose(mixture, s1 + s2, atol=1e-6)
        mixture, s1, s2 = signals["noisy"]
        np.testing.assert_allclose(mixture, s1 + s2 + noise, atol=1e-6)
        assert np.abs(noise).max() > 0.001
        mixture, s1, s2 = signals["reverb"]
        assert np.abs(mixture - s1 - s2).max() > 0.001


def test_sources_are_the_utterances(made):
    """At 8 kHz, cut to the shorter one, at another level."""
    folder, manifests = made
    row = pd.read_csv(manifests["tt_clean"]).iloc[0]
    _, _, first, second = row["ID"].split("_")
    for name, signal in ((first, "s1"), (second, "s2")):
        source = read(folder, f"tt/clean/{signal}/{row['ID']}.wav")
        utterance = read(folder, f"speech/tt/{name}.wav")
        start = int(np.argmax(np.correlate(utterance, source, mode="valid")))
        found = utterance[start : start + len(source)]
        assert np.corrcoef(found, source)[0, 1] > 0.999


def test_recorded_noise_is_for_training_only(made, source):
    folder, _ = made
    files = sorted((folder / "noise/tr/recorded").rglob("*.wav"))
    assert [file.relative_to(folder / "noise/tr/recorded").as_posix() for file in files] == ["dog/0.wav", "rain/0.wav"]
    rain = soundfile.read(source["recorded_noise_folder"] / "rain/0.wav", dtype="float32")[0]
    np.testing.assert_array_equal(read(folder, files[1].relative_to(folder)), rain)
    assert len(read(folder, files[0].relative_to(folder))) == 12000  # from 16 kHz
    assert len(pd.read_csv(folder / "tables/tr/mixing_noise.csv")) == 4 + 2
    assert not any("recorded" in path for path in pd.read_csv(folder / "tables/tt/mixing_noise.csv")["path"])


def test_is_made_once_and_completed(source, made, tmp_path):
    folder, manifests = made
    before = files(folder)
    again = prepare_many_speakers(folder, tmp_path / "m", **{**source, "librispeech_folder": None}, **NUMBERS)
    assert files(folder) == before
    assert Path(again["tt"]).read_text() == Path(manifests["tt"]).read_text()
    lost = folder / "tt/clean/mix" / next(iter((folder / "tt/clean/mix").iterdir())).name
    content = lost.read_bytes()
    lost.unlink()
    prepare_many_speakers(folder, tmp_path / "m", **{**source, "librispeech_folder": None}, **NUMBERS)
    assert lost.read_bytes() == content


def test_another_seed_is_another_corpus(source, made, tmp_path):
    with pytest.raises(InputError, match="was generated with seed 1234; requested is seed 5"):
        prepare_many_speakers(made[0], tmp_path, **source, **NUMBERS, seed=5)


def test_rooms_and_noise_differ_between_splits(made):
    folder, _ = made
    for kind, pattern in (("rooms", "*.npy"), ("noise", "*.wav")):
        contents = [path.read_bytes() for path in sorted((folder / kind).rglob(pattern))]
        assert len(contents) >= 4 and len(set(contents)) == len(contents)


def test_dynamic_mixing_draws_from_it(made, source):
    """From speech, noise and rooms of training speakers, and with no manifest at all."""
    folder, _ = made
    data = DynamicMixtureDataset(
        None,
        None,
        folder / "tables/tr/mixing_speech.csv",
        folder / "tables/tr/mixing_noise.csv",
        folder / "rooms/tr",
        level_distribution="librimix",
        segment=1.0,
        mixtures_per_epoch=4,
    )
    assert {speaker for number in range(4) for speaker in data.draw(number).speakers} <= set(SPEAKERS["tr"])
    mixture, targets = data[0].mixture, data[0].sources
    assert si_snr(mixture[None, :, None].expand_as(targets[None]), targets[None]).isfinite().all()


def test_dynamic_mixing_without_a_manifest_needs_a_number(made):
    tables = made[0] / "tables" / "tr"
    with pytest.raises(InputError, match="mixtures_per_epoch is null, and there is no manifest: give"):
        DynamicMixtureDataset(None, None, tables / "mixing_speech.csv")


def test_command(source, made, tmp_path):
    words = [f"--{key}={value}" for key, value in {**source, **NUMBERS}.items()]
    words += ["--data_folder", str(made[0]), "--output_folder", str(tmp_path)]
    assert main(["many_speakers", *words]) == 0
    assert len(pd.read_csv(tmp_path / "many_speakers_tt_reverb.csv")) == 2


class TestMessages:
    def fails(self, tmp_path, message, **options):
        with pytest.raises(InputError, match=message):
            prepare_many_speakers(tmp_path / "data", tmp_path / "m", **{**NUMBERS, **options})
        assert not (tmp_path / "data").exists()

    def test_missing_clips_in_one_message(self, tmp_path, source):
        """The folder of other clips, without anything of our list."""
        text = r"clips_folder '.*' lacks 12062 of 12162 clips, the first of them cv-.*wav: docs/pretrained"
        self.fails(tmp_path, text, clips_folder=source["clips_folder"])

    def test_missing_utterances_in_one_message(self, tmp_path, source):
        text = "lacks 2 of 2 utterances: test-other/31/7/31-7-0000.flac, .*Give the folder that has test-other"
        self.fails(tmp_path, text, **{**source, "librispeech_folder": tmp_path})

    def test_no_folder_given(self, tmp_path, source):
        text = "librispeech_folder is not given, and data_folder '.*' lacks 2 of 2 utterances, the first .* speech/tt"
        self.fails(tmp_path, text, **{**source, "librispeech_folder": None})

    def test_noise_that_is_not_there(self, tmp_path, source):
        text = "recorded_noise_folder '.*none' is not a folder"
        self.fails(tmp_path, text, **{**source, "recorded_noise_folder": tmp_path / "none"})

    @pytest.mark.parametrize(
        "options, text",
        [
            ({"sample_rate": 16000}, "sample_rate 16000 is not known: choose one of 8000"),
            ({"num_test": 4}, r"num_test is 4: give a multiple of 3, .* \(clean, noisy, reverb\)"),
            ({"num_valid": 0}, "num_valid is 0: give a multiple of 3"),
            ({"num_rooms": 0}, "num_rooms is 0: give at least 1"),
            ({"num_noises": 0}, "num_noises is 0: give at least 1"),
            ({"list_file": "none.csv"}, "list_file 'none.csv' can't be read"),
        ],
    )
    def test_wrong_arguments(self, tmp_path, options, text):
        self.fails(tmp_path, text, **options)

    @pytest.mark.parametrize(
        "text, message",
        [
            ("clip,split\n", r"has the columns \['clip', 'split'\]; needed clip,speaker,split,source,file"),
            ("{}a/b,s,tr,x,y\n", "list.csv:2: found the clip 'a/b' of 's'; needed valid file names"),
            ("{}a,s,train,x,y\n", "list.csv:2: split 'train' is not known: choose one of 'tr'"),
            ("{}a,s,tr,x,y\nb,s,cv,x,y\n", "list.csv:3: speaker s is in the splits 'tr' and 'cv'; needed in one"),
            ("{}a,s,tr,x,y\n", "split 'tr' has fewer than two speakers"),
        ],
    )
    def test_wrong_list(self, tmp_path, text, message):
        (tmp_path / "list.csv").write_text(text.format("clip,speaker,split,source,file\n"))
        with pytest.raises(InputError, match=message):
            read_list(tmp_path / "list.csv")
