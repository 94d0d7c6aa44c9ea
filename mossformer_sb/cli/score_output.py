"""Output options of scoring files and evaluating a model, and writing the output."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def check_output(arguments: argparse.Namespace) -> None:
    """Check the output options before scoring."""
    from mossformer_sb.evaluation.report import check_report

    check_metrics(arguments.metrics)
    check_output_file(arguments.output)
    if arguments.report is not None:
        check_report()
        check_output_file(arguments.report)


def write_scores(arguments: argparse.Namespace, results: Iterable[tuple], number: int) -> pd.DataFrame:
    """Write the table of scores, and return it."""
    from tqdm import tqdm

    from mossformer_sb.evaluation.results import score_table

    table = score_table(tqdm(results, total=number, unit="utterance"), arguments.metrics)
    table.write(arguments.output)
    print(f"{table.summary()}\nAll scores are in {arguments.output}")
    return table.to_frame()
