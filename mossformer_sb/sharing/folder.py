"""Exporting a trained separator as a model folder."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import mossformer_sb
from mossformer_sb.errors import InputError
from mossformer_sb.network.hub import CARD_FILE, CONFIG_FILE, LARGEST, WEIGHTS_FILE, read_config, write_model
from mossformer_sb.network.separator import MossFormerSeparator, applies_masks
from mossformer_sb.sharing.model_card import EXAMPLES_FOLDER, model_card
from mossformer_sb.sharing.onnx import INT8_FILE, ONNX_FILE
from mossformer_sb.sharing.record import TrainingRecord
from mossformer_sb.utils.files import atomic_folder, expanded
from mossformer_sb.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

logger = logging.getLogger(__name__)

MODULES = ("encoder", "masknet", "decoder")
HPARAMS_FILE = "hyperparams.yaml"
_EXPORTED = {  # all that an export can hold; and what a Mac adds to every folder
    *(CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, HPARAMS_FILE, EXAMPLES_FOLDER, ONNX_FILE, INT8_FILE, ".DS_Store"),
    *(f"{name}.ckpt" for name in MODULES),
}


def export(
    folder: str | Path,
    modules: Mapping,
    sample_rate: int,
    record: TrainingRecord | None = None,
    examples: Iterable[Path] = (),
    half: bool = False,
    speechbrain: bool = True,
    notes: str = "",
    settings: Mapping | None = None,
    card: str = "",
) -> Path:
    """Write a folder that `MossFormerSeparation.from_hparams` and ``MossFormerSeparator.from_pretrained`` load.

    It holds ``config.json``, ``model.safetensors`` and a model card, ``README.md``; and, for SpeechBrain's own
    ``SepformerSeparation``, ``hyperparams.yaml`` and a second copy of the weights, a ``.ckpt`` of each module. It is
    written under a temporary name and then renamed; a folder of this name is replaced only if it is an earlier export.

    Arguments
    ---------
    folder : str or Path
        Folder to write.
    modules : mapping
        ``encoder``, ``masknet`` and ``decoder``, also wrapped for several GPUs. The mask net has ``config``, its
        arguments; ``num_spks``; ``network`` and ``paper``, for the model card. A mask net of your own class is only
        written in SpeechBrain's format, which is loaded with ``trust=True``.
    sample_rate : int
        Sample rate in Hz.
    record : TrainingRecord, optional
        Facts for the model card.
    examples : iterable of Path
        Audio files to copy into ``examples``.
    half : bool
        Whether to round the weights to half precision. Loading converts them to single precision.
    speechbrain : bool
        Whether to write the files for SpeechBrain's classes. They are never written for a network whose output is not
        multiplied with the encoded mixture.
    notes : str
        Markdown to add to the model card.
    settings : mapping, optional
        ``input_level`` and ``shifts``, see the modules `mossformer_sb.inference.input_level` and
        `mossformer_sb.inference.shifts`.
    card : str
        The complete model card, instead of a generated one.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If the folder exists and holds anything but an export, a weight is not finite or too large for half precision,
        the sample rate is above 2^20, or the mask net is of your own class and ``speechbrain`` is False.

    Example
    -------
    >>> from mossformer_sb import MossFormerSeparator
    >>> separator = MossFormerSeparator.from_size("mini")
    >>> folder = export(getfixture("tmp_path") / "model", dict(separator.named_children()), sample_rate=8000)
    >>> sorted(path.name for path in folder.iterdir())
    ['README.md', 'config.json', 'decoder.ckpt', 'encoder.ckpt', 'hyperparams.yaml', 'masknet.ckpt',
    'model.safetensors']
    """
    folder, examples = Path(expanded(folder)), list(examples)
    check_replaceable(folder)
    modules = {name: getattr(modules[name], "module", modules[name]) for name in MODULES}  # unwrapped from DDP
    settings = settings or {}
    if sample_rate > LARGEST:  # which loading would refuse
        raise InputError(f"sample_rate must be at most {LARGEST} Hz; found {sample_rate}.")
    speechbrain = speechbrain and _multiplies(modules["masknet"])
    config = _config(modules, sample_rate, settings, speechbrain)
    states = {name: _state(module, name, half) for name, module in modules.items()}
    record = record or TrainingRecord()
    with atomic_folder(folder) as temporary:
        if config is not None:
            joined = {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}
            write_model(temporary, config, joined)
        for name, state in states.items() if speechbrain else ():
            torch.save(state, temporary / f"{name}.ckpt")
        for path in examples:
            (temporary / EXAMPLES_FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(path, temporary / EXAMPLES_FOLDER / Path(path).name)
        if speechbrain:
            text = _hyperparams(modules, sample_rate, settings)
            (temporary / HPARAMS_FILE).write_text(text, encoding="utf-8")
        card = card or model_card(modules, sample_rate, record, examples, half, notes, speechbrain)
        (temporary / CARD_FILE).write_text(card, encoding="utf-8")
    logger.info("Exported the model to %s", folder)
    return folder


def is_model_folder(folder: str | Path) -> bool:
    """Whether a folder is an exported model, of this version or of an earlier one.

    Example
    -------
    >>> is_model_folder(getfixture("tmp_path"))
    False
    """
    return (Path(folder) / HPARAMS_FILE).is_file() or describes_model(Path(folder) / CONFIG_FILE)


def check_replaceable(folder: str | Path) -> None:
    """Raise unless a folder can be replaced without the loss of anything that `export` does not write anew.

    Trainings, here and with SpeechBrain, have a hyperparams.yaml too, beside their checkpoints; and a copy of a model
    hub's repository may have a history.

    Raises
    ------
    InputError
        If it exists and holds anything but an export.

    Example
    -------
    >>> check_replaceable(getfixture("tmp_path") / "new")
    """
    folder = Path(folder)
    if not folder.exists():
        return
    if not is_model_folder(folder):
        raise InputError(
            f"{folder}: exists and is not an exported model, so it is not replaced. Choose another export folder."
        )
    others = sorted(path.name for path in folder.iterdir() if path.name not in _EXPORTED)
    if others:
        raise InputError(
            f"{folder}: is not replaced by an export, since it also holds what no export writes: "
            f"{', '.join(others[:5])}{' ...' if len(others) > 5 else ''}. Choose another export folder, or move these."
        )


def describes_model(path: str | Path) -> bool:
    """Whether a file is the ``config.json`` of a separator."""
    try:
        return bool(read_config(path))
    except (InputError, OSError):
        return False


def _multiplies(masknet):
    """Whether SpeechBrain's classes compute a network correctly; log a warning if not."""
    if applies_masks(masknet):
        return True
    logger.warning(
        "No files for SpeechBrain's classes are written: with apply_masks: False only mossformer_sb can load the "
        "model, since they multiply the network's output with the encoded mixture."
    )
    return False


def _config(modules, sample_rate, settings, speechbrain):
    """The content of ``config.json``; None if it can't describe the networks, but SpeechBrain's files can."""
    separator = MossFormerSeparator.from_modules(**modules, sample_rate=sample_rate, **settings)
    try:
        return separator.config
    except InputError as error:
        if not speechbrain:
            raise InputError(f"can't export without the files for SpeechBrain: {error}") from error
        logger.warning("No %s is written: %s It is loaded with trust=True.", CONFIG_FILE, error)
        return None


def _state(module, name, half):
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    for key, value in state.items():
        if not value.isfinite().all():
            raise InputError(f"{name}.{key}: holds NaN or infinity, and can't be used. Export another checkpoint.")
    if not half:
        return state
    largest = torch.finfo(torch.half).max
    for key, value in state.items():
        if not (value.abs() <= largest).all():
            raise InputError(
                f"{name}.{key}: has a value above the maximum of half precision, {largest:g}. Export without "
                "half, or another checkpoint."
            )
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def _hyperparams(modules, sample_rate, settings):
    """The YAML that builds the three modules and loads their weights."""
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
    """Import path of a module's class: from the top-level package if that exports it, since modules may move."""
    name = type(module).__name__
    offered = getattr(mossformer_sb, name, None) is type(module)
    return f"mossformer_sb.{name}" if offered else f"{type(module).__module__}.{name}"
