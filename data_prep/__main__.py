"""Writes the manifests of a corpus: `python -m data_prep CORPUS --data_folder …`; `--help` lists the corpora."""

from __future__ import annotations

import argparse
import sys

from data_prep.command import add_cluster_argument, run
from data_prep.corpora.custom import prepare_custom
from data_prep.corpora.librimix import prepare_librimix
from data_prep.corpora.librimix_rooms import prepare_librimix_rooms
from data_prep.corpora.many_speakers import prepare_many_speakers
from data_prep.corpora.mini import prepare_mini
from data_prep.corpora.minilibrimix import prepare_minilibrimix
from data_prep.corpora.wham import prepare_wham
from data_prep.corpora.whamr import prepare_whamr
from data_prep.corpora.wsj0mix import prepare_wsj0mix

MODE = {"help": "min (default) or max"}
TASK = {"help": "separate_noisy (default), separate_clean or enhance_single"}
SPLITS = {"nargs": "+", "help": "some of tr, cv, tt"}


def main(arguments: list[str] | None = None) -> int:
    """Runs the preparation of the chosen corpus.

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
    # Only given options are passed on: defaults and checks are those of the functions.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    folder = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    folder.add_argument("--data_folder", required=True, help="folder of the corpus")
    common.add_argument("--output_folder", required=True, help="folder for the manifests")
    common.add_argument("--sample_rate", type=int, help="in Hz, 8000 by default; published corpora have 16000 too")
    checks = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    checks.add_argument("--check_samples", action="store_true", help="read all samples, not only headers")
    checks.add_argument("--on_invalid", help="error (default), or skip: exclude mixtures with problems")
    trim = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    trim.add_argument("--trim", type=int, help="maximum length difference of a mixture's files: cut to the shortest")

    parser = argparse.ArgumentParser(prog="python -m data_prep", description="Write the manifests of a corpus.")
    commands = parser.add_subparsers(metavar="CORPUS", required=True)

    def command(name, prepare, description, parents=(folder, common, checks, trim)):
        added = commands.add_parser(
            name, parents=parents, argument_default=argparse.SUPPRESS, help=description, description=description
        )
        added.set_defaults(function=prepare)
        return added

    wsj0mix = command("wsj0mix", prepare_wsj0mix, "WSJ0-2mix to WSJ0-5mix: two to five speakers")
    wsj0mix.add_argument("--num_spks", type=int, help="2 (default), 3, 4 or 5")
    wsj0mix.add_argument("--mode", **MODE)
    wsj0mix.add_argument("--splits", **SPLITS)

    wham = command("wham", prepare_wham, "WHAM!: two speakers in noise")
    wham.add_argument("--mode", **MODE)
    wham.add_argument("--task", **TASK)
    wham.add_argument("--splits", **SPLITS)

    whamr = command("whamr", prepare_whamr, "WHAMR!: two speakers in noise and reverberation")
    whamr.add_argument("--num_spks", type=int, help="2 (default), or more for a corpus with the same layout")
    whamr.add_argument("--mode", **MODE)
    whamr.add_argument("--task", help="{separate_noisy,separate_clean,enhance_single}_{reverb,anechoic}")
    whamr.add_argument("--target", help="anechoic (default) or reverb")
    whamr.add_argument("--splits", **SPLITS)

    librimix = command("librimix", prepare_librimix, "LibriMix: two or three speakers, clean or in noise")
    librimix.add_argument("--num_spks", type=int, help="2 (default) or 3")
    librimix.add_argument("--mode", **MODE)
    librimix.add_argument("--task", help="separate_clean (default), separate_noisy or enhance_single")
    librimix.add_argument("--splits", nargs="+", help="some of train-100, train-360, dev, test; all but train-360")

    minilibrimix = command("minilibrimix", prepare_minilibrimix, "MiniLibriMix: two speakers, clean or in noise")
    minilibrimix.add_argument("--task", help="separate_clean (default) or separate_noisy")
    minilibrimix.add_argument("--splits", nargs="+", help="some of train, val")

    rooms = command(
        "librimix_rooms", prepare_librimix_rooms, "a reverberant corpus by data_prep.generate librimix --rooms"
    )
    rooms.add_argument("--num_spks", type=int, help="2 (default) or more")
    rooms.add_argument("--mode", **MODE)
    rooms.add_argument("--task", help="{separate_noisy,separate_clean,enhance_single}_{reverb,anechoic}")
    rooms.add_argument("--target", help="anechoic (default) or reverb")
    rooms.add_argument("--splits", **SPLITS)

    custom = command(
        "custom",
        prepare_custom,
        "custom data: {tr,cv,tt}/{mix,s1,…[,noise]}/ID.wav, or {tr,cv,tt}/ID/{mix,s1,…[,noise]}.wav, or a CSV",
        (common, checks, trim),
    )
    custom.add_argument("--data_folder", help="folder of the data; not needed with --csv_file")
    custom.add_argument("--csv_file", help="ID,split,mix_wav,s1_wav,…[,noise_wav][,s1_spk,…], instead of folders")
    custom.add_argument("--num_spks", type=int, help="number of sources (default: 2)")
    custom.add_argument("--noise", action="store_true", help="there are noise files")
    custom.add_argument(
        "--mixture_is_not_sum",
        dest="mixture_is_sum",
        action="store_false",
        help="the mixtures are not the sum of sources and noise, so that --check_samples doesn't compare them",
    )
    custom.add_argument("--splits", **SPLITS)

    mini = command(
        "mini", prepare_mini, "a small synthetic corpus laid out as WHAM!, generated if missing", [folder, common]
    )
    mini.add_argument("--seed", type=int, help="seed of the random generator")
    mini.add_argument("--num_train", type=int, help="number of training mixtures")
    mini.add_argument("--num_valid", type=int, help="number of validation mixtures")
    mini.add_argument("--num_test", type=int, help="number of test mixtures")
    mini.add_argument("--task", **TASK)

    many = command(
        "many_speakers",
        prepare_many_speakers,
        "clips of 3,600 speakers in noise and rooms, for the packaged model; generated if missing",
        (folder, common, checks),
    )
    many.add_argument("--clips_folder", help="folder of the listed clips at 8 kHz, SPEAKER/CLIP.wav")
    many.add_argument("--recorded_noise_folder", help="recordings of noise for training, KIND/NAME.wav")
    many.add_argument("--librispeech_folder", help="folder of test-other/, for the test mixtures")
    many.add_argument("--num_train", type=int, help="number of fixed training mixtures")
    many.add_argument("--num_valid", type=int, help="number of validation mixtures")
    many.add_argument("--num_test", type=int, help="number of test mixtures")
    many.add_argument("--num_rooms", type=int, help="number of rooms for training")
    many.add_argument("--num_noises", type=int, help="number of clips of noise for training")
    many.add_argument("--seed", type=int, help="seed of the random generator")
    many.add_argument("--list_file", help="another list of clips: clip,speaker,split,source,file")
    many.add_argument("--workers", type=int, help="number of processes (default: one per CPU)")
    add_cluster_argument(many)
    return parser


if __name__ == "__main__":
    sys.exit(main())
