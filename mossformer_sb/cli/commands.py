"""The command line: ``mossformer-sb COMMAND``."""

import argparse
import logging
import os
import sys
from pathlib import Path

from mossformer_sb.errors import InputError
from mossformer_sb.version import __version__

# What a command needs is imported when it is chosen: importing PyTorch takes seconds, which --help and a mistyped
# command need not wait for.

logger = logging.getLogger(__name__)

SOME_FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130  # exit codes

SEPARATE = """\
Separate recordings into one file a speaker, NAME_spk1.wav and so on, at the recording's own rate and length.

  mossformer-sb separate talk.mp3            # into separated/, with the model that comes with the package
  mossformer-sb separate archive/ 'calls/**/*.wav' --model MODEL --output_folder separated --format flac
  torchrun --nproc_per_node=4 -m mossformer_sb.cli.commands separate archive/ ...     # each GPU takes a part

The output folder gets the folders of the input. What is already there is left alone, so the same command goes on after
an interruption. A file that can't be separated is reported, the rest goes on, and the exit code is 1."""

SCORE = """\
Score estimates against references: SI-SNR, SI-SNRi, SDR and SDRi, each ID under its best permutation.

  mossformer-sb score --estimates separated --references corpus/tt --mixtures corpus/tt/mix_both
  mossformer-sb score --estimates separated --references manifests/wham_tt.csv --data_root corpus
  mossformer-sb score --table files.csv --metrics stoi pesq --output scores.csv

A folder holds ID_spk1.wav, ID_spk2.wav and so on (or _s1, _source1, _estimate1), or subfolders s1, s2 and so on with
ID.wav in each. A table is a CSV with the columns ID, mix_wav, s1_wav ... and est1_wav ..."""

EVALUATE = """\
Evaluate a model on a test set: SI-SNR, SI-SNRi, SDR and SDRi of each mixture, as train.py does at its end.

  mossformer-sb evaluate results/demo/export --manifest manifests/wham_tt.csv --data_root /path/to/wham
  mossformer-sb evaluate somebody/mossformer-wham --manifest wham_tt.csv --data_root corpus --report page.html

The manifest comes from a training's output folder (manifests/), or from python -m data_prep wham --data_folder ..."""

REPORT = """\
Write the report of a training from what it left in its output folder, without testing again: scores, curves, and
examples with sound.

  mossformer-sb report results/mossformer_wham_L/1234"""

EXPORT = """\
Export a trained model from a training's output folder to one that others load, ready for a model hub.

  mossformer-sb export results/mossformer_wham_L/1234 --output_folder mossformer-wham --license cc-by-4.0
  mossformer-sb export results/mossformer_wham_L/1234 --output_folder averaged --average 5
  mossformer-sb export results/mossformer_wham_L/1234 --output_folder mossformer-wham --examples 3 --onnx
  mossformer-sb export results/mossformer_wham_L/1234 --output_folder quarter-size --half --weights ckpt

It holds hyperparams.yaml, the weights as .safetensors and as .ckpt, and a model card, README.md. Of these two, ours
loads either, without running code, and SpeechBrain's classes load the .ckpt. --half rounds the weights to half
precision; whoever loads them computes in single precision. --onnx adds separator.onnx: mixture [batch, samples] to
estimates [batch, samples, speakers], of any batch and length.
--examples copies recordings of the corpus: see that its licence allows that."""

CONVERT = """\
Convert the authors' released checkpoint (encoder.bin, masknet.bin, decoder.bin) into a model folder, or back.

  mossformer-sb convert released/ --output_folder mossformer-wsj0-2mix --sample_rate 8000
  mossformer-sb convert mossformer-wsj0-2mix --output_folder their-format --to modelscope"""

INFO = """\
Say what a model folder or a manifest is.

  mossformer-sb info mossformer-wham
  mossformer-sb info manifests/wham_tt.csv"""


def main(argv=None):
    """Run a command.

    Arguments
    ---------
    argv : list of str, optional
        The words after the program's name. Default: those of this program.

    Returns
    -------
    int
        Exit code: 0; 1 when some of many files failed; 2 for wrong input; 130 when interrupted from the keyboard.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser(argv).parse_args(argv)
    # Our messages, and of others only what is amiss.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mossformer_sb").setLevel(logging.INFO)
    try:
        return arguments.run(arguments) or 0
    except InputError as error:
        print(f"mossformer-sb {arguments.command}: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("Interrupted. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        return INTERRUPTED


def _parser(argv):
    """The parser, with the arguments of the command that ``argv`` chooses."""
    parser = argparse.ArgumentParser(
        prog="mossformer-sb",
        description="Separate recordings, evaluate models, score separations, and share models.",
        epilog="'mossformer-sb COMMAND --help' explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"mossformer_sb {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, description, add, run) in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.set_defaults(run=run)
        if name in argv[:1]:
            add(command)
    return parser


# ---- separate


def _add_separate(parser):
    from mossformer_sb.data.audio_io import FORMATS
    from mossformer_sb.inference.chunking import Chunking
    from mossformer_sb.inference.output_gain import LEVELS

    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="audio file, folder, or pattern in quotes")
    parser.add_argument(
        "--model",
        help="folder of an exported model, or a model hub's id (default: the one that comes with the package)",
    )
    parser.add_argument(
        "--output_folder", default="separated", help="where to write; made if it is not there (default: separated)"
    )
    parser.add_argument(
        "--device", default="auto", help="auto (the best there is), cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument(
        "--format",
        default="wav",
        choices=FORMATS,
        help="of the output; wav has 32 bits and clips nothing (default: wav)",
    )
    parser.add_argument(
        "--level",
        default="mixture",
        choices=LEVELS,
        help="mixture: one gain for all speakers fits their sum to the recording; peak: one gain brings the loudest to "
        "full scale; none: as the network gives them (default: mixture)",
    )
    parser.add_argument("--channel", type=int, help="take this channel, counted from 0 (default: the mean of all)")
    parser.add_argument("--overwrite", action="store_true", help="separate again what is already there")
    parser.add_argument(
        "--trust", action="store_true", help="run what the model's YAML file asks for: its maker's code"
    )
    chunks = parser.add_argument_group("long recordings, in seconds", "Cut into chunks, and joined again.")
    defaults = Chunking()
    chunks.add_argument(
        "--chunk_above",
        type=float,
        default=defaults.above,
        help=f"cut recordings longer than this ({defaults.above:g})",
    )
    chunks.add_argument(
        "--chunk_seconds", type=float, default=defaults.seconds, help=f"length of a chunk ({defaults.seconds:g})"
    )
    chunks.add_argument(
        "--chunk_overlap",
        type=float,
        default=defaults.overlap,
        help=f"what chunks share; longer than the pauses in which nobody speaks ({defaults.overlap:g})",
    )


def _separate(arguments):
    import torch
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from mossformer_sb.cli.input_files import list_recordings, shard
    from mossformer_sb.inference.chunking import Chunking
    from mossformer_sb.inference.separation import MossFormerSeparation, output_paths
    from mossformer_sb.pretrained import default_model
    from mossformer_sb.utils.files import make_output_folder

    chunking = Chunking(arguments.chunk_seconds, arguments.chunk_overlap, arguments.chunk_above)
    source = default_model() if arguments.model is None else arguments.model
    jobs = shard(list_recordings(arguments.inputs, arguments.output_folder))
    make_output_folder(arguments.output_folder)
    model = MossFormerSeparation.from_hparams(source, device=_device_of_rank(arguments.device), trust=arguments.trust)
    options = {"level": arguments.level, "channel": arguments.channel, "chunking": chunking}
    failed = skipped = 0
    with logging_redirect_tqdm():
        for job in tqdm(jobs, unit="file"):
            paths = output_paths(job.name, job.folder, model.hparams.num_spks, arguments.format)
            if not arguments.overwrite and all(path.is_file() for path in paths):
                skipped += 1
                continue
            try:
                model.separate_to_files(job.path, job.folder, job.name, arguments.format, progress=True, **options)
            except (InputError, torch.OutOfMemoryError) as error:
                failed += 1
                logger.error("failed: %s", error if isinstance(error, InputError) else f"{job.path}: {error}")
    there = f", {skipped} were already there" if skipped else ""
    print(f"{len(jobs) - failed - skipped} of {len(jobs)} recordings separated{there}, {failed} failed.")
    return SOME_FAILED if failed else 0


def _device_of_rank(device):
    """Under torchrun, each process on a machine takes a GPU of its own."""
    import torch

    if device == "auto" and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    return device


# ---- score


def _add_score(parser):
    parser.add_argument("--estimates", help="folder of what a model gave")
    parser.add_argument("--references", help="folder of the true sources, or a manifest")
    parser.add_argument("--mixtures", help="folder of the mixtures, where they aren't found by themselves")
    parser.add_argument("--table", help="CSV of all files, instead of the three above")
    parser.add_argument("--subset", action="store_true", help="leave out references without estimates")
    _add_scores(parser, "scores.csv")


def _add_scores(parser, output):
    """What scoring files and evaluating a model have in common."""
    from mossformer_sb.evaluation.extra_metrics import EXTRA_METRICS
    from mossformer_sb.evaluation.published import PUBLISHED

    parser.add_argument("--data_root", help="what $data_root in a CSV stands for (default: the folder of the CSV)")
    parser.add_argument(
        "--metrics", nargs="+", default=[], metavar="METRIC", help=f"more metrics: {', '.join(EXTRA_METRICS)}"
    )
    parser.add_argument("--output", default=output, help=f"the scores of each ID (default: {output})")
    parser.add_argument("--report", metavar="FILE", help="also write a page with pictures and sound, FILE.html")
    parser.add_argument(
        "--corpus", default="", choices=["", *PUBLISHED], help="what is published on this corpus goes into the report"
    )


def _check_scores(arguments):
    """Find what is wrong with the output before the work."""
    from mossformer_sb.evaluation.extra_metrics import check_metrics
    from mossformer_sb.evaluation.report import check_report
    from mossformer_sb.utils.files import make_output_folder

    check_metrics(arguments.metrics)
    make_output_folder(Path(arguments.output).parent)
    if arguments.report is not None:
        check_report()
        make_output_folder(Path(arguments.report).parent)


def _write_scores(arguments, results, number):
    """Write the table of scores; returns it."""
    from tqdm import tqdm

    from mossformer_sb.evaluation.results import score_table

    table = score_table(tqdm(results, total=number, unit="utterance"), arguments.metrics)
    table.write(arguments.output)
    print(f"{table.summary()}\nAll scores are in {arguments.output}")
    return table.to_frame()


def _score(arguments):
    import torch

    from mossformer_sb.evaluation.score_files import score

    _check_scores(arguments)
    utterances = _utterances(arguments)
    # Utterances side by side use two cores better than the threads within one do.
    torch.set_num_threads(1)
    results = score(utterances, arguments.metrics, num_threads=os.cpu_count() or 1)
    scores = _write_scores(arguments, results, len(utterances))
    if arguments.report is not None:
        _report_scores(arguments, scores, {utterance.id: utterance for utterance in utterances})


def _report_scores(arguments, scores, utterances):
    from mossformer_sb.evaluation.examples import Example, pick_examples
    from mossformer_sb.evaluation.report import write_report
    from mossformer_sb.evaluation.score_files import read_signals

    examples = []
    for title, utterance_id in pick_examples(scores).items():
        examples.append(Example.of(f"{title}: {utterance_id}", *read_signals(utterances[utterance_id])))
    facts = {"Estimates": arguments.estimates, "References": arguments.references, "Table": arguments.table}
    path = write_report(arguments.report, scores, examples, "Scores of a separation", arguments.corpus, facts)
    print(f"The report is {path}")


def _utterances(arguments):
    from mossformer_sb.evaluation.score_files import find_utterances, read_utterances

    folders = (arguments.estimates, arguments.references)
    if arguments.table is not None:
        if any((*folders, arguments.mixtures)):
            raise InputError("--table lists all files: give it alone, without --estimates, --references or --mixtures.")
        return read_utterances(arguments.table, arguments.data_root)
    if None in folders:
        raise InputError("give --estimates and --references, or a --table of all files.")
    return find_utterances(*folders, arguments.mixtures, arguments.data_root, arguments.subset)


# ---- evaluate, report


def _add_evaluate(parser):
    parser.add_argument("model", metavar="MODEL", help="folder of an exported model, or a model hub's id")
    parser.add_argument("--manifest", required=True, help="CSV of the test set")
    _add_scores(parser, "test_results.csv")
    parser.add_argument("--device", default="auto", help="auto (the best there is), cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--trust", action="store_true", help="run what the model's YAML file asks for: its maker's code"
    )


def _evaluate(arguments):
    from mossformer_sb.data.datasets import MixtureDataset
    from mossformer_sb.evaluation.results import evaluate
    from mossformer_sb.inference.separation import MossFormerSeparation

    _check_scores(arguments)
    model = MossFormerSeparation.from_hparams(arguments.model, device=arguments.device, trust=arguments.trust)
    data_root = Path(arguments.manifest).parent if arguments.data_root is None else arguments.data_root
    data = MixtureDataset(arguments.manifest, data_root, model.hparams.num_spks, model.hparams.sample_rate)
    scores = _write_scores(arguments, evaluate(model, data, arguments.metrics), len(data))
    if arguments.report is not None:
        _report_evaluation(arguments, scores, model, data)


def _report_evaluation(arguments, scores, model, data):
    from mossformer_sb.evaluation.examples import example_of_row, pick_examples
    from mossformer_sb.evaluation.report import write_report

    rows = data.table.set_index("ID", drop=False)
    examples = [
        example_of_row(title, rows.loc[utterance_id], data.num_spks, model.separate_batch)
        for title, utterance_id in pick_examples(scores).items()
    ]
    facts = {"Model": arguments.model, "Manifest": arguments.manifest, "Data": f"test {data.fingerprint[:12]}"}
    path = write_report(arguments.report, scores, examples, "Evaluation of a model", arguments.corpus, facts)
    print(f"The report is {path}")


def _add_report(parser):
    parser.add_argument("training_folder", metavar="TRAINING", help="output_folder of train.py")
    parser.add_argument("--output", metavar="FILE", help="the page (default: report.html in that folder)")
    parser.add_argument("--model", help="the exported model, for the examples (default: export in that folder)")
    parser.add_argument("--device", default="auto", help="auto (the best there is), cpu, cuda, cuda:1, mps")


def _report(arguments):
    from mossformer_sb.cli.training_report import report_training
    from mossformer_sb.utils.devices import choose_device
    from mossformer_sb.utils.files import make_output_folder

    if arguments.output is not None:
        make_output_folder(Path(arguments.output).parent)
    device = choose_device(arguments.device)
    path = report_training(arguments.training_folder, arguments.model, device, arguments.output)
    print(f"The report is {path}")


# ---- export, convert, info


def _add_export(parser):
    from mossformer_sb.sharing.folder import WEIGHT_FORMATS

    parser.add_argument("training_folder", metavar="TRAINING", help="output_folder of train.py")
    parser.add_argument("--output_folder", required=True, help="the model folder; an earlier export is replaced")
    parser.add_argument("--checkpoint", metavar="NAME", help="this checkpoint, CKPT+... (default: the best)")
    parser.add_argument("--average", type=int, default=1, metavar="K", help="the average of the best K checkpoints")
    parser.add_argument("--license", default="", help="for the model card, such as cc-by-4.0 (default: not stated)")
    parser.add_argument("--examples", type=int, default=0, metavar="N", help="add N test mixtures as audio")
    parser.add_argument("--half", action="store_true", help="weights in half precision: half as large")
    parser.add_argument(
        "--weights",
        default="both",
        choices=["both", *WEIGHT_FORMATS],
        help="which copies of the weights to write (default: both)",
    )
    parser.add_argument("--notes", metavar="FILE", help="Markdown to add to the model card")
    parser.add_argument("--onnx", action="store_true", help="add the separator as ONNX")


def _export(arguments):
    from mossformer_sb.inference.separation import MossFormerSeparation
    from mossformer_sb.sharing.folder import WEIGHT_FORMATS
    from mossformer_sb.sharing.onnx import ONNX_FILE, check_onnx, export_onnx
    from mossformer_sb.training.export import export_training

    if arguments.onnx:
        check_onnx()
    folder = export_training(
        arguments.training_folder,
        arguments.output_folder,
        arguments.checkpoint,
        arguments.average,
        arguments.license,
        arguments.examples,
        half=arguments.half,
        formats=WEIGHT_FORMATS if arguments.weights == "both" else [arguments.weights],
        notes=_read_notes(arguments.notes),
    )
    if arguments.onnx:
        model = MossFormerSeparation.from_hparams(folder, device="cpu")
        export_onnx(folder / ONNX_FILE, *(model.mods[name] for name in model.MODULES_NEEDED))
    print(f"The model is in {folder}")


def _read_notes(path):
    if path is None:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--notes {path}: can't be read ({error}). Give a file in Markdown, in UTF-8.") from error


def _add_convert(parser):
    parser.add_argument("source", metavar="SOURCE", help="folder of the authors' files; with --to, a model folder")
    parser.add_argument("--output_folder", required=True, help="where to")
    parser.add_argument("--to", choices=["modelscope"], help="convert one of our models into the authors' format")
    parser.add_argument("--sample_rate", type=int, default=8000, help="Hz that it was trained at (default: 8000)")
    parser.add_argument("--group_size", type=int, default=256, help="frames of an attention group (default: 256)")


def _convert(arguments):
    from mossformer_sb.sharing.modelscope import from_modelscope, to_modelscope

    if arguments.to is not None:
        folder = to_modelscope(arguments.source, arguments.output_folder)
    else:
        folder = from_modelscope(arguments.source, arguments.output_folder, arguments.sample_rate, arguments.group_size)
    print(f"The converted model is in {folder}")


def _add_info(parser):
    parser.add_argument("path", metavar="PATH", help="model folder, model hub's id, or manifest (.csv)")


def _info(arguments):
    from mossformer_sb.sharing.model_info import describe

    facts = describe(arguments.path)
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")


COMMANDS = {  # name: summary, description, what adds its arguments, and what runs it
    "separate": ("separate recordings", SEPARATE, _add_separate, _separate),
    "evaluate": ("evaluate a model on a test set", EVALUATE, _add_evaluate, _evaluate),
    "score": ("score estimates against references", SCORE, _add_score, _score),
    "report": ("write the report of a training", REPORT, _add_report, _report),
    "export": ("make a model folder from a training", EXPORT, _add_export, _export),
    "convert": ("convert the authors' checkpoint, or into it", CONVERT, _add_convert, _convert),
    "info": ("say what a model folder or a manifest is", INFO, _add_info, _info),
}


if __name__ == "__main__":
    sys.exit(main())
