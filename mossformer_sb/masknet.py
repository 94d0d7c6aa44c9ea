"""Where earlier exports look for it: `mossformer_sb.network.masknet`."""

from mossformer_sb.network.masknet import MossFormerMaskNet

__all__ = ["MossFormerMaskNet"]
