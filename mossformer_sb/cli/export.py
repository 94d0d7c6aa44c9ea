"""``mossformer-sb export``: a model folder from a training."""

from pathlib import Path

from mossformer_sb.errors import InputError

WEIGHTS = ("both", "safetensors", "ckpt")  # these are `WEIGHT_FORMATS`, named here so that --help imports no PyTorch

DESCRIPTION = """\
Export a trained model from a training's output folder to one that others load, ready for a model hub.

  mossformer-sb export results/mossformer_wham_L/1234 --output_folder mossformer-wham --license cc-by-4.0
  mossformer-sb export results/mossformer_wham_L/1234 --output_folder averaged --average 5
  mossformer-sb export results/mossformer_wham_L/1234 --output_folder mossformer-wham --examples 3 --onnx
  mossformer-sb export results/mossformer_wham_L/1234 --output_folder quarter-size --half --weights ckpt

It holds hyperparams.yaml, the weights as .safetensors and as .ckpt, and a model card, README.md. Of these two, ours
loads either, without running code, and SpeechBrain's classes load the .ckpt. --half rounds the weights to half
precision; loaded, they are computed with in single precision. --onnx adds separator.onnx: mixture [batch, samples] to
estimates [batch, samples, speakers], of any batch and length.
--examples copies recordings of the corpus: see that its licence allows that."""


def add_arguments(parser):
    """Add what follows the command's name."""
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
        choices=WEIGHTS,
        help="which copies of the weights to write (default: both)",
    )
    parser.add_argument("--notes", metavar="FILE", help="Markdown to add to the model card")
    parser.add_argument("--onnx", action="store_true", help="add the separator as ONNX")


def run(arguments):
    """Run the command."""
    from mossformer_sb.inference.separation import MossFormerSeparation
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
        formats=WEIGHTS[1:] if arguments.weights == "both" else [arguments.weights],
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
