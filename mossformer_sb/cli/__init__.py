"""The command line, `mossformer-sb`."""

from mossformer_sb.cli.commands import main

__all__ = ["main"]
