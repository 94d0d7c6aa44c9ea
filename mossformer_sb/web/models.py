"""The models that a page offers: each is loaded once, and runs one separation at a time."""

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

_LOADED = 3  # models that stay in memory


class Models:
    """The choice of models, and the loaded ones.

    Arguments
    ---------
    sources : list of str
        Folders of exported models, names of released ones, or ids of a model hub. The one that comes with the package
        is added, if there is one.
    device : str
        As for `mossformer_sb.inference.MossFormerSeparation.from_hparams`.
    any_model : bool
        Whether a visitor may choose any released model, or type the folder of any other: only for local use.

    Raises
    ------
    InputError
        If there is no model at all.

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
        self.at_hand = list(self._sources)  # labels of those that need no download, as far as known
        if any_model:
            self._sources |= {label: name for name, label in _released_labels() if name not in self._sources}
        self._loaded = {}  # source to model, the one used last at the end
        self._turns = {}  # source to the visitors that wait for it, or use it
        self._lock = threading.Lock()

    @property
    def labels(self) -> list:
        """Names of the models in the list."""
        return list(self._sources)

    def source(self, label: str) -> str | None:
        """The source for a label: a folder, an id, or None for the packaged model.

        Raises
        ------
        InputError
            If it is not in the list, and other models are not allowed.
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
        """A model's source as visitors may see it: the name of a folder without its path."""
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
        if model is None:  # meanwhile other models can be used
            model = MossFormerSeparation.from_hparams(source, device=self.device)
        with self._lock:
            self._loaded[source] = model
            while len(self._loaded) > _LOADED:
                del self._loaded[next(iter(self._loaded))]
        return model

    @contextlib.contextmanager
    def turn(self, label: str, waiting: Callable = lambda ahead: None) -> Iterator[None]:
        """Context: exclusive use of this model, first come first served.

        Arguments
        ---------
        label : str
        waiting : callable
            Called several times a second with how many are ahead. An exception in it ends the wait.
        """
        source = self.source(label)
        with self._lock:
            turns = self._turns.setdefault(source, Turns())
        with turns.turn(waiting):
            yield


def _label(source, sources):
    """The folder's name if it is unique, else the source as it was given."""
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
    """Name and label of the released models."""
    try:
        from mossformer_sb.sharing.released import RELEASED
    except ImportError:
        return []
    return [(name, f"{name}, released ({model.megabytes} MB, downloaded once)") for name, model in RELEASED.items()]
