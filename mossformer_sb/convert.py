"""Other people's checkpoints into ours."""

import re

from mossformer_sb.errors import InputError

# The authors' names in `modelscope` (and their released masknet.bin), and ours, but for what lies inside of the blocks.
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
# Frequencies of sines: constants, which ours computes.
_CONSTANTS = re.compile(r"pos_enc\.inv_freq|mdl\.att_mdl\.mossformerM\.layers\.\d+\.rotary_pos_emb\.freqs")


def masknet_from_modelscope(state_dict):
    """Translate the state dict of the authors' mask net into that of `MossFormerMaskNet`.

    Arguments
    ---------
    state_dict : dict
        Of ``modelscope.models.audio.separation.mossformer.MossFormerMaskNet``, or read from a released ``masknet.bin``.

    Returns
    -------
    dict
        For ``MossFormerMaskNet.load_state_dict``. The tensors share memory with the given ones.

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
        # 1×1 convolutions [out, in, 1] are linear layers here, and depthwise filters [C, 1, taps] have no second axis.
        if value.dim() == 3:
            value = value.squeeze(1 if name.endswith("depthwise.weight") else 2)
        translated[name] = value
    return translated


def _our_name(key):
    block = _BLOCK.fullmatch(key)
    name = f"blocks.{block[1]}.{_BLOCK_NAMES.get(block[2], '')}" if block else _MASKNET_NAMES.get(key, "")
    if not name or name.endswith("."):
        raise InputError(
            f"key {key!r} is not one of the authors' mask net: expected keys such as 'conv1d_encoder.weight' and "
            f"'mdl.att_mdl.mossformerM.layers.0.to_hidden.mdl.1.weight'. Is this the masknet's state dict?"
        )
    return name
