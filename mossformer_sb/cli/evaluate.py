"""``mossformer-sb evaluate``: evaluate a model on a test set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mossformer_sb.cli.model_options import add_model_options, model_options
from mossformer_sb.cli.score_output import add_output_arguments, check_output, write_scores

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Evaluate a model on a test set: SI-SNR, SI-SNRi, SDR and SDRi of each mixture, as train.py does after training.

  mossformer-sb evaluate results/demo/export --manifest results/demo/manifests/test.csv --data_root results/demo/corpus
  mossformer-sb evaluate owner/mossformer-wham --manifest wham_tt.csv --data_root /path/to/wham --report page.html

The manifest is manifests/test.csv in the output folder of a training, or one of those that python -m data_prep writes,
such as wham_tt.csv."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="exported folder, released model's name, or model hub's id")
    parser.add_argument("--manifest", required=True, help="CSV of the test set")
    add_output_arguments(parser, "test_results.csv")
    parser.add_argument(
        "--trim",
        type=int,
        default=0,
        metavar="N",
        help="files may be N samples longer than in the manifest (default: 0)",
    )
    parser.add_argument("--device", default="auto", help="auto (the best available), cpu, cuda, cuda:1, mps")
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from mossformer_sb.data.datasets import MixtureDataset
    from mossformer_sb.data.tables import check_own_folder
    from mossformer_sb.evaluation.results import evaluate
    from mossformer_sb.inference.separation import MossFormerSeparation

    check_output(arguments, arguments.manifest)
    model = MossFormerSeparation.from_hparams(arguments.model, device=arguments.device, **model_options(arguments))
    data_root = Path(arguments.manifest).parent if arguments.data_root is None else arguments.data_root
    _check_fit(arguments.manifest, model.hparams)
    data = MixtureDataset(
        arguments.manifest, data_root, model.hparams.num_spks, model.hparams.sample_rate, trim=arguments.trim
    )
    if arguments.data_root is None:
        check_own_folder(arguments.manifest, data.table["mix_wav"].iloc[0])
    scores = write_scores(arguments, evaluate(model, data, arguments.metrics), len(data))
    if arguments.report is not None:
        _write_report(arguments, scores, model, data)


def _check_fit(manifest, hparams):
    """Raise InputError if a manifest is not for the model's number of speakers and sample rate."""
    from mossformer_sb.data.tables import read_table
    from mossformer_sb.errors import InputError
    from mossformer_sb.utils.files import expanded

    if not Path(expanded(manifest)).is_file():
        raise InputError(f"{manifest}: there is no such manifest. `python -m data_prep` and each training write some.")
    columns, rows, _ = read_table(expanded(manifest), "manifest")
    speakers = sum(re.fullmatch(r"s\d+_wav", column) is not None for column in columns)
    rates = sorted({row["sample_rate"] for row in rows}) if "sample_rate" in columns else []
    found = _speakers(speakers) if speakers not in (0, hparams.num_spks) else ""
    if len(rates) == 1 and _number(rates[0]) not in (None, hparams.sample_rate):
        found += f"{' at ' if found else ''}{rates[0]} Hz"
    if found:
        raise InputError(
            f"{manifest}: has mixtures of {found}; the model is for {_speakers(hparams.num_spks)} at "
            f"{hparams.sample_rate} Hz. Choose another model, or another test set."
        )


def _speakers(number):
    return "1 speaker" if number == 1 else f"{number} speakers"


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None


def _write_report(arguments, scores, model, data):
    from mossformer_sb.evaluation.examples import example_of_row, pick_examples, with_scores
    from mossformer_sb.evaluation.report import write_report

    rows = data.table.set_index("ID", drop=False)
    examples = [
        example_of_row(title, rows.loc[utterance_id], data.num_spks, model.separate_batch)
        for title, utterance_id in with_scores(pick_examples(scores), scores).items()
    ]
    facts = {"Model": arguments.model, "Manifest": arguments.manifest, "Data": f"test {data.fingerprint[:12]}"}
    path = write_report(arguments.report, scores, examples, "Evaluation of a model", arguments.corpus, facts)
    print(f"The report is {path}")
