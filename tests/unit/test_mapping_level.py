"""Estimates of a network that applies no masks are scaled to their mixture's level, chunk by chunk."""

import numpy as np
import pytest
import torch
from speechbrain.lobes.models.dual_path import Decoder, Encoder

from mossformer_sb import InputError, MossFormer2MaskNet, MossFormerSeparator
from mossformer_sb.inference.chunking import Chunking
from mossformer_sb.inference.input_level import LEVEL, LOUD_LEVEL, normalise
from mossformer_sb.inference.output_gain import mapping_gain
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export

RATE, WIDTH = 8000, 32
CUT = Chunking(seconds=1, overlap=0.4, above=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    masknet = MossFormer2MaskNet(WIDTH, WIDTH, num_blocks=1, recurrent_channels=16, apply_masks=False)
    decoder = Decoder(in_channels=WIDTH, out_channels=1, kernel_size=16, stride=8, bias=False)
    modules = dict(MossFormerSeparator.from_modules(Encoder(16, WIDTH), masknet, decoder).named_children())
    folder = export(tmp_path_factory.mktemp("export") / "model", modules, RATE, speechbrain=False)
    return MossFormerSeparation.from_hparams(folder, device="cpu")


@pytest.fixture
def mixture():
    rng = np.random.default_rng(0)
    return (0.05 * rng.standard_normal(4 * RATE)).astype(np.float32)


def test_the_level_follows_the_recording(model, mixture):
    """Which the network's own output doesn't."""
    batch = torch.from_numpy(np.stack([mixture, mixture / 100]))
    own = model.separate_batch(batch)
    assert own[1].std() == pytest.approx(own[0].std().item(), rel=0.05)
    loud, soft = (model.separate(item, level="none", chunking=CUT) for item in batch.numpy())
    torch.testing.assert_close(100 * soft, loud, rtol=1e-3, atol=1e-4 * loud.abs().max().item())


def test_each_chunk_has_its_mixtures_level(model, mixture):
    """Here the network's own level differs from chunk to chunk, as it may where nothing ties it to the input."""
    gains, separate_batch = iter([1.0, 30.0, 0.02, 5.0, 0.3, 8.0, 1.0]), model.separate_batch
    chunks = []

    def drifting(mix, lengths=None):
        estimates = torch.stack((mix[0], 0.5 * mix[0]), dim=-1)[None]
        chunks.append(len(mix[0]))
        return next(gains) * estimates

    model.separate_batch = drifting
    try:
        estimates = model.separate(mixture, level="none", chunking=CUT).numpy()
    finally:
        model.separate_batch = separate_batch
    assert len(chunks) == 6
    np.testing.assert_allclose(estimates.sum(1), mixture, atol=1e-3)


def test_gain():
    speech, other = np.random.default_rng(0).standard_normal((2, 20000))
    estimates = np.stack((7 * speech, np.zeros(20000)), axis=1)
    assert mapping_gain(estimates, speech + 3 * other) == pytest.approx(1 / 7, rel=0.05)  # noise counts little
    assert mapping_gain(estimates, -speech) == pytest.approx(1 / 7)  # never below zero
    assert mapping_gain(np.zeros((10, 2)), speech[:10]) == 1.0
    assert mapping_gain(estimates, np.zeros(20000)) == 1.0


class TestInputLevel:
    def test_loud_samples_alone_are_measured(self):
        """A tone, then a pause ten times as long: the pause counts for the one measure, and not for the other."""
        tone = 0.3 * np.sign(np.sin(np.arange(1000) / 5))
        signal = np.concatenate((tone, np.zeros(10000)))
        signal[:1000] -= tone.mean()
        loud, gain = normalise(signal, "loud_rms")
        assert np.sqrt(np.mean(loud[:1000] ** 2)) == pytest.approx(LOUD_LEVEL, rel=0.01)
        assert LOUD_LEVEL == pytest.approx(0.0562, abs=1e-4)
        assert np.sqrt(np.mean(normalise(signal)[0] ** 2)) == pytest.approx(LEVEL)
        np.testing.assert_allclose(loud, gain * (signal - signal.mean()))

    def test_a_square_wave_has_no_louder_samples(self):
        assert np.abs(normalise(np.tile([0.1, -0.1], 500), "loud_rms")[0]).max() == pytest.approx(LOUD_LEVEL)

    def test_silence(self):
        normalised, gain = normalise(np.zeros(100), "loud_rms")
        assert not normalised.any() and np.isfinite(gain)

    def test_the_model_says_which(self, tmp_path, mixture, monkeypatch):
        modules = dict(MossFormerSeparator.from_size("mini").named_children())
        folder = export(tmp_path / "model", modules, RATE, settings={"input_level": "loud_rms"})
        model = MossFormerSeparation.from_hparams(folder, device="cpu")
        given = []
        monkeypatch.setattr(model, "separate_batch", lambda mix: given.append(mix) or torch.zeros(1, mix.shape[1], 2))
        model.separate(mixture)
        expected = normalise(mixture, "loud_rms")[0]
        np.testing.assert_allclose(given[0][0].numpy(), expected, atol=1e-5)

    def test_one_that_is_not_known(self, tmp_path):
        modules = dict(MossFormerSeparator.from_size("mini").named_children())
        folder = export(tmp_path / "model", modules, RATE, settings={"input_level": "rms"})
        config = folder / "config.json"
        config.write_text(config.read_text().replace('"rms"', '"peak"'))
        with pytest.raises(InputError, match="input_level 'peak' is not known: choose one of rms, loud_rms"):
            MossFormerSeparation.from_hparams(folder, device="cpu")
