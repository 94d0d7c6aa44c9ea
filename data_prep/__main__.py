"""Writes the manifests of a corpus: `python -m data_prep {wham,wsj0mix,mini} --data_folder … --output_folder …`"""

import argparse
import logging
import sys

from data_prep.mini import prepare_mini
from data_prep.wham import prepare_wham
from data_prep.wsj0mix import prepare_wsj0mix
from mossformer_sb.errors import InputError


def main(arguments=None):
    """Runs the preparation that the arguments name.

    Arguments
    ---------
    arguments : list of str, optional
        Those of the command line if None.

    Returns
    -------
    status : int
        0, or 2 after an error in what the user gave.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = vars(_parser().parse_args(arguments))
    prepare = options.pop("prepare")
    try:
        prepare(**options)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _parser():
    # Options that are not given are not passed on: the defaults are those of the functions, and so are the checks.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--data_folder", required=True, help="folder that the corpus lies in")
    common.add_argument("--output_folder", required=True, help="folder for the manifests")
    common.add_argument("--sample_rate", type=int, help="8000 (default) or 16000")

    parser = argparse.ArgumentParser(prog="python -m data_prep", description="Write the manifests of a corpus.")
    commands = parser.add_subparsers(metavar="CORPUS", required=True)

    def command(name, prepare, description):
        added = commands.add_parser(
            name, parents=[common], argument_default=argparse.SUPPRESS, help=description, description=description
        )
        added.set_defaults(prepare=prepare)
        return added

    wham = command("wham", prepare_wham, "WHAM!: two speakers in noise")
    wham.add_argument("--mode", help="min (default) or max")
    wham.add_argument("--task", help="separate_noisy (default), separate_clean or enhance_single")
    wham.add_argument("--splits", nargs="+", help="some of tr, cv, tt")

    wsj0mix = command("wsj0mix", prepare_wsj0mix, "WSJ0-2mix and WSJ0-3mix: two or three speakers")
    wsj0mix.add_argument("--num_spks", type=int, help="2 (default) or 3")
    wsj0mix.add_argument("--mode", help="min (default) or max")
    wsj0mix.add_argument("--splits", nargs="+", help="some of tr, cv, tt")

    mini = command("mini", prepare_mini, "a small synthetic corpus laid out as WHAM!, made if absent")
    mini.add_argument("--seed", type=int, help="seed of everything random")
    mini.add_argument("--num_train", type=int, help="number of training mixtures")
    mini.add_argument("--num_valid", type=int, help="number of validation mixtures")
    mini.add_argument("--num_test", type=int, help="number of test mixtures")
    mini.add_argument("--task", help="separate_noisy (default), separate_clean or enhance_single")
    return parser


if __name__ == "__main__":
    sys.exit(main())
