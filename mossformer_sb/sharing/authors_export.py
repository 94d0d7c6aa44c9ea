"""Conversion of model folders into the authors' formats, for their programs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from mossformer_sb.errors import InputError
from mossformer_sb.network.masknet import MossFormerMaskNet
from mossformer_sb.network.mossformer2 import MossFormer2MaskNet
from mossformer_sb.sharing.authors_files import (
    CONFIG_FILE,
    CONFIGURATION_FILE,
    GROUP_SIZE,
    MAPPING_TASK,
    MODELSCOPE_PREFIXES,
    POINTERS,
    STANDALONE_PREFIXES,
    to_standalone,
)
from mossformer_sb.sharing.conversion import MODELSCOPE_RATE, in_modelscope_names
from mossformer_sb.sharing.folder import MODULES
from mossformer_sb.sharing.loading import load_model
from mossformer_sb.utils.files import atomic_folder, expanded

logger = logging.getLogger(__name__)

FORMS = ("modelscope", "standalone", "clearvoice")
# Names of the networks in ModelScope's package, and of their pipelines.
_TYPE, _TYPE_2 = "speech_mossformer_separation_temporal_8k", "speech_mossformer2_separation_temporal_8k"
# Values that are constants in the source of their networks, not stored in the files.
_FIXED = {"expansion_factor": 4.0, "kernel_size": 17}
_FIXED_2 = {
    "group_size": GROUP_SIZE,
    "query_key_dim": 128,
    "recurrent_channels": 256,
    **_FIXED,
}


def to_authors(source: str | Path, output_folder: str | Path, form: str) -> Path:
    """Convert a model folder into one of the authors' formats.

    Arguments
    ---------
    source : str or Path
        A model folder, a model hub's id, or the name of a released model.
    output_folder : str or Path
        Folder to write, which must not exist.
    form : str
        One of `FORMS`: "modelscope"; "standalone" or "clearvoice", only for MossFormer2.

    Returns
    -------
    Path
        The output folder.

    Raises
    ------
    InputError
        If their programs could not load the model, or would compute other estimates, or the folder exists.
    """
    if form not in FORMS:
        raise InputError(f"form {form!r} is not known: choose one of {', '.join(FORMS)}.")
    model = load_model(source)
    modules = dict(model.named_children())
    masknet = model.masknet
    if not isinstance(masknet, MossFormerMaskNet):
        raise InputError(f"{source}: is a {type(masknet).__name__}; the authors' formats are only for MossFormers.")
    is_second = isinstance(masknet, MossFormer2MaskNet)
    _check(source, model, form, is_second)
    if form == "modelscope" and model.sample_rate != MODELSCOPE_RATE:
        logger.warning(
            "%s: is for %d Hz; ModelScope's pipeline takes recordings of %d Hz only. Use their classes directly.",
            source,
            model.sample_rate,
            MODELSCOPE_RATE,
        )
    theirs = {"shifts": 1, "input_level": "loud_rms" if form == "clearvoice" else None}
    lost = [f"{key} {getattr(model, key)}" for key, value in theirs.items() if getattr(model, key) not in (value, None)]
    if lost:
        logger.warning("%s: this format has no place for %s", source, " and ".join(lost))
    output_folder = Path(expanded(output_folder))
    if output_folder.exists():
        raise InputError(f"{output_folder}: already exists. Choose another output folder.")
    states = {name: in_modelscope_names(name, modules[name].state_dict()) for name in MODULES}
    with atomic_folder(output_folder) as temporary:
        if form == "standalone":
            _write_standalone(temporary, states, model)
        elif is_second:
            _write_whole(temporary, _joined(states, MODELSCOPE_PREFIXES), form)
        else:
            for name, state in states.items():
                torch.save(state, temporary / f"{name}.bin")
        if form == "modelscope":
            _write_configuration(temporary, model, is_second)
    return output_folder


def _check(source, model, form, is_second):
    """Raise InputError if a format can't store the network."""
    if not is_second and form != "modelscope":
        raise InputError(f"{source}: is a MossFormer, for which the authors have one format: --to modelscope.")
    if is_second and not model.masknet.apply_masks and form != "standalone":
        raise InputError(
            f"{source}: applies no masks, which only the standalone format can store; the programs of {form} would "
            f"apply them. Use --to standalone."
        )
    config = model.masknet.config
    needed = {**(_FIXED_2 if is_second else _FIXED), "in_channels": config["out_channels"]}
    if is_second and model.decoder.bias is not None:
        raise InputError(f"{source}: its decoder has a bias, which that of the authors' MossFormer2 has not.")
    other = {key: value for key, value in needed.items() if config[key] != value}
    if other:
        found = ", ".join(f"{key} {config[key]} (needed {value})" for key, value in other.items())
        network = "MossFormer2" if is_second else "MossFormer"
        raise InputError(f"{source}: the authors' programs can't build a {network} with {found}.")


def _joined(states, prefixes):
    pairs = zip(MODULES, prefixes, strict=True)
    return {prefix + key: value for name, prefix in pairs for key, value in states[name].items()}


def _write_configuration(folder, model, is_second):
    """ModelScope's file for `modelscope.pipelines.pipeline`: the names and arguments of the network."""
    config, encoder = model.masknet.config, model.encoder.conv1d
    arguments = {key: config[key] for key in ("in_channels", "out_channels", "num_blocks", "norm", "num_spks")}
    arguments["kernel_size"] = encoder.kernel_size[0]
    if not is_second:  # their MossFormer2 has constants instead
        arguments |= {key: config[key] for key in ("group_size", "query_key_dim", "expansion_factor")}
        arguments |= {
            "stride": encoder.stride[0],
            "bias": model.decoder.bias is not None,
            "d_model": config["out_channels"],
            "causal": False,
        }
        arguments["attn_dropout"] = float(config["dropout"])
    name = _TYPE_2 if is_second else _TYPE
    configuration = {
        "framework": "pytorch",
        "task": "speech-separation",
        # Their networks ignore the sample rate; a conversion back needs it.
        "model": {"type": name, **arguments, "sample_rate": model.sample_rate},
        "pipeline": {"type": name},
    }
    (folder / CONFIGURATION_FILE).write_text(json.dumps(configuration, indent=2) + "\n", encoding="utf-8")


def _write_whole(folder, state, form):
    if form == "modelscope":
        torch.save(state, folder / "pytorch_model.pt")
        return
    name = f"{POINTERS[0]}.pt"
    torch.save({"model": state}, folder / name)
    (folder / POINTERS[0]).write_text(f"{name}\n", encoding="utf-8")


def _write_standalone(folder, states, model):
    """One file per module, one file of all modules, and the settings of their wrapper."""
    states = {**states, "masknet": {to_standalone(key): value for key, value in states["masknet"].items()}}
    for name, state in states.items():
        torch.save(state, folder / f"{name}.ckpt")
    torch.save(_joined(states, STANDALONE_PREFIXES), folder / "pytorch_model.bin")
    masknet, conv = model.masknet, model.encoder.conv1d
    settings = {
        "model_type": "mossformer2",
        "sample_rate": model.sample_rate,
        "config_name": f"mossformer2-{masknet.num_spks}spk" if masknet.apply_masks else MAPPING_TASK,
        "encoder_kernel_size": conv.kernel_size[0],
        "encoder_out_nchannels": conv.out_channels,
        "encoder_in_nchannels": 1,
        "masknet_numspks": masknet.num_spks,
        "masknet_numlayers": 1,
        "masknet_norm": "ln",
        "masknet_useextralinearlayer": False,
        "masknet_extraskipconnection": True,
        "intra_numlayers": masknet.config["num_blocks"],
        # Values without an effect that their wrapper reads.
        "masknet_chunksize": 250,
        "intra_nhead": 8,
        "intra_dffn": 1024,
        "intra_dropout": 0,
        "intra_use_positional": True,
        "intra_norm_before": True,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
