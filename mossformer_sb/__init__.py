"""MossFormer speech separation for SpeechBrain."""

import importlib
from typing import Any

from mossformer_sb.errors import InputError
from mossformer_sb.version import __version__

# Imported at first access: importing PyTorch takes seconds, and the command line's --help does not need it.
_MODULES = {
    "ConvTasNetMaskNet": "network.baselines",
    "DPRNNMaskNet": "network.baselines",
    "SIZES": "network.sizes",
    "MossFormer2MaskNet": "network.mossformer2",
    "MossFormerMaskNet": "network.masknet",
    "MossFormerSeparation": "inference.separation",
    "MossFormerSeparator": "network.separator",
    "SepFormerMaskNet": "network.baselines",
    "build_decoder": "network.sizes",
    "build_encoder": "network.sizes",
    "build_masknet": "network.sizes",
}

__all__ = [
    "SIZES",
    "ConvTasNetMaskNet",
    "DPRNNMaskNet",
    "InputError",
    "MossFormer2MaskNet",
    "MossFormerMaskNet",
    "MossFormerSeparation",
    "MossFormerSeparator",
    "SepFormerMaskNet",
    "__version__",
    "build_decoder",
    "build_encoder",
    "build_masknet",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
