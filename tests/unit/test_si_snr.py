"""SI-SNR: its definition, its extremes, lengths, and the best permutation."""

import itertools
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torchmetrics.functional.audio import scale_invariant_signal_noise_ratio

from mossformer_sb.errors import InputError
from mossformer_sb.evaluation import si_snr as si_snr_module
from mossformer_sb.evaluation.si_snr import _permutations, best_permutation, pairwise_si_snr, si_snr
from mossformer_sb.training.losses import pit_si_snr_loss


def mixture_of(num_spks, batch_size=2, num_samples=4000):
    return torch.randn(batch_size, num_samples, num_spks, dtype=torch.float64)


class TestSiSnr:
    def test_equals_torchmetrics(self):
        sources = mixture_of(3)
        estimates = sources + 0.3 * torch.randn_like(sources) + 0.7
        expected = scale_invariant_signal_noise_ratio(estimates.transpose(1, 2), sources.transpose(1, 2))
        torch.testing.assert_close(si_snr(estimates, sources), expected, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("decibels", [-60, -10, 0, 10, 30, 60])
    def test_known_value(self, decibels):
        """Noise orthogonal to the source, at a known level."""
        time = torch.arange(8000, dtype=torch.float64)[None, :, None] / 8000
        source, noise = (2 * math.pi * 100 * time).sin(), (2 * math.pi * 250 * time).sin()
        estimate = source + 10 ** (-decibels / 20) * noise
        assert si_snr(estimate, source).item() == pytest.approx(decibels, abs=1e-5)

    @pytest.mark.parametrize("gain", [1e-6, -3.0, 1e4])
    def test_scale_and_offset_do_not_matter(self, gain):
        sources = mixture_of(2)
        estimates = sources + 0.5 * torch.randn_like(sources)
        torch.testing.assert_close(si_snr(gain * estimates + 0.1 * gain, sources), si_snr(estimates, sources))

    def test_extremes_are_finite_with_finite_gradients(self):
        source = mixture_of(1, batch_size=1)
        for estimate, expected in ((source.clone(), 120), (torch.zeros_like(source), -120)):
            estimate.requires_grad_()
            value = si_snr(estimate, source)
            assert value.item() == pytest.approx(expected, abs=1e-3)
            value.sum().backward()
            assert estimate.grad.isfinite().all()

    def test_padding_is_not_looked_at(self):
        """Not even where the estimate is far from zero there."""
        lengths = torch.tensor([4000, 1500])
        sources = mixture_of(2)
        estimates = sources + 0.5 * torch.randn_like(sources)
        alone = si_snr(estimates[1:, :1500], sources[1:, :1500])
        estimates[1, 1500:] = 100.0
        sources[1, 1500:] = float("nan")
        torch.testing.assert_close(si_snr(estimates, sources, lengths)[1:], alone)

    def test_half_precision_is_computed_in_float32(self):
        sources = mixture_of(1).bfloat16()
        assert si_snr(sources, sources).dtype == torch.float32

    def test_shapes_must_agree(self):
        with pytest.raises(InputError, match=r"found \[2, 4000, 2\] and \[2, 4000, 3\]"):
            si_snr(mixture_of(2), mixture_of(3))

    def test_lengths_must_be_samples(self):
        with pytest.raises(InputError, match="int64 tensor of samples, not torch.float32"):
            si_snr(mixture_of(2), mixture_of(2), torch.tensor([1.0, 0.5]))

    @pytest.mark.parametrize("exponent", [-25, -22, -15, 15, 19, 30])
    def test_very_soft_and_loud_signals(self, exponent):
        sources = torch.randn(1, 4000, 2)
        estimates = (sources + 0.1 * torch.randn_like(sources)) * 10.0**exponent
        expected = si_snr(estimates.double(), sources.double())
        for found in (si_snr(estimates, sources), si_snr(sources + 0.1 * (estimates * 0), sources * 10.0**exponent)):
            assert found.isfinite().all()
        torch.testing.assert_close(si_snr(estimates, sources), expected.float(), rtol=1e-4, atol=1e-3)
        scores = pairwise_si_snr(estimates, sources)
        torch.testing.assert_close(scores.diagonal(0, 1, 2), expected.float(), rtol=1e-3, atol=1e-2)

    @pytest.mark.parametrize("exponent", [-24, -26, -28, -30, -35, -44])
    def test_a_source_that_is_nearly_silent_has_a_finite_gradient(self, exponent):
        sources = torch.randn(1, 4000, 2) * torch.tensor([0.1, 10.0**exponent])
        estimates = torch.randn(1, 4000, 2, requires_grad=True)
        result = pit_si_snr_loss(estimates, sources)
        result.losses.sum().backward()
        assert result.num_active.item() == 1 and result.losses.isfinite().all() and estimates.grad.isfinite().all()


@pytest.mark.parametrize("num_spks", [4, 5])
def test_permutation_of_any_type_and_of_no_items(num_spks):
    scores = torch.eye(num_spks)[None].bfloat16()
    assert best_permutation(scores).tolist() == [list(range(num_spks))]
    assert best_permutation(scores[:0]).shape == (0, num_spks)


def test_an_estimate_of_shapes_leaves_no_trace():
    _permutations.cache_clear()
    with FakeTensorMode():
        best_permutation(torch.randn(1, 3, 3))
    assert best_permutation(torch.eye(3)[None]).tolist() == [[0, 1, 2]]


def test_permutation_is_the_best_of_all_and_not_greedy():
    scores = torch.tensor([[[10.0, 9.0], [9.5, 0.0]]])  # the greatest single score is not in the best permutation
    assert best_permutation(scores).tolist() == [[1, 0]]


def test_many_speakers_agree_with_enumeration():
    scores = torch.randn(4, 5, 5)
    totals = {
        permutation: scores[:, list(permutation), range(5)].sum(1) for permutation in itertools.permutations(range(5))
    }
    best = torch.stack(list(totals.values())).amax(0)
    found = best_permutation(scores)
    torch.testing.assert_close(scores.gather(1, found[:, None]).sum((1, 2)), best)


def test_pairwise_agrees_with_si_snr():
    estimates, sources = mixture_of(3), mixture_of(3)
    scores = pairwise_si_snr(estimates, sources)
    for estimate, source in itertools.product(range(3), range(3)):
        expected = si_snr(estimates[..., estimate : estimate + 1], sources[..., source : source + 1])[:, 0]
        torch.testing.assert_close(scores[:, estimate, source], expected)


def test_training_after_inference_mode_has_found_the_permutations():
    si_snr_module._permutations.cache_clear()
    estimates, sources = torch.randn(2, 1, 100, 2)
    with torch.inference_mode():
        best_permutation(pairwise_si_snr(estimates, sources))
    estimates.requires_grad_()
    scores = pairwise_si_snr(estimates, sources)
    permutations = si_snr_module._permutations(2, scores.device)
    scores[:, permutations, torch.arange(2)].sum().backward()
    assert estimates.grad.isfinite().all()
