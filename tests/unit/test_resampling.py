"""Resampling in blocks, and reading segments at another rate and speed, against resampling everything at once."""

import itertools

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from mossformer_sb.data.resampling import MOST_PERIOD, SpeedResampler, resample, resample_blocks


@pytest.fixture
def recording(tmp_path):
    signal = np.random.default_rng(0).standard_normal(20000).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "a.wav", np.stack([signal, -signal], axis=1), 16000, subtype="FLOAT")
    return str(tmp_path / "a.wav"), signal


@pytest.mark.parametrize("rate, speed", [(16000, 1.0), (8000, 1.0), (8000, 1.05), (16000, 0.95), (8000, 0.973)])
def test_a_segment_is_a_part_of_the_whole(recording, rate, speed):
    path, signal = recording
    resampler = SpeedResampler.between(16000, rate, speed)
    whole = resample_poly(signal, resampler.up, resampler.down)
    available = resampler.num_out(len(signal))
    starts = (0, resampler.down, 7 * resampler.down, len(signal) // resampler.down * resampler.down)
    for start in starts:
        first = start * resampler.up // resampler.down
        for length in (1, 500, available - first):
            if length < 1 or first + length > available:
                continue
            found = resampler.read(path, len(signal), start, length)
            np.testing.assert_allclose(found, whole[first : first + length], rtol=0, atol=1e-6)


def test_a_sample_that_leaves_none():
    resampler = SpeedResampler.between(8000, 8000, 1.05)
    assert resampler.num_out(1) == 0 and len(resampler.convert(np.ones(1, np.float32))) == 0


def test_the_whole_recording_has_the_stated_length(recording):
    path, signal = recording
    resampler = SpeedResampler.between(16000, 8000, 0.95)
    length = resampler.num_out(len(signal))
    assert len(resampler.read(path, len(signal), 0, length)) == length == int(20000 / 2 / 0.95)
    assert resampler.num_in(length) <= len(signal)


@pytest.mark.parametrize("speed", [0.95, 1.0, 1.05, 1.3])
def test_pitch_and_tempo_follow_the_speed(tmp_path, speed):
    tone = np.sin(2 * np.pi * 1000 * np.arange(32000) / 8000)
    soundfile.write(tmp_path / "a.wav", tone, 8000, subtype="FLOAT")
    signal = SpeedResampler.between(8000, 8000, speed).read(str(tmp_path / "a.wav"), 32000, 4000, 8000)
    assert np.abs(np.fft.rfft(signal * np.hanning(8000))).argmax() == pytest.approx(1000 * speed, abs=1)


@pytest.mark.parametrize("rates", itertools.product([8000, 16000, 44100, 48000], repeat=2))
def test_periods_are_short_at_any_speed(rates):
    """Memory and context are proportional to them: with 44.1 kHz they were seconds."""
    for speed in np.arange(0.9, 1.1, 0.001):
        resampler = SpeedResampler.between(*rates, speed)
        assert max(resampler.up, resampler.down) <= MOST_PERIOD
        exact = rates[0] / rates[1] * round(speed * 1000) / 1000
        assert resampler.down / resampler.up == pytest.approx(exact, rel=5e-5)
        if 44100 not in rates or rates[0] == rates[1]:
            assert resampler.down / resampler.up == pytest.approx(exact, rel=1e-12)


def in_blocks(signal, sizes):
    sizes, start = itertools.cycle(sizes), 0
    while start < len(signal):
        size = next(sizes)
        yield signal[start : start + size]
        start += size


@pytest.mark.parametrize("rates", [(8000, 16000), (44100, 8000), (8000, 44100), (16000, 7350), (7350, 16000)])
@pytest.mark.parametrize("shape", [(), (2,)])
@pytest.mark.parametrize("num_samples", [1, 300, 30000])
def test_resampling_by_blocks_is_resampling(rates, shape, num_samples):
    signal = np.random.randn(num_samples, *shape).astype(np.float32)
    joined = np.concatenate(list(resample_blocks(in_blocks(signal, (1000, 7, 3000, 1)), *rates)))
    np.testing.assert_allclose(joined, resample(signal, *rates), atol=1e-6)
