"""A trained separator as a folder that others load."""

import logging
import shutil
from pathlib import Path

import torch
from safetensors.torch import save

import mossformer_sb
from mossformer_sb.errors import InputError
from mossformer_sb.network.separator import applies_masks
from mossformer_sb.sharing.model_card import EXAMPLES_FOLDER, model_card
from mossformer_sb.sharing.record import TrainingRecord
from mossformer_sb.utils.files import atomic_folder
from mossformer_sb.version import __version__

logger = logging.getLogger(__name__)

MODULES = ("encoder", "masknet", "decoder")
HPARAMS_FILE = "hyperparams.yaml"
WEIGHT_FORMATS = ("safetensors", "ckpt")


def export(
    folder, modules, sample_rate, record=None, examples=(), half=False, formats=WEIGHT_FORMATS, notes="", settings=None
):
    """Write a folder that `MossFormerSeparation.from_hparams` loads, and SpeechBrain's ``SepformerSeparation`` too.

    It holds ``hyperparams.yaml``, the weights of each module as ``.safetensors`` for ours and as ``.ckpt`` (a plain
    state dict) for SpeechBrain's, and a model card, ``README.md``. It is written under a temporary name and then
    renamed; a folder of this name is replaced only if it is an earlier export.

    Arguments
    ---------
    folder : str or Path
        Where to.
    modules : mapping
        ``encoder``, ``masknet`` and ``decoder``, wrapped for several GPUs or not. The mask net says what it is:
        ``config``, its arguments; ``num_spks``; ``network`` and ``paper``, for the model card.
    sample_rate : int
        Hz.
    record : TrainingRecord, optional
        For the model card.
    examples : iterable of Path
        Audio files to copy into ``examples``.
    half : bool
        Whether to round the weights to half precision. Whoever loads them computes in single precision.
    formats : sequence of str
        Which copies of the weights to write, of `WEIGHT_FORMATS`: ours loads either, SpeechBrain's "ckpt" only. No
        "ckpt" is written of a network whose output is not to be multiplied with the encoded mixture.
    notes : str
        Markdown to add to the model card.
    settings : mapping, optional
        More keys for the YAML file, with plain values: ``input_level``, see `mossformer_sb.inference.input_level`.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If the folder exists and is something else, a weight is too large for half precision, or "ckpt" alone is asked
        for where none is written.

    Example
    -------
    >>> from mossformer_sb import MossFormerSeparator
    >>> separator = MossFormerSeparator.from_size("mini")
    >>> folder = export(getfixture("tmp_path") / "model", dict(separator.named_children()), sample_rate=8000)
    >>> sorted(path.name for path in folder.iterdir())
    ['README.md', 'decoder.ckpt', 'decoder.safetensors', 'encoder.ckpt', 'encoder.safetensors', 'hyperparams.yaml',
    'masknet.ckpt', 'masknet.safetensors']
    """
    folder = Path(folder)
    if folder.exists() and not (folder / HPARAMS_FILE).is_file():
        raise InputError(
            f"{folder}: exists and is no exported model, so it is not replaced. Choose another export folder."
        )
    modules = {name: getattr(modules[name], "module", modules[name]) for name in MODULES}  # out of DDP's wrapping
    formats = _loadable_formats(modules["masknet"], formats)
    states = {name: _state(module, name, half) for name, module in modules.items()}
    record = record or TrainingRecord()
    with atomic_folder(folder) as temporary:
        for name, state in states.items():
            if "ckpt" in formats:
                torch.save(state, temporary / f"{name}.ckpt")
            if "safetensors" in formats:
                (temporary / f"{name}.safetensors").write_bytes(save(state))  # readable for others, as save_file is not
        for path in examples:
            (temporary / EXAMPLES_FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(path, temporary / EXAMPLES_FOLDER / Path(path).name)
        (temporary / HPARAMS_FILE).write_text(_hyperparams(modules, sample_rate, settings or {}), encoding="utf-8")
        card = model_card(modules, sample_rate, record, examples, half, notes, formats)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    logger.info("Exported the model to %s", folder)
    return folder


def _loadable_formats(masknet, formats):
    """Of the formats, those that whoever loads them computes rightly with."""
    if applies_masks(masknet) or "ckpt" not in formats:
        return formats
    if "safetensors" not in formats:
        raise InputError(
            "apply_masks: False: SpeechBrain's classes, which .ckpt is for, multiply what the network gives with the "
            "encoded mixture, and this one is not made for that. Export .safetensors, which ours load."
        )
    logger.warning(
        "No .ckpt is written: with apply_masks: False the model is for MossFormerSeparation alone, since SpeechBrain's "
        "classes multiply what the network gives with the encoded mixture."
    )
    return [name for name in formats if name != "ckpt"]


def _state(module, name, half):
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    if not half:
        return state
    largest = torch.finfo(torch.half).max
    for key, value in state.items():
        if not (value.abs() <= largest).all():
            raise InputError(
                f"{name}.{key}: has a value that half precision can't hold, which ends at {largest:g}. Export without "
                "half, or another checkpoint."
            )
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def _hyperparams(modules, sample_rate, settings):
    """The YAML that builds the three modules again and loads their weights."""
    encoder, masknet, decoder = (modules[name] for name in MODULES)
    more = "".join(f"{key}: {value}\n" for key, value in settings.items())
    masknet_arguments = "\n".join(f"    {key}: {value}" for key, value in masknet.config.items())
    return f"""\
# {masknet.network} separator, exported by mossformer_sb {__version__}.
sample_rate: {sample_rate}
num_spks: {masknet.num_spks}
{more}
encoder: !new:speechbrain.lobes.models.dual_path.Encoder
    kernel_size: {encoder.conv1d.kernel_size[0]}
    out_channels: {encoder.conv1d.out_channels}
masknet: !new:{_class_path(masknet)}
{masknet_arguments}
decoder: !new:speechbrain.lobes.models.dual_path.Decoder
    in_channels: {decoder.in_channels}
    out_channels: {decoder.out_channels}
    kernel_size: {decoder.kernel_size[0]}
    stride: {decoder.stride[0]}
    bias: {decoder.bias is not None}

modules:
    encoder: !ref <encoder>
    masknet: !ref <masknet>
    decoder: !ref <decoder>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        encoder: !ref <encoder>
        masknet: !ref <masknet>
        decoder: !ref <decoder>
"""


def _class_path(module):
    """Name a module's class: by the package where the package offers it, for files are split and joined."""
    name = type(module).__name__
    offered = getattr(mossformer_sb, name, None) is type(module)
    return f"mossformer_sb.{name}" if offered else f"{type(module).__module__}.{name}"
