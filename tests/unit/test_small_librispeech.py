"""The small LibriSpeech corpus: what is made, that it is what it says, that it is made once, and each message."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from data_prep.__main__ import main
from data_prep.small_librispeech import CONDITIONS, LIST_FILE, prepare_small_librispeech, read_list
from mossformer_sb import InputError
from mossformer_sb.dataio import MixtureDataset
from mossformer_sb.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.losses import si_snr
from tests.unit.small_corpus import NUMBERS, PARTS, SPEAKERS, write_source


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    """The data folder and the manifests."""
    root = tmp_path_factory.mktemp("made")
    return root / "data", prepare_small_librispeech(root / "data", root / "manifests", **source, **NUMBERS, deep=True)


def read(folder, path):
    samples, rate = soundfile.read(folder / path, dtype="float32")
    assert rate == 8000
    return samples


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".wav", ".npy", ".csv")}


def test_the_committed_list_divides_the_speakers():
    splits = read_list()
    speakers = {split: {name.split("-")[0] for name in names} for split, names in splits.items()}
    assert {split: len(found) for split, found in speakers.items()} == {"tr": 231, "cv": 20, "tt": 10}
    assert not speakers["tr"] & speakers["cv"] and not (speakers["tr"] | speakers["cv"]) & speakers["tt"]
    assert {path.split("/")[0] for path in splits["tt"].values()} == {"test-other"}
    assert list(pd.read_csv(LIST_FILE).columns) == ["utterance", "part", "split"]


def test_manifests_list_all_conditions(made):
    folder, manifests = made
    tables = {name: pd.read_csv(path) for name, path in manifests.items()}
    sizes = {"tr": 3, "cv": 3, "tt": 6, "tt_clean": 2, "tt_noisy": 2, "tt_reverb": 2}
    assert {name: len(table) for name, table in tables.items()} == sizes
    for split in PARTS:
        assert set(tables[split]["s1_spk"].astype(str)) <= set(SPEAKERS[split])
        assert {name.split("_")[0] for name in tables[split]["ID"]} == set(CONDITIONS)
    assert (tables["tt"]["s1_spk"] != tables["tt"]["s2_spk"]).all()
    row = tables["tt_clean"].iloc[0]
    assert row["mix_wav"] == f"$data_root/tt/clean/mix/{row['ID']}.wav"
    facts = {name: json.loads(Path(path).with_suffix(".json").read_text()) for name, path in manifests.items()}
    is_sum = {name: found["mixture_is_sum"] for name, found in facts.items()}
    assert is_sum["tt_clean"] and not is_sum["tt_noisy"] and not is_sum["tt"]
    assert len(MixtureDataset(manifests["tt"], folder, num_spks=2, sample_rate=8000)[0].mixture) > 8000


def test_mixtures_are_what_their_condition_says(made):
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


def test_is_made_once_and_completed(source, made, tmp_path):
    folder, manifests = made
    before = files(folder)
    again = prepare_small_librispeech(folder, tmp_path / "m", list_file=source["list_file"], **NUMBERS)
    assert files(folder) == before
    assert Path(again["tt"]).read_text() == Path(manifests["tt"]).read_text()
    lost = folder / "tt/clean/mix" / next(iter((folder / "tt/clean/mix").iterdir())).name
    content = lost.read_bytes()
    lost.unlink()
    prepare_small_librispeech(folder, tmp_path / "m", list_file=source["list_file"], **NUMBERS)
    assert lost.read_bytes() == content


def test_another_seed_is_another_corpus(source, made, tmp_path):
    with pytest.raises(InputError, match="was begun with seed 1234, and seed 5 is asked for"):
        prepare_small_librispeech(made[0], tmp_path, **source, **NUMBERS, seed=5)


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
        levels="librimix",
        segment=1.0,
        mixtures_per_epoch=4,
    )
    assert {speaker for number in range(4) for speaker in data.draw(number).speakers} <= set(SPEAKERS["tr"])
    mixture, targets = data[0].mixture, data[0].sources
    assert si_snr(mixture[None, :, None].expand_as(targets[None]), targets[None]).isfinite().all()


def test_dynamic_mixing_without_a_manifest_needs_a_number(made):
    tables = made[0] / "tables" / "tr"
    with pytest.raises(InputError, match="mixtures_per_epoch is null, and there is no manifest to count"):
        DynamicMixtureDataset(None, None, tables / "mixing_speech.csv")


def test_command(source, made, tmp_path):
    words = [f"--{key}={value}" for key, value in {**source, **NUMBERS}.items()]
    words += ["--data_folder", str(made[0]), "--output_folder", str(tmp_path)]
    assert main(["small_librispeech", *words]) == 0
    assert len(pd.read_csv(tmp_path / "small_librispeech_tt_reverb.csv")) == 2


class TestMessages:
    def fails(self, tmp_path, message, **options):
        with pytest.raises(InputError, match=message):
            prepare_small_librispeech(tmp_path / "data", tmp_path / "m", **{**NUMBERS, **options})
        assert not (tmp_path / "data").exists()

    def test_missing_utterances_in_one_message(self, tmp_path, source):
        """The folder of other people's LibriSpeech, without anything of our list."""
        text = "lacks 351 of 351 utterances: train-clean-100/19/198/19-198-0000.flac, .* …. Give the folder that has"
        self.fails(tmp_path, text, librispeech_folder=source["librispeech_folder"])

    def test_no_folder_given(self, tmp_path, source):
        text = (
            "librispeech_folder is not given, and data_folder '.*' lacks 7 of 7 utterances, the first of them speech/tr"
        )
        self.fails(tmp_path, text, list_file=source["list_file"])

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
            ("utterance,split\n", r"has the columns \['utterance', 'split'\]; needed utterance,part,split"),
            (
                "utterance,part,split\n19-198,dev,tr\n",
                "list.csv:2: found utterance '19-198' of part 'dev'",
            ),
            ("utterance,part,split\n1-2-3,dev,train\n", "list.csv:2: split 'train' is not known: choose one of 'tr'"),
            ("utterance,part,split\n1-2-3,dev,tr\n", "split 'tr' has fewer than two speakers"),
        ],
    )
    def test_wrong_list(self, tmp_path, text, message):
        (tmp_path / "list.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            read_list(tmp_path / "list.csv")
