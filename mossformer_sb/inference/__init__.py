"""Separating recordings of any kind and length."""

__all__ = ["MossFormerSeparation"]


def __getattr__(name):
    # Imported when it is used, since PyTorch takes seconds, which the command line's --help need not wait for.
    if name != "MossFormerSeparation":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mossformer_sb.inference.separation import MossFormerSeparation

    return MossFormerSeparation
