"""Chunks: the speakers stay in order, the output equals that of one piece, and memory is bounded."""

import itertools
import time

import numpy as np
import pytest
import torch
from scipy.signal import istft, stft

from mossformer_sb import InputError
from mossformer_sb.evaluation.si_snr import si_snr
from mossformer_sb.inference.chunking import Chunking, continuing_order, cut, separate_in_chunks

RATE = 8000


def voices(num_samples, num_spks):
    """Modulated noise in bands of its own for each speaker, with pauses as speech has them: [T, S]."""
    rng = np.random.default_rng(0)
    signals = []
    for speaker in range(num_spks):
        carrier = np.cumsum(rng.standard_normal(num_samples)) * 0.01
        tone = np.sin(2 * np.pi * (300 + 400 * speaker) * np.arange(num_samples) / RATE + carrier)
        syllables = np.repeat(rng.random(num_samples // 1600 + 1) > 0.4, 1600)[:num_samples]
        signals.append(tone * syllables)
    return np.stack(signals, 1).astype(np.float32)


class OracleMasks:
    """Stands in for a network that separates: ratio masks from the true sources, in an order drawn for each chunk."""

    def __init__(self, sources):
        self.sources = sources
        self.mixture = sources.sum(1)
        self.rng = np.random.default_rng(1)
        self.orders = []

    def __call__(self, chunk):
        starts = np.flatnonzero(self.mixture[: len(self.mixture) - len(chunk) + 1] == chunk[0])
        (start,) = (start for start in starts if np.array_equal(self.mixture[start : start + len(chunk)], chunk))
        estimates = self.separate(start, len(chunk))
        self.orders.append(self.rng.permutation(estimates.shape[1]))
        return estimates[:, self.orders[-1]]

    def separate(self, start, length):
        sources = stft(self.sources[start : start + length].T, nperseg=256)[2]
        masks = np.abs(sources) ** 2 / (np.square(np.abs(sources)).sum(0) + 1e-8)
        return istft(masks * sources.sum(0), nperseg=256)[1].T[:length].astype(np.float32)


def in_blocks(signal, sizes=(1000, 7, 30000, 1)):
    sizes, start = itertools.cycle(sizes), 0
    while start < len(signal):
        size = next(sizes)
        yield signal[start : start + size]
        start += size


@pytest.mark.parametrize("num_spks", [2, 3])
def test_no_speaker_is_swapped_and_boundaries_are_as_good_as_one_piece(num_spks):
    sources = voices(60 * RATE, num_spks)
    model = OracleMasks(sources)
    length, overlap = 6 * RATE, 2 * RATE
    joined = np.concatenate(list(separate_in_chunks(model, in_blocks(model.mixture), length, overlap)))
    assert len({tuple(order) for order in model.orders}) > 1 and len(model.orders) == 15
    in_one_piece = model.separate(0, len(sources))
    in_one_piece = in_one_piece[:, model.orders[0]]
    sources = sources[:, model.orders[0]]
    assert joined.shape == in_one_piece.shape
    for boundary in range(length - overlap, len(sources) - length, length - overlap):
        around = slice(boundary - RATE, boundary + overlap + RATE)
        scores, expected = (
            si_snr(*(_tensor(signal[around]) for signal in (estimates, sources)))
            for estimates in (joined, in_one_piece)
        )
        assert (scores - expected).abs().max() < 0.1


def _tensor(signal):
    return torch.from_numpy(np.ascontiguousarray(signal))[None]


@pytest.mark.parametrize("num_samples", [1, 999, 1000, 1001, 1399, 1400, 1401, 1799, 1800, 1801, 5000])
@pytest.mark.parametrize("sizes", [(10**6,), (1,), (700, 33)])
def test_every_sample_comes_out_once(num_samples, sizes):
    """With a network that passes its input on, the output is the input, wherever the cuts fall."""
    signal = np.random.randn(num_samples).astype(np.float32)
    lengths = []

    def passed_on(chunk):
        lengths.append(len(chunk))
        return chunk[:, None].repeat(2, 1)

    joined = np.concatenate(list(separate_in_chunks(passed_on, in_blocks(signal, sizes), 1000, 200)))
    np.testing.assert_allclose(joined, signal[:, None].repeat(2, 1), atol=1e-6)
    assert set(lengths[:-1]) <= {1000}
    assert min(num_samples, 500) <= lengths[-1] <= 1000  # the last chunk, too, has some context
    assert sum(lengths) <= num_samples + 200 * (len(lengths) - 1) + 500  # and is not much more work


def test_long_chunks_take_no_quadratic_time():
    blocks = (np.zeros(500, np.float32) for _ in range(60_000))
    start = time.process_time()
    assert sum(len(chunk) for _, chunk, _ in cut(blocks, length=20_000_000, overlap=10)) >= 30_000_000
    assert time.process_time() - start < 5


def test_a_speaker_silent_in_the_overlap_decides_nothing():
    """Only traces of the second speaker, and they would fit better the other way round."""
    voice, trace = np.random.randn(2, 1000)
    before = np.stack((voice, 1e-3 * trace), 1)
    after = np.stack((1e-3 * voice, voice + 1e-3 * trace), 1)
    assert continuing_order(before, after).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"overlap": 0}, "the overlap must be more than 0 and at most half a chunk"),
        ({"seconds": 8, "overlap": 5}, "chunks of 8 s overlap by 5 s"),
        ({"seconds": 90}, "chunks can't be longer than the recordings"),
        ({"seconds": float("inf"), "above": float("inf")}, "chunks of inf s: the length must be a number of seconds"),
        ({"seconds": float("nan")}, "chunks of nan s: the length must be a number of seconds"),
        ({"overlap": float("nan")}, "the overlap must be more than 0"),
        ({"above": float("nan")}, "chunks can't be longer than the recordings"),
    ],
)
def test_chunks_that_make_no_sense(values, message):
    with pytest.raises(InputError, match=message):
        Chunking(**values)


@pytest.mark.parametrize("overlap", [-1, 0, 10, 11])
def test_an_overlap_that_is_none(overlap):
    with pytest.raises(InputError, match=f"chunks of 10 samples overlap by {overlap}: needed are 1 to 9 samples"):
        list(separate_in_chunks(lambda chunk: chunk[:, None], [np.zeros(30)], 10, overlap))
