"""Turn-taking in dynamic mixing: the times of turns, and the examples that are made from them."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mossformer_sb.data.augmentation import Augmentation
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.data.training_data import training_data
from mossformer_sb.data.turns import TURN_SECONDS, TurnTaking, fade
from mossformer_sb.errors import InputError
from tests.unit.mixing_pools import RATE, prepare_pools, write_rooms

SEGMENT = 6.0  # seconds, longer than each of the utterances, which have 2 to 4


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    return prepare_pools(tmp_path_factory.mktemp("pools"))


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    return write_rooms(tmp_path_factory.mktemp("rooms"))


def dataset(pools, **options):
    options = {"segment": SEGMENT, "turn_rate": 1.0, "seed": 3, "mixtures_per_epoch": 600, **pools, **options}
    return DynamicMixtureDataset(**options)


def frame_levels(signal, size=400):
    """Root mean square of frames of 50 ms."""
    return np.sqrt(np.square(signal[: len(signal) // size * size], dtype=np.float64).reshape(-1, size).mean(1))


class TestTimes:
    @settings(derandomize=True, deadline=None, max_examples=100, database=None)
    @given(
        lengths=st.lists(st.integers(1, 60000), min_size=1, max_size=5),
        total=st.integers(1, 200000),
        limit=st.floats(0, 8),
        seed=st.integers(0, 2**31 - 1),
    )
    def test_turns_are_in_order_with_pauses_up_to_the_limit(self, lengths, total, limit, seed):
        turns = TurnTaking.draw(np.random.default_rng(seed), lengths, total, limit, RATE)
        end = 0
        for turn in turns:
            assert 0 < turn.length <= min(lengths[turn.utterance], TURN_SECONDS[1] * RATE)
            assert end <= turn.start <= end + limit * RATE + 1
            end = turn.start + turn.length
        assert total - limit * RATE - 1 <= end <= total

    def test_all_utterances_are_used_before_one_is_used_again(self):
        turns = TurnTaking.draw(np.random.default_rng(1), [20000] * 4, 40 * 20000, 0.5, RATE)
        used = [turn.utterance for turn in turns]
        assert len(used) > 16 and set(used[:4]) == {0, 1, 2, 3}
        assert used[4:8] == used[:4]

    def test_turns_last_one_to_four_seconds(self):
        rng = np.random.default_rng(2)
        turns = [turn for _ in range(100) for turn in TurnTaking.draw(rng, [10**6], 30 * RATE, 1.0, RATE)[1:-1]]
        seconds = np.array([turn.length for turn in turns]) / RATE
        assert seconds.min() >= 1 and seconds.max() <= 4 and 2.4 < seconds.mean() < 2.6

    def test_a_signal_begins_within_a_turn_or_a_pause(self):
        starts = [TurnTaking.draw(np.random.default_rng(n), [16000], 40000, 2.0, RATE)[0].start for n in range(200)]
        assert 100 < sum(start == 0 for start in starts) < 200  # a pause of 1 s follows a turn of 2 s or less
        assert 0 < max(starts) <= 2.0 * RATE

    def test_the_limit_is_drawn_for_each_example(self):
        turns, rng = TurnTaking(rate=0.25, max_pause=2.0, segment=5.0), np.random.default_rng(3)
        limits = [turns.draw_limit(rng) for _ in range(500)]
        assert 0 <= min(limits) < 0.1 and 1.9 < max(limits) <= 2.0
        assert 400 < turns.draw_examples(rng, 2000).sum() < 600

    def test_a_turn_of_one_sample_is_not_faded(self):
        assert fade(np.ones(1, np.float32), RATE).tolist() == [1.0]


class TestExamples:
    def test_they_have_the_segments_length_though_utterances_are_shorter(self, pools):
        data = dataset(pools)
        assert max(data.speech.num_samples) < SEGMENT * RATE
        for index in range(50):
            parts = data.draw(index)
            assert parts.targets.shape == (2, SEGMENT * RATE) and (np.abs(parts.targets).max(1) > 0).all()

    @pytest.mark.parametrize("segment", [1.0, None])
    def test_those_with_turns_have_a_length_of_their_own(self, pools, segment):
        data = dataset(pools, segment=segment, turn_rate=0.5, turn_segment=9.0)
        lengths = [data.draw(index).targets.shape[1] for index in range(60)]
        with_turns, others = [n for n in lengths if n == 9 * RATE], [n for n in lengths if n != 9 * RATE]
        assert 15 < len(with_turns) < 45 and max(others) <= (RATE if segment else max(data.speech.num_samples))

    def test_those_of_one_length_are_known_before_they_are_drawn(self, pools):
        """So batches need no padding, and several processes don't wait for each other."""
        data = dataset(pools, segment=1.0, turn_rate=0.4, turn_segment=9.0)
        for epoch in (1, 2):
            data.set_epoch(epoch)
            lengths = [data.draw(index).targets.shape[1] for index in range(60)]
            assert (np.array(lengths) == 9 * RATE).tolist() == data.length_groups()[:60].tolist()
        earlier, current = data.length_groups(), data.length_groups()
        assert (earlier == current).all()
        data.set_epoch(3)
        assert (data.length_groups() != earlier).any()
        assert data.grouping == "those with turns (turn_rate 0.4)"

    @pytest.mark.parametrize(
        "options", [{}, {"turn_rate": 0.5}, {"turn_rate": 0.5, "turn_segment": SEGMENT}, {"turn_segment": 9.0}]
    )
    def test_there_are_no_groups_if_all_have_one_length(self, pools, options):
        data = dataset(pools, **options)
        assert data.length_groups() is None and data.grouping == "none"

    def test_a_mixture_is_the_sum_of_its_parts(self, pools, rooms):
        everything = Augmentation("continuous", (0.9, 1.1), True, 0.2, 6.0, 0.3)
        for options in ({}, {"rir_folder": rooms}, {"level_distribution": "speechbrain"}):
            data = dataset(pools, augmentation=everything, **options)
            for index in range(20):
                parts, item = data.draw(index), data[index]
                total = parts.images.astype(np.float64).sum(0) + parts.noise
                np.testing.assert_allclose(item.mixture, total, rtol=0, atol=2e-6)
                np.testing.assert_array_equal(item.sources.T, parts.targets)

    def test_they_depend_on_seed_epoch_and_index_only(self, pools):
        one, other = dataset(pools), dataset(pools)
        other[5]
        assert torch.equal(one[4].mixture, other[4].mixture)
        other.set_epoch(2)
        assert not torch.equal(one[4].mixture, other[4].mixture)

    def test_turns_of_a_speaker_have_one_level(self, pools):
        """The utterances' own levels differ by up to 20 dB."""
        data = dataset(pools, max_pause=0.0, noise_rate=0.0)
        measured = data.speech.measured["active_level"]
        assert np.ptp([measured[number] for number in data.speech.same_speaker(0)]) > 4
        for index in range(20):
            for target in data.draw(index).targets:
                levels = frame_levels(target, 4000)
                assert 20 * np.log10(levels.max() / levels.min()) < 2.5

    def test_turns_are_of_the_speakers_own_utterances(self, tmp_path):
        """Each speaker has a frequency of its own."""
        frequencies = {0: 500, 1: 1500}
        for speaker, frequency in frequencies.items():
            (tmp_path / "speech" / str(speaker)).mkdir(parents=True)
            for number in range(3):
                tone = 0.1 * np.sin(2 * np.pi * frequency * np.arange(2 * RATE + number) / RATE)
                soundfile.write(tmp_path / "speech" / str(speaker) / f"{speaker}{number}.wav", tone, RATE)
        data = dataset(prepare_pools(tmp_path, noise=False, speech_folder=tmp_path / "speech"))
        for index in range(10):
            parts = data.draw(index)
            for speaker, target in zip(parts.speakers, parts.targets, strict=True):
                spectrum = np.square(np.abs(np.fft.rfft(target)))
                near = np.abs(np.fft.rfftfreq(len(target), 1 / RATE) - frequencies[int(speaker)]) < 200
                assert spectrum[near].sum() > 0.99 * spectrum.sum()

    def test_turns_begin_and_end_without_a_jump(self, tmp_path):
        """With utterances that are constant, every step is a fade's."""
        for speaker in range(2):
            (tmp_path / "speech" / str(speaker)).mkdir(parents=True)
            soundfile.write(tmp_path / "speech" / str(speaker) / f"{speaker}.wav", np.full(2 * RATE, 0.1), RATE)
        pools = prepare_pools(tmp_path, noise=False, speech_folder=tmp_path / "speech")
        data = dataset(pools, level_distribution="speechbrain")
        for index in range(5):
            for target in data.draw(index).targets:
                steps = np.abs(np.diff(target))
                assert 0 < steps.max() < 0.02 * target.max()

    def test_pauses_vary_from_example_to_example(self, pools):
        """Some examples overlap nearly everywhere, and in others speakers mostly alternate."""
        data, shares = dataset(pools, max_pause=4.0, noise_rate=0.0), []
        for index in range(200):
            active = np.stack([frame_levels(target) > 0 for target in data.draw(index).targets])
            shares.append(active.all(0).mean())
        assert np.min(shares) < 0.25 and np.max(shares) > 0.95 and 0.4 < np.mean(shares) < 0.75

    def test_pauses_are_silent_and_in_rooms_only_in_the_target(self, pools, rooms):
        data = dataset(pools, rir_folder=rooms, max_pause=4.0, noise_rate=0.0)
        reverberant = 0
        for index in range(20):
            parts = data.draw(index)
            assert parts.targets.shape == parts.images.shape == (2, SEGMENT * RATE)
            for target, image in zip(parts.targets, parts.images, strict=True):
                silent = frame_levels(target) < 1e-5 * np.abs(target).max()
                reverberant += bool((frame_levels(image)[silent] > 0.01 * np.abs(image).max()).any())
        assert reverberant > 5

    def test_speech_before_the_segment_reverberates_in_it(self, pools, rooms):
        """The turns are drawn for the impulse response's length, too."""
        data = dataset(pools, rir_folder=rooms, max_pause=0.0, noise_rate=0.0)
        for index in range(10):
            levels = frame_levels(data.draw(index).images.sum(0), 800)
            assert levels[0] > 0.3 * np.median(levels)

    def test_the_rate_is_the_share_of_examples_with_turns(self, pools):
        data = dataset(pools, turn_rate=0.3)
        lengths = np.array([data.draw(index).targets.shape[1] for index in range(200)])
        assert 40 < (lengths == SEGMENT * RATE).sum() < 80  # the others are as long as the shortest utterance

    def test_a_rate_of_zero_changes_nothing(self, pools):
        data = dataset(pools, turn_rate=0.0, segment=1.0)
        plain = DynamicMixtureDataset(segment=1.0, seed=3, mixtures_per_epoch=600, **pools)
        assert all(torch.equal(data[index].mixture, plain[index].mixture) for index in range(10))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"turn_rate": 1.5}, "turn_rate 1.5: give a probability"),
        ({"room_rate": 2}, "room_rate 2: give a probability"),
        ({"noise_rate": -0.1}, "noise_rate -0.1: give a probability"),
        ({"max_pause": -1.0}, "max_pause -1.0: give seconds, 0 or more"),
        ({"max_pause": float("nan")}, "max_pause nan: give seconds"),
        ({"segment": None}, "turn_rate is 1.0, and segment null: .* Give segment or turn_segment in seconds"),
        ({"segment": 2.0}, "max_pause is 3.0 s, and mixtures with turns have 2.0 s: .* at least 3.5 s"),
        ({"turn_segment": 2.0}, "max_pause is 3.0 s, and mixtures with turns have 2.0 s: .* at least 3.5 s"),
        ({"turn_segment": "long"}, "turn_segment 'long': give seconds, or null for those of segment"),
        ({"turn_segment": 0.0}, "turn_segment 0.0: give seconds, or null for those of segment"),
    ],
)
def test_conflicting_options(pools, options, message):
    with pytest.raises(InputError, match=message):
        dataset(pools, **options)


def test_a_shift_is_shorter_than_the_segments_with_turns(pools):
    options = {"turn_rate": 0.5, "max_pause": 0.5, "turn_segment": 1.0, "dynamic_mixing": True, "segment": 4.0, **pools}
    training_data(augmentation=Augmentation(random_shift=0.9), **options)
    with pytest.raises(InputError, match="random_shift 1.5 s is as long as the segments of 1.0 s"):
        training_data(augmentation=Augmentation(random_shift=1.5), **options)
    training_data(augmentation=Augmentation(random_shift=1.5), **{**options, "turn_rate": 0.0})


def test_no_speaker_is_shifted_out_of_a_shorter_example(pools):
    """An utterance may be shorter than the segment, and than the shift."""
    data = DynamicMixtureDataset(
        **pools, segment=4.0, augmentation=Augmentation(random_shift=3.0), mixtures_per_epoch=80, noise_rate=0.0
    )
    examples = [data.draw(index).targets for index in range(80)]
    assert min(targets.shape[1] for targets in examples) < 3.0 * RATE
    assert all(np.abs(target).max() > 0 for targets in examples for target in targets)
