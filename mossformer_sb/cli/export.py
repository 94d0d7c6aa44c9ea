"""``mossformer-sb export``: export a training as a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Export a trained model from a training's output folder to a model folder, ready for a model hub.

  mossformer-sb export results/mossformer_wham_L/1234 --output_folder mossformer-wham --license cc-by-4.0
  mossformer-sb export results/mossformer_wham_L/1234 --output_folder averaged --average 5
  mossformer-sb export results/mossformer_wham_L/1234 --output_folder mossformer-wham --examples 3 --onnx --int8
  mossformer-sb export results/mossformer_wham_L/1234 --output_folder quarter-size --half --no-speechbrain
  mossformer-sb export earlier-export --output_folder converted     # an export of an earlier version

It holds config.json, model.safetensors and a model card, README.md, which are loaded without running code; and
hyperparams.yaml with a second copy of the weights as .ckpt, for SpeechBrain's own classes, unless --no-speechbrain.
--half rounds the weights to half precision; loading converts them to single precision. --onnx adds separator.onnx, from
mixture [batch, samples] to estimates [batch, samples, speakers], for any batch size and length. --int8 also adds
separator-int8.onnx, a quarter of the size, with nearly the same estimates (see docs/sharing.md). --examples copies
recordings of the corpus: check that its licence allows that."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "training_folder",
        metavar="TRAINING",
        help="output_folder of train.py; or an export of an earlier version, to convert it",
    )
    parser.add_argument("--output_folder", required=True, help="the model folder; an earlier export is replaced")
    parser.add_argument("--checkpoint", metavar="NAME", help="checkpoint to export, CKPT+... (default: the best)")
    parser.add_argument("--average", type=int, default=1, metavar="K", help="average the best K checkpoints")
    parser.add_argument("--license", default="", help="for the model card, such as cc-by-4.0 (default: not stated)")
    parser.add_argument("--examples", type=int, default=0, metavar="N", help="add N test mixtures as audio")
    parser.add_argument(
        "--shifts", type=int, default=1, metavar="N", help="the model's default for --shifts of `separate` (default: 1)"
    )
    parser.add_argument("--half", action="store_true", help="weights in half precision: half as large")
    parser.add_argument("--no-speechbrain", action="store_true", help="without the files for SpeechBrain's classes")
    parser.add_argument(
        "--weights",
        metavar="WHICH",
        help="as in earlier versions: safetensors is --no-speechbrain, both is the default",
    )
    parser.add_argument("--notes", metavar="FILE", help="Markdown to add to the model card")
    parser.add_argument("--onnx", action="store_true", help="add the separator as ONNX")
    parser.add_argument("--int8", action="store_true", help="with --onnx: add a copy with 8-bit weights too")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from mossformer_sb.inference.separation import MossFormerSeparation
    from mossformer_sb.network.checks import check_shifts
    from mossformer_sb.sharing.onnx import INT8_FILE, ONNX_FILE, check_onnx, export_onnx, quantise
    from mossformer_sb.training.export import export_training

    speechbrain = _for_speechbrain(arguments)
    if arguments.int8 and not arguments.onnx:
        raise InputError("--int8: quantises the ONNX model, and needs --onnx. Add --onnx, or remove --int8.")
    if arguments.onnx:
        check_onnx(arguments.int8)
    folder = export_training(
        arguments.training_folder,
        arguments.output_folder,
        arguments.checkpoint,
        arguments.average,
        arguments.license,
        arguments.examples,
        check_shifts(arguments.shifts),
        half=arguments.half,
        speechbrain=speechbrain,
        notes=_read_notes(arguments.notes),
    )
    if arguments.onnx:
        model = MossFormerSeparation.from_hparams(folder, device="cpu")
        export_onnx(folder / ONNX_FILE, *(model.mods[name] for name in model.MODULES_NEEDED))
    if arguments.int8:
        quantise(folder / ONNX_FILE, folder / INT8_FILE)
    print(f"The model is in {folder}")


def _for_speechbrain(arguments):
    """Whether to write the files for SpeechBrain's classes."""
    weights = arguments.weights
    if weights not in (None, "both", "safetensors"):
        raise InputError(
            f"--weights {weights}: must be both or safetensors. Every export has config.json and model.safetensors; "
            f"--no-speechbrain omits the .ckpt files for SpeechBrain's classes."
        )
    return weights != "safetensors" and not arguments.no_speechbrain


def _read_notes(path):
    if path is None:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--notes {path}: can't be read ({error}). Give a file in Markdown, in UTF-8.") from error
