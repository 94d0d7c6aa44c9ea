"""``mossformer-sb score``: score estimates against references."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mossformer_sb.cli.score_output import add_output_arguments, check_output, write_scores
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Score estimates against references: SI-SNR, SI-SNRi, SDR and SDRi, with the best permutation of each ID.

  mossformer-sb score --estimates separated --references corpus/tt --mixtures corpus/tt/mix_both
  mossformer-sb score --estimates separated --references manifests/wham_tt.csv --data_root corpus
  mossformer-sb score --table files.csv --metrics stoi pesq --output scores.csv

A folder holds ID_spk1.wav, ID_spk2.wav and so on, or a subfolder for each speaker, s1/ID.wav, or a subfolder for each
mixture, ID/spk1.wav. Other toolkits' names for a signal are recognised too: est1, estimate1, s1, source1, source1hat,
speaker1. A table is a CSV with the columns ID, mix_wav, s1_wav ... and est1_wav ..., and allows any names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--estimates", help="folder of the estimates")
    parser.add_argument("--references", help="folder of the true sources, or a manifest")
    parser.add_argument("--mixtures", help="folder of the mixtures, if they aren't found automatically")
    parser.add_argument("--table", help="CSV of all files, instead of the three above")
    parser.add_argument("--subset", action="store_true", help="skip references without estimates")
    parser.add_argument(
        "--trim",
        type=int,
        default=0,
        metavar="N",
        help="the signals of an ID may differ by N samples in length, and are cut to the shortest (default: 0)",
    )
    add_output_arguments(parser, "scores.csv")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    import torch

    from mossformer_sb.evaluation.score_files import score

    check_output(arguments, arguments.table, arguments.references, arguments.estimates)
    utterances = _utterances(arguments)
    # Scoring several utterances in parallel is faster than several threads for each.
    torch.set_num_threads(1)
    results = score(utterances, arguments.metrics, num_threads=os.cpu_count() or 1, trim=arguments.trim)
    scores = write_scores(arguments, results, len(utterances))
    if arguments.report is not None:
        _write_report(arguments, scores, {utterance.id: utterance for utterance in utterances})


def _write_report(arguments, scores, utterances):
    from mossformer_sb.evaluation.examples import Example, pick_examples, with_scores
    from mossformer_sb.evaluation.report import write_report
    from mossformer_sb.evaluation.score_files import read_signals

    examples = []
    for title, utterance_id in with_scores(pick_examples(scores), scores).items():
        signals = read_signals(utterances[utterance_id], arguments.trim)
        examples.append(Example.of(f"{title}: {utterance_id}", *signals))
    facts = {"Estimates": arguments.estimates, "References": arguments.references, "Table": arguments.table}
    path = write_report(arguments.report, scores, examples, "Scores of a separation", arguments.corpus, facts)
    print(f"The report is {path}")


def _utterances(arguments):
    from mossformer_sb.evaluation.score_files import find_utterances, read_utterances

    folders = (arguments.estimates, arguments.references)
    if arguments.table is not None:
        if any((*folders, arguments.mixtures)):
            raise InputError("--table lists all files: give it alone, without --estimates, --references or --mixtures.")
        if arguments.subset:
            raise InputError("--subset is for folders: a --table lists what is scored. Leave one of them out.")
        return read_utterances(arguments.table, arguments.data_root)
    if None in folders:
        raise InputError("give --estimates and --references, or a --table of all files.")
    if os.path.isfile(arguments.references) and arguments.mixtures is not None:
        raise InputError(
            f"--references {arguments.references} is a manifest, which lists its mixtures: leave out --mixtures."
        )
    if not os.path.isfile(arguments.references) and arguments.data_root is not None:
        raise InputError("--data_root is for a manifest or a table; --references is a folder. Leave it out.")
    return find_utterances(*folders, arguments.mixtures, arguments.data_root, arguments.subset)
