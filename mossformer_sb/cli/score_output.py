"""Output options of scoring files and evaluating a model, and writing the output."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.extra_metrics import EXTRA_METRICS, check_metrics
from mossformer_sb.evaluation.published import PUBLISHED
from mossformer_sb.utils.files import check_output_file

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    import pandas as pd


def add_output_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """Add the options; ``output`` is the default file of the scores."""
    parser.add_argument("--data_root", help="value of $data_root in a CSV (default: the folder of the CSV)")
    parser.add_argument(
        "--metrics", nargs="+", default=[], metavar="METRIC", help=f"more metrics: {', '.join(EXTRA_METRICS)}"
    )
    parser.add_argument("--output", default=output, help=f"CSV for the scores of each ID (default: {output})")
    parser.add_argument("--report", metavar="FILE", help="also write a report with plots and audio, FILE.html")
    parser.add_argument(
        "--corpus", default="", choices=["", *PUBLISHED], help="add the published results on this corpus to the report"
    )


def check_output(arguments: argparse.Namespace, *inputs: str | None) -> None:
    """Check the output options before scoring: neither file may be the other one, or one of the input files."""
    from mossformer_sb.evaluation.report import check_report

    check_metrics(arguments.metrics)
    check_output_file(arguments.output)
    if arguments.report is not None:
        check_report()
        check_output_file(arguments.report)
    taken = {os.path.realpath(path) for path in inputs if path is not None}
    for option, path in (("--output", arguments.output), ("--report", arguments.report)):
        if path is not None and os.path.realpath(path) in taken:
            raise InputError(f"{option} {path}: is also another file of this command. Give it another name.")
        taken.add(None if path is None else os.path.realpath(path))


def write_scores(arguments: argparse.Namespace, results: Iterable[tuple], number: int) -> pd.DataFrame:
    """Write the table of scores, and return it. After an error or an interruption, what there is is kept."""
    from tqdm import tqdm

    from mossformer_sb.evaluation.results import ScoreTable

    table, partial = ScoreTable(arguments.metrics), f"{arguments.output}.partial"
    try:
        for utterance_id, scores, others in tqdm(results, total=number, unit="utterance"):
            table.add(utterance_id, scores, **others)
    except BaseException:
        if len(table):
            table.write(partial)
            print(f"The scores of the first {len(table)} of {number} utterances are in {partial}.", file=sys.stderr)
        raise
    table.write(arguments.output)
    Path(partial).unlink(missing_ok=True)
    print(f"{table.summary()}\nAll scores are in {arguments.output}")
    return table.to_frame()
