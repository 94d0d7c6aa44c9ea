"""Finding a model's folder, and loading it without running code from it.

A model is ``config.json`` and ``model.safetensors``, see `mossformer_sb.network.hub`. SpeechBrain loads a model by
HyperPyYAML and pickled checkpoints, which can run arbitrary code: only ``trust=True`` does that.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError
from mossformer_sb.network.hub import CONFIG_FILE, WEIGHTS_FILE, missing_file
from mossformer_sb.network.separator import MossFormerSeparator
from mossformer_sb.sharing.fetching import ModelSource, NoSuchFile
from mossformer_sb.sharing.folder import HPARAMS_FILE, is_model_folder
from mossformer_sb.sharing.record import RECORD_FILE
from mossformer_sb.sharing.released_cache import resolve_source
from mossformer_sb.sharing.settings import check_own_training, read_settings
from mossformer_sb.utils.files import locate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

logger = logging.getLogger(__name__)

_KEY_OF_A_TRAINING = re.compile(r"^save_folder:", re.MULTILINE)
_KEY_OF_A_MODEL = re.compile(r"^pretrainer:", re.MULTILINE)


def find_model(source: str | Path | ModelSource, **fetching: Any) -> ModelSource:
    """Find a model by its folder, by the output folder of its training, or by its name on a model hub.

    Arguments
    ---------
    source : str, Path or ModelSource
        As for `mossformer_sb.sharing.fetching.ModelSource`; a `ModelSource` is returned unchanged.
    **fetching
        Further arguments of `ModelSource`.

    Returns
    -------
    ModelSource
        The model; for a training's output folder, its export.

    Raises
    ------
    InputError
        If there is no such folder, or it is the output folder of a training without an export. Model hubs are not
        accessed here.
    """
    if isinstance(source, ModelSource):
        return source
    model = ModelSource(resolve_source(source), **fetching)
    export_folder = None if model.folder is None else export_of_training(model.folder)
    if export_folder is None:
        return model
    logger.info("%s is the output folder of a training: loading its export, %s", model.folder, export_folder)
    return ModelSource(export_folder, **fetching)


def export_of_training(folder: Path) -> Path | None:
    """The exported model in the output folder of a training.

    Arguments
    ---------
    folder : Path

    Returns
    -------
    Path or None
        None if the folder is not the output folder of a training.

    Raises
    ------
    InputError
        If the training has no export.
    """
    path = folder / HPARAMS_FILE
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    has_settings = _KEY_OF_A_TRAINING.search(text) and not _KEY_OF_A_MODEL.search(text)
    if not (has_settings or (folder / RECORD_FILE).is_file()):
        return None
    try:
        settings = read_settings(path)
    except (InputError, OSError):
        settings = {}
    named, output_folder = (settings.get(key) for key in ("export_folder", "output_folder"))
    export_folder = locate(folder, named, output_folder) if isinstance(named, str) else folder / "export"
    if is_model_folder(export_folder):
        return export_folder
    check_own_training(settings, folder)
    raise InputError(
        f"{folder}: is the output folder of a training. Its model is in its export_folder, {export_folder}, which does "
        f"not exist yet: `mossformer-sb export {folder} --output_folder MODEL` exports the best checkpoint."
    )


def load_model(
    source: str | Path | ModelSource, overrides: Mapping | None = None, **fetching: Any
) -> MossFormerSeparator:
    """Load an untrusted separator, with its weights, from a model folder or a model hub.

    Arguments
    ---------
    source, **fetching
        As for `find_model`.
    overrides : mapping, optional
        New values for keys of ``config.json``.

    Returns
    -------
    MossFormerSeparator

    Raises
    ------
    InputError
        If there is no such model, or one of its files is refused, missing, or inconsistent.

    Example
    -------
    >>> from mossformer_sb.sharing.folder import export
    >>> separator = MossFormerSeparator.from_size("mini")
    >>> folder = export(getfixture("tmp_path") / "model", dict(separator.named_children()), sample_rate=8000)
    >>> load_model(folder).sample_rate
    8000
    """
    source = find_model(source, **fetching)
    try:
        files = [source.file(name) for name in (CONFIG_FILE, WEIGHTS_FILE)]
    except NoSuchFile as error:
        raise InputError(_without(source, error.names[0])) from error
    return MossFormerSeparator.from_files(*files, **(overrides or {}))


def _without(source, name):
    """The error message for a model without one of its files."""
    if name == WEIGHTS_FILE:
        return missing_file(source.name, name)
    try:
        source.file(HPARAMS_FILE)
    except NoSuchFile:
        return missing_file(source.name, name)
    here = source.folder or "FOLDER"
    return (
        f"{source.name}: holds {HPARAMS_FILE} and no {CONFIG_FILE}, like exports of earlier versions and other "
        f"SpeechBrain models. That file can run code. If it is an export of mossformer_sb, convert it, which runs no "
        f"code: `mossformer-sb export {here} --output_folder MODEL`. If you trust its author to run code, load it with "
        f"trust=True, on the command line --trust."
    )
