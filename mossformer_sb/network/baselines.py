"""The baselines: mask nets of Conv-TasNet, DPRNN and SepFormer, built from SpeechBrain's modules.

They have the interface of `MossFormerMaskNet`, so that training, evaluation and export use them unchanged. There is one
difference: they do not mask padding inside. In a padded batch, their norms, recurrences and attention process the zeros
past an item's length like signal, so that an item's masks are close to those without padding, but not equal. Evaluate
with a batch size of 1 for exact results.

Shapes: B batch, N encoder channels, L frames, S speakers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from speechbrain.lobes.models import conv_tasnet, dual_path
from speechbrain.nnet.CNN import Conv1d
from torch import nn

from mossformer_sb.errors import InputError
from mossformer_sb.network.checks import check_input, check_number
from mossformer_sb.network.lengths import padding_mask, zero_padding

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    import torch
    from speechbrain.lobes.models.conv_tasnet import TemporalBlock

MAX_POSITIONS = 2500  # of SpeechBrain's position embedding: maximum of frames per chunk, and of chunks
MAX_DILATED_BLOCKS = 8  # SpeechBrain builds a block by running it on 256 frames, too few for a ninth block


class BaselineMaskNet(nn.Module):
    """Base class of the baselines: checks, and zeros in the padding. A subclass sets ``net``, [B, N, L] → [S, B, N, L].

    Arguments
    ---------
    **config
        The subclass's arguments, which an export writes to build the same network.

    Raises
    ------
    InputError
        If a value is invalid.
    """

    network = ""
    paper = ""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        _check_config(**config)
        self.config = config
        self.num_spks = config["num_spks"]

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Estimate masks.

        Arguments
        ---------
        x : torch.Tensor
            [B, N, L], the encoded mixture, L ≥ 1.
        lengths : torch.Tensor, optional
            [B], int64, frames of each item of a padded batch. The network processes the zeros past them, so the masks
            are only close to those without padding; past its length they are zero. Default: all items have L frames.

        Returns
        -------
        torch.Tensor
            [S, B, N, L], non-negative masks.

        Raises
        ------
        InputError
            If a shape or a length is wrong.
        """
        check_input(x, self.config["in_channels"], lengths)
        if lengths is None:
            return self.net(x)
        padding = padding_mask(lengths.to(x.device), x.shape[2])[:, None]  # [B, 1, L]
        return zero_padding(self.net(zero_padding(x, padding)), padding)


class ConvTasNetMaskNet(BaselineMaskNet):
    """The mask net of Conv-TasNet: a stack of dilated convolutions.

    SpeechBrain's ``conv_tasnet.MaskNet`` with global layer norm, non-causal, and two changes to match the paper: the
    masks are computed from the sum of the blocks' skip outputs, not from the last block's output; and convolutions are
    zero-padded, where SpeechBrain reflects the signal, which fails for less than 2^(num_blocks - 1) + 1 frames. The
    masks end in ReLU, as in SpeechBrain and in the other networks here; the paper uses a sigmoid.

    Arguments
    ---------
    in_channels : int
        N of the paper, channels of the encoder.
    bottleneck_channels : int
        B, channels between the blocks.
    hidden_channels : int
        H, channels within a block.
    skip_channels : int
        Sc, channels of the skip path; 0: no skip path, as in SpeechBrain.
    kernel_size : int
        P, kernel size of the dilated convolutions, odd.
    num_blocks : int
        X, blocks in each repeat, with dilations 1, 2, 4, …; at most 8.
    num_repeats : int
        R, number of repeats.
    num_spks : int
        S.

    Raises
    ------
    InputError
        If a value is invalid.

    Example
    -------
    >>> import torch
    >>> masknet = ConvTasNetMaskNet(64, bottleneck_channels=16, hidden_channels=32, num_blocks=2, num_spks=3)
    >>> masknet(torch.rand(2, 64, 500)).shape
    torch.Size([3, 2, 64, 500])
    """

    network = "Conv-TasNet"
    paper = (
        'Luo and Mesgarani, "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech Separation", '
        "IEEE/ACM Transactions on Audio, Speech, and Language Processing, 2019"
    )

    def __init__(
        self,
        in_channels: int = 512,
        bottleneck_channels: int = 128,
        hidden_channels: int = 512,
        skip_channels: int = 128,
        kernel_size: int = 3,
        num_blocks: int = 8,
        num_repeats: int = 3,
        num_spks: int = 2,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            bottleneck_channels=bottleneck_channels,
            hidden_channels=hidden_channels,
            skip_channels=skip_channels,
            kernel_size=kernel_size,
            num_blocks=num_blocks,
            num_repeats=num_repeats,
            num_spks=num_spks,
        )
        self.net = conv_tasnet.MaskNet(
            N=in_channels,
            B=bottleneck_channels,
            H=hidden_channels,
            P=kernel_size,
            X=num_blocks,
            R=num_repeats,
            C=num_spks,
            norm_type="gLN",
            causal=False,
            mask_nonlinear="relu",
        )
        if skip_channels:
            blocks = self.net.temporal_conv_net.values()
            self.net.temporal_conv_net = SkipPath(blocks, hidden_channels, skip_channels)
            self.net.mask_conv1x1 = Conv1d(
                in_channels=skip_channels, out_channels=num_spks * in_channels, kernel_size=1, bias=False
            )
        for module in self.net.modules():
            if isinstance(module, Conv1d):
                module.padding_mode = "constant"


class SkipPath(nn.Module):
    """Conv-TasNet's blocks, with a skip output for the masks in addition to the output for the next block.

    Arguments
    ---------
    blocks : iterable of speechbrain.lobes.models.conv_tasnet.TemporalBlock
        Their layers are reused.
    hidden_channels : int
        H, channels within a block.
    skip_channels : int
        Sc.

    Example
    -------
    >>> import torch
    >>> blocks = [conv_tasnet.TemporalBlock((1, 100, 8), 16, 3, 1, "same", 2**i) for i in range(3)]
    >>> SkipPath(blocks, hidden_channels=16, skip_channels=4)(torch.rand(2, 100, 8)).shape
    torch.Size([2, 100, 4])
    """

    def __init__(self, blocks: Iterable[TemporalBlock], hidden_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block.layers for block in blocks)
        # A block's last convolution gives the output for the next block; the last block has none.
        residuals = [block.DSconv.pop("conv_1") for block in self.blocks]
        self.residuals = nn.ModuleList(residuals[:-1])
        self.skips = nn.ModuleList(nn.Linear(hidden_channels, skip_channels, bias=False) for _ in residuals)
        self.prelu = nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, L, bottleneck channels] → [B, L, skip channels]."""
        total = 0
        for index, (block, skip) in enumerate(zip(self.blocks, self.skips, strict=True)):
            hidden = block(x)  # [B, L, H]
            total = total + skip(hidden)
            if index < len(self.residuals):
                x = x + self.residuals[index](hidden)
        return self.prelu(total)


class DPRNNMaskNet(BaselineMaskNet):
    """The mask net of the dual-path RNN: recurrent layers within and across chunks.

    SpeechBrain's ``Dual_Path_Model`` with a bidirectional LSTM on both paths.

    Arguments
    ---------
    in_channels : int
        N, channels of the encoder.
    out_channels : int
        Channels between the blocks.
    hidden_size : int
        Channels of an LSTM, in each direction.
    num_layers : int
        Number of dual-path blocks.
    chunk_size : int
        Frames per chunk; chunks overlap by half.
    num_spks : int
        S.

    Raises
    ------
    InputError
        If a value is invalid.

    Example
    -------
    >>> import torch
    >>> masknet = DPRNNMaskNet(in_channels=64, out_channels=32, hidden_size=16, num_layers=1, num_spks=3)
    >>> masknet(torch.rand(2, 64, 500)).shape
    torch.Size([3, 2, 64, 500])
    """

    network = "DPRNN"
    paper = (
        'Luo, Chen and Yoshioka, "Dual-Path RNN: Efficient Long Sequence Modeling for Time-Domain Single-Channel '
        'Speech Separation", ICASSP 2020'
    )

    def __init__(
        self,
        in_channels: int = 64,
        out_channels: int = 64,
        hidden_size: int = 128,
        num_layers: int = 6,
        chunk_size: int = 250,
        num_spks: int = 2,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            hidden_size=hidden_size,
            num_layers=num_layers,
            chunk_size=chunk_size,
            num_spks=num_spks,
        )

        def path():
            return dual_path.SBRNNBlock(out_channels, hidden_size, num_layers=1, rnn_type="LSTM", bidirectional=True)

        self.net = _dual_path_model(path, path, self.config, linear_layer_after_inter_intra=True)


class SepFormerMaskNet(BaselineMaskNet):
    """The mask net of SepFormer: transformers within and across chunks.

    SpeechBrain's ``Dual_Path_Model`` with its transformers, as in its recipe and its ``SepformerWrapper``.

    Arguments
    ---------
    in_channels : int
        N, channels of the encoder.
    out_channels : int
        Channels of the transformers, even, a multiple of ``num_heads``.
    num_layers : int
        Number of dual-path blocks.
    num_intra_layers, num_inter_layers : int
        Transformer layers of a block, within chunks and across them.
    num_heads : int
        Attention heads.
    ffn_dim : int
        Channels within a feed-forward layer.
    chunk_size : int
        Frames per chunk, at most 2500; chunks overlap by half. The maximum number of chunks is 2500.
    dropout : float
        Dropout probability.
    num_spks : int
        S.

    Raises
    ------
    InputError
        If a value is invalid.

    Example
    -------
    >>> import torch
    >>> masknet = SepFormerMaskNet(64, 32, num_layers=1, num_intra_layers=1, num_inter_layers=1, ffn_dim=64, num_spks=3)
    >>> masknet(torch.rand(2, 64, 500)).shape
    torch.Size([3, 2, 64, 500])
    """

    network = "SepFormer"
    paper = (
        'Subakan, Ravanelli, Cornell, Bronzi and Zhong, "Attention is All You Need in Speech Separation", ICASSP 2021'
    )

    def __init__(
        self,
        in_channels: int = 256,
        out_channels: int = 256,
        num_layers: int = 2,
        num_intra_layers: int = 8,
        num_inter_layers: int = 8,
        num_heads: int = 8,
        ffn_dim: int = 1024,
        chunk_size: int = 250,
        dropout: float = 0.0,
        num_spks: int = 2,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=num_layers,
            num_intra_layers=num_intra_layers,
            num_inter_layers=num_inter_layers,
            num_heads=num_heads,
            ffn_dim=ffn_dim,
            chunk_size=chunk_size,
            dropout=dropout,
            num_spks=num_spks,
        )

        def transformer(num_layers):
            return dual_path.SBTransformerBlock(
                num_layers=num_layers,
                d_model=out_channels,
                nhead=num_heads,
                d_ffn=ffn_dim,
                dropout=dropout,
                use_positional_encoding=True,
                norm_before=True,
            )

        self.net = _dual_path_model(
            lambda: transformer(num_intra_layers),
            lambda: transformer(num_inter_layers),
            self.config,
            linear_layer_after_inter_intra=False,
        )

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """As `BaselineMaskNet.forward`; the length of the input is limited, see ``chunk_size``."""
        chunk_size = self.config["chunk_size"]
        longest = MAX_POSITIONS // 2 * chunk_size - chunk_size // 2 - 1
        if x.shape[-1] > longest:
            raise InputError(
                f"SepFormer with chunk_size {chunk_size} takes at most {longest} frames, found {x.shape[-1]}: cut the "
                f"recording, or train with a larger chunk_size."
            )
        return super().forward(x, lengths)


def _dual_path_model(intra, inter, config, linear_layer_after_inter_intra):
    """Build SpeechBrain's dual-path model from functions that build the two paths of a block."""
    net = dual_path.Dual_Path_Model(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        intra_model=intra(),
        inter_model=inter(),
        num_layers=config["num_layers"],
        norm="ln",
        K=config["chunk_size"],
        num_spks=config["num_spks"],
        skip_around_intra=True,
        linear_layer_after_inter_intra=linear_layer_after_inter_intra,
    )
    # SpeechBrain copies one block with its weights, and its recipes then initialise them again. Here each block has its
    # own random weights.
    for index in range(1, config["num_layers"]):
        net.dual_mdl[index] = dual_path.Dual_Computation_Block(
            intra(),
            inter(),
            config["out_channels"],
            norm="ln",
            skip_around_intra=True,
            linear_layer_after_inter_intra=linear_layer_after_inter_intra,
        )
    return net


def _check_config(dropout=0.0, skip_channels=0, **counts):
    """Raise InputError for a value that is invalid in all baselines."""
    for key, value in {**counts, "skip_channels": skip_channels}.items():
        least = 0 if key == "skip_channels" else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"{key} must be a whole number of at least {least}; found {value!r}.")
    check_number("dropout", dropout)
    if not 0 <= dropout < 1:
        raise InputError(f"dropout is a probability of at least 0 and less than 1; found {dropout!r}.")
    if counts.get("kernel_size", 1) % 2 == 0:
        raise InputError(f"kernel_size must be odd, so that the kernel has a middle; found {counts['kernel_size']}.")
    if counts.get("num_blocks", 1) > MAX_DILATED_BLOCKS:
        raise InputError(
            f"num_blocks must be at most {MAX_DILATED_BLOCKS}, since dilations double from block to block; found "
            f"{counts['num_blocks']}. Use more repeats (num_repeats) for a deeper network."
        )
    if counts.get("chunk_size") == 1:
        raise InputError("chunk_size must be at least 2, since chunks overlap by half; found 1.")
    if "num_heads" in counts:
        _check_transformer(**counts)


def _check_transformer(out_channels, num_heads, chunk_size, **_):
    if out_channels % num_heads or out_channels % 2:
        raise InputError(
            f"out_channels must be even and a multiple of num_heads; found {out_channels} and {num_heads} heads."
        )
    if chunk_size > MAX_POSITIONS:
        raise InputError(f"chunk_size must be at most {MAX_POSITIONS}, where positions end; found {chunk_size}.")
