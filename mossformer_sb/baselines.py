"""Import path for earlier exports; the code is in `mossformer_sb.network.baselines`."""

from mossformer_sb.network.baselines import ConvTasNetMaskNet, DPRNNMaskNet, SepFormerMaskNet

__all__ = ["ConvTasNetMaskNet", "DPRNNMaskNet", "SepFormerMaskNet"]
