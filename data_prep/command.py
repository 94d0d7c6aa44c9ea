"""What the command lines of this package share."""

import logging
import sys

from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

# Options that had other names in earlier versions.
RENAMED = {"--deep": "--check_samples", "--on_bad": "--on_invalid"}


def run(parser, arguments=None):
    """Parses arguments and calls the function that they chose.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Its commands set `function`, which gets all other options as keyword arguments.
    arguments : list of str, optional
        Those of the command line if None.

    Returns
    -------
    status : int
        0, or 2 after an error in what the user gave.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _check_names(sys.argv[1:] if arguments is None else arguments)
        options = expanded(vars(parser.parse_args(arguments)))
        function = options.pop("function")
        function(**options)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _check_names(words):
    """Refuses options under the names that they had in earlier versions."""
    for word in words:
        name = word.partition("=")[0]
        if name in RENAMED:
            raise InputError(f"{name} is now called {RENAMED[name]}: give it under this name.")
