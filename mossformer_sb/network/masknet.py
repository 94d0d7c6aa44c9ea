"""The MossFormer mask net, and the published sizes.

Source: Zhao and Ma, "MossFormer: Pushing the Performance Limit of Monaural Speech Separation using Gated Single-Head
Transformer with Convolution-Augmented Joint Self-Attentions", ICASSP 2023 (arXiv 2302.11824).
Shapes: B batch, N encoder channels, L frames, D model width, S speakers, K query/key width, R rotated channels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mossformer_sb.errors import InputError
from mossformer_sb.network import fast
from mossformer_sb.network.block import MossFormerBlock
from mossformer_sb.network.fast import choice, tiled
from mossformer_sb.network.fast.matmul import Linear
from mossformer_sb.network.lengths import check_lengths, padding_mask

# When two threads make the first call of MKL's sine or cosine in a process at once, one of them may get values that are
# off by 1e-4: the position embedding would be wrong once, and no run could be repeated. So the thread that imports this
# makes the first. It is no part of the network: its place is with what is fast, `mossformer_sb.network.fast`.
torch.zeros(1).sin()
torch.zeros(1).cos()

ROTATED_CHANNELS = 32  # of the query/key width; the others carry no position

# What SpeechBrain's Dual_Path_Model takes and MossFormer has no use for: the two networks that it runs within and
# across chunks, how it puts them together, and its absolute positions, which end at max_length.
DUAL_PATH_ARGUMENTS = (
    "intra_model",
    "inter_model",
    "num_layers",
    "K",
    "skip_around_intra",
    "linear_layer_after_inter_intra",
    "use_global_pos_enc",
    "max_length",
)


@dataclass(frozen=True)
class Size:
    """What tells one MossFormer from another.

    ``channels`` is the width N of the encoder and D of the mask net, which are equal in every published model.
    """

    channels: int
    num_blocks: int
    group_size: int = 256
    query_key_dim: int = 128
    encoder_kernel_size: int = 16


SIZES = {
    "S": Size(channels=256, num_blocks=23),  # 10.8 M parameters
    "M": Size(channels=384, num_blocks=25),  # 25.2 M
    "L": Size(channels=512, num_blocks=24),  # 42.1 M
    # Not published: the one that comes with the package, for separating on a CPU; and one that learns something there
    # within minutes.
    "small": Size(channels=192, num_blocks=8, group_size=128, query_key_dim=64, encoder_kernel_size=64),  # 2.3 M
    "mini": Size(channels=128, num_blocks=4, group_size=64, encoder_kernel_size=32),  # 0.6 M
}


def get_size(name):
    """Look a size up by name.

    Arguments
    ---------
    name : str
        One of `SIZES`.

    Returns
    -------
    Size

    Raises
    ------
    InputError
        If there is none of this name.

    Example
    -------
    >>> get_size("XL")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: model_size 'XL' is not known: choose one of S, M, L, small, mini.
    """
    if name not in SIZES:
        raise InputError(f"model_size {name!r} is not known: choose one of {', '.join(SIZES)}.")
    return SIZES[name]


@choice.known
class MossFormerMaskNet(nn.Module):
    """Estimate one mask per speaker from an encoded mixture.

    Takes the place of SpeechBrain's ``Dual_Path_Model``: same input, same output, and the same ``in_channels``,
    ``out_channels``, ``num_spks`` and ``norm``. The parameters' names differ from those of the authors' release;
    `mossformer_sb.sharing.modelscope.masknet_from_modelscope` translates.

    Arguments
    ---------
    in_channels : int
        N, channels of the encoder.
    out_channels : int
        D, model width, even.
    num_blocks : int
        Number of MossFormer blocks.
    num_spks : int
        S.
    group_size : int
        Frames of one local attention group.
    query_key_dim : int
        K, even.
    expansion_factor : float
        Width of v and u together, in multiples of D.
    kernel_size : int
        Taps of the depthwise convolutions, odd.
    dropout : float
        Probability.
    norm : str
        Normalisation over the whole mixture; "ln", as in every published model, is the only one.
    checkpoint_blocks : bool
        In training, keep of each block nothing but its input, and compute the rest again for the gradient: less memory
        for more time, and the same gradients.
    **others
        None: here so that the arguments of another mask net are refused with a message that says what to do.

    Raises
    ------
    InputError
        If a value can't be used, or an argument is not known.

    Example
    -------
    >>> masknet = MossFormerMaskNet(in_channels=64, out_channels=32, num_blocks=2, num_spks=3)
    >>> masks = masknet(torch.rand(2, 64, 500))
    >>> masks.shape
    torch.Size([3, 2, 64, 500])
    """

    # For the card of an exported model.
    network = "MossFormer"
    paper = (
        'Zhao and Ma, "MossFormer: Pushing the Performance Limit of Monaural Speech Separation using Gated Single-Head '
        'Transformer with Convolution-Augmented Joint Self-Attentions", ICASSP 2023'
    )

    def __init__(
        self,
        in_channels,
        out_channels,
        num_blocks=24,
        num_spks=2,
        group_size=256,
        query_key_dim=128,
        expansion_factor=4.0,
        kernel_size=17,
        dropout=0.1,
        norm="ln",
        checkpoint_blocks=False,
        **others,
    ):
        super().__init__()
        # Kept so that an export can write the node that builds the same network.
        self.config = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "num_blocks": num_blocks,
            "num_spks": num_spks,
            "group_size": group_size,
            "query_key_dim": query_key_dim,
            "expansion_factor": expansion_factor,
            "kernel_size": kernel_size,
            "dropout": dropout,
            "norm": norm,
        }
        _refuse(others, known=[*self.config, "checkpoint_blocks"])
        _check_config(**self.config)
        if not isinstance(checkpoint_blocks, bool):
            raise InputError(f"checkpoint_blocks must be True or False; found {checkpoint_blocks!r}.")
        self.num_spks = num_spks
        self.checkpoint_blocks = checkpoint_blocks  # not in config: it is the same network
        self.norm = GlobalLayerNorm(in_channels)
        self.input_projection = Linear(in_channels, out_channels, bias=False)
        self.position = PositionEmbedding(out_channels)
        self.rotary = Angles(min(ROTATED_CHANNELS, query_key_dim))
        self.blocks = nn.ModuleList(
            MossFormerBlock(out_channels, group_size, query_key_dim, expansion_factor, kernel_size, dropout)
            for _ in range(num_blocks)
        )
        self.frame_norm = nn.LayerNorm(out_channels, eps=1e-6)
        self.output_norm = GlobalLayerNorm(out_channels)
        self.prelu = nn.PReLU()
        self.speaker_projection = Linear(out_channels, num_spks * out_channels)
        self.tanh_projection = Linear(out_channels, out_channels)
        self.gate_projection = Linear(out_channels, out_channels)
        self.mask_projection = Linear(out_channels, in_channels, bias=False)

    def forward(self, x, lengths=None):
        """Estimate masks.

        Arguments
        ---------
        x : torch.Tensor
            [B, N, L], the encoded mixture, L ≥ 1.
        lengths : torch.Tensor, optional
            [B], int64, frames of each item of a padded batch. Every item's masks then equal those it gets alone, and
            are zero past its length. Default: all items have L frames.

        Returns
        -------
        torch.Tensor
            [S, B, N, L], masks, not negative.

        Raises
        ------
        InputError
            If a shape or a length is wrong.
        """
        in_channels = self.config["in_channels"]
        if x.dim() != 3 or x.shape[1] != in_channels or x.shape[2] < 1:
            raise InputError(
                f"the mask net takes [batch, {in_channels}, frames] with at least one frame; found {list(x.shape)}."
            )
        batch_size, _, num_frames = x.shape
        padding = None
        if lengths is not None:
            check_lengths(lengths, batch_size, maximum=num_frames, unit="frames")
        if choice.takes_pieces(self, x):
            return self._masks_by_pieces(x, lengths)
        x = x.transpose(1, 2).contiguous()  # [B, L, N], in memory too: sums follow it, with lengths and without
        if lengths is not None:
            lengths = lengths.to(x.device)
            padding = padding_mask(lengths, num_frames)[..., None]  # [B, L, 1]
            x = x.masked_fill(padding, 0.0)

        x = self.input_projection(self.norm(x, lengths, padding))  # [B, L, D]
        embedded = x + self.position(num_frames)
        x = self._run_blocks(embedded, lengths, padding)
        x = self.output_norm(self.frame_norm(x), lengths, padding) + embedded
        x = self.prelu(x)
        x = self.speaker_projection(x).unflatten(-1, (self.num_spks, -1))  # [B, L, S, D]
        x = torch.tanh(self.tanh_projection(x)) * torch.sigmoid(self.gate_projection(x))
        masks = F.relu(self.mask_projection(x)).permute(2, 0, 3, 1)  # [S, B, N, L]
        return masks if padding is None else masks.masked_fill(padding.transpose(1, 2), 0.0)

    def _masks_by_pieces(self, x, lengths):
        batch_size, _, num_frames = x.shape
        true_lengths = [num_frames] * batch_size if lengths is None else lengths.tolist()
        masks = []  # B times [S, N, L]
        for one, length in zip(x, true_lengths, strict=True):
            found = tiled.masks_by_pieces(self, one[:, :length])
            masks.append(F.pad(found, (0, num_frames - length)) if length < num_frames else found)
        return masks[0].unsqueeze(1) if len(masks) == 1 else torch.stack(masks, dim=1)

    def rotation(self, num_frames, like):
        """Cosines and sines of the rotary embedding, each [L, R/2], of the dtype and on the device of a tensor."""
        angles = self.rotary(num_frames, like=like)
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)

    def _run_blocks(self, x, lengths, padding):
        rotation = self.rotation(x.shape[1], like=x)
        for block in self.blocks:
            if self.checkpoint_blocks and torch.is_grad_enabled():
                again = block if torch.compiler.is_compiling() else fast.as_now(block)
                x = checkpoint(again, x, rotation, lengths, padding, use_reentrant=False)
            else:
                x = block(x, rotation, lengths, padding)
        return x


@choice.known
class GlobalLayerNorm(nn.Module):
    """Normalise each item over channels and time together; scale and shift each channel.

    The same as ``torch.nn.GroupNorm(1, channels)`` where no item is padded, with time before channels.

    Arguments
    ---------
    channels : int
        N.
    eps : float
        Added to the variance.

    Example
    -------
    >>> GlobalLayerNorm(8)(torch.randn(2, 100, 8)).shape
    torch.Size([2, 100, 8])
    """

    def __init__(self, channels, eps=1e-8):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self):
        """Set the scale to one and the shift to zero."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x, lengths=None, padding=None):
        """[B, L, N] → [B, L, N]; ``lengths`` [B] and ``padding`` [B, L, 1] as in `MossFormerBlock.forward`."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # The same sums with lengths and without, so that a length that is the whole gives the same bits: half precision
        # would make much of a difference in the last one.
        count = x.shape[1] * x.shape[2] if lengths is None else (lengths * x.shape[2])[:, None, None]
        mean = _without(padding, wide).sum((1, 2), keepdim=True) / count
        centred = wide - mean
        variance = _without(padding, centred).square().sum((1, 2), keepdim=True) / count
        normed = centred * torch.rsqrt(variance + self.eps)
        return (normed * self.weight + self.bias).to(x.dtype)


def _without(padding, x):
    return x if padding is None else x.masked_fill(padding, 0.0)


@choice.known
class Angles(nn.Module):
    """Position times frequency, for sinusoids of ``channels`` channels: [L, channels/2] radians.

    Frequencies are 10000^(-2i/channels), rounded to float32 as the authors' are: a frequency in half precision would be
    useless after a few frames, so they stay in float32 whatever the module is cast to.

    Arguments
    ---------
    channels : int
        Even.

    Example
    -------
    >>> Angles(4)(3)
    tensor([[0.0000, 0.0000],
            [1.0000, 0.0100],
            [2.0000, 0.0200]])
    """

    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        # No buffer: DDP would send this constant around before every step. On the CPU whatever the default device is,
        # so that it has its values in a network built on the meta device.
        self.frequencies = self._frequencies()

    def _frequencies(self):
        exponents = torch.arange(0, self.channels, 2, dtype=torch.float32, device="cpu") / self.channels
        return 1.0 / 10000**exponents

    def _apply(self, fn, *args, **kwargs):
        super()._apply(fn, *args, **kwargs)
        # It follows the parameters to their device, so that no step has to wait for a copy, but not to their dtype.
        self.frequencies = self._frequencies().to(fn(self.frequencies).device)
        return self

    def forward(self, num_frames, start=0, like=None):
        """L → [L, channels/2], of positions from ``start`` on; float32 at least, on the device of ``like``."""
        device = self.frequencies.device if like is None else like.device
        dtype = torch.float32 if like is None else torch.promote_types(like.dtype, torch.float32)
        # Where the parameters were put in place, not moved (load_state_dict(assign=True)), it has not followed them.
        frequencies = self.frequencies if self.frequencies.device == device else self._frequencies()
        positions = torch.arange(start, start + num_frames, device=device, dtype=dtype)
        return positions[:, None] * frequencies.to(device, dtype)


@choice.known
class PositionEmbedding(nn.Module):
    """Absolute sinusoidal position embedding times one learned scalar: all sines first, then all cosines.

    Arguments
    ---------
    channels : int
        D, even.

    Example
    -------
    >>> PositionEmbedding(4)(2)
    tensor([[0.0000, 0.0000, 1.0000, 1.0000],
            [0.8415, 0.0100, 0.5403, 0.9999]], grad_fn=<MulBackward0>)
    """

    def __init__(self, channels):
        super().__init__()
        self.angles = Angles(channels)
        self.scale = nn.Parameter(torch.ones(1))

    def reset_parameters(self):
        """Set the scale to one."""
        nn.init.ones_(self.scale)

    def forward(self, num_frames, start=0):
        """L → [L, D], of positions from ``start`` on."""
        angles = self.angles(num_frames, start, like=self.scale)
        return torch.cat((angles.sin(), angles.cos()), dim=-1).to(self.scale.dtype) * self.scale


def build_masknet(size, num_spks=2, dropout=0.1, checkpoint_blocks=False):
    """Build a mask net of a published size.

    Arguments
    ---------
    size : str
        One of `SIZES`.
    num_spks : int
        S.
    dropout : float
        Probability.
    checkpoint_blocks : bool
        As in `MossFormerMaskNet`.

    Returns
    -------
    MossFormerMaskNet

    Raises
    ------
    InputError
        If the size is not known.

    Example
    -------
    >>> sum(p.numel() for p in build_masknet("S").parameters()) / 1e6
    10.799943
    """
    size = get_size(size)
    return MossFormerMaskNet(
        in_channels=size.channels,
        out_channels=size.channels,
        num_blocks=size.num_blocks,
        num_spks=num_spks,
        group_size=size.group_size,
        query_key_dim=size.query_key_dim,
        dropout=dropout,
        checkpoint_blocks=checkpoint_blocks,
    )


def _refuse(others, known):
    """Raise InputError for arguments that a mask net does not have."""
    stock = [key for key in others if key in DUAL_PATH_ARGUMENTS]
    if stock:
        raise InputError(
            f"MossFormerMaskNet does not take {', '.join(stock)}, which Dual_Path_Model takes: delete this from the "
            f"node, and the nodes of intra_model and inter_model. Here the depth is num_blocks, and a local attention "
            f"group has group_size frames."
        )
    if others:
        raise InputError(f"MossFormerMaskNet does not take {', '.join(others)}: it takes {', '.join(known)}.")


def _check_config(norm, dropout, kernel_size, out_channels, query_key_dim, expansion_factor, **counts):
    """Raise InputError for a value that no mask net can have."""
    counts.update(out_channels=out_channels, query_key_dim=query_key_dim)
    for key, value in counts.items():
        if not isinstance(value, int) or value < 1:
            # A network would print all its layers. It gets here as Dual_Path_Model's third positional argument.
            found = type(value).__name__ if isinstance(value, nn.Module) else repr(value)
            raise InputError(f"{key} must be a whole number of at least 1; found {found}.")
    for key in ("out_channels", "query_key_dim"):
        if counts[key] % 2:
            raise InputError(
                f"{key} must be even, since positions are coded in pairs of channels; found {counts[key]}."
            )
    if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(
            f"kernel_size must be an odd whole number, so that the filter has a middle; found {kernel_size!r}."
        )
    if not 0 <= dropout < 1:
        raise InputError(f"dropout is a probability of at least 0 and less than 1; found {dropout!r}.")
    hidden = out_channels * expansion_factor / 2
    if hidden < 1 or hidden != int(hidden):
        raise InputError(
            f"expansion_factor * out_channels / 2, the width of v and of u, must be a whole number of at least 1; "
            f"found {expansion_factor} * {out_channels} / 2 = {hidden}."
        )
    if norm != "ln":
        raise InputError(f"norm {norm!r} is not known: the published networks have 'ln', the only one offered.")
