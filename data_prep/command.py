"""What the command lines of this package share."""

import logging
import sys

from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

INTERRUPTED = 130  # as shells have it
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
        0, 2 after an error in what the user gave, or 130 after Ctrl-C.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _check_names(sys.argv[1:] if arguments is None else arguments)
        options = expanded(vars(parser.parse_args(arguments)))
        function = options.pop("function")
        _check_given(options)
        function(**options)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. Every file that has its name is whole: start again to go on.\n")
        return INTERRUPTED
    return 0


def _check_given(options):
    """Refuses empty values, which would stand for the current folder."""
    for key, value in options.items():
        if value == "":
            raise InputError(f"--{key} is empty: give a value, or leave it out. Is a variable of the shell not set?")


def _check_names(words):
    """Refuses options under the names that they had in earlier versions."""
    for word in words:
        name = word.partition("=")[0]
        if name in RENAMED:
            raise InputError(f"{name} is now called {RENAMED[name]}: give it under this name.")
