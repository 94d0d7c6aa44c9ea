"""Other people's checkpoints into ours, and back."""

import re
from pathlib import Path

import torch
from speechbrain.lobes.models.dual_path import Decoder, Encoder

from mossformer_sb.errors import InputError
from mossformer_sb.network.masknet import ROTATED_CHANNELS, MossFormerMaskNet
from mossformer_sb.network.separator import MossFormerSeparator
from mossformer_sb.sharing.folder import MODULES, export
from mossformer_sb.sharing.loading import load_model
from mossformer_sb.sharing.record import TrainingRecord
from mossformer_sb.sharing.weights import read_state_dict
from mossformer_sb.utils.files import atomic_folder

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
# MossFormer2 has its blocks in other folders, and a recurrent module after each.
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
# Frequencies of sines: constants, which ours computes.
_LAYERS = "mdl.att_mdl.mossformerM.layers"
_FILES = tuple(f"{name}.bin" for name in MODULES)
_SHOWN_ROWS = 20
_CONSTANTS = re.compile(r"pos_enc\.inv_freq|mdl\.(?:att|intra)_mdl\.mossformerM\.layers\.\d+\.rotary_pos_emb\.freqs")


def masknet_from_modelscope(state_dict):
    """Translate the state dict of the authors' mask net into that of `MossFormerMaskNet` or `MossFormer2MaskNet`.

    Arguments
    ---------
    state_dict : dict
        Of ``modelscope.models.audio.separation.mossformer.MossFormerMaskNet``, or read from a released ``masknet.bin``;
        or of the mask net of ``modelscope.models.audio.separation.m2.mossformer.MossFormer2``.

    Returns
    -------
    dict
        For ``load_state_dict`` of ours. The tensors share memory with the given ones.

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
        elif value.dim() == 4:
            value = value.squeeze(3)  # filters of MossFormer2's memory, [C, group, taps, 1]
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
            f"key {key!r} is not one of the authors' mask net: expected keys such as 'conv1d_encoder.weight' and "
            f"'mdl.att_mdl.mossformerM.layers.0.to_hidden.mdl.1.weight'. Is this the masknet's state dict?"
        )
    return name


def masknet_to_modelscope(state_dict):
    """Translate the state dict of `MossFormerMaskNet` into that of the authors' mask net.

    Arguments
    ---------
    state_dict : dict
        Of ours.

    Returns
    -------
    dict
        For ``modelscope.models.audio.separation.mossformer.MossFormerMaskNet``, its constants included.

    Example
    -------
    >>> masknet = MossFormerMaskNet(in_channels=32, out_channels=32, num_blocks=1)
    >>> theirs = masknet_to_modelscope(masknet.state_dict())
    >>> masknet_from_modelscope(theirs).keys() == masknet.state_dict().keys()
    True
    """
    names = {ours: theirs for theirs, ours in _MASKNET_NAMES.items()}
    block_names = {ours: theirs for theirs, ours in _BLOCK_NAMES.items()}
    translated = {}
    for key, value in state_dict.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
        if block:
            theirs = f"{_LAYERS}.{block[1]}.{block_names[block[2]]}"
            value = value.unsqueeze(1) if key.endswith("depthwise.weight") else value
        else:
            theirs = names[key]
            value = value.unsqueeze(2) if value.dim() == 2 else value
        translated[theirs] = value
    return translated | _constants(state_dict)


def _constants(state_dict):
    """The frequencies that the authors' files hold and ours computes."""
    channels = state_dict["input_projection.weight"].shape[0]
    blocks = [key.split(".")[1] for key in state_dict if key.endswith("offset_scale.gamma")]
    rotated = min(ROTATED_CHANNELS, state_dict["blocks.0.offset_scale.gamma"].shape[1])
    return {"pos_enc.inv_freq": _frequencies(channels)} | {
        f"{_LAYERS}.{index}.rotary_pos_emb.freqs": _frequencies(rotated) for index in blocks
    }


def _frequencies(channels):
    return 1.0 / 10000 ** (torch.arange(0, channels, 2, dtype=torch.float32) / channels)


def from_modelscope(folder, output_folder, sample_rate=8000, group_size=256):
    """Convert a released checkpoint of the authors into a folder that `MossFormerSeparation.from_hparams` loads.

    Arguments
    ---------
    folder : str or Path
        With ``encoder.bin``, ``masknet.bin`` and ``decoder.bin``, plain state dicts.
    output_folder : str or Path
        Where to.
    sample_rate : int
        Hz that it was trained at.
    group_size : int
        Frames of one local attention group, the only size that the files don't tell.

    Returns
    -------
    Path
        The output folder.

    Raises
    ------
    InputError
        If a file is absent, or keys or shapes are not those of a MossFormer; with a table of these.
    """
    folder = Path(folder)
    states = {}
    for name in MODULES:
        if not (folder / f"{name}.bin").is_file():
            raise InputError(f"{folder}: holds no {name}.bin. A released checkpoint is {', '.join(_FILES)}.")
        states[name] = read_state_dict(folder / f"{name}.bin")
    separator = MossFormerSeparator(*_networks_for(states, folder, group_size))
    modules = dict(separator.named_children())
    _compare(states, {name: _theirs(name, module.state_dict()) for name, module in modules.items()}, folder)
    for name, module in modules.items():
        module.load_state_dict(masknet_from_modelscope(states[name]) if name == "masknet" else states[name])
    record = TrainingRecord(checkpoint=f"converted from the authors' format ({', '.join(_FILES)})")
    return export(output_folder, modules, sample_rate, record)


def to_modelscope(source, output_folder):
    """Convert an exported model into the authors' three files.

    Arguments
    ---------
    source : str or Path
        A model folder, or a model hub's id.
    output_folder : str or Path
        Where to; it must not be there.

    Returns
    -------
    Path
        The output folder.

    Raises
    ------
    InputError
        If the model is no MossFormer, or the folder exists.
    """
    modules = load_model(source)["modules"]
    if not isinstance(modules["masknet"], MossFormerMaskNet):
        raise InputError(
            f"{source}: is a {type(modules['masknet']).__name__}, and the authors' format is MossFormer's."
        )
    output_folder = Path(output_folder)
    if output_folder.exists():
        raise InputError(f"{output_folder}: exists already. Choose another output folder.")
    with atomic_folder(output_folder) as temporary:
        for name in MODULES:
            torch.save(_theirs(name, modules[name].state_dict()), temporary / f"{name}.bin")
    return output_folder


def _theirs(name, state_dict):
    return masknet_to_modelscope(state_dict) if name == "masknet" else dict(state_dict)


def _networks_for(states, folder, group_size):
    """Encoder, mask net and decoder of the sizes that the authors' files show."""
    first = f"{_LAYERS}.0"
    try:
        channels, _, kernel_size = states["encoder"]["conv1d.weight"].shape
        masknet = states["masknet"]
        width, in_channels, _ = masknet["conv1d_encoder.weight"].shape
        query_key_dim = masknet[f"{first}.to_qk.mdl.1.weight"].shape[0]
        hidden = masknet[f"{first}.to_hidden.mdl.1.weight"].shape[0]
        taps = masknet[f"{first}.to_hidden.mdl.3.sequential.1.conv.weight"].shape[-1]
        num_spks = masknet["conv1d_out.weight"].shape[0] // width
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{folder}: is no checkpoint of the authors' MossFormer: the key or the shape of {error} is not as theirs."
        ) from error
    blocks = {match[1] for match in map(_BLOCK.fullmatch, masknet) if match}
    net = MossFormerMaskNet(
        in_channels, width, len(blocks), num_spks, group_size, query_key_dim, hidden / width, kernel_size=taps
    )
    return (
        Encoder(kernel_size, channels),
        net,
        Decoder(in_channels=channels, out_channels=1, kernel_size=kernel_size, stride=kernel_size // 2, bias=False),
    )


def _compare(found, needed, folder):
    """Raise InputError with a table of the keys and shapes that differ; constants may be absent."""
    rows = []
    for name in MODULES:
        shapes = [{key: list(value.shape) for key, value in states[name].items()} for states in (found, needed)]
        for key in dict.fromkeys([*shapes[1], *shapes[0]]):
            pair = [states.get(key, "-") for states in shapes]
            if pair[0] != pair[1] and not (_CONSTANTS.fullmatch(key) and pair[0] == "-"):
                rows.append((f"{name}.bin", key, *map(str, pair)))
    if not rows:
        return
    header = ("file", "key", "found", "needed")
    widths = [max(len(row[column]) for row in (header, *rows[:_SHOWN_ROWS])) for column in range(4)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows[:_SHOWN_ROWS])]
    more = f"\nand {len(rows) - _SHOWN_ROWS} more" if len(rows) > _SHOWN_ROWS else ""
    table = "\n".join(lines)
    raise InputError(f"{folder}: {len(rows)} keys are not those of a MossFormer of this size:\n{table}{more}")
