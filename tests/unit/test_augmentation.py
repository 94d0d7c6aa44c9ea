"""Augmentation alone, and of static data."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from scipy.stats import kstest

from mossformer_sb.data.augmentation import Augmentation, shift
from mossformer_sb.data.datasets import AugmentedMixtureDataset, MixtureDataset
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.data.training_data import training_data
from mossformer_sb.errors import InputError
from tests.unit.mixing_pools import RATE, prepare_pools, stationary

TONES = {"s1": 500, "s2": 1000, "noise": 1700}  # Hz


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Mixtures of tones that sound all the time."""
    root = tmp_path_factory.mktemp("corpus")
    time = np.arange(3 * RATE) / RATE
    rows = []
    for number in range(3):
        phases = np.random.default_rng(number).uniform(0, 6, len(TONES))
        signals = {
            name: 0.1 * np.sin(2 * np.pi * tone * time + phase)
            for (name, tone), phase in zip(TONES.items(), phases, strict=True)
        }
        signals["mix"] = sum(signals.values())
        row = {"ID": str(number), "duration": 3.0, "sample_rate": RATE}
        for name in ("mix", *TONES):
            soundfile.write(root / f"{number}_{name}.wav", signals[name], RATE, subtype="FLOAT")
            row[f"{name}_wav"] = f"$data_root/{number}_{name}.wav"
        rows.append(row)
    pd.DataFrame(rows).to_csv(root / "tr.csv", index=False)
    facts(root, True)
    return root


def facts(root, is_sum):
    (root / "tr.json").write_text(json.dumps({"mixture_is_sum": is_sum}))


def dataset(corpus, seed=5, segment=1.0, **augmentation):
    return training_data(
        corpus / "tr.csv", corpus, segment=segment, seed=seed, augmentation=Augmentation(**augmentation)
    )


def frequency(signal):
    size = 16 * len(signal)
    return np.abs(np.fft.rfft(signal * np.hanning(len(signal)), size)).argmax() * RATE / size


def items_of(data, epochs):
    for epoch in range(epochs):
        data.set_epoch(epoch)
        for index in range(len(data)):
            yield data[index]


class TestWhichDataset:
    def test_each_key_counts_by_itself(self, corpus):
        assert type(dataset(corpus)) is MixtureDataset
        assert type(dataset(corpus, speed_range=(0.9, 1.1), perturb_noise=True)) is MixtureDataset
        for key, value in {
            "speed_perturb": "discrete",
            "random_shift": 0.1,
            "level_imbalance": 3.0,
            "single_speaker_rate": 0.1,
        }.items():
            assert type(dataset(corpus, **{key: value})) is AugmentedMixtureDataset

    def test_dynamic(self, tmp_path):
        pools = prepare_pools(tmp_path)
        data = training_data(**pools, segment=1.0, dynamic_mixing=True, level_distribution="wham")
        assert isinstance(data, DynamicMixtureDataset) and len(data) == 50


class TestSpeed:
    def test_each_speaker_has_its_own_and_noise_none(self, corpus):
        speeds = [[], []]
        for item in items_of(dataset(corpus, speed_perturb="discrete"), 40):
            noise = item.mixture - item.sources.sum(1)
            assert frequency(noise.numpy()) == pytest.approx(1700, abs=1)
            for found, tone, source in zip(speeds, (500, 1000), item.sources.T.numpy(), strict=True):
                found.append(round(frequency(source) / tone, 2))
        assert set(speeds[0]) == set(speeds[1]) == {0.95, 1.0, 1.05}
        assert min(speeds[0].count(speed) for speed in set(speeds[0])) > 25  # 40 expected
        assert speeds[0] != speeds[1]

    def test_noise_too(self, corpus):
        data = dataset(corpus, speed_perturb="discrete", perturb_noise=True)
        found = {
            round(frequency((item.mixture - item.sources.sum(1)).numpy()) / 1700, 2) for item in items_of(data, 20)
        }
        assert found == {0.95, 1.0, 1.05}

    def test_continuous(self, corpus):
        data = dataset(corpus, speed_perturb="continuous", speed_range=(0.8, 1.2))
        speeds = [frequency(item.sources[:, 1].numpy()) / 1000 for item in items_of(data, 60)]
        assert kstest(speeds, "uniform", (0.8, 0.4)).pvalue > 0.01

    def test_whole_recordings_end_with_the_fastest(self, corpus):
        lengths = {len(item.mixture) for item in items_of(dataset(corpus, segment=None, speed_perturb="discrete"), 20)}
        assert lengths == {round(3 * RATE / 1.05 - 0.5), 3 * RATE}  # slower ones are not longer than the noise

    def test_dynamic_mixing_has_it_too(self, tmp_path):
        for speaker, tone in enumerate((500, 1000)):
            (tmp_path / "speech" / str(speaker)).mkdir(parents=True)
            signal = 0.1 * np.sin(2 * np.pi * tone * np.arange(3 * RATE) / RATE)
            soundfile.write(tmp_path / "speech" / str(speaker) / f"{tone}.wav", signal, RATE, subtype="FLOAT")
        pools = prepare_pools(tmp_path, noise=False, speech_folder=tmp_path / "speech")
        data = DynamicMixtureDataset(
            **pools, segment=1.0, augmentation=Augmentation("discrete"), level_distribution="wsj0mix"
        )
        found = set()
        for parts in map(data.draw, range(50)):
            for name, source in zip(parts.id.split("_"), parts.targets, strict=True):
                found.add(round(frequency(source) / int(name), 2))
        assert found == {0.95, 1.0, 1.05}


class TestShift:
    def test_does_not_wrap(self):
        signal = np.arange(1, 7).reshape(2, 3)
        assert shift(signal, 1).tolist() == [[0, 1, 2], [0, 4, 5]]
        assert shift(signal, -2).tolist() == [[3, 0, 0], [6, 0, 0]]
        assert shift(signal, 3).tolist() == shift(signal, -4).tolist() == [[0, 0, 0], [0, 0, 0]]

    def test_works_by_itself_for_each_speaker(self, corpus):
        shifts = []
        for item in items_of(dataset(corpus, random_shift=0.25), 30):
            for source in item.sources.T.numpy():
                sounding = np.flatnonzero(np.abs(source) > 1e-4)
                shifts.append(sounding[0] - (len(source) - 1 - sounding[-1]))
            noise = item.mixture - item.sources.sum(1)
            assert noise.abs().max() > 0.09 and frequency(noise.numpy()) == pytest.approx(1700, abs=1)
        assert min(shifts) < -1500 and max(shifts) > 1500 and max(np.abs(shifts)) <= 2001


class TestLevels:
    def test_imbalance_keeps_one_speaker(self, corpus):
        levels = []
        for item in items_of(dataset(corpus, level_imbalance=10.0), 100):
            changes = 20 * torch.log10(item.sources.std(0) * 2**0.5 / 0.1)
            assert changes.max() == pytest.approx(0, abs=0.01)
            levels.append(-changes.min().item())
        assert kstest(levels, "uniform", (0, 10)).pvalue > 0.01

    def test_single_speakers(self, corpus):
        silent = torch.stack(
            [(item.sources == 0).all(0) for item in items_of(dataset(corpus, single_speaker_rate=0.5), 60)]
        )
        assert 65 < silent.any(1).sum() < 115 and not silent.all(1).any() and silent.any(0).all()


class TestMixturesThatAreNoSums:
    @pytest.fixture
    def wet(self, corpus):
        facts(corpus, False)
        yield corpus
        facts(corpus, True)

    def test_everything_has_one_speed_and_shift(self, wet):
        speeds = set()
        for item in items_of(dataset(wet, speed_perturb="continuous", random_shift=0.1), 10):
            # The mixture is still the sum here, and so it stays if all was changed alike.
            noise = (item.mixture - item.sources.sum(1)).numpy()
            ratios = [frequency(item.sources[:, 0].numpy()) / 500, frequency(item.sources[:, 1].numpy()) / 1000]
            assert ratios == pytest.approx([frequency(noise) / 1700] * 2, rel=2e-3)
            assert (noise == 0).sum() == (item.sources[:, 0] == 0).sum()
            speeds.add(round(ratios[0], 3))
        assert len(speeds) > 10

    @pytest.mark.parametrize("key", ["level_imbalance", "single_speaker_rate"])
    def test_levels_can_not_change(self, wet, key):
        with pytest.raises(InputError, match="tr.csv: its mixtures are not the sum of its sources"):
            dataset(wet, **{key: 0.5})

    def test_the_preparation_must_have_noted_it(self, corpus, tmp_path):
        (tmp_path / "tr.csv").write_text((corpus / "tr.csv").read_text())
        with pytest.raises(InputError, match=r"tr.json: does not state whether the mixtures are the sum"):
            training_data(tmp_path / "tr.csv", corpus, augmentation=Augmentation("discrete"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"speed_perturb": "fast"}, "speed_perturb 'fast' is not known: choose one of none, discrete, continuous"),
        ({"speed_range": [1.05, 0.95]}, r"speed_range \[1.05, 0.95\]: give the lowest and the highest speed"),
        ({"speed_range": [1.0]}, r"speed_range \[1.0\]"),
        ({"speed_range": 3}, r"speed_range 3: give the lowest and the highest speed"),
        ({"random_shift": -1}, "random_shift -1: give zero for none, or more"),
        ({"level_imbalance": -3}, "level_imbalance -3"),
        ({"single_speaker_rate": 1.5}, "single_speaker_rate 1.5: give a probability"),
    ],
)
def test_wrong_values(options, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**options)


def test_the_same_item_whatever_was_drawn_before(corpus):
    options = {"speed_perturb": "continuous", "random_shift": 0.1, "level_imbalance": 3.0}
    one, two = dataset(corpus, **options), dataset(corpus, **options)
    two[0]
    assert torch.equal(one[1].mixture, two[1].mixture)
    two.set_epoch(1)
    assert not torch.equal(one[1].mixture, two[1].mixture)


def test_stationary_helper_has_its_level():
    """What the distributions' tests rest on."""
    rng = np.random.default_rng(0)
    signal = stationary(rng, 4)
    frames = np.sqrt((signal.reshape(4, -1) ** 2).mean(1))
    assert frames.max() / frames.min() < 1.03
