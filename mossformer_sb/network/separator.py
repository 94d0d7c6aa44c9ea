"""Encode, mask, decode: the one place where a mixture becomes estimates.

Shapes: B batch, T samples, N encoder channels, L frames, S speakers.
"""

import torch
import torch.nn.functional as F
from torch import nn

from mossformer_sb.errors import InputError
from mossformer_sb.network.lengths import check_lengths, lengths_are_checked, padding_mask, zero_padding
from mossformer_sb.network.sizes import build_decoder, build_encoder, build_masknet


def separate(encoder, masknet, decoder, mixture, lengths=None):
    """Separate a batch of mixtures.

    The three networks are arguments because training wraps each of them by itself (DDP, compilation).

    Arguments
    ---------
    encoder : torch.nn.Module
        [B, T] → [B, N, L]; SpeechBrain's ``Encoder``.
    masknet : torch.nn.Module
        [B, N, L] → [S, B, N, L]; it must take ``lengths`` if these are given. With an attribute ``apply_masks`` that is
        False, what it gives is decoded as it is, see `MossFormer2MaskNet`.
    decoder : torch.nn.Module
        [B, N, L] → [B, T']; SpeechBrain's ``Decoder``.
    mixture : torch.Tensor
        [B, T], T at least the encoder's kernel.
    lengths : torch.Tensor, optional
        [B], int64, samples of each item of a padded batch. Each item's estimates then equal those it gets alone, with
        zeros after its last whole frame. Default: all items have T samples.

    Returns
    -------
    torch.Tensor
        [B, T, S].

    Raises
    ------
    InputError
        If a shape or a length is wrong.

    Example
    -------
    >>> separator = MossFormerSeparator.from_size("mini")
    >>> separate(separator.encoder, separator.masknet, separator.decoder, torch.randn(2, 4000)).shape
    torch.Size([2, 4000, 2])
    """
    conv = getattr(encoder, "module", encoder).conv1d  # .module: inside of DDP and DataParallel
    kernel_size, stride = conv.kernel_size[0], conv.stride[0]
    if mixture.dim() != 2:
        raise InputError(f"a mixture must be [batch, samples], of one channel; found shape {list(mixture.shape)}.")
    batch_size, num_samples = mixture.shape
    if num_samples < kernel_size:
        raise InputError(
            f"a mixture must have at least {kernel_size} samples, the encoder's kernel; found {num_samples}."
        )

    frames = {}
    if lengths is not None:
        check_lengths(lengths, batch_size, maximum=num_samples, minimum=kernel_size)
        lengths = lengths.to(mixture.device, non_blocking=True)
        # Nothing that stands in the padding, not even NaN, may reach the estimates.
        mixture = zero_padding(mixture, padding_mask(lengths, num_samples))
        frames = {"lengths": num_frames(lengths, kernel_size, stride)}

    encoded = encoder(mixture)  # [B, N, L]
    with lengths_are_checked():
        masks = masknet(encoded, **frames)  # [S, B, N, L]
    _check_masks(masks, encoded)
    multiply = applies_masks(masknet)
    # Speaker by speaker, as SpeechBrain's own interface does, so that both give the same bits, in less memory.
    estimates = torch.stack([decoder(encoded * mask if multiply else mask) for mask in masks], dim=-1)  # [B, T', S]
    # A negative padding cuts. Without a branch, so that exporters find one program for all lengths.
    return F.pad(estimates, (0, 0, 0, num_samples - estimates.shape[1]))


def applies_masks(masknet):
    """Whether a mask net's output is multiplied with the encoded mixture; otherwise it is the encoded estimates.

    Example
    -------
    >>> applies_masks(build_masknet("2mini", apply_masks=False)), applies_masks(build_masknet("mini"))
    (False, True)
    """
    return getattr(getattr(masknet, "module", masknet), "apply_masks", True)  # .module: as in `separate`


def _check_masks(masks, encoded):
    if masks.dim() != 4 or masks.shape[1:] != encoded.shape:
        raise InputError(
            f"the mask net gave masks of shape {list(masks.shape)} for an encoded mixture of {list(encoded.shape)}; "
            f"needed [speakers, {', '.join(map(str, encoded.shape))}]. If it is in DataParallel, which joins the GPUs' "
            f"masks along the speakers: use torchrun (DDP), or put a whole MossFormerSeparator in DataParallel."
        )


def num_frames(num_samples, kernel_size=16, stride=8):
    """Frames that the encoder makes of a number of samples (an int or a tensor of ints).

    Example
    -------
    >>> num_frames(16), num_frames(23), num_frames(24)
    (1, 1, 2)
    """
    return (num_samples - kernel_size) // stride + 1


class MossFormerSeparator(nn.Module):
    """Encoder, mask net and decoder in one module.

    Arguments
    ---------
    encoder, masknet, decoder : torch.nn.Module
        As in `separate`.

    Example
    -------
    >>> separator = MossFormerSeparator.from_size("mini", num_spks=3)
    >>> separator(torch.randn(2, 4000), lengths=torch.tensor([4000, 3210])).shape
    torch.Size([2, 4000, 3])
    """

    def __init__(self, encoder, masknet, decoder):
        super().__init__()
        self.encoder = encoder
        self.masknet = masknet
        self.decoder = decoder

    @classmethod
    def from_size(cls, size, num_spks=2, dropout=0.1, apply_masks=True):
        """Build a separator of a published size, with random weights.

        Arguments
        ---------
        size : str
            MossFormer: "S", "M" or "L", as published (10.8, 25.2, 42.1 M parameters), "small" (2.3 M), "mini" (0.6 M).
            MossFormer2: "2S" or "2", as published (37.8, 55.7 M), or "2mini" (0.8 M).
        num_spks : int
            S.
        dropout : float
            Probability.
        apply_masks : bool
            As in `MossFormer2MaskNet`.

        Returns
        -------
        MossFormerSeparator

        Raises
        ------
        InputError
            If the size is not known.
        """
        # In this order, so that a seed gives the weights that it has always given.
        encoder = build_encoder(size)
        return cls(encoder, build_masknet(size, num_spks, dropout, apply_masks=apply_masks), build_decoder(size))

    def forward(self, mixture, lengths=None):
        """[B, T] → [B, T, S]; see `separate`."""
        return separate(self.encoder, self.masknet, self.decoder, mixture, lengths)
