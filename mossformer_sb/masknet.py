"""Import path for earlier exports; the code is in `mossformer_sb.network.masknet`."""

from mossformer_sb.network.masknet import MossFormerMaskNet

__all__ = ["MossFormerMaskNet"]
