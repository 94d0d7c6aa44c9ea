"""Separating recordings of any kind and length."""

__all__ = ["MossFormerSeparation"]


def __getattr__(name):
    # Imported at first access: importing PyTorch takes seconds, and the command line's --help does not need it.
    if name != "MossFormerSeparation":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mossformer_sb.inference.separation import MossFormerSeparation

    return MossFormerSeparation
