"""``mossformer-sb report``: write the report of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mossformer_sb.utils.files import check_output_file

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Write the report of a training from the files in its output folder, without evaluating again: scores, curves, and audio
examples.

  mossformer-sb report results/mossformer_wham_L/1234"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("training_folder", metavar="TRAINING", help="output_folder of train.py")
    parser.add_argument("--output", metavar="FILE", help="HTML file (default: report.html in that folder)")
    parser.add_argument("--model", help="the exported model, for the examples (default: export in that folder)")
    parser.add_argument("--device", default="auto", help="auto (the best available), cpu, cuda, cuda:1, mps")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from mossformer_sb.cli.training_report import report_training
    from mossformer_sb.utils.devices import choose_device

    if arguments.output is not None:
        check_output_file(arguments.output)
    device = choose_device(arguments.device)
    path = report_training(arguments.training_folder, arguments.model, device, arguments.output)
    print(f"The report is {path}")
