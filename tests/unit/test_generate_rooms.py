"""Impulse responses equal a literal sum over images, and rooms are drawn and read as published."""

import dataclasses
import math

import numpy as np
import pytest

from data_prep.generate.image_source import (
    images_of,
    impulse_response,
    impulse_responses,
    matching_factors,
    reverberate,
)
from data_prep.generate.rooms import Room, columns, draw_room, read_rooms, rooms_text
from mossformer_sb.errors import InputError

PUBLISHED = (
    "utterance_id,room_x,room_y,room_z,micL_x,micL_y,micR_x,micR_y,mic_z,s1_x,s1_y,s1_z,s2_x,s2_y,s2_z,T60\n"
    "01to030v_0.76421_20ga010m_-0.76421.wav,7.0814,5.3249,3.7118,3.5651,2.4515,3.4523,2.5505,1.35,"
    "3.9010,3.0752,1.5848,2.6064,4.1959,1.7414,0.3313\n"
)
NAME = "01to030v_0.76421_20ga010m_-0.76421.wav"
GOLDEN = {  # source → sample → value
    0: {57: 0.0007282005608, 76: -0.02131975952, 77: 0.07613556618, 78: 0.04874165395, 107: -0.000146885144}
    | {300: 9.093543498e-05, 700: 2.416829893e-07},
    1: {117: 0.0002888367101, 136: -0.008239293846, 137: 0.02749647025, 138: 0.02073422563, 167: -5.845228266e-05}
    | {300: -8.028921933e-07, 700: 3.899188726e-07},
}


HANN = np.hanning(81)


def exact_sinc(delay):
    """First sample and taps of an image under a window that is centred on the nearest sample."""
    nearest = round(delay)
    return nearest - 40, HANN * np.sinc(np.arange(-40, 41) - (delay - nearest))


def tabulated_sinc(delay):
    """First sample and taps of an image as pyroomacoustics 0.3.1 makes them, in its precision, a tap at a time."""
    delay = float(np.float32(delay))
    before = math.floor(delay)
    place = float(np.float32((1 - (delay - before)) * 20))
    point = math.floor(place)
    part, taps = place - point, []
    for tap in range(81):
        first, second = (np.sinc(-41 + tap + (point + next) / 20) for next in (0, 1))
        taps.append((first + part * (second - first)) * HANN[tap])
    return before - 40, np.array(taps)


def literal(room, source, microphone, anechoic=False, placed=exact_sinc, number=float):
    """The sum over images, one windowed sinc after the other; `number` is the precision of positions."""
    x, y, z = room.size
    absorption = 24 * x * y * z * math.log(10) / (343 * 2 * (x * y + y * z + z * x) * room.t60)
    most = 0 if anechoic else math.ceil(room.t60 * 343 / min(room.size))
    length = math.ceil(room.t60 * 16000)
    response = np.zeros(length + 200)
    numbers = range(-most, most + 1)
    for i, j, k in ((i, j, k) for i in numbers for j in numbers for k in numbers):
        reflections = abs(i) + abs(j) + abs(k)
        if reflections > most:
            continue
        image = [
            float(number(n) * number(size) + (number(at) if n % 2 == 0 else number(size) - number(at)))
            for n, size, at in zip((i, j, k), room.size, source, strict=True)
        ]
        distance = math.dist(image, microphone)
        delay = distance / 343 * 16000 + 40
        if delay > length + 100:
            continue
        first, taps = placed(delay)
        response[first : first + 81] += (1 - absorption) ** reflections / (4 * math.pi * distance) * taps
    return response[:length]


def short_room(seed):
    """A drawn room with little reverberation: the literal sum takes long."""
    rng = np.random.default_rng(seed)
    return dataclasses.replace(draw_room(rng, reverberation="low"), t60=float(rng.uniform(0.1, 0.18)))


@pytest.mark.parametrize("seed", range(10))
def test_equal_to_the_literal_sum(seed):
    room = short_room(seed)
    expected = literal(room, room.sources[1], room.microphones[0])
    found = impulse_response(room, room.sources[1], room.microphones[0])
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("anechoic", [False, True])
def test_equal_to_the_literal_sum_of_pyroomacoustics(seed, anechoic):
    room = short_room(seed)
    arguments = room, room.sources[1], room.microphones[0], anechoic
    expected = literal(*arguments, tabulated_sinc, np.float32)
    found = impulse_response(*arguments, sinc="table")
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()
    assert np.abs(found - impulse_response(*arguments)).max() > 1e-5 * np.abs(expected).max()


def test_response_of_pyroomacoustics():
    """What pyroomacoustics 0.3.1 gives for the room below, built from its source with its compiled parts."""
    room = Room((7.1, 5.3, 3.7), ((3.6, 2.4, 1.35), (3.5, 2.5, 1.35)), ((3.9, 3.1, 1.6), (2.6, 4.2, 1.7)), 0.15)
    for index, expected in GOLDEN.items():
        found = impulse_response(room, room.sources[index], room.microphones[0], sinc="table")
        assert len(found) == 2400
        np.testing.assert_allclose(found[list(expected)], list(expected.values()), rtol=0, atol=1e-8)


def test_unknown_sinc():
    room = short_room(0)
    with pytest.raises(InputError, match="sinc 'linear' is not known: choose one of 'exact', 'table'"):
        impulse_response(room, room.sources[0], room.microphones[0], sinc="linear")


def test_negative_reflections():
    """A few published rooms absorb more than there is, and the sign of the sound changes at each wall."""
    room = dataclasses.replace(short_room(0), size=(9.9, 9.8, 4.0), t60=0.1)
    assert room.amplitude_factor < 0
    expected = literal(room, room.sources[0], room.microphones[1])
    found = impulse_response(room, room.sources[0], room.microphones[1])
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


def test_anechoic_is_the_direct_path():
    room = short_room(1)
    expected = literal(room, room.sources[0], room.microphones[0], anechoic=True)
    found = impulse_response(room, room.sources[0], room.microphones[0], anechoic=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    reverberant = impulse_response(room, room.sources[0], room.microphones[0])
    delay = math.dist(room.sources[0], room.microphones[0]) / 343 * 16000
    assert np.abs(found).argmax() == pytest.approx(delay + 40, abs=0.5)
    before = round(delay) + 10  # the taps of the first reflection come later
    np.testing.assert_allclose(found[:before], reverberant[:before], rtol=0, atol=0.01 * found.max())


def test_each_reflection_takes_a_part_of_the_amplitude():
    """One wall is much nearer than the others: its echo has the amplitude factor once."""
    room = Room((50.0, 50.0, 50.0), ((25.0, 25.0, 2.0), (25.1, 25.0, 2.0)), ((25.0, 25.0, 4.0),), 0.9)
    response = impulse_response(room, room.sources[0], room.microphones[0])
    direct, echo = (round(metres / 343 * 16000) + 40 for metres in (2, 6))
    peaks = [np.abs(response[at - 1 : at + 2]).max() for at in (direct, echo)]
    assert peaks[1] / peaks[0] == pytest.approx(abs(room.amplitude_factor) * 2 / 6, rel=0.2)


def test_all_sources_and_microphones():
    room = short_room(2)
    responses = impulse_responses(room, (0, 1))
    assert responses.shape == (2, 2, math.ceil(room.t60 * 16000))
    np.testing.assert_array_equal(responses[1, 0], impulse_response(room, room.sources[1], room.microphones[0]))
    np.testing.assert_array_equal(responses[0, 1], impulse_response(room, room.sources[0], room.microphones[1]))


def test_reverberation_is_a_convolution():
    room, signals = short_room(3), np.random.default_rng(0).standard_normal((2, 500))
    for images, anechoic in zip(reverberate(room, signals), (True, False), strict=True):
        for signal, source, image in zip(signals, room.sources, images[:, 0], strict=True):
            expected = np.convolve(signal, impulse_response(room, source, room.microphones[0], anechoic))
            np.testing.assert_allclose(image, expected, rtol=0, atol=1e-10)


def test_direct_paths_get_the_energy_of_the_signals():
    signals = [np.ones(8), np.zeros(8)]
    factors = matching_factors(signals, np.array([[[1.0, 1.0]], [[1.0, 0.0]]]))
    np.testing.assert_allclose(factors.ravel(), [2.0, 0.0])
    room, noise = short_room(4), np.random.default_rng(0).standard_normal((2, 3000))
    anechoic, reverberant = images_of(room, noise)
    assert anechoic.shape == reverberant.shape == (2, 3000)
    np.testing.assert_allclose(np.sum(anechoic**2, -1), np.sum(noise**2, -1), rtol=0.1)  # the end is cut off


# Drawing


def test_drawn_rooms_have_the_published_ranges():
    rng = np.random.default_rng(0)
    rooms = [draw_room(rng) for _ in range(2000)]
    sizes, t60 = np.array([room.size for room in rooms]), np.array([room.t60 for room in rooms])
    assert sizes[:, :2].min() > 5 and sizes[:, :2].max() < 10 and sizes[:, 2].min() > 3 and sizes[:, 2].max() < 4
    assert t60.mean() == pytest.approx(0.56, abs=0.02) and t60.min() > 0.1 and t60.max() < 1
    for room in rooms:
        left, right = (np.array(microphone) for microphone in room.microphones)
        centre = (left + right) / 2
        assert round(float(np.linalg.norm(left - right)), 6) in (0.15, 0.16, 0.17)
        assert left[2] == right[2] and np.all(np.abs(centre[:2] - np.array(room.size[:2]) / 2) <= 0.2)
        for source in np.array(room.sources):
            assert 0.66 <= np.linalg.norm(source[:2] - centre[:2]) <= 2 and 0.9 <= source[2] <= 1.8
            assert np.all(source > 0) and np.all(source < room.size)
    means = np.array([[*np.array(room.sources[0]) - room.microphones[0]] for room in rooms]).mean(axis=0)
    np.testing.assert_allclose(means, 0, atol=0.1)  # from all sides


@pytest.mark.parametrize("level, lowest, highest", [("high", 0.4, 1.0), ("medium", 0.2, 0.6), ("low", 0.1, 0.3)])
def test_reverberation_of_a_level(level, lowest, highest):
    rng = np.random.default_rng(0)
    t60 = [draw_room(rng, reverberation=level).t60 for _ in range(500)]
    assert lowest <= min(t60) < lowest + 0.02 and highest - 0.02 < max(t60) <= highest


def test_same_seed_same_room():
    assert draw_room(np.random.default_rng(7), 3) == draw_room(np.random.default_rng(7), 3)
    assert draw_room(np.random.default_rng(7), 3) != draw_room(np.random.default_rng(8), 3)


def test_unknown_level():
    with pytest.raises(
        InputError, match="reverberation 'loud' is not known: choose one of 'high', 'medium', 'low', 'any'"
    ):
        draw_room(np.random.default_rng(0), reverberation="loud")


# Tables


def test_published_table(tmp_path):
    path = tmp_path / "reverb_params_cv.csv"
    path.write_text(PUBLISHED)
    assert read_rooms(path) == {
        NAME: Room(
            size=(7.0814, 5.3249, 3.7118),
            microphones=((3.5651, 2.4515, 1.35), (3.4523, 2.5505, 1.35)),
            sources=((3.9010, 3.0752, 1.5848), (2.6064, 4.1959, 1.7414)),
            t60=0.3313,
        )
    }
    assert ",".join(columns(2)) == PUBLISHED.splitlines()[0]


@pytest.mark.parametrize("num_spks", [2, 5])
def test_written_rooms_are_read_exactly(tmp_path, num_spks):
    rng = np.random.default_rng(0)
    rooms = {f"mixture {number}, loud": draw_room(rng, num_spks) for number in range(3)}
    (tmp_path / "rooms.csv").write_text(rooms_text(rooms))
    assert read_rooms(tmp_path / "rooms.csv", num_spks) == rooms


LINE = PUBLISHED.splitlines()[1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "column utterance_id, room_x, .*T60 is missing; found nothing"),
        (PUBLISHED.replace("micR_x", "micR"), "column micR_x is missing; found utterance_id, room_x"),
        (PUBLISHED.replace(",0.3313", ""), r"rooms.csv:2: has 15 fields; needed 16"),
        (PUBLISHED.replace("0.3313", "short"), r"rooms.csv:2: could not convert string to float: 'short'"),
        (PUBLISHED + LINE, rf"rooms.csv:3: {NAME} occurs twice"),
        (PUBLISHED.replace("3.9010", "7.9010"), r"rooms.csv:2: needed positions within the room"),
        (PUBLISHED.replace("3.9010", "nan"), r"rooms.csv:2: needed positions within the room"),
        (PUBLISHED.replace("0.3313", "0"), r"rooms.csv:2: .* a T60 of 0 to 10 s"),
    ],
)
def test_wrong_table(tmp_path, text, message):
    (tmp_path / "rooms.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_rooms(tmp_path / "rooms.csv")


def test_a_table_from_an_editor(tmp_path):
    (tmp_path / "rooms.csv").write_bytes(PUBLISHED.encode("utf-8-sig"))
    assert list(read_rooms(tmp_path / "rooms.csv")) == [NAME]
    (tmp_path / "rooms.csv").write_bytes(PUBLISHED.replace("utterance", "utt\xe9rance").encode("cp1252"))
    with pytest.raises(InputError, match="rooms.csv: can't be read as text"):
        read_rooms(tmp_path / "rooms.csv")


def test_no_table(tmp_path):
    with pytest.raises(InputError, match="rooms.csv: there is no such file; needed the rooms"):
        read_rooms(tmp_path / "rooms.csv")
