"""Pitch of utterances, and mixtures of speakers whose pitch is similar."""

import numpy as np
import pandas as pd
import pytest
import soundfile

from data_prep.manifests import source_tables
from mossformer_sb.data.augmentation import Augmentation
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.data.pitch import median_pitch
from mossformer_sb.data.source_pools import SpeechPool
from mossformer_sb.errors import InputError
from tests.unit.mixing_pools import RATE, prepare_pools, stationary

PITCHES = {"ann": 210.0, "bea": 214.0, "cat": 206.0, "dan": 110.0, "eve": 320.0, "fay": 112.0}  # Hz; eve's is her own


def voice(pitch, seconds=1.5, rate=RATE, level=0.05):
    """Harmonics of a pitch that glides by 2 %, as those of a sustained vowel."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * pitch * (time + 0.02 * np.sin(2 * np.pi * time) / (2 * np.pi))
    harmonics = np.arange(1, int(0.45 * rate / pitch))
    return level * (np.cos(phase[:, None] * harmonics) / harmonics).sum(1)


def write_voices(root, pitches=PITCHES):
    for name, pitch in pitches.items():
        (root / name).mkdir(parents=True)
        for number, factor in enumerate((0.98, 1.0, 1.02)):
            soundfile.write(root / name / f"{name}{number}.wav", voice(factor * pitch), RATE)
    return root


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    root = tmp_path_factory.mktemp("pools")
    return prepare_pools(root, noise=False, speech_folder=write_voices(root / "speech"), similar_pitch_rate=0.5)


def dataset(pools, **options):
    return DynamicMixtureDataset(**{"segment": 1.0, "seed": 3, "mixtures_per_epoch": 150, **pools, **options})


class TestPitch:
    @pytest.mark.parametrize("rate", [8000, 16000, 44100])
    @pytest.mark.parametrize("pitch", [75, 100, 125, 180, 240, 300, 380])
    def test_of_a_vowel(self, pitch, rate):
        assert median_pitch(voice(pitch, rate=rate), rate) == pytest.approx(pitch, rel=0.03)

    def test_does_not_depend_on_level_or_pauses(self):
        signal = np.concatenate([np.zeros(RATE), voice(150), 1e-4 * stationary(np.random.default_rng(0), 3.0)])
        assert median_pitch(signal, RATE) == median_pitch(0.01 * signal, RATE) == pytest.approx(150, rel=0.02)

    @pytest.mark.parametrize("signal", [np.zeros(RATE), np.zeros(10), np.random.default_rng(0).standard_normal(RATE)])
    def test_silence_and_noise_have_none(self, signal):
        assert np.isnan(median_pitch(signal, RATE))


class TestMixtures:
    def similar(self, data):
        """For each example, whether its speakers' pitches are within 10 %, at their speeds."""
        for index in range(len(data)):
            first, second = (np.log(median_pitch(source, RATE)) for source in data.draw(index).targets)
            yield abs(first - second) < 0.11

    def test_speakers_have_similar_pitch(self, pools):
        data = dataset(pools, similar_pitch_rate=1.0, mixtures_per_epoch=60)
        drawn = [data.draw(index).speakers for index in range(len(data))]
        assert all(first != second for first, second in drawn)
        assert all(same for same, (first, _) in zip(self.similar(data), drawn, strict=True) if first != "eve")
        # Nobody's pitch is similar to eve's.
        assert {second for first, second in drawn if first == "eve"} >= {"ann", "dan"}

    def test_at_their_speeds(self, tmp_path):
        pitches = {f"p{number:02d}": 90 * 1.05**number for number in range(20)}
        pools = prepare_pools(
            tmp_path,
            noise=False,
            speech_folder=write_voices(tmp_path / "speech", pitches),
            similar_pitch_rate=1.0,
        )
        augmentation = Augmentation("continuous", (0.8, 1.2))
        data = dataset(pools, similar_pitch_rate=1.0, augmentation=augmentation, mixtures_per_epoch=60)
        first = [pitches[data.draw(index).speakers[0]] for index in range(len(data))]
        alike = [same for same, pitch in zip(self.similar(data), first, strict=True) if 135 < pitch < 150]
        assert len(alike) > 5 and all(alike)

    def test_rate(self, pools):
        shares = {rate: np.mean(list(self.similar(dataset(pools, similar_pitch_rate=rate)))) for rate in (0.0, 0.5)}
        # With two of three speakers in a group, a third of all pairs are similar by chance, or less.
        assert shares[0.0] < 0.35 and shares[0.5] == pytest.approx((shares[0.0] + 5 / 6) / 2, abs=0.1)

    def test_three_speakers_differ(self, pools):
        pool = SpeechPool.read(pools["speech_table"], (), 3, 0.0, with_pitch=True)
        rng = np.random.default_rng(0)
        for _ in range(100):
            chosen = pool.with_similar_pitch(rng, pool.draw(rng, 3), [1.0] * 3)
            assert len(set(pool.codes[chosen])) == 3
            if pool.speakers[chosen[0]] in ("ann", "bea", "cat"):
                assert {pool.speakers[number] for number in chosen} == {"ann", "bea", "cat"}

    def test_utterances_without_pitch_are_mixed_as_before(self, pools):
        pool = SpeechPool.read(pools["speech_table"], (), 2, 0.0, with_pitch=True)
        pool.pitches[:] = np.nan
        assert pool.with_similar_pitch(np.random.default_rng(0), np.array([0, 5]), [1.0, 1.0]).tolist() == [0, 5]


class TestFile:
    def test_is_that_of_the_usable_utterances(self, tmp_path):
        speech = write_voices(tmp_path / "speech")
        soundfile.write(speech / "ann" / "ann0.wav", np.zeros(RATE), RATE)
        pools = prepare_pools(tmp_path, noise=False, speech_folder=speech, similar_pitch_rate=1.0)
        pool = SpeechPool.read(pools["speech_table"], (), 2, 0.0, with_pitch=True)
        assert "ann0" not in pool.names and len(pool.names) == len(pool.pitches) == 17
        for name, pitch in zip(pool.speakers, pool.pitches, strict=True):
            assert pitch == pytest.approx(PITCHES[name], rel=0.05)

    def test_is_measured_once_and_only_if_needed(self, tmp_path, monkeypatch):
        measured = []
        original = source_tables._measure_pitch
        monkeypatch.setattr(source_tables, "_measure_pitch", lambda path: measured.append(path) or original(path))
        speech = write_voices(tmp_path / "speech")
        for rate, count in ((0.0, 0), (0.3, 18), (1.0, 18)):
            prepare_pools(tmp_path, noise=False, speech_folder=speech, similar_pitch_rate=rate)
            assert len(measured) == count
        soundfile.write(speech / "ann" / "ann3.wav", voice(205), RATE)
        prepare_pools(tmp_path, noise=False, speech_folder=speech, similar_pitch_rate=1.0)
        assert len(measured) == 18 + 19 and len(pd.read_csv(tmp_path / "mixing_speech.csv")) == 19

    def test_is_missing_or_of_other_utterances(self, tmp_path):
        pools = prepare_pools(tmp_path, noise=False, speech_folder=write_voices(tmp_path / "speech"))
        with pytest.raises(
            InputError, match=r"pitch.npy: there is no such file, and similar_pitch_rate needs .*skip_prep"
        ):
            dataset(pools, similar_pitch_rate=0.5)
        path = tmp_path / "mixing_speech.pitch.npy"
        np.save(path, np.ones(17))
        with pytest.raises(
            InputError, match=r"pitch.npy: holds an array of shape \(17,\); needed one .* 18 utterances"
        ):
            dataset(pools, similar_pitch_rate=0.5)
        path.write_bytes(b"none")
        with pytest.raises(InputError, match=r"pitch.npy: can't be read as pitches .*Delete it, and prepare"):
            dataset(pools, similar_pitch_rate=0.5)

    def test_rate_is_a_probability(self, pools):
        with pytest.raises(InputError, match=r"similar_pitch_rate 1.5: give a probability, from 0 to 1"):
            dataset(pools, similar_pitch_rate=1.5)

    def test_those_of_another_table_are_removed(self, tmp_path):
        """Otherwise they would be read after --skip_prep."""
        prepare_pools(tmp_path, noise=False, speech_folder=write_voices(tmp_path / "speech"), similar_pitch_rate=1.0)
        others = write_voices(tmp_path / "others", {name: 2 * pitch for name, pitch in PITCHES.items()})
        pools = prepare_pools(tmp_path, noise=False, speech_folder=others)
        with pytest.raises(InputError, match="similar_pitch_rate needs the pitch of all utterances. Prepare the data"):
            SpeechPool.read(pools["speech_table"], (), 2, 0.0, with_pitch=True)
