"""Separation of a mixture: encode, mask, decode.

Shapes: B batch, T samples, N encoder channels, L frames, S speakers.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from speechbrain.lobes.models.dual_path import Decoder, Encoder
from torch import nn

from mossformer_sb.errors import InputError
from mossformer_sb.network.baselines import ConvTasNetMaskNet, DPRNNMaskNet, SepFormerMaskNet
from mossformer_sb.network.checks import check_count, check_input_level, check_shifts
from mossformer_sb.network.dispatch import replaceable
from mossformer_sb.network.hub import CONFIG_FILE, HubModel
from mossformer_sb.network.lengths import check_lengths, lengths_are_checked, padding_mask, zero_padding
from mossformer_sb.network.masknet import MossFormerMaskNet
from mossformer_sb.network.mossformer2 import MossFormer2MaskNet
from mossformer_sb.network.sizes import build_decoder, build_encoder, build_masknet

if TYPE_CHECKING:
    from typing import Any


def separate(
    encoder: torch.nn.Module,
    masknet: torch.nn.Module,
    decoder: torch.nn.Module,
    mixture: torch.Tensor,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Separate a batch of mixtures.

    The three networks are arguments because training wraps each of them separately (DDP, compilation).

    Arguments
    ---------
    encoder : torch.nn.Module
        [B, T] → [B, N, L]; SpeechBrain's ``Encoder``.
    masknet : torch.nn.Module
        [B, N, L] → [S, B, N, L]; it must accept ``lengths`` if these are given. With an attribute ``apply_masks`` that
        is False, its output is decoded without masking, see `MossFormer2MaskNet`.
    decoder : torch.nn.Module
        [B, N, L] → [B, T']; SpeechBrain's ``Decoder``.
    mixture : torch.Tensor
        [B, T], T at least the encoder's kernel size.
    lengths : torch.Tensor, optional
        [B], int64, samples of each item of a padded batch. Each item's estimates then equal those without padding, with
        zeros after its last complete frame. Default: all items have T samples.

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
    if batch_size == 0:
        raise InputError("a batch must have at least one mixture; found none.")
    if num_samples < kernel_size:
        raise InputError(
            f"a mixture must have at least {kernel_size} samples, the encoder's kernel; found {num_samples}."
        )

    frames = {}
    if lengths is not None:
        check_lengths(lengths, batch_size, maximum=num_samples, minimum=kernel_size)
        lengths = lengths.to(mixture.device, non_blocking=True)
        # The padding must not affect the estimates, even if it holds NaN.
        mixture = zero_padding(mixture, padding_mask(lengths, num_samples))
        frames = {"lengths": num_frames(lengths, kernel_size, stride)}

    encoded = encoder(mixture)  # [B, N, L]
    with lengths_are_checked():
        masks = masknet(encoded, **frames)  # [S, B, N, L]
    _check_masks(masks, encoded)
    multiply = applies_masks(masknet)
    # Speaker by speaker, as in SpeechBrain's own interface, which takes less memory.
    decoded = [decode(decoder, encoded * mask if multiply else mask) for mask in masks]  # S times [B, T']
    estimates = torch.stack(decoded, dim=-1)  # [B, T', S]
    if frames and getattr(getattr(decoder, "module", decoder), "bias", None) is not None:  # added to the padding too
        complete = (frames["lengths"] - 1) * stride + kernel_size
        estimates = zero_padding(estimates, padding_mask(complete, estimates.shape[1])[..., None])
    # A negative padding cuts. Without a branch, for one exported program for all lengths.
    return F.pad(estimates, (0, 0, 0, num_samples - estimates.shape[1]))


@replaceable
def decode(decoder: torch.nn.Module, encoded: torch.Tensor) -> torch.Tensor:
    """Decode one speaker: [B, N, L] → [B, T'].

    Example
    -------
    >>> decode(build_decoder("mini"), torch.randn(2, 128, 10)).shape
    torch.Size([2, 176])
    """
    return decoder(encoded)


def applies_masks(masknet: torch.nn.Module) -> bool:
    """Whether a mask net's output is multiplied with the encoded mixture. If not, it is the encoded estimates.

    Example
    -------
    >>> applies_masks(build_masknet("2mini", apply_masks=False)), applies_masks(build_masknet("mini"))
    (False, True)
    """
    return getattr(getattr(masknet, "module", masknet), "apply_masks", True)  # .module: as in `separate`


def _check_masks(masks, encoded):
    if masks.dim() != 4 or masks.shape[1:] != encoded.shape:
        raise InputError(
            f"the mask net returned masks of shape {list(masks.shape)} for an encoded mixture of "
            f"{list(encoded.shape)}; needed [speakers, {', '.join(map(str, encoded.shape))}]. If it is in "
            f"DataParallel, which joins masks along the speakers: use torchrun (DDP), or wrap the MossFormerSeparator."
        )


def num_frames(num_samples: int | torch.Tensor, kernel_size: int = 16, stride: int = 8) -> int | torch.Tensor:
    """Number of the encoder's frames for a number of samples (an int or a tensor of ints).

    Example
    -------
    >>> num_frames(16), num_frames(23), num_frames(24)
    (1, 1, 2)
    """
    return (num_samples - kernel_size) // stride + 1


# Names of the mask nets in ``config.json`` and `MossFormerSeparator`.
NETWORKS = {
    masknet.network: masknet
    for masknet in (MossFormerMaskNet, MossFormer2MaskNet, ConvTasNetMaskNet, DPRNNMaskNet, SepFormerMaskNet)
}
_GIVEN = ("in_channels", "num_spks", "others")  # arguments of a mask net that are not passed by these names


class MossFormerSeparator(nn.Module, HubModel):
    """Encoder, mask net and decoder in one module, described by plain values.

    ``config.json`` holds the values, see `mossformer_sb.network.hub`: ``save_pretrained`` and ``push_to_hub`` write it
    with the weights, ``from_pretrained`` reads both.

    Arguments
    ---------
    network : str
        One of `NETWORKS`: "MossFormer", "MossFormer2"; "Conv-TasNet", "DPRNN" or "SepFormer".
    encoder_channels : int
        N, filters of the encoder and decoder.
    encoder_kernel_size : int
        Length of a filter in samples, at least 2; the hop is half of it, rounded down.
    num_spks : int
        S.
    sample_rate : int
        Sample rate of the recordings in Hz. It does not affect the computation.
    input_level : str, optional
        As in `mossformer_sb.inference.input_level`, with the same default.
    shifts : int
        As in `mossformer_sb.inference.shifts`: the model's own number for recordings. ``forward`` is not affected.
    decoder_bias : bool
        Whether the decoder adds a constant.
    **masknet
        The mask net's other arguments: of `MossFormerMaskNet`, ``num_blocks``, ``group_size``, ``query_key_dim``,
        ``norm`` and so on; of `MossFormer2MaskNet`, also ``recurrent_channels`` and ``apply_masks``. The default of
        ``out_channels``, if the mask net has it, is the encoder's channels.

    Raises
    ------
    InputError
        If a value is invalid, or an argument is not known.

    Example
    -------
    >>> separator = MossFormerSeparator("MossFormer2", encoder_channels=64, num_blocks=2, num_spks=3)
    >>> separator(torch.randn(2, 4000), lengths=torch.tensor([4000, 3210])).shape
    torch.Size([2, 4000, 3])
    >>> folder = getfixture("tmp_path")
    >>> _ = separator.save_pretrained(folder)
    >>> sorted(path.name for path in folder.iterdir())
    ['README.md', 'config.json', 'model.safetensors']
    >>> MossFormerSeparator.from_pretrained(folder).config["num_blocks"]
    2
    """

    def __init__(
        self,
        network: str = "MossFormer",
        encoder_channels: int = 512,
        encoder_kernel_size: int = 16,
        num_spks: int = 2,
        sample_rate: int = 8000,
        input_level: str | None = None,
        shifts: int = 1,
        decoder_bias: bool = False,
        **masknet: Any,
    ) -> None:
        super().__init__()
        self._set_facts(sample_rate, input_level, shifts)
        for key, value in (("encoder_channels", encoder_channels), ("encoder_kernel_size", encoder_kernel_size)):
            check_count(key, value)
        if encoder_kernel_size == 1:
            raise InputError("encoder_kernel_size must be at least 2, since the hop is half of it; found 1.")
        if not isinstance(decoder_bias, bool):
            raise InputError(f"decoder_bias must be True or False; found {decoder_bias!r}.")
        self.encoder = Encoder(kernel_size=encoder_kernel_size, out_channels=encoder_channels)
        self.masknet = _build_masknet(network, encoder_channels, num_spks, masknet)
        self.decoder = Decoder(
            in_channels=encoder_channels,
            out_channels=1,
            kernel_size=encoder_kernel_size,
            stride=encoder_kernel_size // 2,
            bias=decoder_bias,
        )

    def _set_facts(self, sample_rate, input_level, shifts):
        check_count("sample_rate", sample_rate)
        check_shifts(shifts)
        if input_level is not None:
            check_input_level(input_level)
        self.sample_rate, self.input_level, self.shifts = sample_rate, input_level, shifts

    @classmethod
    def from_modules(
        cls,
        encoder: torch.nn.Module,
        masknet: torch.nn.Module,
        decoder: torch.nn.Module,
        sample_rate: int = 8000,
        input_level: str | None = None,
        shifts: int = 1,
    ) -> MossFormerSeparator:
        """Build a separator from existing networks.

        Arguments
        ---------
        encoder, masknet, decoder : torch.nn.Module
            As in `separate`. They are used unchanged; see `config` for the networks that can be saved.
        sample_rate, input_level, shifts
            As for the class.

        Returns
        -------
        MossFormerSeparator

        Example
        -------
        >>> encoder, masknet, decoder = MossFormerSeparator.from_size("mini").children()
        >>> MossFormerSeparator.from_modules(encoder, masknet, decoder, sample_rate=16000).config["sample_rate"]
        16000
        """
        separator = cls.__new__(cls)
        nn.Module.__init__(separator)
        separator._set_facts(sample_rate, input_level, shifts)
        separator.encoder, separator.masknet, separator.decoder = encoder, masknet, decoder
        return separator

    @classmethod
    def from_size(
        cls, size: str, num_spks: int = 2, dropout: float = 0.1, apply_masks: bool = True, sample_rate: int = 8000
    ) -> MossFormerSeparator:
        """Build a separator of a published size, with random weights.

        Arguments
        ---------
        size : str
            MossFormer: "S", "M" or "L", as published (10.8, 25.2, 42.1 M parameters), "small" (2.3 M), "mini" (0.6 M).
            MossFormer2: "2S" or "2", as published (37.8, 55.7 M), or "2mini" (0.8 M).
        num_spks : int
            S.
        dropout : float
            Dropout probability.
        apply_masks : bool
            As in `MossFormer2MaskNet`.
        sample_rate : int
            Sample rate in Hz.

        Returns
        -------
        MossFormerSeparator

        Raises
        ------
        InputError
            If the size is not known.
        """
        # In this order, for the same weights as in earlier versions with the same seed.
        encoder = build_encoder(size)
        masknet = build_masknet(size, num_spks, dropout, apply_masks=apply_masks)
        return cls.from_modules(encoder, masknet, build_decoder(size), sample_rate)

    @property
    def config(self) -> dict:
        """The arguments that build this network: dict of plain values, for ``config.json``.

        Raises
        ------
        InputError
            If it can't be described: the mask net has a class that is not in `NETWORKS`, or the encoder and decoder
            don't match.
        """
        encoder, masknet, decoder = self.encoder, self.masknet, self.decoder
        if NETWORKS.get(getattr(masknet, "network", None)) is not type(masknet):
            raise InputError(
                f"the mask net is a {type(masknet).__name__}, which {CONFIG_FILE} can't describe: it supports only "
                f"{', '.join(network.__name__ for network in NETWORKS.values())}."
            )
        _check_ends(encoder, decoder)
        described = {"network": masknet.network, "sample_rate": self.sample_rate, "num_spks": masknet.num_spks}
        if self.input_level is not None:
            described["input_level"] = self.input_level
        if self.shifts != 1:
            described["shifts"] = self.shifts
        described["encoder_channels"] = encoder.conv1d.out_channels
        described["encoder_kernel_size"] = encoder.conv1d.kernel_size[0]
        if decoder.bias is not None:
            described["decoder_bias"] = True
        return described | {key: value for key, value in masknet.config.items() if key not in _GIVEN}

    def forward(self, mixture: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """[B, T] → [B, T, S]; see `separate`."""
        return separate(self.encoder, self.masknet, self.decoder, mixture, lengths)


def _build_masknet(network, channels, num_spks, arguments):
    if not isinstance(network, str) or network not in NETWORKS:
        found = f"a {type(network).__name__}" if isinstance(network, nn.Module) else repr(network)
        raise InputError(
            f"network must be one of {', '.join(NETWORKS)}; found {found}. Ready networks are put together by "
            f"MossFormerSeparator.from_modules(encoder, masknet, decoder)."
        )
    build = NETWORKS[network]
    known = [name for name in inspect.signature(build).parameters if name not in _GIVEN]
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise InputError(f"{network} does not take {', '.join(unknown)}: it takes {', '.join(known)}.")
    defaults = {"out_channels": channels} if "out_channels" in known else {}
    return build(in_channels=channels, num_spks=num_spks, **{**defaults, **arguments})


def _check_ends(encoder, decoder):
    """Raise InputError for an encoder and decoder that can't be built from channels and a kernel size."""
    if type(encoder) is not Encoder or type(decoder) is not Decoder:
        raise InputError(
            f"the encoder is a {type(encoder).__name__} and the decoder a {type(decoder).__name__}: {CONFIG_FILE} can "
            f"only describe SpeechBrain's Encoder and Decoder."
        )
    channels, kernel_size = encoder.conv1d.out_channels, encoder.conv1d.kernel_size[0]
    needed = (1, channels, 1, kernel_size, kernel_size // 2)
    found = (encoder.conv1d.in_channels, decoder.in_channels, decoder.out_channels)
    found += (decoder.kernel_size[0], decoder.stride[0])
    if found != needed:
        raise InputError(
            f"encoder and decoder don't match: input channels, channels, output channels, kernel and hop are {found}; "
            f"{CONFIG_FILE} can only describe {needed}."
        )
