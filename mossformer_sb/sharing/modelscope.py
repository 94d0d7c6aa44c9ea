"""Conversion of a mask net's parameter names to and from the authors' package `modelscope`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from mossformer_sb.errors import InputError
from mossformer_sb.network.masknet import ROTATED_CHANNELS

if TYPE_CHECKING:
    from pathlib import Path

# The authors' names in `modelscope` (and their released masknet.bin), and ours, except within the blocks.
_MASKNET_NAMES = {
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
    "conv1d_encoder.weight": "input_projection.weight",
    "pos_enc.scale": "position.scale",
    "mdl.att_mdl.norm.norm.weight": "frame_norm.weight",
    "mdl.att_mdl.norm.norm.bias": "frame_norm.bias",
    "mdl.att_norm.weight": "output_norm.weight",
    "mdl.att_norm.bias": "output_norm.bias",
    "prelu.weight": "prelu.weight",
    "conv1d_out.weight": "speaker_projection.weight",
    "conv1d_out.bias": "speaker_projection.bias",
    "output.0.weight": "tanh_projection.weight",
    "output.0.bias": "tanh_projection.bias",
    "output_gate.0.weight": "gate_projection.weight",
    "output_gate.0.bias": "gate_projection.bias",
    "conv1_decoder.weight": "mask_projection.weight",
}
_FOLDER, _FOLDER_2 = "mdl.att_mdl.mossformerM", "mdl.intra_mdl.mossformerM"  # MossFormer's and MossFormer2's blocks
_BLOCK = re.compile(r"mdl\.att_mdl\.mossformerM\.layers\.(\d+)\.(.+)")
_PROJECTIONS = {"to_hidden": "to_values", "to_qk": "to_query_key", "to_out": "to_output"}
_CONV_MODULE = {
    "mdl.0.g": "norm.gain",
    "mdl.1.weight": "linear.weight",
    "mdl.1.bias": "linear.bias",
    "mdl.3.sequential.1.conv.weight": "depthwise.weight",
}
_BLOCK_NAMES = {
    f"{theirs}.{their_part}": f"{ours}.{our_part}"
    for theirs, ours in _PROJECTIONS.items()
    for their_part, our_part in _CONV_MODULE.items()
} | {"qk_offset_scale.gamma": "offset_scale.gamma", "qk_offset_scale.beta": "offset_scale.beta"}
# MossFormer2 has other names for its blocks, and a recurrent module after each.
_MASKNET_NAMES_2 = {
    theirs.replace("att_mdl.norm.norm", "intra_mdl.norm").replace("att_norm", "intra_norm"): ours
    for theirs, ours in _MASKNET_NAMES.items()
}
_BLOCK_2 = re.compile(r"mdl\.intra_mdl\.mossformerM\.layers\.(\d+)\.(.+)")
_RECURRENT = re.compile(r"mdl\.intra_mdl\.mossformerM\.fsmn\.(\d+)\.(.+)")
_LAYER_NORM_CONV_MODULE = {
    "mdl.0.weight": "norm.weight",
    "mdl.0.bias": "norm.bias",
    **{theirs: ours for theirs, ours in _CONV_MODULE.items() if theirs != "mdl.0.g"},
}
_RECURRENT_NAMES = {
    "conv1.0.weight": "bottleneck.weight",
    "conv1.0.bias": "bottleneck.bias",
    "conv1.1.weight": "prelu.weight",
    "norm1.weight": "input_norm.weight",
    "norm1.bias": "input_norm.bias",
    **{
        f"gated_fsmn.{branch}.{theirs}": f"unit.{branch}.{ours}"
        for branch in ("to_u", "to_v")
        for theirs, ours in _LAYER_NORM_CONV_MODULE.items()
    },
    "gated_fsmn.fsmn.linear.weight": "unit.fsmn.linear.weight",
    "gated_fsmn.fsmn.linear.bias": "unit.fsmn.linear.bias",
    "gated_fsmn.fsmn.project.weight": "unit.fsmn.projection.weight",
    **{
        f"gated_fsmn.fsmn.conv.{theirs}{number}.{what}": f"unit.fsmn.memory.{layer}.{ours}.{what}"
        for number, layer in ((1, "first"), (2, "second"))
        for theirs, ours, whats in (
            ("conv", "conv", ["weight"]),
            ("norm", "norm", ["weight", "bias"]),
            ("prelu", "prelu", ["weight"]),
        )
        for what in whats
    },
    "norm2.weight": "output_norm.weight",
    "norm2.bias": "output_norm.bias",
    "conv2.weight": "output.weight",
    "conv2.bias": "output.bias",
}
_OUR_BLOCK_NAMES = {ours: theirs for theirs, ours in _BLOCK_NAMES.items()}
_OUR_RECURRENT_NAMES = {ours: theirs for theirs, ours in _RECURRENT_NAMES.items()}
# Frequencies of sines: constants, which our network computes.
_CONSTANTS = re.compile(r"pos_enc\.inv_freq|mdl\.(?:att|intra)_mdl\.mossformerM\.layers\.\d+\.rotary_pos_emb\.freqs")


def masknet_from_modelscope(state_dict: dict) -> dict:
    """Convert the state dict of the authors' mask net into that of `MossFormerMaskNet` or `MossFormer2MaskNet`.

    Arguments
    ---------
    state_dict : dict
        State dict of ``modelscope.models.audio.separation.mossformer.MossFormerMaskNet``, or loaded from a released
        ``masknet.bin``; or of the mask net of ``modelscope.models.audio.separation.m2.mossformer.MossFormer2``.

    Returns
    -------
    dict
        State dict of our mask net. The tensors share memory with the given ones.

    Raises
    ------
    InputError
        If a key is not one of the authors' network.

    Example
    -------
    >>> import torch
    >>> masknet_from_modelscope({"conv1d_encoder.weight": torch.zeros(64, 32, 1)})["input_projection.weight"].shape
    torch.Size([64, 32])
    """
    translated = {}
    for key, value in state_dict.items():
        if _CONSTANTS.fullmatch(key):
            continue
        name = _our_name(key)
        # 1×1 convolutions [out, in, 1] become linear layers, and depthwise filters [C, 1, K] lose their second axis.
        if value.dim() == 3:
            value = value.squeeze(1 if name.endswith("depthwise.weight") else 2)
        elif value.dim() == 4:
            value = value.squeeze(3)  # filters of MossFormer2's memory, [C, group, K, 1]
        translated[name] = value
    return translated


def _our_name(key):
    block, recurrent = _BLOCK.fullmatch(key) or _BLOCK_2.fullmatch(key), _RECURRENT.fullmatch(key)
    if block:
        name = f"blocks.{block[1]}.{_BLOCK_NAMES.get(block[2], '')}"
    elif recurrent:
        name = f"recurrent.{recurrent[1]}.{_RECURRENT_NAMES.get(recurrent[2], '')}"
    else:
        name = _MASKNET_NAMES.get(key) or _MASKNET_NAMES_2.get(key, "")
    if not name or name.endswith("."):
        raise InputError(
            f"key {key!r} is not a key of the authors' mask net: expected keys such as 'conv1d_encoder.weight' and "
            f"'mdl.att_mdl.mossformerM.layers.0.to_hidden.mdl.1.weight'. Is this the masknet's state dict?"
        )
    return name


def masknet_to_modelscope(state_dict: dict) -> dict:
    """Convert the state dict of `MossFormerMaskNet` or `MossFormer2MaskNet` into that of the authors' mask net.

    Arguments
    ---------
    state_dict : dict
        State dict of our mask net.

    Returns
    -------
    dict
        State dict for the authors' classes, see `masknet_from_modelscope`, including the constants of their files.

    Example
    -------
    >>> from mossformer_sb import MossFormerMaskNet
    >>> masknet = MossFormerMaskNet(in_channels=32, out_channels=32, num_blocks=1)
    >>> theirs = masknet_to_modelscope(masknet.state_dict())
    >>> masknet_from_modelscope(theirs).keys() == masknet.state_dict().keys()
    True
    """
    is_second = any(key.startswith("recurrent.") for key in state_dict)
    names = {ours: theirs for theirs, ours in (_MASKNET_NAMES_2 if is_second else _MASKNET_NAMES).items()}
    folder = _FOLDER_2 if is_second else _FOLDER
    translated = {}
    for key, value in state_dict.items():
        block = re.fullmatch(r"(blocks|recurrent)\.(\d+)\.(.+)", key)
        if block and block[1] == "blocks":
            theirs = f"{folder}.layers.{block[2]}.{_OUR_BLOCK_NAMES[block[3]]}"
            value = value.unsqueeze(1) if key.endswith("depthwise.weight") else value
        elif block:
            theirs = f"{folder}.fsmn.{block[2]}.{_OUR_RECURRENT_NAMES[block[3]]}"
            value = _recurrent_as_theirs(block[3], value)
        else:
            theirs = names[key]
            value = value.unsqueeze(2) if value.dim() == 2 else value
        translated[theirs] = value
    return translated | _constants(state_dict, folder)


def _recurrent_as_theirs(name, value):
    """A tensor of the recurrent module with the singleton axes of the authors' convolutions."""
    if name.endswith("depthwise.weight"):
        return value.unsqueeze(1)
    if name in ("bottleneck.weight", "output.weight"):
        return value.unsqueeze(2)
    return value.unsqueeze(3) if name.endswith("conv.weight") else value


def _constants(state_dict, folder):
    """The frequencies, which the authors' files store and our network computes."""
    channels = state_dict["input_projection.weight"].shape[0]
    blocks = [key.split(".")[1] for key in state_dict if key.endswith("offset_scale.gamma")]
    rotated = min(ROTATED_CHANNELS, state_dict["blocks.0.offset_scale.gamma"].shape[1])
    return {"pos_enc.inv_freq": _frequencies(channels)} | {
        f"{folder}.layers.{index}.rotary_pos_emb.freqs": _frequencies(rotated) for index in blocks
    }


def _frequencies(channels):
    return 1.0 / 10000 ** (torch.arange(0, channels, 2, dtype=torch.float32) / channels)


def is_constant(key: str) -> bool:
    """Whether a key of the authors' mask net is for frequencies, which files may omit and our network computes.

    Example
    -------
    >>> is_constant("pos_enc.inv_freq"), is_constant("pos_enc.scale")
    (True, False)
    """
    return _CONSTANTS.fullmatch(key) is not None


def masknet_sizes(state_dict: dict, folder: str | Path) -> dict:
    """Sizes of a mask net, from the authors' state dict.

    Arguments
    ---------
    state_dict : dict
        State dict of the authors' mask net, with ModelScope's names.
    folder : str or Path
        Its folder, for the message.

    Returns
    -------
    dict
        Arguments of `MossFormerMaskNet`, and ``recurrent_channels`` if it is a MossFormer2; without ``group_size``,
        which can't be read from weights.

    Raises
    ------
    InputError
        If it is the state dict of neither network.

    Example
    -------
    >>> from mossformer_sb import MossFormerMaskNet
    >>> masknet = MossFormerMaskNet(in_channels=32, out_channels=32, num_blocks=1, num_spks=3)
    >>> masknet_sizes(masknet_to_modelscope(masknet.state_dict()), "a folder")["num_spks"]
    3
    """
    blocks = [match for match in map(_BLOCK.fullmatch, state_dict) if match]
    blocks_2 = [match for match in map(_BLOCK_2.fullmatch, state_dict) if match]
    first = f"{_FOLDER_2 if blocks_2 else _FOLDER}.layers.0"
    try:
        width, in_channels, _ = state_dict["conv1d_encoder.weight"].shape
        sizes = {
            "in_channels": in_channels,
            "out_channels": width,
            "num_blocks": len({match[1] for match in blocks_2 or blocks}),
            "num_spks": state_dict["conv1d_out.weight"].shape[0] // width,
            "query_key_dim": state_dict[f"{first}.to_qk.mdl.1.weight"].shape[0],
            "expansion_factor": state_dict[f"{first}.to_hidden.mdl.1.weight"].shape[0] / width,
            "kernel_size": state_dict[f"{first}.to_hidden.mdl.3.sequential.1.conv.weight"].shape[-1],
        }
        if blocks_2:
            sizes["recurrent_channels"] = state_dict[f"{_FOLDER_2}.fsmn.0.conv1.0.weight"].shape[0]
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(
            f"{folder}: is not a checkpoint of the authors' MossFormer or MossFormer2: the key or the shape of {error} "
            f"does not match."
        ) from error
    return sizes
