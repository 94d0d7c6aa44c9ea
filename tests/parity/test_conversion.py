"""Checkpoints that the authors' classes wrote: converted they give the authors' output, and back they load there."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mossformer_sb.inference import MossFormerSeparation
from mossformer_sb.inference.input_level import normalise
from mossformer_sb.sharing.authors_export import to_authors
from mossformer_sb.sharing.conversion import from_authors
from tests.parity.authors import (
    clearvoice_functions,
    clearvoice_network,
    modelscope_network,
    write_clearvoice,
)
from tests.parity.reference import relative_error

pytestmark = pytest.mark.parity


def load(folder):
    return MossFormerSeparation.from_hparams(folder, device="cpu")


def assert_same(folder, network, as_theirs=lambda output: output):
    mixture = torch.randn(2, 4001, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = as_theirs(network(mixture))
    assert relative_error(load(folder).separate_batch(mixture), expected) <= 1e-5


@pytest.mark.parametrize("num_spks", [2, 3])
def test_modelscope(tmp_path, num_spks):
    network = modelscope_network(num_spks)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.pt")
    ours = from_authors(tmp_path, tmp_path / "ours")
    assert_same(ours, network)
    back = torch.load(to_authors(ours, tmp_path / "back", "modelscope") / "pytorch_model.pt", weights_only=True)
    fresh = modelscope_network(num_spks)
    for parameter in fresh.parameters():
        parameter.data.zero_()
    fresh.load_state_dict(back)  # all keys, and no others
    assert_same(ours, fresh)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_clearvoice(tmp_path, prefix):
    network = clearvoice_network()
    source = write_clearvoice(tmp_path / "theirs", network.state_dict(), prefix)
    ours = from_authors(source, tmp_path / "ours", sample_rate=16000)
    assert_same(ours, network, lambda output: torch.stack(output, dim=-1))
    back = torch.load(to_authors(ours, tmp_path / "back", "clearvoice") / "last_best_checkpoint.pt", weights_only=True)
    for parameter in network.parameters():
        parameter.data.zero_()
    network.load_state_dict(back["model"])
    assert_same(ours, network, lambda output: torch.stack(output, dim=-1))


def test_output_of_clearvoice_up_to_its_level(tmp_path):
    """Their level of the input, and their way through the network; of 1.75 s, since that is no length that they pad."""
    (audio_norm,) = clearvoice_functions("dataloader/dataloader.py", "audio_norm")
    (decode,) = clearvoice_functions("utils/decode.py", "decode_one_audio_mossformer2_ss_16k")
    network = clearvoice_network()
    ours = load(from_authors(write_clearvoice(tmp_path / "a", network.state_dict()), tmp_path / "b", sample_rate=16000))
    generator = np.random.default_rng(0)
    envelope = np.repeat(generator.uniform(0, 0.02, 35), 800)  # so that louder samples are not those of the mean level
    recording = generator.standard_normal(28000) * envelope
    recording -= recording.mean()
    arguments = SimpleNamespace(sampling_rate=16000, decode_window=1, one_time_decode_length=2, num_spks=2)
    normalised, _ = audio_norm(recording)
    np.testing.assert_allclose(
        normalise(recording, "loud_rms")[0], normalised, rtol=1e-3
    )  # they add 1e-6 to each level
    assert np.abs(normalise(recording, "rms")[0] / normalised - 1).min() > 0.2
    with torch.no_grad():
        theirs = decode(network, "cpu", normalised[None].astype(np.float32), arguments)
    found = ours.separate(recording.astype(np.float32), 16000, level="none").numpy()
    for number, expected in enumerate(theirs):
        estimate = found[:, number]
        scaled = estimate / np.sqrt(np.mean(estimate**2)) * np.sqrt(np.mean(expected**2))
        assert np.abs(scaled - expected).max() <= 1e-4 * np.abs(expected).max()
