"""Cache of released models, which are downloaded and converted on first use.

The cache is ``$MOSSFORMER_SB_CACHE``, else ``$XDG_CACHE_HOME/mossformer_sb``, else ``~/.cache/mossformer_sb``. In it,
``downloads/NAME`` has a model's downloaded or partial files, and ``released/NAME`` is the model folder, written
atomically. ``source.json`` in it lists the files that it was converted from.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from mossformer_sb.errors import InputError
from mossformer_sb.network.hub import CONFIG_FILE
from mossformer_sb.pretrained import PACKAGED, default_model
from mossformer_sb.sharing.authors_files import read_checkpoint
from mossformer_sb.sharing.conversion import load_separator
from mossformer_sb.sharing.downloads import difference, download, file_sha256
from mossformer_sb.sharing.earlier_exports import convert_export, is_earlier_export
from mossformer_sb.sharing.folder import describes_model, export
from mossformer_sb.sharing.hubs import locate, web_page
from mossformer_sb.sharing.record import TrainingRecord
from mossformer_sb.sharing.released import RELEASED, find_released
from mossformer_sb.utils.files import atomic_folder, atomic_write, expanded

if TYPE_CHECKING:
    from typing import Any

    from mossformer_sb.sharing.released import Released

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "MOSSFORMER_SB_CACHE"
SOURCE_FILE = "source.json"


@dataclass(frozen=True)
class _Fetched:
    """A file of a released model; ``sha256`` is the expected hash, and ``stated`` its source."""

    path: Path
    revision: str | None
    sha256: str | None
    stated: str


def cache_folder() -> Path:
    """Folder of the cache.

    Example
    -------
    >>> monkeypatch = getfixture("monkeypatch")
    >>> monkeypatch.setenv("MOSSFORMER_SB_CACHE", "/somewhere")
    >>> cache_folder().as_posix()
    '/somewhere'
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(expanded(named))
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mossformer_sb"


def model_folder(name: str) -> Path:
    """The folder of a released model in the cache, which need not exist."""
    return cache_folder() / "released" / name


def is_cached(name: str) -> bool:
    """Whether a released model is in the cache, so that no network is needed."""
    return (model_folder(name) / SOURCE_FILE).is_file() and describes_model(model_folder(name) / CONFIG_FILE)


def resolve_source(source: Any) -> Any:
    """The folder of the packaged model or a released one, given its name; other sources are returned unchanged.

    A folder of that name in the current directory takes precedence.

    Arguments
    ---------
    source : object
        As for `MossFormerSeparation.from_hparams`.

    Returns
    -------
    object

    Raises
    ------
    InputError
        If a released model can't be downloaded or converted.

    Example
    -------
    >>> resolve_source("owner/model")
    'owner/model'
    >>> resolve_source("mossformer-small-8k").parent.name
    'pretrained'
    """
    if not isinstance(source, str):
        return source
    if Path(expanded(source)).exists():
        if source in RELEASED or source == PACKAGED:
            kind = "packaged" if source == PACKAGED else "released"
            logger.info("%s: using the folder of this name, not the %s model", source, kind)
        return source
    if source == PACKAGED:
        return default_model()
    model = find_released(source)
    return source if model is None else get_released(model)


def get_released(model: Released) -> Path:
    """Find a released model in the cache, or download and convert it.

    Arguments
    ---------
    model : Released

    Returns
    -------
    Path
        A model folder.

    Raises
    ------
    InputError
        If it can't be downloaded, or its files are not the expected ones; wrong files are removed.
    """
    folder = model_folder(model.name)
    if is_cached(model.name):
        return folder
    downloads = cache_folder() / "downloads" / model.name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        downloads.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_suffix(".lock"), model.name):
            if not is_cached(model.name):  # another process may have finished it
                _make(model, downloads, folder)
    except OSError as error:
        raise InputError(
            f"{model.name}: can't be written to {cache_folder()} ({error.strerror or error}). Set {CACHE_VARIABLE} to "
            f"another folder."
        ) from error
    return folder


@contextlib.contextmanager
def _alone(path, name):
    """Context: a lock between processes, which the system releases when a process ends."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        logger.info("%s: another process is downloading it; waiting", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make(model, downloads, folder):
    """Convert the folder of an earlier version, or download, verify and convert; then rename the complete folder."""
    if (folder / SOURCE_FILE).is_file() and is_earlier_export(folder):
        _convert_earlier(model, downloads, folder)
        return
    fetched = _download(model, downloads)
    made = downloads / "converted"
    shutil.rmtree(made, ignore_errors=True)
    try:
        separator = _checked_separator(model, downloads)
    except InputError as error:
        raise InputError(
            f"{error}\nThis version of mossformer_sb expects other files of {model.name}. Remove {downloads} to "
            f"download them again."
        ) from error
    record = TrainingRecord(
        task=model.task,
        corpus=model.corpus,
        checkpoint=f"released by the authors as {model.hub_id} on {model.hub}, converted",
        licence=model.licence,
    )
    settings = {} if model.input_level is None else {"input_level": model.input_level}
    notes = f"Published: {model.published}. The converted model was not evaluated."
    modules = dict(separator.named_children())
    # Without the copy of the weights for SpeechBrain's own classes.
    export(made, modules, model.sample_rate, record, speechbrain=False, notes=notes, settings=settings)
    _note_source(made / SOURCE_FILE, model, fetched)
    _publish(made, folder)
    shutil.rmtree(downloads, ignore_errors=True)
    logger.info("%s is in %s", model.name, folder)


def _convert_earlier(model, downloads, folder):
    """Convert the model folder of an earlier version; nothing is downloaded."""
    made = downloads / "converted"
    shutil.rmtree(made, ignore_errors=True)
    convert_export(folder, made, speechbrain=False)
    shutil.copyfile(folder / SOURCE_FILE, made / SOURCE_FILE)
    _publish(made, folder)
    shutil.rmtree(downloads, ignore_errors=True)
    logger.info("%s was written by an earlier version, and is converted: %s", model.name, folder)


def _publish(made, folder):
    """Rename a complete folder, replacing an earlier one."""
    with atomic_folder(folder) as temporary:
        temporary.rmdir()
        os.replace(made, temporary)


def _checked_separator(model, downloads):
    """The separator, after its type and size are verified."""
    separator = load_separator(read_checkpoint(downloads), apply_masks=model.apply_masks)
    masknet = separator.masknet
    needed = {"out_channels": model.channels, "num_blocks": model.num_blocks, "num_spks": model.num_spks}
    found = {key: masknet.config[key] for key in needed}
    if (masknet.network, found) != (model.network, needed):
        raise InputError(f"{downloads}: holds a {masknet.network} of {found}; expected a {model.network} of {needed}.")
    return separator


def _note_source(path, model, fetched):
    """Write the model's source files, and the hashes that they were compared with."""
    facts = {}
    for name, file in fetched.items():
        digest = file.sha256 or file_sha256(file.path)
        compared = file.stated if file.sha256 else "not compared: unknown"
        facts[name] = {"bytes": file.path.stat().st_size, "sha256": digest, "compared": compared}
        facts[name]["revision"] = file.revision
        if not file.sha256:
            logger.info(
                "%s: keys and shapes fit; the expected sha256 of %s is unknown, it is %s", model.name, name, digest
            )
    content = {"name": model.name, "hub": model.hub, "id": model.hub_id, "files": facts}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# ---- download


def _download(model, downloads):
    """The files of a model: `_Fetched` for each name. Those in ``downloads`` are used."""
    logger.info(
        "%s: downloading %s from %s, about %d MB, licence: %s, into %s",
        model.name,
        model.hub_id,
        model.hub,
        model.megabytes,
        model.licence or "not stated",
        downloads,
    )
    fetched, revision = {}, None
    for name in model.files:
        path, size, sha256 = downloads / name, model.sizes.get(name), model.sha256.get(name)
        if path.is_file():
            problem = difference(path, size, sha256)
            if problem:
                raise InputError(
                    f"{path}: {problem}. Remove it, so that it is downloaded; or replace it with the correct one."
                )
            fetched[name] = _Fetched(path, None, sha256, "as published")
            continue
        try:
            place = locate(model.hub, model.hub_id, name, revision)
            _fetch(place, path, size, sha256)
        except InputError as error:
            raise InputError(f"{model.name}: {error} {_by_hand(model, downloads)}") from error
        revision = place.revision
        stated = "as published" if sha256 else "as the hub states it"
        fetched[name] = _Fetched(path, revision, sha256 or place.sha256, stated)
    return fetched


def _fetch(place, path, size, sha256):
    if place.cached is None:
        download(place.url, path, place.headers, size or place.size, sha256 or place.sha256)
        return
    with atomic_write(path) as temporary:
        shutil.copyfile(place.cached, temporary)
        problem = difference(temporary, size, sha256)
        if problem:
            raise InputError(f"{place.cached}: {problem}.")


def _by_hand(model, downloads):
    page = web_page(model.hub, model.hub_id)
    return (
        f"To download manually, put {', '.join(model.files)} from {page} into {downloads}, and run the command again."
    )
