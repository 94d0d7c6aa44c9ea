"""Separators for speed comparisons: ours, the authors', and SpeechBrain's, with random weights."""

from speechbrain.lobes.models.dual_path import Decoder, Encoder
from torch import nn

from mossformer_sb.errors import InputError
from mossformer_sb.network.baselines import ConvTasNetMaskNet, SepFormerMaskNet
from mossformer_sb.network.separator import MossFormerSeparator
from mossformer_sb.network.sizes import get_size
from mossformer_sb.sharing.modelscope import masknet_from_modelscope

BASELINES = {"sepformer": SepFormerMaskNet, "convtasnet": ConvTasNetMaskNet}  # their published sizes are the defaults
NETWORKS = ("ours", "reference", *BASELINES)


def build(names, size):
    """Build separators, ours and the authors' with the same weights.

    Arguments
    ---------
    names : list of str
        Some of `NETWORKS`.
    size : str
        Of MossFormer, one of `mossformer_sb.SIZES`; the others have one size.

    Returns
    -------
    dict
        Name to `MossFormerSeparator`, in evaluation mode.

    Raises
    ------
    InputError
        If a network or a size is not known, or the authors' package is missing.

    Example
    -------
    >>> list(build(["ours"], "mini"))
    ['ours']
    """
    for name in names:
        if name not in NETWORKS:
            raise InputError(f"network {name!r} is not known: choose some of {', '.join(NETWORKS)}.")
    ours = MossFormerSeparator.from_size(size)
    built = {}
    for name in names:
        if name == "ours":
            built[name] = ours
        elif name == "reference":
            built[name] = MossFormerSeparator.from_modules(
                ours.encoder, _reference_like(ours.masknet, size), ours.decoder
            )
        else:
            built[name] = _baseline(BASELINES[name]())
    return {name: separator.eval() for name, separator in built.items()}


def _reference_like(masknet, size):
    """The authors' mask net; its weights are copied to ours."""
    try:
        from modelscope.models.audio.separation import mossformer
        from modelscope.models.audio.separation.m2 import mossformer as mossformer2
        from modelscope.models.audio.separation.m2.mossformer_block import GatedFSMNBlockDilated
    except ImportError as error:
        raise InputError(
            "The authors' network comes with the package modelscope, which is not installed: "
            'pip install "mossformer_sb[parity]", or remove reference from --networks.'
        ) from error
    size = get_size(size)
    sizes = size.group_size, size.query_key_dim, 4.0
    if size.recurrent_channels is None:
        blocks = mossformer.MossFormerM(size.num_blocks, size.channels, 0.1, *sizes, False)
        reference = mossformer.MossFormerMaskNet(size.channels, size.channels, blocks, norm="ln", num_spks=2)
    else:
        reference = mossformer2.MossFormerMaskNet(size.channels, size.channels, size.num_blocks, norm="ln", num_spks=2)
        # Their constructor does not support other sizes than the published ones.
        inner = mossformer2.MossFormerM(size.num_blocks, size.channels, False, *sizes, 0.1)
        inner.mossformerM.fsmn = nn.ModuleList(
            GatedFSMNBlockDilated(size.channels, size.recurrent_channels) for _ in range(size.num_blocks)
        )
        reference.mdl.intra_mdl = inner
    masknet.load_state_dict(masknet_from_modelscope(reference.state_dict()))
    return reference


def _baseline(masknet):
    """A mask net between an encoder and a decoder of its width, kernel 16 and stride 8, as published."""
    channels = masknet.config["in_channels"]
    encoder = Encoder(kernel_size=16, out_channels=channels)
    decoder = Decoder(in_channels=channels, out_channels=1, kernel_size=16, stride=8, bias=False)
    return MossFormerSeparator.from_modules(encoder, masknet, decoder)
