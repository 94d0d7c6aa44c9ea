"""Separation does not depend on a recording's level or offset; silence gives silence."""

import functools

import numpy as np
import pytest
import soundfile
import torch

from mossformer_sb import MossFormerSeparator
from mossformer_sb.inference.chunking import Chunking
from mossformer_sb.inference.input_level import LEVEL, normalise
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export

RATE = 8000
WHOLE, CUT = Chunking(), Chunking(seconds=1, overlap=0.4, above=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Random weights, and biases, norms and scales that are neither 0 nor 1, as training leaves them."""
    torch.manual_seed(0)
    separator = MossFormerSeparator.from_size("mini")
    with torch.no_grad():
        for parameter in separator.parameters():
            if parameter.dim() <= 1 or 1 in parameter.shape:
                parameter += 0.2 * torch.randn_like(parameter)
    folder = export(tmp_path_factory.mktemp("export") / "model", dict(separator.named_children()), RATE)
    return MossFormerSeparation.from_hparams(folder, device="cpu")


@pytest.fixture(scope="module")
def mixture():
    """Three seconds of two modulated tones and noise, at the level of speech; without a mean in any chunk's place."""
    rng = np.random.default_rng(0)
    time = np.arange(3 * RATE) / RATE
    tones = [np.sin(2 * np.pi * pitch * time) * (1 + np.sin(2 * np.pi * beat * time)) for pitch, beat in PITCHES]
    return (0.05 * sum(tones) + 0.005 * rng.standard_normal(len(time))).astype(np.float64)


PITCHES = [(200, 3), (930, 2.3)]


@pytest.fixture(scope="module")
def expected_of(model, mixture):
    """What the mixture gives with given options, computed once."""

    @functools.cache
    def expected(dtype, sample_rate, level, chunking):
        return model.separate(mixture.astype(dtype), sample_rate=sample_rate, level=level, chunking=chunking)

    return expected


def agreement(found, expected):
    """In dB, what two signals have in common against what they differ in; infinite where they are the same."""
    found, expected = (np.asarray(signal, dtype=np.float64) for signal in (found, expected))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum())


def _rows():
    """An orthogonal array: each pair of values of two of the factors occurs once or twice."""
    for number in range(8):
        half, odd, high = number % 2, number // 2 % 2, number // 4
        gain = (0.1, 0.003, 1e-4, 20.0)[number // 2]
        chunking, dtype = (WHOLE, CUT)[half], (np.float32, np.float64)[half ^ odd]
        yield gain, chunking, dtype, (RATE, 2 * RATE)[half ^ high], ("none", "mixture")[half ^ odd ^ high]


@pytest.mark.parametrize(("gain", "chunking", "dtype", "rate", "level"), list(_rows()))
class TestEveryEntry:
    def test_gain_is_only_a_gain(self, model, mixture, expected_of, chunking, dtype, rate, level, gain):
        options = {"sample_rate": rate, "level": level, "chunking": chunking}
        expected = expected_of(dtype, **options)
        assert agreement(model.separate((gain * mixture).astype(dtype), **options) / gain, expected) > 50

    def test_an_offset_changes_nothing(self, model, mixture, expected_of, chunking, dtype, rate, level, gain):
        options = {"sample_rate": rate, "level": level, "chunking": chunking}
        expected = expected_of(dtype, **options)
        assert agreement(model.separate((gain * (mixture + 0.2)).astype(dtype), **options) / gain, expected) > 50


def test_the_network_alone_does_depend_on_the_level(model, mixture):
    """Otherwise the tests above would show nothing; `separate_batch` is left as the network gives it."""
    batch = torch.from_numpy(mixture.astype(np.float32))[None]
    expected = model.separate_batch(batch)
    for gain, offset in ((0.003, 0.0), (1e-4, 0.0), (1.0, 0.2)):
        assert agreement(model.separate_batch(gain * batch + offset) / gain, expected) < 30


@pytest.mark.parametrize("chunking", [WHOLE, CUT], ids=["whole", "chunks"])
@pytest.mark.parametrize("gain", [0.003, 1e-4])
def test_files(model, mixture, tmp_path, chunking, gain):
    """With the estimates returned and without; as floating point, since the steps of 16 bits are another matter."""
    found = {}
    for name, factor in (("loud", 1.0), ("quiet", gain)):
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, factor * mixture, RATE, subtype="FLOAT")
        paths = model.separate_file(path, tmp_path / "out", chunking=chunking, return_estimates=False)
        written = np.stack([soundfile.read(path)[0] for path in paths], 1)
        returned = model.separate_file(path, chunking=chunking).numpy()
        np.testing.assert_allclose(written, returned, rtol=1e-5, atol=1e-6 * factor)
        found[name] = written / factor
    assert agreement(found["quiet"], found["loud"]) > 50


def test_16_bits_at_a_usual_level(model, mixture, tmp_path):
    """A tenth of the level in 16 bits: steps 54 dB below the signal, and the estimates agree within these."""
    expected = model.separate(mixture)
    soundfile.write(tmp_path / "talk.wav", 0.1 * mixture, RATE, subtype="PCM_16")
    assert agreement(model.separate(tmp_path / "talk.wav") / 0.1, expected) > 30


class TestSilence:
    @pytest.mark.parametrize("chunking", [WHOLE, CUT], ids=["whole", "chunks"])
    @pytest.mark.parametrize("offset", [0.0, 0.2])
    @pytest.mark.parametrize("rate", [RATE, 2 * RATE])
    def test_gives_silence(self, model, chunking, offset, rate):
        silence = np.full(3 * RATE, offset)
        for level in ("none", "mixture", "peak"):
            assert (model.separate(silence, rate, level=level, chunking=chunking) == 0).all()

    @pytest.mark.parametrize("rms", [1e-7, 1e-12, 1e-30, 1e-42])
    def test_hardly_anything_stays_hardly_anything(self, model, rms):
        """Below -120 dB the gain grows no further."""
        signal = rms * np.random.default_rng(0).standard_normal(RATE)
        estimates = model.separate(signal, level="none")
        assert estimates.isfinite().all() and estimates.abs().max() <= 1e-4

    def test_a_silent_chunk_among_others(self, model, mixture):
        signal = np.concatenate([mixture, np.zeros(3 * RATE), mixture])
        estimates = model.separate(signal, level="none", chunking=CUT)
        assert estimates.isfinite().all()
        assert not estimates[4 * RATE : 5 * RATE].any() and estimates[: 3 * RATE].any()


class TestNormalise:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("gain", [1e-4, 1.0, 1e4])
    def test_level_and_mean(self, dtype, gain):
        samples = (gain * (np.random.default_rng(0).standard_normal(RATE) + 0.3)).astype(dtype)
        before = samples.copy()
        found, factor = normalise(samples)
        assert found.dtype == dtype and np.array_equal(samples, before)
        assert np.std(found, dtype=np.float64) == pytest.approx(LEVEL, rel=1e-6)
        assert np.mean(found, dtype=np.float64) == pytest.approx(0, abs=1e-6)
        np.testing.assert_allclose(found / factor, samples - samples.mean(dtype=np.float64), atol=1e-6 * gain)

    def test_zeros(self):
        found, gain = normalise(np.zeros(100, dtype=np.float32))
        assert not found.any() and 0 < gain < np.inf
