"""MossFormer speech separation for SpeechBrain."""

import importlib

from mossformer_sb.errors import InputError
from mossformer_sb.version import __version__

# Imported when they are asked for, since PyTorch takes seconds, which the command line's --help need not wait for.
_MODULES = {
    "SIZES": "masknet",
    "MossFormerMaskNet": "masknet",
    "MossFormerSeparator": "separator",
    "build_decoder": "separator",
    "build_encoder": "separator",
    "build_masknet": "masknet",
}

__all__ = [
    "SIZES",
    "InputError",
    "MossFormerMaskNet",
    "MossFormerSeparator",
    "__version__",
    "build_decoder",
    "build_encoder",
    "build_masknet",
]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
