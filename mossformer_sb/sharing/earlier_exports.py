"""Conversion of earlier versions' exports: ``hyperparams.yaml`` and one file of weights per module."""

from __future__ import annotations

from pathlib import Path

import torch

from mossformer_sb.errors import InputError
from mossformer_sb.network.hub import CARD_FILE, CONFIG_FILE, is_own_file
from mossformer_sb.sharing.folder import HPARAMS_FILE, MODULES, describes_model, export
from mossformer_sb.sharing.model_card import EXAMPLES_FOLDER
from mossformer_sb.sharing.settings import briefly, build_networks, read_settings
from mossformer_sb.utils.weights import check_state, find_weights, read_state_dict


def is_earlier_export(folder: str | Path) -> bool:
    """Whether a folder is an export of an earlier version, which has no ``config.json``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "hyperparams.yaml").write_text("pretrainer: !new:speechbrain.Pretrainer")
    >>> is_earlier_export(folder)
    True
    """
    path = Path(folder) / HPARAMS_FILE
    if not path.is_file() or describes_model(Path(folder) / CONFIG_FILE):
        return False
    return "pretrainer" in read_settings(path)


def convert_export(
    folder: str | Path, output_folder: str | Path, half: bool | None = None, speechbrain: bool = True
) -> Path:
    """Convert an export of an earlier version into one of this version, with its model card and examples.

    No code of the folder is run: see `mossformer_sb.sharing.settings`.

    Arguments
    ---------
    folder : str or Path
        The earlier export.
    output_folder : str or Path
        Folder to write.
    half : bool, optional
        Whether to store half precision. Default: as in the earlier export.
    speechbrain : bool
        As for `export`.

    Returns
    -------
    Path
        The output folder.

    Raises
    ------
    InputError
        If its files don't describe a separator, or their weights don't fit.
    """
    folder = Path(folder)
    path = folder / HPARAMS_FILE
    settings = read_settings(path)
    modules = build_networks(settings, path)
    files = find_weights(folder, MODULES)
    missing = [name for name in MODULES if name not in files]
    if missing:
        raise InputError(f"{folder}: holds no weights of {', '.join(missing)}. Copy the complete folder.")
    is_half = False
    for name, module in modules.items():
        state = read_state_dict(files[name])
        check_state(module, state, files[name], name, path)
        is_half = is_half or any(value.dtype == torch.half for value in state.values())
        module.load_state_dict(state)
    sample_rate = settings.get("sample_rate")
    if not isinstance(sample_rate, int):
        raise InputError(f"{path}: sample_rate has to be a whole number in Hz; found {briefly(sample_rate)}.")
    level = {"input_level": settings["input_level"]} if isinstance(settings.get("input_level"), str) else {}
    return export(
        output_folder,
        modules,
        sample_rate,
        examples=_own_examples(folder),
        half=is_half if half is None else half,
        speechbrain=speechbrain,
        settings=level,
        card=_own_card(folder),
    )


def _own_card(folder):
    if not is_own_file(folder, CARD_FILE):
        return ""
    return (folder / CARD_FILE).read_text(encoding="utf-8", errors="replace")


def _own_examples(folder):
    """Audio files in the folder; links to files elsewhere are not followed."""
    found = sorted((folder / EXAMPLES_FOLDER).glob("*"))
    return [path for path in found if is_own_file(folder, f"{EXAMPLES_FOLDER}/{path.name}")]
