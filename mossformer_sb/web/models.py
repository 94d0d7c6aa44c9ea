"""The models of a page: each is loaded once, and computes one separation at a time."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError
from mossformer_sb.inference.serving import Turns
from mossformer_sb.pretrained import default_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mossformer_sb.inference.separation import MossFormerSeparation

_LOADED = 3  # maximum number of models in memory


class Models:
    """The available models, and the loaded ones.

    Arguments
    ---------
    sources : list of str
        Folders of exported models, names of released ones, or ids of a model hub. The packaged model is added, if there
        is one.
    device : str
        As for `mossformer_sb.inference.MossFormerSeparation.from_hparams`.
    any_model : bool
        Whether a visitor may choose any released model, or enter the folder of another one: only for local use.

    Raises
    ------
    InputError
        If there is no model.

    Example
    -------
    >>> Models(["results/small/export", "results/large/export"]).labels[:2]
    ['results/small/export', 'results/large/export']
    >>> Models([getfixture("tmp_path")]).labels[0] == getfixture("tmp_path").name
    True
    """

    def __init__(self, sources: Sequence[str] = (), device: str = "auto", any_model: bool = False) -> None:
        self.device = device
        self.any_model = any_model
        self._sources = {_label(source, sources): str(source) for source in sources}
        packaged = _packaged_model(required=not self._sources)
        if packaged is not None:
            self._sources[f"{packaged.name}, of the package"] = None
        self.local_labels = list(self._sources)  # labels of the models that probably need no download
        if any_model:
            self._sources |= {label: name for name, label in _released_labels() if name not in self._sources}
        self._loaded = {}  # source to model, in the order of their last use
        self._turns = {}  # source to the queue of its visitors
        self._lock = threading.Lock()

    @property
    def labels(self) -> list:
        """Labels of the models in the list."""
        return list(self._sources)

    def source(self, label: str) -> str | None:
        """The source for a label: a folder, an id, or None for the packaged model.

        Raises
        ------
        InputError
            If the label is not in the list, and other models are not allowed.
        """
        label = (label or "").strip()
        if label in self._sources:
            return self._sources[label]
        if not label:
            raise InputError("no model is chosen: choose one from the list.")
        if not self.any_model:
            raise InputError(f"model {label!r} is not known here: choose one of {', '.join(self._sources)}.")
        return label

    def public_name(self, label: str) -> str | None:
        """A model's source for visitors: a folder's name without its path."""
        source = self.source(label)
        return source if source is None or not Path(source).is_dir() else Path(source).resolve().name

    def load(self, label: str) -> MossFormerSeparation:
        """The model of a label, as from `MossFormerSeparation.from_hparams`; loaded once.

        Call it within `turn`.
        """
        from mossformer_sb.inference.separation import MossFormerSeparation

        source = self.source(label)
        with self._lock:
            model = self._loaded.pop(source, None)
        if model is None:  # without the lock, so that other models can be used
            model = MossFormerSeparation.from_hparams(source, device=self.device)
        with self._lock:
            self._loaded[source] = model
            while len(self._loaded) > _LOADED:
                del self._loaded[next(iter(self._loaded))]
        return model

    @contextlib.contextmanager
    def turn(self, label: str, waiting: Callable = lambda ahead: None) -> Iterator[None]:
        """Context: exclusive use of a model, in the order of the calls.

        Arguments
        ---------
        label : str
            Label of the model.
        waiting : callable
            Called several times per second with the number of separations ahead. An exception in it ends the wait.
        """
        source = self.source(label)
        with self._lock:
            turns = self._turns.setdefault(source, Turns())
        with turns.turn(waiting):
            yield


def _label(source, sources):
    """The folder's name if it is unique, else the given source."""
    names = [Path(other).resolve().name for other in sources if Path(other).is_dir()]
    name = Path(source).resolve().name
    return name if names.count(name) == 1 and Path(source).is_dir() else str(source)


def _packaged_model(required):
    """The folder of the packaged model, or None if there is none."""
    try:
        return Path(default_model())
    except InputError:
        if required:
            raise
        return None


def _released_labels():
    """Names and labels of the released models."""
    try:
        from mossformer_sb.sharing.released import RELEASED
    except ImportError:
        return []
    return [(name, f"{name}, released ({model.megabytes} MB, downloaded once)") for name, model in RELEASED.items()]
