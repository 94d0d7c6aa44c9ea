"""Imports that a library makes as it is imported, and that most programs never use: made when they are needed."""

import contextlib
import importlib
import sys
import types


@contextlib.contextmanager
def deferred(module):
    """Let ``from MODULE import name`` bind a stand-in, which imports the module when it is used.

    For the start of a program: a module that is imported here keeps the stand-ins, whatever imports the real one
    afterwards. Without effect where the real one is there already. Other threads must not import meanwhile.

    Arguments
    ---------
    module : str
        Its full name, such as ``scipy.stats``.

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
    """What is imported in the place of a module."""

    def __getattr__(self, name):
        if name.startswith("__"):  # what the import system looks at
            raise AttributeError(name)
        return _Name(self.__name__, name)


class _Name:
    """One name of it: a function, a class, an object with attributes."""

    def __init__(self, module, name):
        self._place = module, name

    def _real(self):
        module, name = self._place
        return getattr(importlib.import_module(module), name)

    def __getattr__(self, name):
        return getattr(self._real(), name)

    def __call__(self, *args, **kwargs):
        return self._real()(*args, **kwargs)
