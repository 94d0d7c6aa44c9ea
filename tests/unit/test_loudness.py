"""Active speech level, loudness and mean amplitude, where their values are known."""

import math
import sys

import numpy as np
import pytest

import mossformer_sb.data.loudness
from mossformer_sb.data.loudness import active_speech_level, loudness, mean_amplitude
from mossformer_sb.data.noise_energies import cell_energies, cell_start, segment_loudness
from mossformer_sb.errors import InputError

RATE = 8000


def tone(seconds, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * 997 / RATE * np.arange(round(seconds * RATE)))


class TestActiveSpeechLevel:
    def test_without_pauses_it_is_the_root_mean_square(self):
        signal = tone(10)
        expected = 10 * np.log10(np.mean(signal**2))
        assert active_speech_level(signal, RATE) == pytest.approx(expected, abs=0.05)

    @pytest.mark.parametrize("rate", [8000, 16000, 11025])
    def test_pauses_do_not_count_but_the_hangover_does(self, rate):
        speech = np.random.default_rng(0).standard_normal(2 * rate) * 0.1
        pause = np.zeros(6 * rate)
        before, after = (
            active_speech_level(np.concatenate(parts), rate) for parts in ((pause, speech), (speech, pause))
        )
        assert before == pytest.approx(active_speech_level(speech, rate), abs=0.1)
        # Two seconds of speech, and 0.2 s after its end; the smoothing adds some hundredths.
        assert after - before == pytest.approx(-10 * math.log10(2.25 / 2), abs=0.15)

    def test_follows_a_gain(self):
        signal = np.concatenate([tone(1), np.zeros(RATE)])
        difference = active_speech_level(signal, RATE) - active_speech_level(0.3 * signal, RATE)
        assert difference == pytest.approx(-20 * math.log10(0.3), abs=0.2)

    @pytest.mark.parametrize("signal", [np.zeros(8000), np.full(8000, 1e-7)])
    def test_silence(self, signal):
        assert active_speech_level(signal, RATE) == -math.inf


class TestLoudness:
    @pytest.mark.parametrize("rate", [8000, 16000, 11025])
    @pytest.mark.parametrize("seconds", [0.4, 0.46, 1.0, 3.337])
    def test_equals_pyloudnorm(self, rate, seconds):
        pyloudnorm = pytest.importorskip("pyloudnorm")
        rng = np.random.default_rng(round(1000 * seconds))
        for quiet in (1.0, 0.1, 1e-4, 1e-6):  # gates open and shut
            signal = 0.1 * rng.standard_normal(round(rate * seconds))
            signal[: len(signal) // 2] *= quiet
            expected = pyloudnorm.Meter(rate).integrated_loudness(signal)
            assert loudness(signal, rate) == pytest.approx(expected, abs=2e-3)
            assert loudness(signal.astype(np.float32), rate) == pytest.approx(expected, abs=2e-3)

    def test_follows_a_gain(self):
        assert loudness(tone(2), RATE) - loudness(0.1 * tone(2), RATE) == pytest.approx(20)

    @pytest.mark.parametrize("frames, value", [(3199, 0.1), (3200, 0.0)])
    def test_too_short_or_silent(self, frames, value):
        assert loudness(np.full(frames, value), RATE) == -math.inf

    def test_without_pyloudnorm(self, monkeypatch):
        mossformer_sb.data.loudness._k_weighting.cache_clear()
        monkeypatch.setitem(sys.modules, "pyloudnorm", None)
        with pytest.raises(InputError, match=r'pip install "mossformer_sb\[data\]"'):
            loudness(np.zeros(8000), RATE)


def test_mean_amplitude_of_silence():
    assert mean_amplitude(np.zeros(10)) == -math.inf


class TestLookedUp:
    """Loudness of stretches by the energies of the whole recording."""

    def recording(self, rate):
        """Noise with bursts, a rumble and an offset."""
        rng = np.random.default_rng(0)
        time = np.arange(12 * rate) / rate
        bursts = 0.02 + 0.2 * (np.sin(2 * np.pi * 0.7 * time) > 0.6)
        return bursts * rng.standard_normal(len(time)) + 0.05 * np.sin(2 * np.pi * 20 * time) + 0.05

    @pytest.mark.parametrize("rate", [8000, 16000, 44100])
    def test_any_stretch_that_begins_on_a_cell(self, rate):
        recording, rng = self.recording(rate), np.random.default_rng(1)
        cells = cell_energies(recording, rate)
        for length in [round(0.4 * rate), rate, *[4 * rate] * 40]:
            start = cell_start(int(rng.integers(8 * rate)), rate)
            stretch = recording[start : start + length]
            found = segment_loudness(cells, rate, start, stretch, len(recording))
            assert found == pytest.approx(loudness(stretch, rate), abs=5e-3)

    @pytest.mark.parametrize("rate", [11025, 22050])
    def test_any_length_at_other_rates(self, rate):
        """The last cell may begin at the end of the recording."""
        for length in range(rate, rate + 500):
            energies = cell_energies(np.ones(length), rate)
            assert len(energies) == -(-length * 100 // rate)

    def test_its_ends(self):
        recording = self.recording(RATE)[:-37]
        total = len(recording)
        recording[-43:] *= 20  # up to the last sample, within a cell
        cells = cell_energies(recording, RATE)
        for end in (total, total - 43):
            stretch = recording[8 * RATE : end]
            found = segment_loudness(cells, RATE, 8 * RATE, stretch, total)
            assert found == pytest.approx(loudness(stretch, RATE), abs=5e-3)
        assert segment_loudness(cells, RATE, 0, recording[:3199], total) == -math.inf
        assert segment_loudness(cell_energies(np.zeros(8000), RATE), RATE, 0, np.zeros(8000), 8000) == -math.inf
