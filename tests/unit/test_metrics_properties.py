"""Scores of an utterance, for signals of any kind: against a dense solution, and what must not change them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import toeplitz

from mossformer_sb.evaluation.metrics import _NUM_TAPS, separation_scores
from tests.unit.signals import KINDS, signals

fixed = settings(derandomize=True, deadline=None, max_examples=25, database=None)
COLOURED = [kind for kind in KINDS if kind not in ("nearly silent", "correlated")]


@st.composite
def utterances(draw, min_spks=1, max_spks=3, kinds=KINDS, lengths=(600, 2500)):
    """Mixture [T], sources and estimates [T, S], in double precision."""
    num_samples, num_spks = draw(st.integers(*lengths)), draw(st.integers(min_spks, max_spks))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=num_spks, max_size=num_spks))
    sources = signals(rng, chosen, num_samples) * 10.0 ** draw(st.integers(-2, 1))
    noise = rng.standard_normal(sources.shape) * sources.std(0) * 10 ** draw(st.floats(-2, 0.5))
    mixture = sources.sum(1) + 0.1 * rng.standard_normal(num_samples) * sources.std()
    return tuple(torch.from_numpy(x) for x in (mixture, sources, sources + noise)) + (rng,)


def dense_sdr(estimate, source):
    """BSS-eval by a projection onto all delays of the source, in the time domain: no normal equations."""
    delays = toeplitz(np.r_[source, np.zeros(_NUM_TAPS - 1)], np.zeros(_NUM_TAPS))  # [T + taps - 1, taps]
    estimate = np.r_[estimate, np.zeros(_NUM_TAPS - 1)]
    basis, _ = np.linalg.qr(delays)
    target = basis @ (basis.T @ estimate)
    return 10 * np.log10((target @ target) / ((estimate - target) @ (estimate - target)))


@settings(derandomize=True, deadline=None, max_examples=12, database=None)
@given(utterances(max_spks=1, kinds=COLOURED, lengths=(900, 1800)))
def test_sdr_equals_a_dense_projection(utterance):
    mixture, sources, estimates, _ = utterance
    scores, _ = separation_scores(mixture, sources, estimates)
    assert scores.sdr == pytest.approx(dense_sdr(estimates[:, 0].numpy(), sources[:, 0].numpy()), abs=2e-3)
    unprocessed = dense_sdr(mixture.numpy(), sources[:, 0].numpy())
    assert scores.sdr - scores.sdr_i == pytest.approx(unprocessed, abs=2e-3)


@pytest.mark.parametrize("kind", COLOURED)
def test_sdr_of_each_kind_equals_a_dense_projection(kind):
    """Coloured sources make equations that are nearly dependent; white noise alone would not show a bad solver."""
    rng = np.random.default_rng(7)
    source = signals(rng, [kind], 1500)[:, 0]
    estimate = source + 0.3 * source.std() * rng.standard_normal(1500)
    scores, _ = separation_scores(*(torch.from_numpy(x) for x in (estimate, source[:, None], estimate[:, None])))
    assert scores.sdr == pytest.approx(dense_sdr(estimate, source), abs=2e-3)


@fixed
@given(utterances())
def test_a_filter_explains_no_less_than_a_gain(utterance):
    _, sources, estimates, _ = utterance
    scores, permutation = separation_scores(*utterance[:3])
    estimates = estimates[:, permutation]
    gains = (estimates * sources).sum(0) / sources.square().sum(0)
    rest = (estimates - gains * sources).square().sum(0)
    explained = 10 * torch.log10((gains * sources).square().sum(0) / rest)
    assert scores.sdr >= explained.clamp(-120, 120).mean().item() - 1e-3


@fixed
@given(utterances(), st.floats(1e-3, 1e3))
def test_gain_of_the_estimates_does_not_matter(utterance, gain):
    mixture, sources, estimates, _ = utterance
    straight, _ = separation_scores(mixture, sources, estimates)
    assert separation_scores(mixture, sources, -gain * estimates)[0] == pytest.approx(straight, abs=1e-4)
    assert separation_scores(gain * mixture, sources, estimates)[0] == pytest.approx(straight, abs=1e-4)


@fixed
@given(utterances(min_spks=2))
def test_order_does_not_matter(utterance):
    mixture, sources, estimates, rng = utterance
    order = torch.from_numpy(rng.permutation(sources.shape[1]))
    straight, permutation = separation_scores(mixture, sources, estimates)
    shuffled, found = separation_scores(mixture, sources[:, order], estimates)
    assert shuffled == pytest.approx(straight, abs=1e-6)
    assert found.tolist() == permutation[order].tolist()


@fixed
@given(utterances())
def test_the_mixture_improves_nothing(utterance):
    mixture, sources, _, _ = utterance
    scores, _ = separation_scores(mixture, sources, mixture[:, None].expand_as(sources))
    assert scores.si_snr_i == pytest.approx(0, abs=1e-6) and scores.sdr_i == pytest.approx(0, abs=1e-6)


@fixed
@given(utterances(min_spks=2))
def test_a_silent_source_is_excluded(utterance):
    mixture, sources, estimates, rng = utterance
    silent = int(rng.integers(sources.shape[1]))
    others = [speaker for speaker in range(sources.shape[1]) if speaker != silent]
    sources[:, silent] = 0
    _, permutation = separation_scores(mixture, sources, estimates)
    scores, _ = separation_scores(mixture, sources, estimates)
    chosen = estimates[:, permutation[others]]
    assert scores == pytest.approx(separation_scores(mixture, sources[:, others], chosen)[0], abs=1e-6)


@fixed
@given(utterances())
def test_scores_are_within_their_bounds(utterance):
    mixture, sources, estimates, _ = utterance
    for estimate in (estimates, torch.zeros_like(estimates), sources, torch.ones_like(sources)):
        scores, _ = separation_scores(mixture, sources, estimate)
        assert -120 <= scores.sdr <= 120 and -120.001 <= scores.si_snr <= 120.001
        assert abs(scores.sdr_i) <= 240 and abs(scores.si_snr_i) <= 240.01
