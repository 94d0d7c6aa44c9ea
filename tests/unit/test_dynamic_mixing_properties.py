"""Dynamic mixing, for any setting: sums, purity, lengths, and levels within what was asked."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mossformer_sb.data.augmentation import Augmentation
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.data.level_distributions import get_levels
from tests.unit.mixing_pools import RATE, prepare_pools

fixed = settings(derandomize=True, deadline=None, max_examples=25, database=None)
LEVELS = ("wham", "wsj0mix", "librimix", "speechbrain")


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    return prepare_pools(tmp_path_factory.mktemp("pools"))


@pytest.fixture(scope="module")
def clean_pools(tmp_path_factory):
    return prepare_pools(tmp_path_factory.mktemp("clean"), num_spks=3, noise=False)


def augmentations():
    return st.builds(
        Augmentation,
        speed_perturb=st.sampled_from(["none", "discrete", "continuous"]),
        speed_range=st.tuples(st.floats(0.85, 1.0), st.floats(1.0, 1.2)),
        perturb_noise=st.booleans(),
        random_shift=st.sampled_from([0.0, 0.05, 0.3]),
        level_imbalance=st.sampled_from([0.0, 6.0, 20.0]),
        single_speaker_rate=st.sampled_from([0.0, 0.3, 1.0]),
    )


@st.composite
def options(draw, noise=True):
    levels = draw(st.sampled_from([name for name in LEVELS if noise != (name == "wsj0mix")]))
    segment = draw(st.one_of(st.none(), st.floats(0.1, 2.5)))
    return {
        "level_distribution": levels,
        "segment": segment,
        "augmentation": draw(augmentations()),
        "noise_rate": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "seed": draw(st.integers(0, 2**31 - 1)),
        "mixtures_per_epoch": 50,
    }


@fixed
@given(options=options(), index=st.integers(0, 49), epoch=st.integers(0, 1000))
def test_a_mixture_is_the_sum_of_its_parts(pools, options, index, epoch):
    data = DynamicMixtureDataset(**pools, **options)
    data.set_epoch(epoch)
    parts, item = data.draw(index), data[index]
    assert len(parts.images) == len(parts.targets) == 2 and len(set(parts.speakers)) == 2
    np.testing.assert_allclose(item.mixture, parts.images.astype(np.float64).sum(0) + parts.noise, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(item.sources.T, parts.targets)
    np.testing.assert_array_equal(parts.images, parts.targets)  # there is no room
    assert item.mixture.dtype == item.sources.dtype == torch.float32
    assert item.mixture.isfinite().all() and item.sources.isfinite().all()


@fixed
@given(options=options(), index=st.integers(0, 49), epoch=st.integers(0, 1000))
def test_an_item_is_of_seed_epoch_and_index(pools, options, index, epoch):
    """Whatever was drawn before, and in whichever copy of the dataset."""
    one, other = (DynamicMixtureDataset(**pools, **options) for _ in range(2))
    one.set_epoch(epoch)
    other.set_epoch(epoch + 1)
    for before in (0, 49, index):
        other[before]
    other.set_epoch(epoch)
    first, second = one[index], other[index]
    assert first.id == second.id
    assert torch.equal(first.mixture, second.mixture) and torch.equal(first.sources, second.sources)
    other.set_epoch(epoch + 1)
    again = other[index]
    assert again.mixture.shape != first.mixture.shape or not torch.equal(again.mixture, first.mixture)


@fixed
@given(options=options(), index=st.integers(0, 49))
def test_lengths_are_the_segments_or_the_shortest_utterances(pools, options, index):
    data = DynamicMixtureDataset(**pools, **options)
    parts = data.draw(index)
    numbers = [data.speech.names.index(name) for name in parts.id.split("_")]
    shortest = min(data.speech.num_samples[number] for number in numbers)
    slowest, fastest = options["augmentation"].speed_range
    if options["augmentation"].speed_perturb == "none":
        slowest = fastest = 1.0
    length = len(parts.mixture)
    assert parts.targets.shape == parts.images.shape == (2, length) and parts.noise.shape == (length,)
    wanted = np.inf if options["segment"] is None else round(options["segment"] * RATE)
    assert min(wanted, shortest / fastest * 0.99) - 1 <= length <= min(wanted, shortest / slowest * 1.01 + 1)
    if wanted < shortest / fastest * 0.99:
        assert length == wanted


def decibels(signal):
    return 10 * np.log10(np.mean(np.square(signal, dtype=np.float64)))


@fixed
@given(seed=st.integers(0, 2**31 - 1), index=st.integers(0, 49), imbalance=st.sampled_from([0.0, 3.0, 12.0]))
def test_levels_of_items_are_within_those_of_the_corpus_and_the_imbalance(clean_pools, seed, index, imbalance):
    """The utterances' own levels differ by up to 20 dB; they are stationary, so that a crop has that of the whole."""
    augmentation = Augmentation(level_imbalance=imbalance)
    options = {
        "level_distribution": "wsj0mix",
        "segment": 1.5,
        "mixtures_per_epoch": 50,
        "seed": seed,
        "augmentation": augmentation,
    }
    parts = DynamicMixtureDataset(**clean_pools, **options).draw(index)
    assert np.ptp([decibels(target) for target in parts.targets]) <= 5.0 + imbalance + 1.0
    assert np.abs(parts.mixture).max() <= 0.9 + 1e-5


@fixed
@given(
    seed=st.integers(0, 2**31 - 1),
    measured=st.lists(st.floats(-60, 0), min_size=1, max_size=5),
    imbalance=st.sampled_from([0.0, 6.0, 30.0]),
)
def test_gains_are_within_what_the_corpus_draws(seed, measured, imbalance):
    """Levels after the gains: in WSJ0-mix from -2.5 to 2.5 dB about a common one, attenuation aside."""
    rng = np.random.default_rng(seed)
    offsets = Augmentation(level_imbalance=imbalance).draw_offsets(rng, len(measured))
    assert offsets.max() == 0 and offsets.min() >= -imbalance
    sources = 0.01 * rng.standard_normal((len(measured), 400))
    gains, noise_gain = get_levels("wsj0mix").gains(
        rng, sources, {"active_level": np.array(measured)}, None, RATE, offsets
    )
    levels = 20 * np.log10(gains) + measured - offsets
    assert np.ptp(levels) <= 5.0 + 1e-9 and noise_gain == 0
    if len(measured) > 1:
        assert levels[0] >= levels[1] - 1e-9  # of a pair, the first is the louder


@fixed
@given(seed=st.integers(0, 2**31 - 1), index=st.integers(0, 49))
def test_one_speaker_alone_is_one(pools, seed, index):
    augmentation = Augmentation(single_speaker_rate=1.0)
    data = DynamicMixtureDataset(**pools, segment=0.5, mixtures_per_epoch=50, seed=seed, augmentation=augmentation)
    targets = data.draw(index).targets
    assert sorted(np.abs(target).max() > 0 for target in targets) == [False, True]


@fixed
@given(seed=st.integers(0, 2**31 - 1), index=st.integers(0, 49), rate=st.sampled_from([0.0, 1.0]))
def test_noise_rate_is_the_share_of_mixtures_with_noise(pools, seed, index, rate):
    data = DynamicMixtureDataset(**pools, segment=0.5, mixtures_per_epoch=50, seed=seed, noise_rate=rate)
    assert bool(np.any(data.draw(index).noise)) == bool(rate)
