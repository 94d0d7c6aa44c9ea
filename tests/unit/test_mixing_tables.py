"""Tables of recordings and rooms: their content, and interrupted and repeated runs."""

import json
import math
import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile

from data_prep.generate import room_cache
from data_prep.generate.image_source import impulse_responses
from data_prep.generate.rooms import draw_room, rooms_text
from data_prep.manifests import source_tables
from data_prep.manifests.resumable import resumable
from data_prep.manifests.source_tables import prepare_mixing
from mossformer_sb.data.level_distributions import LEVELS
from mossformer_sb.data.loudness import active_speech_level, loudness
from mossformer_sb.data.source_pools import NoisePool, SpeechPool
from mossformer_sb.errors import InputError
from tests.unit.mixing_pools import RATE, prepare_pools, write_manifest, write_noise, write_speech
from tests.unit.permissions import read_only
from tests.unit.trees import write_wav


class TestTables:
    def test_speech_and_noise(self, tmp_path):
        prepare_pools(tmp_path)
        table = pd.read_csv(tmp_path / "mixing_speech.csv")
        assert table["path"].is_monotonic_increasing and len(table) == 15
        for row in table.itertuples():
            signal, rate = soundfile.read(row.path)
            assert (row.num_samples, row.sample_rate, row.spk) == (len(signal), rate, row.path.split(os.sep)[-2])
            assert row.active_level == pytest.approx(active_speech_level(signal, rate), abs=1e-3)
            assert row.loudness == pytest.approx(loudness(signal, rate), abs=1e-3)
        noise = pd.read_csv(tmp_path / "mixing_noise.csv")
        assert noise["num_samples"].tolist() == [24000, 40000, 5600]

    def test_energies_of_noise(self, tmp_path):
        pools = prepare_pools(tmp_path)
        cells = np.load(tmp_path / "mixing_noise.energies.npy")
        assert cells.shape == (300 + 500 + 70,)
        pool = NoisePool.read(pools["noise_table"])
        for number, path in enumerate(pool.paths[:2]):
            stretch = soundfile.read(path)[0][8000:20000]
            for found in (pool, pickle.loads(pickle.dumps(pool))):
                assert found.energies.loudness(number, 8000, stretch) == pytest.approx(
                    loudness(stretch, RATE), abs=0.01
                )
        np.save(tmp_path / "mixing_noise.energies.npy", cells[1:])
        with pytest.raises(InputError, match=r"energies.npy: has 869 energies; the recordings of the table have 870"):
            NoisePool.read(pools["noise_table"])
        (tmp_path / "mixing_noise.energies.npy").write_bytes(b"none")
        with pytest.raises(InputError, match=r"energies.npy: can't be read as noise energies"):
            NoisePool.read(pools["noise_table"])

    def test_energies_are_of_the_recordings_that_are_there_now(self, tmp_path):
        options = {"speech_folder": write_speech(tmp_path / "speech", 2, 1), "workers": 1}
        manifest, noise = write_manifest(tmp_path / "tr.csv"), write_noise(tmp_path / "noise")
        prepare_mixing(True, manifest, tmp_path, tmp_path, noise_folder=noise, **options)
        energies = tmp_path / "mixing_noise.energies.npy"
        written = energies.stat().st_mtime_ns
        prepare_mixing(True, manifest, tmp_path, tmp_path, noise_folder=noise, **options)
        assert energies.stat().st_mtime_ns == written
        soundfile.write(noise / "n1.wav", np.ones(RATE) / 9, RATE)
        prepare_mixing(True, manifest, tmp_path, tmp_path, noise_folder=noise, **options)
        assert np.load(energies).shape == (300 + 100 + 70,)
        prepare_mixing(True, manifest, tmp_path, tmp_path, noise_folder=noise, noise_energies=False, **options)
        assert not energies.exists() and NoisePool.read(tmp_path / "mixing_noise.csv").energies is None

    def test_librispeech_and_a_list(self, tmp_path):
        folder = tmp_path / "speech" / "12" / "3"
        folder.mkdir(parents=True)
        for name in ("12-3-0000", "12-3-0001"):
            soundfile.write(folder / f"{name}.flac", 0.1 * np.random.default_rng(0).standard_normal(9000), RATE)
        prepare_pools(tmp_path, noise=False, speech_folder=tmp_path / "speech", speech_layout="librispeech")
        assert pd.read_csv(tmp_path / "mixing_speech.csv")["spk"].tolist() == [12, 12]
        (tmp_path / "list.csv").write_text("path,spk\nspeech/12/3/12-3-0001.flac,007\n")
        prepare_pools(tmp_path, noise=False, speech_folder=tmp_path / "list.csv")
        table = pd.read_csv(tmp_path / "mixing_speech.csv", dtype=str)
        assert table["spk"].tolist() == ["007"] and table["path"][0].endswith("12-3-0001.flac")

    def test_the_static_training_set_serves_where_nothing_else_is_given(self, tmp_path):
        rng = np.random.default_rng(0)
        for name in ("m", "s1", "s2", "n"):
            soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(2 * RATE), RATE)
        header = "ID,duration,sample_rate,mix_wav,s1_wav,s2_wav,noise_wav,s1_spk,s2_spk"
        files = ",".join(f"$data_root/{name}.wav" for name in ("m", "s1", "s2", "n"))
        (tmp_path / "tr.csv").write_text(f"{header}\na,2.0,{RATE},{files},01x,02y\n")
        prepare_mixing(True, tmp_path / "tr.csv", tmp_path, tmp_path)
        speech, noise = (pd.read_csv(tmp_path / f"mixing_{kind}.csv") for kind in ("speech", "noise"))
        assert [os.path.basename(path) for path in speech["path"]] == ["s1.wav", "s2.wav"]
        assert speech["spk"].tolist() == ["01x", "02y"]
        assert [os.path.basename(path) for path in noise["path"]] == ["n.wav"]

    def test_a_source_has_one_speaker(self, tmp_path):
        write_wav(tmp_path / "s.wav", RATE)
        header = "ID,duration,sample_rate,mix_wav,s1_wav,s2_wav,s1_spk,s2_spk"
        rows = [f"{name},2,{RATE},m.wav,$data_root/s.wav,$data_root/{name}.wav,{name},x" for name in "ab"]
        (tmp_path / "tr.csv").write_text("\n".join([header, *rows, ""]))
        with pytest.raises(InputError, match=r"tr.csv: .*s.wav is given to the speakers a and b. Remove one"):
            prepare_mixing(True, tmp_path / "tr.csv", tmp_path, tmp_path)

    def test_it_needs_speakers_then(self, tmp_path):
        with pytest.raises(
            InputError, match=r"tr.csv: has no column s1_spk, s2_spk, so the speakers for dynamic mixing are unknown"
        ):
            prepare_mixing(True, write_manifest(tmp_path / "tr.csv"), tmp_path, tmp_path)

    def test_nothing_is_done_without_dynamic_mixing(self, tmp_path):
        prepare_mixing(False, tmp_path / "none.csv", tmp_path, tmp_path / "out", rir_folder=tmp_path / "rooms")
        assert list(tmp_path.iterdir()) == []

    def test_rooms_need_a_task_with_reverberation(self, tmp_path):
        with pytest.raises(InputError, match="task 'separate_noisy_anechoic' has no reverberation, but rir_folder"):
            prepare_mixing(True, "tr.csv", ".", tmp_path, task="separate_noisy_anechoic", rir_folder="rooms")

    @pytest.mark.parametrize("rooms", ["rooms", None])
    def test_sources_with_reverberation_are_not_drawn_for_rooms(self, tmp_path, monkeypatch, rooms):
        """They would be convolved twice."""
        monkeypatch.setattr(source_tables, "compute_rooms", lambda *arguments: None)
        files = [f"{name}/a.wav" for name in ("mix_both_reverb", "s1_reverb", "s2_reverb")]
        for name in (*files, "s1_anechoic/a.wav", "s2_anechoic/a.wav"):
            write_wav(tmp_path / name, RATE)
        header = "ID,duration,sample_rate,mix_wav,s1_wav,s2_wav,s1_spk,s2_spk"
        cells = ",".join(f"$data_root/{name}" for name in files)
        (tmp_path / "tr.csv").write_text(f"{header}\na,1.0,{RATE},{cells},x,y\n")
        prepare_mixing(True, tmp_path / "tr.csv", tmp_path, tmp_path, target="reverb", rir_folder=rooms)
        folders = [path.split(os.sep)[-2] for path in pd.read_csv(tmp_path / "mixing_speech.csv")["path"]]
        assert folders == (["s1_anechoic", "s2_anechoic"] if rooms else ["s1_reverb", "s2_reverb"])

    def test_such_sources_need_anechoic_versions(self, tmp_path):
        header = "ID,duration,sample_rate,mix_wav,s1_wav,s2_wav,s1_spk,s2_spk"
        (tmp_path / "tr.csv").write_text(f"{header}\na,1.0,{RATE},m/a.wav,s1_reverb/a.wav,s2_reverb/a.wav,x,y\n")
        message = r"tr.csv: target is reverb.*needed, as '.*s1_anechoic.a.wav', which does not exist.*--speech_folder"
        with pytest.raises(InputError, match=message):
            prepare_mixing(True, tmp_path / "tr.csv", tmp_path, tmp_path, target="reverb", rir_folder="rooms")

    def test_speakers_of_the_test_set_are_reported(self, tmp_path, caplog):
        header = "ID,duration,sample_rate,mix_wav,s1_wav,s2_wav,s1_spk,s2_spk"
        (tmp_path / "tt.csv").write_text(f"{header}\na,2.0,{RATE},m,s1,s2,spk1,new\n")
        prepare_pools(tmp_path, noise=False, test_manifest=tmp_path / "tt.csv")
        assert "has recordings of 1 speakers of the test set (spk1): scores on it will be too high" in caplog.text

    def test_noise_that_is_too_short_to_repeat(self, tmp_path):
        soundfile.write(write_noise(tmp_path / "noise", (1.0,)) / "x.wav", np.ones(79), RATE)
        manifest, speech = write_manifest(tmp_path / "tr.csv"), write_speech(tmp_path / "speech", 2, 1)
        folders = {"speech_folder": speech, "noise_folder": tmp_path / "noise", "workers": 1}
        with pytest.raises(InputError, match="x.wav: has 79 samples; needed 0.01 s or more, to be repeated"):
            prepare_mixing(True, manifest, tmp_path, tmp_path, **folders)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"speech_folder": "nowhere"}, "speech_folder 'nowhere' is not a folder"),
            ({"speech_folder": ".", "speech_layout": "flat"}, "speech_layout 'flat' is not known"),
            ({"noise_folder": "nowhere"}, "noise_folder 'nowhere' is not a folder"),
        ],
    )
    def test_folders_are_called_by_their_keys(self, tmp_path, options, message):
        options = {"speech_folder": write_speech(tmp_path / "speech", 2, 1), **options}
        with pytest.raises(InputError, match=message):
            prepare_mixing(True, write_manifest(tmp_path / "tr.csv"), tmp_path, tmp_path, **options)

    def test_layout_is_called_by_its_key(self, tmp_path):
        speech = write_speech(tmp_path / "speech", 2, 1)
        with pytest.raises(InputError, match=r"speech_folder .* give --speech_layout speakers"):
            prepare_pools(tmp_path, noise=False, speech_folder=speech, speech_layout="librispeech")

    def test_of_noise_in_splits_only_that_of_training_is_used(self, tmp_path, caplog):
        caplog.set_level("INFO")
        for split in ("tr", "cv", "tt"):
            write_noise(tmp_path / "noise" / split, (1.0,))
        options = {"speech_folder": write_speech(tmp_path / "speech", 2, 1), "noise_folder": tmp_path / "noise"}
        manifest = write_manifest(tmp_path / "tr.csv")
        prepare_mixing(True, manifest, tmp_path, tmp_path, workers=1, **options)
        (path,) = pd.read_csv(tmp_path / "mixing_noise.csv")["path"]
        assert path.endswith("noise/tr/n0.wav") and "only tr/ is used" in caplog.text
        (tmp_path / "noise" / "tr" / "n0.wav").unlink()
        with pytest.raises(InputError, match="holds the splits of a corpus, and no tr/ for training"):
            prepare_mixing(True, manifest, tmp_path, tmp_path, workers=1, **options)
        write_noise(tmp_path / "noise" / "more", (1.0,))
        prepare_mixing(True, manifest, tmp_path, tmp_path, workers=1, **options)
        assert len(pd.read_csv(tmp_path / "mixing_noise.csv")) == 3

    @pytest.mark.parametrize("part", ["si_tr_s", "si_et_05", "train-clean-100", "test-other"])
    def test_a_part_of_a_corpus_is_no_speaker(self, tmp_path, part):
        speech = write_speech(tmp_path / "corpus" / part, 2, 1).parent
        with pytest.raises(InputError, match=f"speech_folder .*{part} is a part of a corpus.* such as .*/{part}'"):
            prepare_pools(tmp_path, noise=False, speech_folder=speech)
        prepare_pools(tmp_path, noise=False, speech_folder=speech / part)

    def test_a_second_microphone_is_not_a_second_utterance(self, tmp_path):
        speech = write_speech(tmp_path / "speech", 2, 2)
        for path in speech.rglob("u*0.wav"):
            shutil.copy(path, path.with_suffix(".wv1"))
            path.rename(path.with_suffix(".wv2"))
        (speech / "spk0" / "u01.wav").rename(speech / "spk0" / "u01.wv2")
        prepare_pools(tmp_path, noise=False, speech_folder=speech)
        found = [os.path.basename(path) for path in pd.read_csv(tmp_path / "mixing_speech.csv")["path"]]
        assert found == ["u00.wv1", "u01.wv2", "u10.wv1", "u11.wav"]

    def test_one_recording_has_one_speaker(self, tmp_path):
        write_speech(tmp_path / "speech", 2, 1)
        rows = "path,spk\nspeech/spk0/u00.wav,ann\nspeech/spk0/u00.wav,bob\nspeech/spk1/u10.wav,cat\n"
        (tmp_path / "list.csv").write_text(rows)
        with pytest.raises(InputError, match=r"list.csv: .*speech/spk0/u00.wav is given to the speakers ann and bob"):
            prepare_pools(tmp_path, noise=False, speech_folder=tmp_path / "list.csv")

    @pytest.mark.parametrize("distribution", ["wham", "speechbrain", "librimix"])
    def test_silence_is_never_drawn(self, tmp_path, distribution):
        speech = write_speech(tmp_path / "speech", num_speakers=2, num_utterances=1)
        for name in ("spk0", "spk1"):
            soundfile.write(speech / name / "silent.wav", np.zeros(3 * RATE), RATE)
        pools = prepare_pools(tmp_path, noise=False, speech_folder=speech)
        levels = LEVELS[distribution]
        pool = SpeechPool.read(pools["speech_table"], levels.measures, num_spks=2, min_seconds=0)
        assert pool.names == ["u00", "u10"]

    def test_silence_and_damage(self, tmp_path):
        speech = write_speech(tmp_path / "speech", num_speakers=2)
        soundfile.write(speech / "spk0" / "silent.wav", np.zeros(RATE), RATE)
        prepare_pools(tmp_path, noise=False, speech_folder=speech)
        levels = pd.read_csv(tmp_path / "mixing_speech.csv").set_index("path")["active_level"]
        assert levels[str(speech / "spk0" / "silent.wav")] == -math.inf
        (speech / "spk1" / "broken.wav").write_bytes(b"no audio")
        with pytest.raises(InputError, match=r"broken.wav: can't be read as audio"):
            prepare_pools(tmp_path / "again", noise=False, speech_folder=speech)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("folder", ["speech", "noise"])
    def test_recordings_that_are_not_finite_are_named(self, tmp_path, folder, value):
        options = {"speech_folder": write_speech(tmp_path / "speech", 2, 1), "workers": 1}
        options["noise_folder"] = write_noise(tmp_path / "noise", seconds=(1.0,))
        manifest, signal = write_manifest(tmp_path / "tr.csv"), np.full(RATE, 0.1)
        signal[100] = value
        path = tmp_path / folder / {"speech": "spk1/x.wav", "noise": "x.wav"}[folder]
        soundfile.write(path, signal, RATE, subtype="FLOAT")
        with pytest.raises(InputError, match=rf"{path}: has samples of NaN or infinity. Repair or remove it"):
            prepare_mixing(True, manifest, tmp_path, tmp_path, **options)

    @pytest.mark.parametrize("content, message", [(b"no audio", "can't be read as audio"), (None, "has no samples")])
    def test_noise_that_is_none(self, tmp_path, content, message):
        noise = write_noise(tmp_path / "noise", seconds=(1.0,))
        if content:
            (noise / "x.wav").write_bytes(content)
        else:
            soundfile.write(noise / "x.wav", np.zeros(0), RATE)
        manifest, speech = write_manifest(tmp_path / "tr.csv"), write_speech(tmp_path / "speech", 2, 1)
        with pytest.raises(InputError, match=rf"x.wav: {message}"):
            prepare_mixing(True, manifest, tmp_path, tmp_path, speech_folder=speech, noise_folder=noise)


class TestAgain:
    """Existing files are not computed again, and results of an interrupted run are kept."""

    def measured(self, monkeypatch):
        seen = []
        measure = source_tables._measure_speech
        monkeypatch.setattr(
            source_tables, "_measure_speech", lambda recording: seen.append(recording) or measure(recording)
        )
        return seen

    def test_the_same_recordings(self, tmp_path, monkeypatch):
        seen = self.measured(monkeypatch)
        speech = write_speech(tmp_path / "speech")
        for _ in range(2):
            prepare_pools(tmp_path, noise=False, speech_folder=speech)
        assert len(seen) == 15
        soundfile.write(speech / "spk0" / "new.wav", np.ones(RATE), RATE)
        prepare_pools(tmp_path, noise=False, speech_folder=speech)
        assert len(seen) == 31 and len(pd.read_csv(tmp_path / "mixing_speech.csv")) == 16

    def test_other_levels_of_the_same_size(self, tmp_path):
        speech = write_speech(tmp_path / "speech")
        prepare_pools(tmp_path, speech_folder=speech)
        before = pd.read_csv(tmp_path / "mixing_speech.csv"), np.load(tmp_path / "mixing_noise.energies.npy")
        for path in [*speech.rglob("*.wav"), *(tmp_path / "noise").iterdir()]:
            signal, rate = soundfile.read(path, dtype="float32")
            soundfile.write(path, signal / 4, rate, subtype="FLOAT")
        manifest = tmp_path / "tr.csv"
        folders = {"speech_folder": speech, "noise_folder": tmp_path / "noise", "workers": 1}
        prepare_mixing(True, manifest, tmp_path, tmp_path, **folders)
        after = pd.read_csv(tmp_path / "mixing_speech.csv"), np.load(tmp_path / "mixing_noise.energies.npy")
        np.testing.assert_allclose(before[0]["loudness"] - after[0]["loudness"], 12.04, atol=0.01)
        np.testing.assert_allclose(before[1], 16 * after[1], rtol=1e-4)

    def test_killed(self, tmp_path, monkeypatch):
        speech = write_speech(tmp_path / "speech")
        prepare_pools(tmp_path / "whole", noise=False, speech_folder=speech)
        seen = self.measured(monkeypatch)
        original = source_tables._measure_speech
        monkeypatch.setattr(
            source_tables, "_measure_speech", lambda recording: original(recording) if len(seen) < 9 else 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            prepare_pools(tmp_path, noise=False, speech_folder=speech)
        assert not (tmp_path / "mixing_speech.csv").exists()
        with open(tmp_path / "mixing_speech.partial", "a") as file:
            file.write('["half a li')
        monkeypatch.setattr(source_tables, "_measure_speech", original)
        prepare_pools(tmp_path, noise=False, speech_folder=speech)
        assert len(seen) == 15
        expected = (tmp_path / "whole" / "mixing_speech.csv").read_text()
        assert (tmp_path / "mixing_speech.csv").read_text() == expected
        assert not (tmp_path / "mixing_speech.partial").exists()

    def test_results_under_another_key_are_discarded(self, tmp_path):
        resumable(tmp_path / "x", "one", [1, 2, 3], lambda items: map(str, items))
        assert resumable(tmp_path / "x", "two", [4], lambda items: map(abs, items)) == [4]


class TestRooms:
    def test_responses_are_the_published_ones_at_the_lower_rate(self, tmp_path):
        """A tone in the pass band comes out of both alike, in amplitude and in time."""
        room_cache.compute_rooms(tmp_path, num_rooms=2, num_spks=3, seed=7, workers=1)
        room = draw_room(np.random.default_rng([7, 1]), 3)
        for kind, anechoic in enumerate((True, False)):
            expected = impulse_responses(room, anechoic=anechoic)[:, 0]
            found = np.load(tmp_path / "000001.npy")[:, kind]
            assert found.dtype == np.float32 and found.shape == (3, -(-expected.shape[1] // 2))
            size = 2**16
            spectra = np.fft.rfft(expected, size)[:, : size // 4 + 1], np.fft.rfft(found, size // 2)
            passed = slice(0, int(0.42 * size / 2))  # of 4 kHz, what the resampling leaves untouched
            error = np.abs(spectra[0] - spectra[1])[:, passed].max()
            assert error < 0.02 * np.abs(spectra[0]).max()

    def test_killed_and_changed(self, tmp_path, monkeypatch):
        computed = []
        original = room_cache._compute
        monkeypatch.setattr(
            room_cache, "_compute", lambda *arguments: computed.append(arguments[-1][0]) or original(*arguments)
        )
        options = {"num_spks": 2, "workers": 1, "seed": 1}
        room_cache.compute_rooms(tmp_path, 3, **options)
        assert computed == [0, 1, 2]
        first = (tmp_path / "000001.npy").read_bytes()
        room_cache.compute_rooms(tmp_path, 3, **options)
        (tmp_path / "000001.npy").unlink()  # as if killed before it
        (tmp_path / "rooms.json").unlink()
        room_cache.compute_rooms(tmp_path, 3, **options)
        assert computed == [0, 1, 2, 1] and (tmp_path / "000001.npy").read_bytes() == first
        (tmp_path / "rooms.json").unlink()  # unfinished: nobody uses them
        room_cache.compute_rooms(tmp_path, 2, **{**options, "seed": 2})
        assert computed[4:] == [0, 1] and not (tmp_path / "000002.npy").exists()
        assert json.loads((tmp_path / "rooms.json").read_text())["num_rooms"] == 2

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"num_rooms": 3}, "num_rooms 2 there, 3 now"),
            ({"num_spks": 3}, "num_spks 2 there, 3 now"),
            ({"sample_rate": 16000}, "sample_rate 8000 there, 16000 now"),
            ({"seed": 9}, "another seed, rooms_csv or version"),
        ],
    )
    def test_finished_rooms_of_other_settings_are_kept(self, tmp_path, changes, told):
        """Another training may draw from them."""
        options = {"num_rooms": 2, "workers": 1}
        room_cache.compute_rooms(tmp_path, **options)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        message = rf"holds 2 simulated rooms of other settings \({told}\).*Give another rir_folder"
        with pytest.raises(InputError, match=message):
            room_cache.compute_rooms(tmp_path, **{**options, **changes})
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    @pytest.mark.parametrize("num_rooms", [0, -1, 2.0, True])
    def test_no_number_of_rooms(self, tmp_path, num_rooms):
        with pytest.raises(InputError, match=f"num_rooms {num_rooms}: give a whole number of one or more"):
            room_cache.compute_rooms(tmp_path / "rooms", num_rooms)
        assert not (tmp_path / "rooms").exists()

    @pytest.mark.parametrize("name", ["000001.npy", "rir.wav", "rooms.json"])
    def test_files_of_others_are_kept(self, tmp_path, name):
        (tmp_path / name).write_text("[]")
        message = rf"rir_folder '.*' holds {name}, and no rooms.json of rooms that were simulated here.*give a new or"
        with pytest.raises(InputError, match=message):
            room_cache.compute_rooms(tmp_path, 2, workers=1)
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_a_finished_folder_may_lie_where_nothing_can_be_written(self, tmp_path):
        room_cache.compute_rooms(tmp_path / "rooms", 2, workers=1)
        with read_only(tmp_path / "rooms"):
            room_cache.compute_rooms(tmp_path / "rooms", 2, workers=1)
        (tmp_path / "rooms" / "000001.npy").unlink()
        with (
            read_only(tmp_path / "rooms"),
            pytest.raises(InputError, match="rir_folder '.*' can't be written \\(Permission denied\\): give a"),
        ):
            room_cache.compute_rooms(tmp_path / "rooms", 2, workers=1)

    def test_published_rooms(self, tmp_path):
        rooms = {f"m{n}.wav": draw_room(np.random.default_rng(n)) for n in range(2)}
        (tmp_path / "reverb_params_tr.csv").write_text(rooms_text(rooms))
        table = tmp_path / "reverb_params_tr.csv"
        room_cache.compute_rooms(tmp_path / "rooms", 99, sample_rate=16000, rooms_csv=table, workers=1)
        found = np.load(tmp_path / "rooms" / "000001.npy")[:, 1]
        expected, other = (impulse_responses(rooms["m1.wav"], sinc=sinc)[:, 0] for sinc in ("table", "exact"))
        np.testing.assert_allclose(found, expected, atol=1e-7)
        assert np.abs(found - other).max() > 1e-5

    def test_mean_reverberation_time(self):
        times = [draw_room(np.random.default_rng([0, n])).t60 for n in range(4000)]
        assert np.mean(times) == pytest.approx(0.56, abs=0.01)
