"""Data loading, compared with other implementations: `python -m benchmarks.data`.

Dynamic mixing, manifests and evaluation are each timed in alternation, in one process; all but the reading of headers
in one thread.
"""

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import evaluation, manifests, mixing
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import write_text


def main(arguments=None):
    """Run the comparisons of the command line, and print a table of each.

    Arguments
    ---------
    arguments : list of str, optional
        The words after the program's name. Default: those of this program.

    Returns
    -------
    int
        0, or 2 after an error in the user's input.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    comparisons = {"mixing": _mixing, "manifests": _manifests, "evaluation": _evaluation}
    tables = {}
    for name in options.parts or comparisons:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                tables[name] = comparisons[name](options, scratch)
            except InputError as error:
                sys.stderr.write(f"{error}\n")
                return 2
        _print(name, tables[name])
    if options.json:
        write_text(options.json, json.dumps(tables, indent=2) + "\n")
    return 0


def _mixing(options, scratch):
    folder = Path(options.folder) if options.folder else mixing.write_recordings(scratch)
    return mixing.compare(folder, Path(scratch), options.segment, options.items, options.rounds)


def _manifests(options, scratch):
    return manifests.compare(manifests.write_corpus(scratch, options.mixtures), options.rounds)


def _evaluation(options, _):
    return evaluation.compare(items=options.items, rounds=options.rounds)


def _print(name, rows):
    print(f"{name + ':':46}{'items/s':>9}{'ratio':>8}")
    for row in rows:
        print(f"{row['name']:46}{row['items_per_second']:9.1f}{row['ratio']:8.2f}")


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__.partition(":")[0])
    parser.add_argument("--parts", nargs="+", choices=["mixing", "manifests", "evaluation"], help="(default: all)")
    parser.add_argument("--folder", help="speech/SPEAKER/*.wav and noise/*.wav to mix, at 8 kHz (generated)")
    parser.add_argument("--segment", type=float, default=4.0, help="seconds of a training mixture (default: 4)")
    parser.add_argument("--mixtures", type=int, default=2000, help="mixtures of a corpus for manifests (default: 2000)")
    parser.add_argument("--items", type=int, default=40, help="mixtures per round, generated or scored (default: 40)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each implementation (default: 9)")
    parser.add_argument("--json", help="file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
