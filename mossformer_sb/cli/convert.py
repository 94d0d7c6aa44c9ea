"""``mossformer-sb convert``: the authors' checkpoint into a model folder, or back."""

DESCRIPTION = """\
Convert the authors' released checkpoint (encoder.bin, masknet.bin, decoder.bin) into a model folder, or back.

  mossformer-sb convert released/ --output_folder mossformer-wsj0-2mix --sample_rate 8000
  mossformer-sb convert mossformer-wsj0-2mix --output_folder their-format --to modelscope"""


def add_arguments(parser):
    """Add what follows the command's name."""
    parser.add_argument("source", metavar="SOURCE", help="folder of the authors' files; with --to, a model folder")
    parser.add_argument("--output_folder", required=True, help="where to")
    parser.add_argument("--to", choices=["modelscope"], help="convert one of our models into the authors' format")
    parser.add_argument("--sample_rate", type=int, default=8000, help="Hz that it was trained at (default: 8000)")
    parser.add_argument("--group_size", type=int, default=256, help="frames of an attention group (default: 256)")


def run(arguments):
    """Run the command."""
    from mossformer_sb.sharing.modelscope import from_modelscope, to_modelscope

    if arguments.to is not None:
        folder = to_modelscope(arguments.source, arguments.output_folder)
    else:
        folder = from_modelscope(arguments.source, arguments.output_folder, arguments.sample_rate, arguments.group_size)
    print(f"The converted model is in {folder}")
