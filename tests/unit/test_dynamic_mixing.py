"""Dynamic mixing: purity, sums, and the distributions of what is drawn."""

import os
import pickle

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from scipy.signal import fftconvolve
from scipy.stats import kstest
from torch.utils.data import DataLoader

from data_prep.demo_corpus.mixture_tree import trim_silence
from data_prep.demo_corpus.voices import list_voices, synthesize
from data_prep.generate.room_cache import compute_rooms
from data_prep.manifests.source_tables import prepare_mixing
from mossformer_sb.data.augmentation import Augmentation
from mossformer_sb.data.datasets import SeparationBatch
from mossformer_sb.data.dynamic_mixing import FADE_SECONDS, DynamicMixtureDataset
from mossformer_sb.data.loudness import loudness, mean_amplitude
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.si_snr import si_snr
from tests.unit.mixing_pools import RATE, prepare_pools, stationary, write_manifest, write_rooms, write_speech

# Every test has a fixed seed, so a p-value below this says that the distribution is wrong, not that luck was bad.
SIGNIFICANCE = 0.01


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    return prepare_pools(tmp_path_factory.mktemp("pools"))


@pytest.fixture(scope="module")
def clean_pools(tmp_path_factory):
    return prepare_pools(tmp_path_factory.mktemp("clean"), num_spks=3, noise=False)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    return write_rooms(tmp_path_factory.mktemp("rooms"))


def dataset(pools, **options):
    return DynamicMixtureDataset(**{"segment": 1.0, "seed": 3, "mixtures_per_epoch": 600, **pools, **options})


def drawn(data, count=600):
    return [data.draw(index) for index in range(count)]


def follows(values, distribution, *parameters):
    result = kstest(values, distribution, parameters)
    assert result.pvalue > SIGNIFICANCE, result
    return True


class TestItems:
    def test_a_mixture_is_the_sum_of_its_parts(self, pools, rooms):
        everything = Augmentation("continuous", (0.9, 1.1), True, 0.2, 6.0, 0.3)
        for options in (
            {"level_distribution": "wham"},
            {"level_distribution": "librimix"},
            {"level_distribution": "speechbrain"},
            {"rir_folder": rooms},
        ):
            for augmentation in (None, everything):
                data = dataset(pools, augmentation=augmentation, **options)
                for index in range(40):
                    parts, item = data.draw(index), data[index]
                    total = parts.images.astype(np.float64).sum(0) + parts.noise
                    np.testing.assert_allclose(item.mixture, total, rtol=0, atol=1e-6)
                    np.testing.assert_array_equal(item.sources.T, parts.targets)
                    assert item.mixture.dtype == torch.float32 and np.isfinite(total).all()

    def test_speakers_always_differ(self, clean_pools):
        data = dataset(clean_pools, level_distribution="wsj0mix")
        for parts in drawn(data, 300):
            assert len(set(parts.speakers)) == 3
            assert all(f"u{speaker[3:]}" in parts.id for speaker in parts.speakers)

    def test_every_utterance_is_as_likely(self, clean_pools):
        data = dataset(clean_pools, level_distribution="wsj0mix")
        names, counts = np.unique([name for parts in drawn(data) for name in parts.id.split("_")], return_counts=True)
        assert len(names) == 15 and counts.min() > 85 and counts.max() < 155  # 120 expected

    def test_items_depend_on_seed_epoch_and_index_only(self, pools):
        one, two = dataset(pools), dataset(pools)
        two[5]  # what was drawn before does not matter
        assert torch.equal(one[4].mixture, two[4].mixture)
        assert not torch.equal(one[4].mixture[:100], one[5].mixture[:100])
        two.set_epoch(2)
        assert not torch.equal(one[4].mixture[:100], two[4].mixture[:100])
        assert not torch.equal(one[4].mixture[:100], dataset(pools, seed=4)[4].mixture[:100])
        two.set_epoch(0)
        assert torch.equal(one[4].mixture, pickle.loads(pickle.dumps(two))[4].mixture)

    @pytest.mark.parametrize("workers, context", [(1, "fork"), (4, "fork"), (1, "spawn"), (4, "forkserver")])
    def test_workers_make_the_same_items(self, pools, rooms, workers, context):
        data = dataset(pools, mixtures_per_epoch=8, rir_folder=rooms, augmentation=Augmentation("continuous"))
        loader = DataLoader(
            data, 2, collate_fn=SeparationBatch.collate, num_workers=workers, multiprocessing_context=context
        )
        alone = [SeparationBatch.collate([data[i], data[i + 1]]) for i in range(0, 8, 2)]
        for batch, expected in zip(loader, alone, strict=True):
            assert batch.ids == expected.ids
            assert torch.equal(batch.mixture, expected.mixture) and torch.equal(batch.sources, expected.sources)

    def test_crops_have_the_segments_length_or_the_shortest_utterances(self, pools, clean_pools):
        assert {parts.mixture.shape for parts in drawn(dataset(pools), 20)} == {(RATE,)}
        data = dataset(clean_pools, segment=None, level_distribution="wsj0mix")
        lengths = dict(zip(data.speech.names, data.speech.num_samples, strict=True))
        for parts in drawn(data, 50):
            assert len(parts.mixture) == min(lengths[name] for name in parts.id.split("_"))

    def test_crops_reach_both_ends(self, tmp_path):
        """Utterances that count their samples, and a segment that is four samples shorter."""
        for speaker in range(2):
            (tmp_path / "speech" / str(speaker)).mkdir(parents=True)
            ramp = np.arange(1, RATE + 1) / 2**15 * (-1) ** np.arange(RATE)
            soundfile.write(tmp_path / "speech" / str(speaker) / f"{speaker}.wav", ramp, RATE, subtype="FLOAT")
        pools = prepare_pools(tmp_path, noise=False, speech_folder=tmp_path / "speech")
        data = dataset(pools, level_distribution="wsj0mix", segment=(RATE - 4) / RATE)
        # The first sample as a part of the last one tells where the crop begins.
        firsts = {round(abs(p.targets[0, 0] / p.targets[0, -1]) * RATE) for p in drawn(data, 200)}
        assert firsts == {1, 2, 3, 4, 5}

    def test_other_rates_are_resampled(self, tmp_path):
        """A tone of 1000 Hz at 16 kHz stays one at 8 kHz."""
        time = np.arange(3 * 16000) / 16000
        for speaker in range(2):
            (tmp_path / "speech" / str(speaker)).mkdir(parents=True)
            soundfile.write(tmp_path / "speech" / str(speaker) / "a.wav", 0.1 * np.sin(2e3 * np.pi * time), 16000)
        data = dataset(
            prepare_pools(tmp_path, noise=False, speech_folder=tmp_path / "speech"), level_distribution="wsj0mix"
        )
        spectrum = np.abs(np.fft.rfft(data.draw(0).targets[0] * np.hanning(RATE)))
        assert spectrum.argmax() == 1000

    def test_short_noise_is_repeated_and_cuts_nothing(self, pools):
        data = dataset(pools, segment=2.0)
        lengths, smallest = set(), []
        for parts in drawn(data, 100):
            lengths.add(parts.targets.shape[1])
            frames = parts.noise[: len(parts.noise) // 800 * 800].reshape(-1, 800)
            smallest.append(np.sqrt((frames**2).mean(1)).min() / parts.noise.std())
        assert lengths == {2 * RATE} and min(smallest) > 0.4  # no gap anywhere

    def test_noise_that_is_shorter_than_a_fade_is_repeated(self, tmp_path):
        """Its ends overlap by half of it at most, so that it has no more energy where they do."""
        pools = prepare_pools(tmp_path)
        short = np.random.default_rng(3).standard_normal(round(0.5 * FADE_SECONDS * RATE)).astype(np.float32)
        table = pd.read_csv(pools["noise_table"])
        for path in table["path"]:
            soundfile.write(path.replace("$data_root", str(tmp_path)), 0.05 * short, RATE, subtype="FLOAT")
        table["num_samples"] = len(short)
        table.to_csv(pools["noise_table"], index=False)
        for energies in tmp_path.glob("*.energies.npy"):
            energies.unlink()
        for parts in drawn(dataset(pools), 5):
            assert parts.noise.shape == (RATE,) and parts.noise.any() and np.isfinite(parts.noise).all()

    def test_rates_of_rooms_and_noise(self, pools, rooms):
        data = dataset(pools, rir_folder=rooms, room_rate=0.5, noise_rate=0.25)
        items = drawn(data, 200)
        noisy = sum(bool(parts.noise.any()) for parts in items)
        roomy = sum(not np.array_equal(parts.targets, parts.images) for parts in items)
        assert 30 < noisy < 70 and 75 < roomy < 125


class TestLevels:
    def test_wsj0mix(self, clean_pools):
        items = drawn(dataset(clean_pools, level_distribution="wsj0mix"))
        levels = 20 * np.log10([parts.targets.std(axis=1) for parts in items])
        follows(levels[:, 0] - levels[:, 1], "uniform", 0, 5)
        np.testing.assert_allclose(levels[:, 2], levels[:, :2].mean(axis=1), atol=0.4)
        peaks = [max(np.abs(parts.mixture).max(), np.abs(parts.targets).max()) for parts in items]
        np.testing.assert_allclose(peaks, 0.9, rtol=1e-5)

    def test_wham(self, pools):
        items = drawn(dataset(pools, level_distribution="wham"))
        speech = np.array([[loudness(source, RATE) for source in parts.targets] for parts in items])
        noise = np.array([loudness(parts.noise, RATE) for parts in items])
        follows(speech[:, 0] - speech[:, 1], "uniform", 0, 5)
        follows(speech[:, 0] - noise, "uniform", -3, 9)
        assert max(np.abs(parts.mixture).max() for parts in items) <= 0.95 + 1e-6
        assert len({round(level) for level in noise}) > 3  # as recorded

    @pytest.mark.parametrize("levels", ["wham", "librimix"])
    def test_looked_up_loudness_of_noise_is_that_of_the_stretch(self, pools, levels, monkeypatch):
        """What is resampled or repeated is measured."""
        looked_up, found = dataset(pools, level_distribution=levels), []
        for number in range(60):
            noise, level = looked_up._noise(looked_up.rng(number), RATE)
            if level is not None:
                found.append(abs(level - loudness(noise, RATE)))
        assert len(found) > 30 and max(found) < 5e-3
        energies = type(looked_up.noise.energies)
        monkeypatch.setattr(energies, "loudness", lambda *_: pytest.fail("was looked up"))
        resampled = dataset(pools, augmentation=Augmentation("continuous", perturb_noise=True))
        numbers = [n for n in range(20) if resampled.noise.num_samples[resampled.noise.draw(resampled.rng(n))] > RATE]
        assert len(numbers) > 10 and {resampled._noise(resampled.rng(n), RATE)[1] for n in range(20)} == {None}
        assert {dataset(pools)._noise(resampled.rng(n), 6 * RATE)[1] for n in range(5)} == {None}

    def test_librimix(self, pools):
        items = drawn(dataset(pools, level_distribution="librimix"))
        for speaker in range(2):
            follows([loudness(parts.targets[speaker], RATE) for parts in items], "uniform", -33, 8)
        follows([loudness(parts.noise, RATE) for parts in items], "uniform", -38, 8)

    def test_speechbrain(self, pools):
        items = drawn(dataset(pools, level_distribution="speechbrain"))
        levels = np.array([[mean_amplitude(source) for source in parts.targets] for parts in items])
        follows(levels[:, 1] - levels[:, 0], "norm", -2.51, 2.66)
        for parts in items[:50]:
            assert np.abs(parts.noise).mean() == pytest.approx(np.abs(parts.targets).mean(), rel=1e-5)

    def test_imbalance(self, pools):
        items = drawn(dataset(pools, level_distribution="speechbrain", augmentation=Augmentation(level_imbalance=12.0)))
        levels = np.array([[mean_amplitude(source) for source in parts.targets] for parts in items])
        plain = drawn(dataset(pools, level_distribution="speechbrain"))
        expected = np.array([[mean_amplitude(source) for source in parts.targets] for parts in plain])
        spread = (levels[:, 1] - levels[:, 0]).var() - (expected[:, 1] - expected[:, 0]).var()
        assert spread == pytest.approx(12**2 / 3, rel=0.15)  # of U(0, 12) with a random sign

    def test_single_speakers(self, pools):
        items = drawn(dataset(pools, augmentation=Augmentation(single_speaker_rate=0.3)))
        silent = np.array([[not source.any() for source in parts.targets] for parts in items])
        assert 145 < silent.any(axis=1).sum() < 215 and not silent.all(axis=1).any()
        assert silent[:, 0].sum() > 50 and silent[:, 1].sum() > 50
        alone = [(parts, which) for parts, which in zip(items, silent, strict=True) if which.any()]
        ratios = [loudness(parts.mixture - parts.noise, RATE) - loudness(parts.noise, RATE) for parts, _ in alone]
        follows(ratios, "uniform", -3, 9)


class TestRooms:
    def test_both_speakers_are_in_one_room_and_targets_are_its_direct_paths(self, pools, rooms):
        """Taken apart again: the images are those of one of the rooms, applied to the dry speech."""
        wet = dataset(pools, rir_folder=rooms, noise_table=None, segment=None)
        responses = [np.load(path) for path in sorted(rooms.glob("*.npy"))]
        for index in range(8):
            parts = wet.draw(index)
            utterances = [
                soundfile.read(wet.speech.paths[wet.speech.names.index(name)])[0] for name in parts.id.split("_")
            ]
            found = []
            for room in responses:
                errors = []
                for speaker, (dry, target, image) in enumerate(
                    zip(utterances, parts.targets, parts.images, strict=True)
                ):
                    if len(dry) != len(target):
                        continue  # this one was cut at a random place
                    gain = None  # the same for both
                    for kind, signal in enumerate((target, image)):
                        expected = fftconvolve(dry, room[speaker, kind])[: len(signal)]
                        gain = gain or expected @ signal / (expected @ expected)
                        errors.append(np.abs(signal - gain * expected).max() / np.abs(signal).max())
                found.append(max(errors))
            fitting, other, *_ = sorted(found)
            assert fitting < 1e-4 and other > 0.01

    def test_images_hold_the_reverberation_of_speech_before_the_crop(self, pools, rooms):
        """The tail of the room at the first sample of a crop is as loud as later on."""
        items = [dataset(pools, rir_folder=rooms, noise_table=None).draw(index) for index in range(60)]
        tails = np.stack([(parts.images - parts.targets) ** 2 for parts in items]).mean(axis=(0, 1))
        assert tails[:200].mean() > 0.3 * tails[4000:].mean()

    def test_direct_paths_are_aligned_and_have_the_energy_of_the_dry_speech(self, pools, rooms):
        wet = dataset(pools, rir_folder=rooms)
        for parts in drawn(wet, 20):
            for target, image in zip(parts.targets, parts.images, strict=True):
                lags = fftconvolve(image, target[::-1])
                assert lags.argmax() == len(target) - 1
        levels = [20 * np.log10(p.targets[0].std() / p.targets[1].std()) for p in drawn(wet, 300)]
        follows(levels, "uniform", 0, 5)

    def test_reverberant_targets(self, pools, rooms):
        parts = dataset(pools, rir_folder=rooms, target="reverb").draw(0)
        np.testing.assert_array_equal(parts.targets, parts.images)


@pytest.mark.slow
def test_input_of_whamr(tmp_path):
    """Speech, noise and rooms as published: the mixture is as far from its targets as in WHAMR!, -6.1 dB."""
    pytest.importorskip("espeakng_loader")
    rng = np.random.default_rng(0)
    for number, voice in enumerate(list_voices()[::9]):
        (tmp_path / "speech" / str(number)).mkdir(parents=True)
        for text in ("The farmer saw a river behind the tower", "My cousin painted seven windows on a Sunday"):
            speech = trim_silence(synthesize(text, voice, sample_rate=16000), 16000)
            soundfile.write(tmp_path / "speech" / str(number) / f"{number}{len(text)}.wav", speech, 16000)
    (tmp_path / "city").mkdir()
    for number in range(8):  # as in streets and bars: less and less towards high frequencies, by 3 dB an octave
        spectrum = np.fft.rfft(rng.standard_normal(16 * RATE))
        spectrum *= np.maximum(np.arange(len(spectrum)), 600) ** -0.5
        noise = np.fft.irfft(spectrum)
        soundfile.write(tmp_path / "city" / f"{number}.wav", 0.03 * noise / noise.std(), RATE)
    compute_rooms(tmp_path / "rooms", num_rooms=30, seed=1)
    manifest = write_manifest(tmp_path / "tr.csv")
    prepare_mixing(
        True, manifest, tmp_path, tmp_path, speech_folder=tmp_path / "speech", noise_folder=tmp_path / "city"
    )
    tables = {"speech_table": tmp_path / "mixing_speech.csv", "noise_table": tmp_path / "mixing_noise.csv"}
    data = DynamicMixtureDataset(manifest, tmp_path, **tables, rir_folder=tmp_path / "rooms", segment=None)
    data.num_mixtures = 200
    scores = []
    for item in map(data.__getitem__, range(200)):
        mixture = item.mixture[None, :, None].expand(-1, -1, 2)
        scores.append(si_snr(mixture, item.sources[None]).mean().item())
    assert np.mean(scores) == pytest.approx(-6.1, abs=1.0)


class TestWrongInput:
    def test_too_few_speakers(self, tmp_path):
        pools = prepare_pools(tmp_path, speech_folder=write_speech(tmp_path / "speech", num_speakers=1))
        with pytest.raises(InputError, match=r"mixing_speech.csv: holds utterances of at least 1 s of 1 speakers"):
            dataset(pools)

    def test_short_and_silent_utterances_are_skipped(self, tmp_path):
        speech = write_speech(tmp_path / "speech", num_speakers=2)
        for name, signal in (("short", stationary(np.random.default_rng(0), 0.9)), ("silent", np.zeros(20000))):
            soundfile.write(speech / "spk0" / f"{name}.wav", signal, RATE)
        assert sorted(dataset(prepare_pools(tmp_path, speech_folder=speech)).speech.names) == [
            "u00", "u01", "u02", "u10", "u11", "u12"
        ]  # fmt: skip

    def test_an_utterance_is_long_enough_at_the_greatest_speed(self, tmp_path):
        speech = write_speech(tmp_path / "speech", num_speakers=2)
        for seconds in (1.04, 1.06):
            signal = stationary(np.random.default_rng(0), seconds)
            soundfile.write(speech / "spk0" / f"u{seconds}.wav", signal, RATE)
        pools = prepare_pools(tmp_path, speech_folder=speech)
        names = dataset(pools, augmentation=Augmentation("continuous", (0.95, 1.05))).speech.names
        assert "u1.06" in names and "u1.04" not in names
        assert "u1.04" in dataset(pools).speech.names

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"level_distribution": "loud"}, "level_distribution 'loud' is not known: choose one of wsj0mix"),
            (
                {"level_distribution": "wsj0mix"},
                "level_distribution 'wsj0mix' has no level for the noise in .*mixing_noise.csv",
            ),
            ({"segment": 0}, "segment 0: give seconds"),
            ({"target": "dry"}, "target 'dry' is not known: choose one of anechoic, reverb"),
            ({"mixtures_per_epoch": 0}, "mixtures_per_epoch 0: give a whole number of one or more"),
            ({"mixtures_per_epoch": 1e4}, "mixtures_per_epoch 10000.0: give a whole number of one or more"),
            ({"speech_table": "none.csv"}, "none.csv: there is no such table of recordings. Prepare the data first"),
            ({"rir_folder": "none"}, "rooms.json: can't be read .* start without --skip_prep"),
        ],
    )
    def test_arguments(self, pools, options, message):
        with pytest.raises(InputError, match=message):
            dataset(pools, **options)

    def test_table_lacks_a_column(self, pools, tmp_path):
        table = tmp_path / "speech.csv"
        table.write_text("path,spk\na.wav,a\n")
        with pytest.raises(InputError, match=r"speech.csv: column num_samples, .* is missing; found path, spk"):
            dataset(pools, speech_table=table)

    def test_rooms_of_another_kind(self, pools, rooms, clean_pools):
        with pytest.raises(InputError, match="has rooms for 2 speakers at 8000 Hz; needed 3 at 8000"):
            dataset(clean_pools, level_distribution="wsj0mix", rir_folder=rooms)

    def test_a_damaged_room_is_named(self, pools, tmp_path):
        compute_rooms(tmp_path, num_rooms=1, workers=1)
        os.truncate(tmp_path / "000000.npy", 200)
        with pytest.raises(InputError, match=r"000000.npy: can't be read .* Delete it"):
            dataset(pools, rir_folder=tmp_path)[0]

    def test_there_is_no_item_beyond_the_last(self, pools):
        with pytest.raises(IndexError, match="item 600 of 600"):
            dataset(pools)[600]
