"""MossFormer speech separation for SpeechBrain."""

from mossformer_sb.errors import InputError
from mossformer_sb.masknet import SIZES, MossFormerMaskNet, build_masknet
from mossformer_sb.separator import MossFormerSeparator, build_decoder, build_encoder
from mossformer_sb.version import __version__

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
