"""Separating recordings of any kind and length."""

from mossformer_sb.inference.separation import MossFormerSeparation

__all__ = ["MossFormerSeparation"]
