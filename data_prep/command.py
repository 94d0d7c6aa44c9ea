"""What the command lines of this package share."""

import logging
import sys

from mossformer_sb.errors import InputError


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
    options = vars(parser.parse_args(arguments))
    function = options.pop("function")
    try:
        function(**options)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0
