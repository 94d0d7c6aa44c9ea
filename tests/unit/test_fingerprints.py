"""Fingerprints: which differences between two datasets they show, and which are none."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import soundfile

from data_prep.corpora.custom import prepare_custom
from data_prep.corpora.wham import prepare_wham
from data_prep.corpora.whamr import prepare_whamr
from data_prep.manifests.source_tables import prepare_mixing
from mossformer_sb.data import manifests
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.data.manifests import SAMPLED_RECORDINGS, read_manifest
from mossformer_sb.errors import InputError
from tests.unit.trees import write_custom, write_wav, write_wham, write_whamr


@pytest.fixture
def wham(tmp_path):
    return write_wham(tmp_path / "wham")


class TestFingerprint:
    """What two manifests with the same IDs, lengths and rates differ in."""

    @pytest.fixture
    def fingerprint(self, tmp_path):
        def of(prepare, root, **options):
            folder = tmp_path / f"manifests{len([*tmp_path.iterdir()])}"
            manifest = prepare(root, folder, **options)["tr"]
            found = MixtureDataset(manifest, root).fingerprint
            assert json.loads(Path(manifest).with_suffix(".json").read_text())["fingerprint"] == found
            return found

        return of

    def test_tasks(self, wham, fingerprint):
        assert fingerprint(prepare_wham, wham) != fingerprint(prepare_wham, wham, task="separate_clean")

    def test_targets(self, tmp_path, fingerprint):
        root = write_whamr(tmp_path / "whamr")
        found = {
            fingerprint(prepare_whamr, root, task=task, target=target)
            for task, target in (
                ("separate_noisy_reverb", "anechoic"),
                ("separate_noisy_reverb", "reverb"),
                ("separate_clean_reverb", "anechoic"),
                ("separate_noisy_anechoic", "anechoic"),
            )
        }
        assert len(found) == 4

    @pytest.mark.parametrize("folder", ["mix_both", "s1", "s2", "noise"])
    def test_samples_of_every_signal(self, wham, tmp_path, fingerprint, folder):
        before = fingerprint(prepare_wham, wham)
        for path in (wham / "wav8k" / "min" / "tr" / folder).iterdir():
            write_wav(path, seed=99)
        assert fingerprint(prepare_wham, wham) != before

    def test_another_format_is_no_difference(self, tmp_path, fingerprint):
        root = write_custom(tmp_path / "wav", 2, noise=False, extension="wav", subtype="PCM_16")
        for path in root.rglob("*.wav"):
            other = tmp_path / "flac" / path.relative_to(root).with_suffix(".flac")
            other.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(other, *soundfile.read(path, dtype="int16"))
        assert fingerprint(prepare_custom, root) == fingerprint(prepare_custom, tmp_path / "flac")

    def test_order_of_rows_and_extra_columns_are_no_difference(self, wham, tmp_path):
        table = read_manifest(prepare_wham(wham, tmp_path / "m")["tr"], wham)
        assert manifests.fingerprint(table.iloc[::-1].assign(s1_spk="x")) == manifests.fingerprint(table)

    def test_time_does_not_grow_with_the_corpus(self, wham, tmp_path, monkeypatch):
        table = read_manifest(prepare_wham(wham, tmp_path / "m")["tr"], wham)
        many = pd.concat([table.assign(ID=table["ID"] + f"_{number}") for number in range(100)])
        opened = []
        real = manifests.AudioReader
        monkeypatch.setattr(manifests, "AudioReader", lambda path: opened.append(path) or real(path))
        manifests.fingerprint(many)
        assert len(opened) == SAMPLED_RECORDINGS * 4

    def test_a_recording_that_is_missing(self, wham, tmp_path):
        manifest = prepare_wham(wham, tmp_path / "m")["tr"]
        path = next((wham / "wav8k" / "min" / "tr" / "s2").iterdir())
        path.unlink()
        with pytest.raises(InputError, match=f"s2/{path.name}: there is no such audio file"):
            MixtureDataset(manifest, wham).fingerprint  # noqa: B018

    def test_a_recording_that_is_damaged_in_the_middle_gives_another_one(self, tmp_path, fingerprint):
        """Its headers don't show it; preparation without a look at samples doesn't fail on it."""
        root = write_custom(tmp_path / "own", extension="flac", subtype="PCM_16", frames=8000)
        before = fingerprint(prepare_custom, root)
        path = root / "tr" / "s1" / "a.flac"
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[: middle - 500] + bytes(500) + content[middle:])
        assert fingerprint(prepare_custom, root) != before


class TestFingerprintOfDynamicMixing:
    @pytest.fixture
    def wham(self, tmp_path):
        return write_wham(tmp_path / "wham", frames=8000)

    @pytest.fixture
    def fingerprint(self, tmp_path):
        def of(root, **options):
            names = {"speech_folder": None, "noise_folder": None} | options
            folder = tmp_path / f"manifests{len([*tmp_path.iterdir()])}"
            manifest = prepare_wham(root, folder)["tr"]
            prepare_mixing(True, manifest, root, folder, workers=1, **names)
            data = {"speech_table": folder / "mixing_speech.csv", "noise_table": folder / "mixing_noise.csv"}
            return DynamicMixtureDataset(manifest, root, **data, min_seconds=0.1).fingerprint

        return of

    def test_covers_the_source_pools(self, wham, tmp_path, fingerprint):
        speech = {seed: tmp_path / f"speech{seed}" for seed in (1, 2)}
        for seed, folder in speech.items():
            for speaker in "ab":
                write_wav(folder / speaker / "x.wav", 8000, seed=seed)
        write_wav(tmp_path / "noise" / "x.wav", seed=3)
        found = [
            fingerprint(wham),
            fingerprint(wham, speech_folder=str(speech[1])),
            fingerprint(wham, speech_folder=str(speech[2])),
            fingerprint(wham, speech_folder=str(speech[1]), noise_folder=str(tmp_path / "noise")),
            MixtureDataset(prepare_wham(wham, tmp_path / "m")["tr"], wham).fingerprint,
        ]
        assert len(set(found)) == len(found)

    def test_does_not_depend_on_where_that_lies(self, wham, tmp_path, fingerprint):
        first = fingerprint(wham)
        assert fingerprint(shutil.copytree(wham, tmp_path / "elsewhere")) == first
