"""Fetching a model's files: from a local folder, the Hugging Face hub, or a URL; copies in ``savedir``.

A file always belongs to the requested model. Copies in ``savedir`` replace a download only if its note lists them as
files of this model, and files that were not fetched are not overwritten.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import filecmp
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
from huggingface_hub import constants
from speechbrain.utils.fetching import FetchConfig, FetchFrom, FetchSource, LocalStrategy, fetch, link_with_strategy

from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import atomic_write, expanded, write_text
from mossformer_sb.utils.weights import EXTENSIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)

NOTE = ".fetched.json"  # in savedir: the source, its revision, and its files
HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
WEB = ("http://", "https://")
TIMEOUT = 5  # seconds for the hub's first answer, unless HF_HUB_ETAG_TIMEOUT says otherwise


class NoSuchFile(InputError):
    """The model exists, but has no file of some ``names``."""

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = names


class ModelSource:
    """The files of one model.

    Arguments
    ---------
    source : str, Path or speechbrain.utils.fetching.FetchSource
        A local folder, which may begin with ``~``; the id of a model on the Hugging Face hub; or a URL.
    savedir : str or Path, optional
        Folder for fetched files. Default: the hub's cache; local folders are read in place.
    local_strategy : speechbrain.utils.fetching.LocalStrategy
        How files get into ``savedir``.
    fetch_config : speechbrain.utils.fetching.FetchConfig, optional
        Settings for the hub, such as a revision or a token. Default: the token of `hf auth login` or ``HF_TOKEN``, if
        there is one; that of a `FetchConfig` is False, and sends none.

    Raises
    ------
    InputError
        If the source is neither a folder nor a name that can be fetched.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "hyperparams.yaml").write_text("sample_rate: 8000")
    >>> ModelSource(folder).file("hyperparams.yaml").name
    'hyperparams.yaml'
    """

    def __init__(
        self,
        source: str | Path | FetchSource,
        savedir: str | Path | None = None,
        local_strategy: LocalStrategy = LocalStrategy.COPY,
        fetch_config: FetchConfig | None = None,
    ) -> None:
        self.kind, self.name = _kind_of(source)
        self.savedir = None if savedir is None else Path(expanded(savedir))
        self.local_strategy = local_strategy
        self.config = fetch_config or FetchConfig(token=None)
        self._revision = self.config.revision
        self._commit = None  # of the files so far: the others have to be of the same
        self._files = {}
        if self.kind is FetchFrom.URI and savedir is None:
            raise InputError(f"{self.name}: give savedir, a folder for the files that are downloaded from a URL.")

    @property
    def folder(self) -> Path | None:
        """The local folder, or None."""
        return Path(self.name) if self.kind is FetchFrom.LOCAL else None

    def file(self, filename: str) -> Path:
        """Find or fetch a file.

        Arguments
        ---------
        filename : str

        Returns
        -------
        Path

        Raises
        ------
        InputError
            If it does not exist, or can't be fetched.
        """
        return self.first_of([filename])

    def first_of(self, filenames: Iterable[str]) -> Path:
        """The first of several files that the model has; otherwise as `file`."""
        filenames = list(filenames)
        known = next((self._files[name] for name in filenames if name in self._files), None)
        if known is not None:
            return known
        name, path = self._locate(filenames)
        self._files[name] = path
        if self.savedir is not None:
            self._keep(name, path)
        return path

    def weights(self, module: str) -> Path:
        """The weights of a module: as safetensors, else as a checkpoint.

        Arguments
        ---------
        module : str
            Its name.

        Returns
        -------
        Path

        Raises
        ------
        InputError
            If there are none.
        """
        return self.first_of(module + ending for ending in EXTENSIONS)

    def for_speechbrain(self) -> dict:
        """Arguments for SpeechBrain's own loading, so that it uses no file of another model in ``savedir``."""
        config = dataclasses.replace(self.config, overwrite=self.savedir is not None)
        return {
            "source": self.name,
            "savedir": self.savedir,
            "local_strategy": self.local_strategy,
            "fetch_config": config,
        }

    # ---- finding

    def _locate(self, filenames):
        """Name and path of the first file that is local or can be fetched."""
        if self.kind is FetchFrom.LOCAL:
            for name in filenames:
                if (self.folder / name).is_file():
                    return name, self.folder / name
            raise self._holds_no(filenames)
        refresh = self.config.overwrite or self.config.allow_updates
        for find in (self._kept, self._cached) if not refresh else ():
            for name in filenames:
                path = find(name)
                if path is not None:
                    return name, path
        return self._fetch(filenames)

    def _kept(self, filename):
        """The copy in savedir, if it is of this model."""
        if self.savedir is None or not (self.savedir / filename).is_file() or filename not in self._own_copies():
            return None
        commit = _read_note(self.savedir)["commit"]
        if commit is not None:
            self._revision = self._commit = commit
        return self.savedir / filename

    def _cached(self, filename):
        """The copy in the hub's cache."""
        if self.kind is not FetchFrom.HUGGING_FACE:
            return None
        try:
            found = huggingface_hub.try_to_load_from_cache(
                self.name, filename, cache_dir=self.config.huggingface_cache_dir, revision=self._revision
            )
        except ValueError:  # a name that the hub doesn't allow: `_fetch` reports it
            return None
        return self._pinned(found) if isinstance(found, str) else None

    def _fetch(self, filenames):
        if self.kind is FetchFrom.URI:
            return self._download(filenames)
        if not self.config.allow_network:
            raise self._unreachable(filenames, "fetch_config has allow_network=False, and it isn't in the hub's cache")
        logger.info("There is no local folder %s: looking for it on the Hugging Face hub", self.name)
        for name in filenames:
            try:
                return name, self._from_hub(name)
            except Exception as error:  # httpx's exceptions have no common base with those of requests
                if isinstance(error, huggingface_hub.errors.EntryNotFoundError) and _is_about_one_file(error):
                    continue
                raise self._unreachable(filenames, _reason(error)) from error
        raise self._holds_no(filenames)

    def _from_hub(self, filename):
        timeout = constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else TIMEOUT
        # Without a network, hf_hub_download retries for half a minute; this fails immediately.
        url = huggingface_hub.hf_hub_url(self.name, filename, revision=self._revision)
        huggingface_hub.get_hf_file_metadata(url, token=self.config.token, timeout=timeout)
        path = huggingface_hub.hf_hub_download(
            self.name,
            filename,
            revision=self._revision,
            token=self.config.token,
            cache_dir=self.config.huggingface_cache_dir,
            etag_timeout=timeout,
        )
        return self._pinned(path)

    def _pinned(self, path):
        """Return the path, and store its commit for the other files."""
        path = Path(path)
        if path.parent.parent.name == "snapshots":
            self._revision = self._commit = path.parent.name
        return path

    def _download(self, filenames):
        """Download from a URL into savedir, as SpeechBrain does."""
        reason = "there is no such file"
        self._remove_other_models()
        for name in filenames:
            self._check_replaceable(name, None)
            try:
                config = dataclasses.replace(self.config, overwrite=True)
                return name, fetch(name, self.name, self.savedir, fetch_config=config)
            except (OSError, ValueError) as error:
                reason = _reason(error.__cause__ or error)
        raise self._unreachable(filenames, reason)

    # ---- keeping

    def _own_copies(self):
        """Names of this model's files in savedir."""
        note = _read_note(self.savedir)
        return note["files"] if self._is_own(note) else []

    def _is_own(self, note):
        """Whether the files of a note are of this model, and of the commit of its files so far."""
        is_same = (note["source"], note["revision"]) == self._identity
        return is_same and (None in (note["commit"], self._commit) or note["commit"] == self._commit)

    @property
    def _identity(self):
        return os.path.abspath(self.name) if self.folder else self.name, self.config.revision

    def _keep(self, filename, path):
        """Copy a file into savedir, and note its model; remove files of another model."""
        place = self.savedir / filename
        try:
            self.savedir.mkdir(parents=True, exist_ok=True)
            if not (place.exists() and place.samefile(path)):
                self._check_replaceable(filename, path)
                self._remove_other_models()
                _copy(path, place, self.local_strategy)
            source, revision = self._identity
            files = sorted({*self._own_copies(), filename})
            note = {"source": source, "revision": revision, "commit": self._commit, "files": files}
            write_text(self.savedir / NOTE, json.dumps(note))
        except OSError as error:
            raise InputError(
                f"savedir {self.savedir}: can't write {filename} ({error.strerror or error}). Give another "
                f"folder, or no savedir."
            ) from error

    def _check_replaceable(self, filename, path):
        """Refuse to overwrite a file that was not fetched, unless it is the same."""
        place = self.savedir / filename
        if not place.is_file() or filename in _read_note(self.savedir)["files"]:
            return
        if path is not None and filecmp.cmp(place, path, shallow=False):
            return
        raise InputError(
            f"savedir {self.savedir}: holds a {filename} that does not belong to {self.name}. To load it, give the "
            f"folder as source; otherwise give another savedir, or empty this one."
        )

    def _remove_other_models(self):
        note = _read_note(self.savedir)
        if note["files"] and not self._is_own(note):
            (self.savedir / NOTE).unlink()
            for name in note["files"]:
                (self.savedir / name).unlink(missing_ok=True)

    # ---- messages

    def _holds_no(self, filenames):
        if len(filenames) == 1:
            return NoSuchFile(f"{self.name}: holds no {filenames[0]}.", filenames)
        module = filenames[0].partition(".")[0]
        return NoSuchFile(
            f"{self.name}: holds no weights for '{module}', neither {' nor '.join(filenames)}. Was the complete folder "
            f"copied, with the files in Git LFS? Or export the model again.",
            filenames,
        )

    def _unreachable(self, filenames, reason):
        what = "it" if len(filenames) == 1 else f"its {filenames[0]}"
        place = "the Hugging Face hub" if self.kind is FetchFrom.HUGGING_FACE else "the web"
        message = f"{self.name}: there is no local folder of this name{_similar(self.name)}, and "
        message += f"{what} can't be fetched from {place} ({reason})."
        note = _read_note(self.savedir) if self.savedir is not None else {"files": []}
        if note["files"]:
            message += f" The files in savedir {self.savedir} belong to {note['source']}."
        return InputError(message)


def _kind_of(source):
    """Kind of a source, and its name."""
    if isinstance(source, FetchSource):
        return source.FetchFrom, str(source.path)
    folder, name = Path(expanded(source)), str(source)
    if folder.is_dir():
        return FetchFrom.LOCAL, str(folder)
    if name.startswith(WEB):
        return FetchFrom.URI, name
    if isinstance(source, os.PathLike) or not HUB_ID.fullmatch(name):
        what = "is a file; a model is a folder" if folder.is_file() else f"there is no such folder{_similar(source)}"
        raise InputError(
            f"{source}: {what}. Give the folder of an exported model, or the id of one on the Hugging Face hub, as "
            f"owner/name."
        )
    return FetchFrom.HUGGING_FACE, name


def _similar(path):
    """Suggestion of a folder with a similar name."""
    path = Path(expanded(path))
    with contextlib.suppress(OSError):
        names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
        close = difflib.get_close_matches(path.name, names, n=1)
        return f" (did you mean {path.parent / close[0]}?)" if close else ""
    return ""


def _is_about_one_file(error):
    """Whether the hub has the model, but not this file. False for a file that is only missing from the cache."""
    return not isinstance(error, huggingface_hub.errors.LocalEntryNotFoundError)


def _reason(error):
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _read_note(savedir):
    try:
        note = json.loads((savedir / NOTE).read_text(encoding="utf-8"))
        commit = note.get("commit")  # not noted by earlier versions
        read = {key: note[key] for key in ("source", "revision")}
        # Loading another model deletes them: only what lies in savedir, whoever has written the note.
        names = [Path(str(name)) for name in note["files"]]
        files = [path.as_posix() for path in names if not (path.is_absolute() or path.drive or ".." in path.parts)]
        return {**read, "commit": commit, "files": files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"source": None, "revision": None, "commit": None, "files": []}


def _copy(path, place, strategy):
    if strategy in (LocalStrategy.SYMLINK, LocalStrategy.NO_LINK):
        link_with_strategy(path, place, strategy)
        return
    with atomic_write(place) as temporary:
        shutil.copyfile(path, temporary)
