"""Encode, mask, decode: lengths in samples, alignment, and equality with SpeechBrain's own interface."""

import contextlib

import pytest
import torch

from mossformer_sb import InputError, MossFormerMaskNet, MossFormerSeparator
from mossformer_sb.network import fast
from mossformer_sb.network.separator import num_frames

KERNEL, STRIDE = 16, 8


@pytest.fixture
def separator():
    separator = MossFormerSeparator.from_size("mini", dropout=0.0)
    separator = MossFormerSeparator.from_modules(
        encoder=type(separator.encoder)(kernel_size=KERNEL, out_channels=20),
        masknet=MossFormerMaskNet(20, 24, num_blocks=2, group_size=16, query_key_dim=32, dropout=0.0),
        decoder=type(separator.decoder)(in_channels=20, out_channels=1, kernel_size=KERNEL, stride=STRIDE, bias=False),
    )
    return separator.double().eval()


@pytest.mark.parametrize("num_samples", [KERNEL, KERNEL + 1, 100, 103, 104, 1000])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_any_length_from_one_kernel_on(separator, num_samples, batch_size):
    estimates = separator(torch.randn(batch_size, num_samples, dtype=torch.float64))
    assert estimates.shape == (batch_size, num_samples, 2)


def test_padded_batch_equals_items_alone(separator):
    lengths = torch.tensor([KERNEL, 100, 111, 112, 400])
    mixture = torch.randn(len(lengths), 400, dtype=torch.float64)
    together = separator(mixture, lengths)
    for item, length in enumerate(lengths):
        alone = separator(mixture[item : item + 1, :length])[0]
        torch.testing.assert_close(together[item, :length], alone, rtol=1e-9, atol=1e-11)
        last_frame_end = (num_frames(int(length), KERNEL, STRIDE) - 1) * STRIDE + KERNEL
        assert (together[item, last_frame_end:] == 0).all()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_decoders_bias_is_not_added_to_padding(enabled):
    separator = MossFormerSeparator.from_modules(
        *MossFormerSeparator.from_size("mini").children(), sample_rate=8000
    ).eval()
    separator.decoder.bias = torch.nn.Parameter(torch.tensor([0.1]))
    mixture, lengths = torch.randn(2, 400), torch.tensor([400, 205])
    with torch.no_grad(), contextlib.nullcontext() if enabled else fast.disabled():
        padded, alone = separator(mixture, lengths), separator(mixture[1:, :205])
    torch.testing.assert_close(padded[1:, :205], alone)
    assert not padded[1, 200:].any() and padded[0, :400].all()


def test_padding_may_hold_anything(separator):
    lengths = torch.tensor([90, 200])
    mixture = torch.randn(2, 200, dtype=torch.float64)
    poisoned = mixture.clone()
    poisoned[0, 90:] = float("nan")
    assert torch.equal(separator(poisoned, lengths), separator(mixture, lengths))


def test_masks_of_one_give_back_the_encoder_decoder_pair(separator):
    """Estimates are aligned with the mixture to the sample."""

    class Ones(torch.nn.Module):
        def forward(self, x):
            return torch.ones(2, *x.shape, dtype=x.dtype)

    with torch.no_grad():
        # An encoder and decoder that hand samples on: each frame's 16 samples, halved since frames overlap twice.
        identity = torch.eye(KERNEL, dtype=torch.float64)[:, None]
        separator.encoder.conv1d.weight = torch.nn.Parameter(identity)
        separator.decoder.weight = torch.nn.Parameter(identity / 2)
        separator.masknet = Ones()
        mixture = torch.rand(1, 160, dtype=torch.float64)  # positive: the encoder's ReLU passes it
        estimates = separator(mixture)
    torch.testing.assert_close(estimates[0, STRIDE:-STRIDE, 0], mixture[0, STRIDE:-STRIDE])


def test_too_short(separator):
    with pytest.raises(InputError, match="at least 16 samples, the encoder's kernel; found 15"):
        separator(torch.randn(1, 15, dtype=torch.float64))
    with pytest.raises(InputError, match="between 16 and 100 samples.*found 15 to 100"):
        separator(torch.randn(2, 100, dtype=torch.float64), torch.tensor([15, 100]))


def test_several_channels_are_refused(separator):
    with pytest.raises(InputError, match=r"\[batch, samples\], of one channel; found shape \[1, 2, 100\]"):
        separator(torch.randn(1, 2, 100, dtype=torch.float64))


@pytest.mark.parametrize(("num_samples", "frames"), [(16, 1), (23, 1), (24, 2), (8000, 999)])
def test_num_frames(separator, num_samples, frames):
    assert num_frames(num_samples) == frames
    assert separator.encoder(torch.randn(1, num_samples, dtype=torch.float64)).shape[2] == frames
