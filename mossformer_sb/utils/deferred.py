"""Deferring an import within a library until the imported name is used."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator


@contextlib.contextmanager
def deferred(module: str) -> Iterator[None]:
    """Context in which ``from MODULE import name`` binds a placeholder that imports the module at its first use.

    It makes the start of a program faster. Libraries imported in the context keep the placeholders. It has no effect if
    the module is already imported. Other threads must not import modules in the meantime.

    Arguments
    ---------
    module : str
        Full name of the module, such as ``scipy.stats``.

    Example
    -------
    >>> _ = sys.modules.pop("colorsys", None)
    >>> with deferred("colorsys"):
    ...     from colorsys import rgb_to_hsv
    >>> "colorsys" in sys.modules, rgb_to_hsv(0.0, 0.0, 1.0), "colorsys" in sys.modules
    (False, (0.6666666666666666, 1.0, 1.0), True)
    """
    if module in sys.modules:
        yield
        return
    stand_in = sys.modules[module] = _Module(module)
    try:
        yield
    finally:
        if sys.modules.get(module) is stand_in:
            del sys.modules[module]


class _Module(types.ModuleType):
    """Placeholder of a module."""

    def __getattr__(self, name):
        if name.startswith("__"):  # read by the import system
            raise AttributeError(name)
        return _Name(self.__name__, name)


class _Name:
    """Placeholder of a name in a module: a function, a class, an object with attributes."""

    def __init__(self, module, name):
        self._place = module, name

    def _real(self):
        module, name = self._place
        return getattr(importlib.import_module(module), name)

    def __getattr__(self, name):
        return getattr(self._real(), name)

    def __call__(self, *args, **kwargs):
        return self._real()(*args, **kwargs)
