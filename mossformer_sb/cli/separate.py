"""``mossformer-sb separate``: recordings into one file per speaker."""

import logging
import os

from mossformer_sb.cli.input_files import list_recordings, shard
from mossformer_sb.data.audio_io import FORMATS
from mossformer_sb.errors import InputError
from mossformer_sb.inference.chunking import Chunking
from mossformer_sb.inference.output_gain import LEVELS
from mossformer_sb.utils.files import make_output_folder

logger = logging.getLogger(__name__)

SOME_FAILED = 1  # exit code

DESCRIPTION = """\
Separate recordings into one file per speaker, NAME_spk1.wav and so on, at the recording's own rate and length.

  mossformer-sb separate talk.mp3            # into separated/, with the model that comes with the package
  mossformer-sb separate archive/ 'calls/**/*.wav' --model MODEL --output_folder separated --format flac
  torchrun --nproc_per_node=4 -m mossformer_sb.cli separate archive/ ...     # each GPU takes a part

The output folder gets the folders of the input. What is already there is left alone, so the same command resumes
after an interruption. A file that can't be separated is reported, the others are separated, and the exit code is 1; so
it is with a truncated file. Links count under their own names, linked folders are entered. Formats that can't be read
here, such as m4a, are passed over in folders, and counted."""


def add_arguments(parser):
    """Add what follows the command's name."""
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
        "full scale; none: no further gain (default: mixture)",
    )
    parser.add_argument("--channel", type=int, help="take this channel, counted from 0 (default: the mean of all)")
    parser.add_argument("--overwrite", action="store_true", help="separate again what is already there")
    parser.add_argument(
        "--trust", action="store_true", help="run the code that the model's YAML file names, its maker's"
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


def run(arguments):
    """Run the command; returns the exit code."""
    import torch
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from mossformer_sb.inference.separation import MossFormerSeparation, output_paths
    from mossformer_sb.pretrained import default_model

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
            if not arguments.overwrite and all(map(os.path.isfile, paths)):
                skipped += 1
                continue
            try:
                if job.problem:
                    raise InputError(job.problem)
                model.separate_to_files(job.path, job.folder, job.name, arguments.format, progress=True, **options)
            except InputError as error:
                failed += 1
                logger.error("failed: %s", error)
            except (OSError, MemoryError, torch.OutOfMemoryError) as error:
                failed += 1
                logger.error("failed: %s: %s", job.path, error)
            except Exception:  # a fault of this program: it shows, and the other files are separated
                failed += 1
                logger.exception("failed: %s", job.path)
    there = f", {skipped} were already there" if skipped else ""
    print(f"{len(jobs) - failed - skipped} of {len(jobs)} recordings separated{there}, {failed} failed.")
    return SOME_FAILED if failed else 0


def _device_of_rank(device):
    """Under torchrun, each process on a machine takes a GPU of its own."""
    import torch

    if device == "auto" and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    return device
