"""Generates the mixtures of a corpus: `python -m data_prep.generate {wsj0mix,wham,whamr,librimix} …`"""

from __future__ import annotations

import argparse
import sys

from data_prep.command import run
from data_prep.generate import engine, librimix, wham, whamr, wsj0mix

COMMANDS = {
    "wsj0mix": (wsj0mix, "WSJ0-2mix to WSJ0-5mix from raw WSJ0"),
    "wham": (wham, "WHAM! from raw WSJ0, or WSJ0-2mix, and its noise"),
    "whamr": (whamr, "WHAMR! from raw WSJ0, the noise of WHAM! and simulated rooms"),
    "librimix": (librimix, "LibriMix from LibriSpeech, or a similar corpus from any speech"),
}


def main(arguments: list[str] | None = None) -> int:
    """Generates the corpus that the arguments name.

    Arguments
    ---------
    arguments : list of str, optional
        Default: those of the command line.

    Returns
    -------
    status : int
        0, or 2 after an input error.
    """
    return run(_parser(), arguments)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.generate", description="Generate the mixtures of a corpus."
    )
    commands = parser.add_subparsers(metavar="CORPUS", required=True)
    for name, (corpus, description) in COMMANDS.items():
        # Only given options are passed on: defaults and checks are those of the functions.
        added = commands.add_parser(name, argument_default=argparse.SUPPRESS, help=description, description=description)
        corpus.add_arguments(added)
        engine.add_arguments(added)
        added.set_defaults(function=corpus.generate)
    return parser


if __name__ == "__main__":
    sys.exit(main())
