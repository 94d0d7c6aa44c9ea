"""``mossformer-sb convert``: from the authors' checkpoints to a model folder, or back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Convert a checkpoint of the authors' MossFormer or MossFormer2 into a model folder, or back. Its format is recognised:

  MossFormer, ModelScope      encoder.bin, masknet.bin, decoder.bin
  MossFormer2, ModelScope     pytorch_model.pt or pytorch_model.bin
  MossFormer2, standalone     encoder.ckpt, masknet.ckpt, decoder.ckpt, config.json; or pytorch_model.bin, config.json
  MossFormer2, ClearerVoice   last_best_checkpoint and the .pt file that it names; or model.ckpt-EPOCH-STEP.pt

  mossformer-sb convert released/ --output_folder mossformer2-wsj0-2mix
  mossformer-sb convert checkpoints/MossFormer2_SS_16K --output_folder mossformer2-16k --sample_rate 16000
  mossformer-sb convert mossformer2-16k --output_folder clearvoice --to clearvoice

The released models themselves are downloaded and converted by their names: mossformer-sb models."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "source", metavar="SOURCE", help="the authors' checkpoint, a folder or file; with --to, a model folder"
    )
    parser.add_argument("--output_folder", required=True, help="where to")
    parser.add_argument(
        "--to",
        choices=["modelscope", "standalone", "clearvoice"],
        help="convert a model folder into this format; a MossFormer only into modelscope",
    )
    parser.add_argument(
        "--sample_rate",
        type=int,
        help="sample rate of the training data in Hz (default: as in config.json, else 8000 for ModelScope's format)",
    )
    parser.add_argument(
        "--group_size",
        type=int,
        help="frames per attention group (default: as in ModelScope's configuration.json, else 256)",
    )
    parser.add_argument(
        "--mapping",
        action="store_true",
        default=None,
        help="the mask net's output is decoded without masking, as in the authors' model for WHAMR! (default: if "
        "config.json names that model)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    if arguments.to is not None:
        from mossformer_sb.errors import InputError
        from mossformer_sb.sharing.authors_export import to_authors

        given = [f"--{key}" for key in ("sample_rate", "group_size", "mapping") if getattr(arguments, key) is not None]
        if given:
            raise InputError(
                f"{', '.join(given)}: only for the authors' checkpoints; with --to, the model has its own."
            )

        folder = to_authors(arguments.source, arguments.output_folder, arguments.to)
    else:
        from mossformer_sb.sharing.conversion import from_authors

        folder = from_authors(
            arguments.source,
            arguments.output_folder,
            arguments.sample_rate,
            arguments.group_size,
            apply_masks=None if arguments.mapping is None else False,
        )
    print(f"The converted model is in {folder}")
