"""The loss: every permutation, silent sources, and their estimates."""

import itertools

import pytest
import torch

from mossformer_sb.evaluation.si_snr import is_active, reorder, si_snr
from mossformer_sb.training.losses import pit_si_snr_loss


def mixture_of(num_spks, batch_size=2, num_samples=4000):
    return torch.randn(batch_size, num_samples, num_spks, dtype=torch.float64)


@pytest.mark.parametrize("num_spks", [1, 2, 3, 4, 5, 6])
def test_every_permutation_is_found(num_spks):
    sources = mixture_of(num_spks, batch_size=1, num_samples=400)
    noisy = sources + 0.2 * torch.randn_like(sources)
    for permutation in itertools.permutations(range(num_spks)):
        estimates = torch.empty_like(noisy)
        estimates[..., list(permutation)] = noisy  # the estimate for source s stands at permutation[s]
        result = pit_si_snr_loss(estimates, sources)
        assert result.permutation.tolist() == [list(permutation)]
        assert torch.equal(reorder(estimates, result.permutation), noisy)


def test_each_item_has_its_own_permutation():
    sources = mixture_of(2)
    estimates = torch.stack((sources[0], sources[1].flip(-1)))
    assert pit_si_snr_loss(estimates + 0.1, sources).permutation.tolist() == [[0, 1], [1, 0]]


def test_permutation_is_not_chosen_in_half_precision():
    """Estimates that differ by less than bfloat16 resolves, under autocast."""
    sources = mixture_of(2, batch_size=1).float()
    common = sources.sum(-1, keepdim=True)
    estimates = common + 0.002 * sources.flip(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pit_si_snr_loss(estimates, sources).permutation.tolist() == [[1, 0]]


class TestSilentSources:
    def test_are_excluded_from_the_mean(self):
        sources = mixture_of(2, batch_size=1)
        estimates = sources + 0.5 * torch.randn_like(sources)
        one = si_snr(estimates[..., :1], sources[..., :1])
        sources[..., 1] = 0.25  # constant is silent too
        result = pit_si_snr_loss(estimates, sources)
        assert is_active(sources).tolist() == [[True, False]]
        assert result.num_active.tolist() == [1]
        torch.testing.assert_close(result.losses, -one[:, 0])

    def test_do_not_disturb_the_permutation(self):
        sources = mixture_of(2, batch_size=1)
        estimates = sources.flip(-1) + 0.5 * torch.randn_like(sources)
        sources[..., 0] = 0
        assert pit_si_snr_loss(estimates, sources).permutation.tolist() == [[1, 0]]

    def test_an_item_without_sound_has_no_loss_and_no_gradient(self):
        estimates = mixture_of(2).requires_grad_()
        sources = mixture_of(2)
        sources[0] = 0
        result = pit_si_snr_loss(estimates, sources)
        assert result.num_active.tolist() == [0, 2]
        assert result.losses[0] == 0
        result.losses.sum().backward()
        assert (estimates.grad[0] == 0).all()
        assert (estimates.grad[1] != 0).any() and estimates.grad.isfinite().all()


class TestSilentTargets:
    """One speaker of two is silent: the loss of its estimate."""

    def case(self, leak=0.1, num_spks=2):
        sources = torch.zeros(1, 4000, num_spks, dtype=torch.float64)
        sources[..., 0] = torch.randn(4000)
        leaks = leak * torch.randn(1, 4000, num_spks - 1, dtype=torch.float64)
        estimates = torch.cat((leaks, sources[..., :1] + 0.01 * torch.randn(1, 4000, 1)), -1)
        return estimates.requires_grad_(), sources

    def test_no_loss_by_default(self):
        estimates, sources = self.case()
        result = pit_si_snr_loss(estimates, sources)
        result.losses.sum().backward()
        assert result.losses.item() == pytest.approx(-40, abs=0.5) and result.num_active.item() == 1
        assert not estimates.grad[..., 0].any()

    @pytest.mark.parametrize("leak, expected", [(0.1, -20), (1.0, 0), (1e-4, -30)])
    def test_attenuated_below_the_others(self, leak, expected):
        estimates, sources = self.case(leak)
        result = pit_si_snr_loss(estimates, sources, silence_snr=30)
        assert 2 * result.losses.item() + result.si_snr.item() == pytest.approx(expected, abs=0.5)
        assert result.si_snr.item() == pytest.approx(40, abs=0.5)
        assert result.permutation.tolist() == [[1, 0]]
        result.losses.sum().backward()
        with torch.no_grad():
            better = pit_si_snr_loss(estimates - 1e-3 * leak * estimates.grad.sign(), sources, silence_snr=30)
        assert better.losses < result.losses
        assert estimates.grad[..., 0].any()

    def test_a_common_gain_changes_nothing(self):
        estimates, sources = self.case()
        quiet = pit_si_snr_loss(1e-3 * estimates, sources, silence_snr=30)
        torch.testing.assert_close(quiet.losses, pit_si_snr_loss(estimates, sources, silence_snr=30).losses)

    def test_every_silent_speaker_counts(self):
        estimates, sources = self.case(num_spks=3)
        loss = pit_si_snr_loss(estimates, sources, silence_snr=30).losses.item()
        assert loss == pytest.approx((-40 - 20 - 20) / 3, abs=0.5)

    def test_items_do_not_mix_and_padding_does_not_count(self):
        estimates, sources = self.case()
        full = torch.randn(1, 4000, 2, dtype=torch.float64)
        batch = torch.cat((estimates, full + 0.1)), torch.cat((sources, full))
        padded = [torch.nn.functional.pad(x, (0, 0, 0, 50), value=3.0) for x in batch]
        lengths = torch.tensor([4000, 4000])
        result = pit_si_snr_loss(*padded, lengths, silence_snr=30)
        alone = pit_si_snr_loss(estimates, sources, silence_snr=30)
        torch.testing.assert_close(result.losses[:1], alone.losses)
        torch.testing.assert_close(result.losses[1:], pit_si_snr_loss(full + 0.1, full).losses)

    def test_nothing_but_silence_has_no_loss(self):
        estimates = torch.randn(1, 4000, 2, requires_grad=True)
        result = pit_si_snr_loss(estimates, torch.zeros(1, 4000, 2), silence_snr=30)
        result.losses.sum().backward()
        assert result.losses.item() == 0 and result.num_active.item() == 0 and not estimates.grad.any()

    def test_an_estimate_of_silence_is_perfect(self):
        estimates, sources = self.case(leak=0.0)
        result = pit_si_snr_loss(estimates, sources, silence_snr=30)
        result.losses.sum().backward()
        assert 2 * result.losses.item() + result.si_snr.item() == pytest.approx(-30, abs=0.01)
        assert estimates.grad.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("silent_estimates", [[0], [1], [0, 1]])
    def test_estimates_of_nothing_have_a_finite_gradient(self, dtype, silent_estimates):
        """As a network gives them whose masks are all zero."""
        estimates, sources = (x.detach().to(dtype) for x in self.case())
        estimates[..., silent_estimates] = 0.0
        estimates.requires_grad_()
        result = pit_si_snr_loss(estimates, sources, silence_snr=30)
        result.losses.sum().backward()
        assert result.losses.isfinite().all() and estimates.grad.isfinite().all()
