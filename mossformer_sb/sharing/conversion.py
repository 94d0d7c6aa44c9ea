"""Conversion of the authors' checkpoints into model folders."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from speechbrain.lobes.models.dual_path import Decoder, Encoder

from mossformer_sb.errors import InputError
from mossformer_sb.network.masknet import MossFormerMaskNet
from mossformer_sb.network.mossformer2 import MossFormer2MaskNet
from mossformer_sb.network.separator import MossFormerSeparator
from mossformer_sb.sharing.authors_files import GROUP_SIZE, MAPPING_TASK, read_checkpoint
from mossformer_sb.sharing.folder import MODULES, export
from mossformer_sb.sharing.modelscope import is_constant, masknet_from_modelscope, masknet_sizes, masknet_to_modelscope
from mossformer_sb.sharing.record import TrainingRecord
from mossformer_sb.utils.weights import shape

if TYPE_CHECKING:
    from pathlib import Path

    from mossformer_sb.sharing.authors_files import AuthorsCheckpoint

logger = logging.getLogger(__name__)

MODELSCOPE_RATE = 8000  # Hz, of both of their separators on ModelScope's hub
_SHOWN_ROWS = 20
_NAMES = {"modelscope": "ModelScope", "standalone": "the standalone MossFormer2", "clearvoice": "ClearerVoice-Studio"}


def from_authors(
    source: str | Path,
    output_folder: str | Path,
    sample_rate: int | None = None,
    group_size: int | None = None,
    apply_masks: bool | None = None,
    input_level: str | None = None,
    record: TrainingRecord | None = None,
    speechbrain: bool = True,
) -> Path:
    """Convert a checkpoint of the authors into a folder that `MossFormerSeparation.from_hparams` loads.

    Its format is recognised, see `mossformer_sb.sharing.authors_files`. Every name and shape is compared.

    Arguments
    ---------
    source : str or Path
        A folder, or a single file of all weights.
    output_folder : str or Path
        Folder to write.
    sample_rate : int, optional
        Sample rate of its training data in Hz. Default: as in ``config.json``; else 8000 for ModelScope's format.
    group_size : int, optional
        Frames per local attention group: like the rate, it can't be read from the weights. Default: as in ModelScope's
        ``configuration.json``; else 256.
    apply_masks : bool, optional
        As in `MossFormer2MaskNet`. Default: False if ``config.json`` names the authors' model for WHAMR!, else True.
    input_level : str, optional
        As in `mossformer_sb.inference.input_level`. Default: ClearerVoice's for its format.
    record : TrainingRecord, optional
        Facts for the model card.
    speechbrain : bool
        As for `export`.

    Returns
    -------
    Path
        The output folder.

    Raises
    ------
    InputError
        If files are missing or belong to another network, with a table of the keys and shapes that differ; or if the
        files lack a value that must be given.
    """
    checkpoint = read_checkpoint(source)
    sample_rate = _sample_rate(checkpoint) if sample_rate is None else sample_rate
    separator = load_separator(checkpoint, group_size, apply_masks)
    if input_level is None and checkpoint.form == "clearvoice":
        input_level = "loud_rms"
    if record is None:
        files = ", ".join(dict.fromkeys(checkpoint.files.values()))
        record = TrainingRecord(checkpoint=f"converted from the format of {_NAMES[checkpoint.form]} ({files})")
    settings = {} if input_level is None else {"input_level": input_level}
    modules = dict(separator.named_children())
    return export(output_folder, modules, sample_rate, record, speechbrain=speechbrain, settings=settings)


def load_separator(
    checkpoint: AuthorsCheckpoint, group_size: int | None = None, apply_masks: bool | None = None
) -> MossFormerSeparator:
    """Build a separator with a checkpoint's weights; their shapes determine its sizes.

    Arguments
    ---------
    checkpoint : AuthorsCheckpoint
    group_size, apply_masks
        As for `from_authors`.

    Returns
    -------
    MossFormerSeparator

    Raises
    ------
    InputError
        As `from_authors`.
    """
    _check_configuration(checkpoint)
    if apply_masks is None:
        apply_masks = checkpoint.settings.get("config_name") != MAPPING_TASK
    if group_size is None:
        group_size = _group_size(checkpoint)
    separator = MossFormerSeparator.from_modules(*_networks_for(checkpoint, group_size, apply_masks))
    modules = dict(separator.named_children())
    _compare(checkpoint, {name: in_modelscope_names(name, module.state_dict()) for name, module in modules.items()})
    for name, module in modules.items():
        state = checkpoint.states[name]
        module.load_state_dict(masknet_from_modelscope(state) if name == "masknet" else state)
    return separator


def in_modelscope_names(module: str, state_dict: dict) -> dict:
    """A state dict of the module called ``module``, with ModelScope's names."""
    return masknet_to_modelscope(state_dict) if module == "masknet" else dict(state_dict)


def _check_configuration(checkpoint):
    """Raise InputError if ModelScope's configuration is of a network that would be converted into another one."""
    kernel_size = checkpoint.settings.get("kernel_size")
    stride = kernel_size // 2 if isinstance(kernel_size, int) else None
    for key, needed in (("causal", False), ("norm", "ln"), ("stride", stride)):
        found = checkpoint.settings.get(key, needed)
        if checkpoint.form == "modelscope" and needed is not None and found != needed:
            raise InputError(
                f"{checkpoint.source}: its configuration.json has {key} {found!r}; only networks with {needed!r} can "
                "be converted."
            )


def _group_size(checkpoint):
    found = checkpoint.settings.get("group_size", GROUP_SIZE)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise InputError(
            f"{checkpoint.source}: its settings have a group_size of {found!r}; it must be a number of frames. Give "
            f"--group_size, 256 in all released models."
        )
    return found


def _sample_rate(checkpoint):
    rate = checkpoint.settings.get("sample_rate")
    if isinstance(rate, int) and not isinstance(rate, bool) and rate > 0:
        return rate
    if checkpoint.form == "modelscope":
        return MODELSCOPE_RATE
    raise InputError(
        f"{checkpoint.source}: has no sample rate. Give that of its training data: --sample_rate 16000 "
        f"for ClearerVoice's MossFormer2_SS_16K, --sample_rate 8000 for an 8 kHz model."
    )


def _networks_for(checkpoint, group_size, apply_masks):
    """Encoder, mask net and decoder of the sizes in the authors' files."""
    sizes = masknet_sizes(checkpoint.states["masknet"], checkpoint.source)
    filters = checkpoint.states["encoder"].get("conv1d.weight")
    if filters is None or filters.dim() != 3 or filters.shape[1] != 1 or filters.shape[2] < 2:
        found = "nothing" if filters is None else list(filters.shape)
        name = checkpoint.key_in_file("encoder", "conv1d.weight")
        raise InputError(
            f"{checkpoint.source}: its encoder is not that of a separator of one channel: {name} has to be "
            f"[channels, 1, samples]; found {found}."
        )
    channels, _, kernel_size = filters.shape
    dropout = checkpoint.settings.get("attn_dropout")
    if isinstance(dropout, float) and 0 <= dropout < 1:
        sizes = {**sizes, "dropout": dropout}
    if "recurrent_channels" in sizes:
        masknet = MossFormer2MaskNet(**sizes, group_size=group_size, apply_masks=apply_masks)
    elif apply_masks:
        masknet = MossFormerMaskNet(**sizes, group_size=group_size)
    else:
        raise InputError(f"{checkpoint.source}: is a MossFormer, whose masks are always applied: remove --mapping.")
    decoder = Decoder(
        in_channels=sizes["in_channels"],
        out_channels=1,
        kernel_size=kernel_size,
        stride=kernel_size // 2,
        bias="bias" in checkpoint.states["decoder"],
    )
    return Encoder(kernel_size, channels), masknet, decoder


def _compare(checkpoint, needed):
    """Raise InputError with a table of the keys and shapes that differ; constants may be absent."""
    rows = []
    for name in MODULES:
        pair_of_states = checkpoint.states[name], needed[name]
        shapes = [{key: shape(value) for key, value in states.items()} for states in pair_of_states]
        for key in dict.fromkeys([*shapes[1], *shapes[0]]):
            pair = [states.get(key, "-") for states in shapes]
            if pair[0] != pair[1] and not (is_constant(key) and pair[0] == "-"):
                rows.append((checkpoint.files[name], checkpoint.key_in_file(name, key), *pair))
    if not rows:
        return
    header = ("file", "key", "found", "needed")
    widths = [max(len(row[column]) for row in (header, *rows[:_SHOWN_ROWS])) for column in range(4)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows[:_SHOWN_ROWS])]
    more = f"\nand {len(rows) - _SHOWN_ROWS} more" if len(rows) > _SHOWN_ROWS else ""
    table = "\n".join(lines)
    raise InputError(
        f"{checkpoint.source}: {len(rows)} keys are not those of a separator of this size. The file is damaged, or of "
        f"another network:\n{table}{more}"
    )
