"""SI-SNR and its training loss, for signals of any kind: coloured, clipped, nearly silent, correlated, silent."""

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mossformer_sb.evaluation.si_snr import is_active, pairwise_si_snr, reorder, si_snr
from mossformer_sb.training.losses import pit_si_snr_loss
from tests.unit.signals import KINDS, signals

fixed = settings(derandomize=True, deadline=None, max_examples=40, database=None)


@st.composite
def cases(draw, min_spks=1, max_spks=4, silence=True):
    """Sources and estimates [B, T, S] in double precision, and lengths [B]."""
    batch, num_samples, num_spks = (
        draw(st.integers(1, 3)),
        draw(st.integers(64, 400)),
        draw(st.integers(min_spks, max_spks)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=num_spks, max_size=num_spks))
    scale = 10.0 ** draw(st.integers(-4, 2))
    sources = np.stack([signals(rng, kinds, num_samples) for _ in range(batch)]) * scale
    noise = rng.standard_normal(sources.shape) * sources.std(1, keepdims=True) * 10 ** draw(st.floats(-2.5, 1.0))
    estimates = sources + noise + scale * 1e-3 * rng.standard_normal(sources.shape)
    lengths = [draw(st.integers(48, num_samples)) for _ in range(batch)]
    if silence and draw(st.booleans()):
        sources[rng.integers(batch), :, rng.integers(num_spks)] = 0.0
    return torch.from_numpy(sources), torch.from_numpy(estimates), torch.tensor(lengths), rng


def alone(signal, index, length):
    return signal[index : index + 1, :length]


def exact_si_snr(estimate, source):
    """The definition, in one line each: [T] twice → dB."""
    estimate, source = estimate - estimate.mean(), source - source.mean()
    target = (estimate @ source) / (source @ source) * source
    return 10 * torch.log10((target @ target) / ((estimate - target) @ (estimate - target)))


@fixed
@given(cases(silence=False))
def test_equals_its_definition(case):
    sources, estimates, _, _ = case
    found = si_snr(estimates, sources)
    for item, speaker in itertools.product(range(len(sources)), range(sources.shape[2])):
        expected = exact_si_snr(estimates[item, :, speaker], sources[item, :, speaker]).item()
        # EPS bounds it to 120 dB, which bends it by 4e-6 dB at 60 dB.
        np.testing.assert_allclose(found[item, speaker].item(), expected, atol=1e-4 if abs(expected) < 60 else 0.1)


@fixed
@given(cases(), st.floats(1e-3, 1e3), st.floats(-1, 1), st.booleans())
def test_gain_and_offset_of_an_estimate_do_not_matter(case, gain, offset, negative):
    sources, estimates, lengths, _ = case
    changed = (-gain if negative else gain) * estimates + offset * estimates.abs().max()
    torch.testing.assert_close(
        si_snr(changed, sources, lengths), si_snr(estimates, sources, lengths), rtol=1e-6, atol=1e-5
    )


@fixed
@given(cases(), st.booleans())
def test_an_item_of_a_batch_is_as_it_is_alone(case, with_silence_loss):
    """Whatever stands in the padding."""
    sources, estimates, lengths, _ = case
    snr = 30 if with_silence_loss else None
    for index, length in enumerate(lengths.tolist()):
        sources[index, length:], estimates[index, length:] = float("nan"), float("inf")
    together = pit_si_snr_loss(estimates, sources, lengths, silence_snr=snr)
    for index, length in enumerate(lengths.tolist()):
        one = pit_si_snr_loss(alone(estimates, index, length), alone(sources, index, length), silence_snr=snr)
        torch.testing.assert_close(together.losses[index], one.losses[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(together.si_snr[index], one.si_snr[0], rtol=1e-9, atol=1e-9)
        assert together.num_active[index] == one.num_active[0]


@fixed
@given(cases(min_spks=2, max_spks=5), st.booleans())
def test_the_order_of_estimates_does_not_matter(case, with_silence_loss):
    sources, estimates, lengths, rng = case
    snr = 30 if with_silence_loss else None
    order = torch.from_numpy(rng.permutation(sources.shape[2]))
    straight = pit_si_snr_loss(estimates, sources, lengths, snr)
    crossed = pit_si_snr_loss(estimates[..., order], sources, lengths, snr)
    torch.testing.assert_close(crossed.si_snr, straight.si_snr, rtol=1e-7, atol=1e-7)
    if sources.abs().amax(1).min() > 0:  # a silent source takes whichever estimate is left
        torch.testing.assert_close(crossed.losses, straight.losses, rtol=1e-7, atol=1e-7)


@fixed
@given(cases(min_spks=2, max_spks=5))
def test_no_permutation_is_better(case):
    sources, estimates, lengths, _ = case
    result = pit_si_snr_loss(estimates, sources, lengths)
    active = is_active(sources, lengths)
    for permutation in itertools.permutations(range(sources.shape[2])):
        scores = si_snr(estimates[..., list(permutation)], sources, lengths)
        mean = torch.where(active, scores, 0.0).sum(-1) / active.sum(-1).clamp(min=1)
        assert (mean <= result.si_snr + 1e-6).all()
    chosen = si_snr(reorder(estimates, result.permutation), sources, lengths)
    best = torch.where(active, chosen, 0.0).sum(-1) / active.sum(-1).clamp(min=1)
    torch.testing.assert_close(best, result.si_snr)


@fixed
@given(cases())
def test_pairs_are_what_each_pair_has(case):
    sources, estimates, lengths, _ = case
    pairs = pairwise_si_snr(estimates, sources, lengths)
    active = is_active(sources, lengths)
    for one, other in itertools.product(range(sources.shape[2]), repeat=2):
        expected = si_snr(estimates[..., [one]], sources[..., [other]], lengths)[:, 0]
        expected = torch.where(active[:, other], expected, 0.0).clamp(-100, 100)
        torch.testing.assert_close(pairs[:, one, other].clamp(-100, 100), expected, rtol=1e-5, atol=1e-3)


@fixed
@given(cases(), st.booleans(), st.sampled_from([torch.float32, torch.float64]))
def test_loss_and_gradient_are_finite_and_go_down(case, with_silence_loss, dtype):
    sources, estimates, lengths, _ = case
    sources, estimates = sources.to(dtype), estimates.to(dtype).requires_grad_()
    snr = 30 if with_silence_loss else None
    result = pit_si_snr_loss(estimates, sources, lengths, snr)
    result.losses.sum().backward()
    assert result.losses.isfinite().all() and estimates.grad.isfinite().all()
    none_active = result.num_active == 0
    assert (result.losses[none_active] == 0).all() and not estimates.grad[none_active].any()
    for index, length in enumerate(lengths.tolist()):
        assert not estimates.grad[index, length:].any()
    if dtype == torch.float64:
        with torch.no_grad():
            slope = estimates.grad.square().sum()
            step = 1e-4 * (result.losses.abs().sum() + 1) / slope.clamp(min=1e-30)
            after = pit_si_snr_loss(estimates - step * estimates.grad, sources, lengths, snr).losses.sum()
        assert after <= result.losses.sum() + 1e-6


@fixed
@given(cases(min_spks=2), st.booleans())
def test_a_silent_estimate_is_the_worst_and_finite(case, with_silence_loss):
    sources, _, lengths, _ = case
    estimates = torch.zeros_like(sources, requires_grad=True)
    result = pit_si_snr_loss(estimates, sources, lengths, 30 if with_silence_loss else None)
    result.losses.sum().backward()
    assert estimates.grad.isfinite().all() and result.losses.isfinite().all()
    torch.testing.assert_close(
        result.si_snr[result.num_active > 0], torch.full_like(result.si_snr, -120.0)[result.num_active > 0]
    )


@fixed
@given(cases(min_spks=2, silence=False), st.floats(-60, 60))
def test_silence_is_attenuated_and_nothing_else_changes(case, level):
    """Items whose sources are all active have the loss that they have without."""
    sources, estimates, lengths, _ = case
    plain = pit_si_snr_loss(estimates, sources, lengths)
    active_everywhere = plain.num_active == sources.shape[2]
    with_it = pit_si_snr_loss(estimates, sources, lengths, silence_snr=level)
    assert torch.equal(with_it.losses[active_everywhere], plain.losses[active_everywhere])
    assert torch.equal(with_it.si_snr, plain.si_snr)
