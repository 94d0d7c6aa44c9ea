"""``mossformer-sb separate``: separate recordings into one file per speaker."""

from __future__ import annotations

import datetime
import json
import logging
import os
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING

from mossformer_sb.cli.input_files import list_recordings, shard
from mossformer_sb.cli.input_list import read_input_list
from mossformer_sb.cli.model_options import MODEL_SOURCES, add_model_options, model_options
from mossformer_sb.cli.separate_cluster import ModelChoice, check_cluster_options, separate_on_cluster
from mossformer_sb.cli.separate_jobs import check_distinct, open_recording, planned, report, separate_jobs
from mossformer_sb.data.audio_writing import FORMATS, SUBTYPES
from mossformer_sb.errors import InputError
from mossformer_sb.inference.chunking import Chunking
from mossformer_sb.inference.output_files import Output
from mossformer_sb.inference.output_gain import LEVELS
from mossformer_sb.inference.output_names import DEFAULT_PATTERN
from mossformer_sb.utils.deferred import deferred
from mossformer_sb.utils.files import make_output_folder

if TYPE_CHECKING:
    import argparse

SOME_FAILED = 1  # exit code
LONGEST_WAIT = datetime.timedelta(days=365)  # of a process for the slowest one
STDOUT = "-"  # as the output folder

DESCRIPTION = """\
Separate recordings into one file per speaker, NAME_spk1.wav and so on, at the recording's own rate and length.

  mossformer-sb separate talk.mp3            # into separated/, with the packaged model
  mossformer-sb separate archive/ 'calls/**/*.wav' --model MODEL --output_folder separated --format flac
  mossformer-sb separate film.mp4 --name '{stem}/voice{n}' --subtype PCM_16 --rest --activity
  mossformer-sb separate --input-list wav.scp --json > what_was_written.json
  cat talk.wav | mossformer-sb separate - --only 1 --output_folder - > first_speaker.wav
  torchrun --nproc_per_node=4 -m mossformer_sb.cli separate archive/ ...     # one process per GPU
  mossformer-sb separate archive/ --cluster tcp://host:8786                  # several machines, by Dask

The output folder gets the subfolders of the input. Complete output is kept, so the same command resumes after an
interruption. A file that can't be separated, such as a truncated one, is reported, the others are separated, and the
exit code is 1. Links have their own names, linked folders are searched. Files of unsupported formats in folders are
skipped and listed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="audio file, folder, or pattern in quotes; - for the standard input. m4a, mp4, webm, mov, amr, aac, 3gp "
        'and the like need the extra "av"',
    )
    parser.add_argument(
        "--input-list",
        "--input_list",
        metavar="FILE",
        help="text file with more recordings: one path per line, or, if it ends in .scp, Kaldi's 'ID PATH'",
    )
    parser.add_argument(
        "--model",
        help=f"{MODEL_SOURCES} (default: the packaged model)",
    )
    parser.add_argument(
        "--output_folder",
        default="separated",
        help="created if it does not exist; - for the standard output, for one file, as with --only "
        "(default: separated)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto (the best available), cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument(
        "--format",
        default="wav",
        choices=FORMATS,
        help="format of the output; wav has 32-bit floating point, which never clips (default: wav)",
    )
    parser.add_argument(
        "--level",
        default=LEVELS[0],
        choices=LEVELS,
        help="speakers: a gain for each speaker fits their sum to the recording; mixture: the same with one gain for "
        "all; peak: one gain scales the loudest sample to full scale; none: no further gain (default: speakers)",
    )
    parser.add_argument("--channel", type=int, help="use this channel, counted from 0 (default: the mean of all)")
    parser.add_argument("--overwrite", action="store_true", help="separate again where output exists")
    add_model_options(parser)
    parser.add_argument(
        "--batch-size",
        "--batch_size",
        type=int,
        metavar="N",
        help="recordings or chunks per batch (default: on a GPU as many as fit; 1 elsewhere, which is the fastest on "
        "a CPU)",
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="address of a Dask scheduler, as in tcp://host:8786, or its scheduler file: its workers separate the "
        'recordings, on a shared file system (extra "cluster", see docs/bulk.md)',
    )
    _add_output_arguments(parser.add_argument_group("output files"))
    _add_report_arguments(parser.add_argument_group("messages"))
    chunks = parser.add_argument_group("long recordings, in seconds", "They are cut into overlapping chunks.")
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
        help=f"overlap of chunks; longer than pauses of all speakers ({defaults.overlap:g})",
    )


def _add_output_arguments(group):
    group.add_argument(
        "--subtype",
        choices=SUBTYPES,
        help="sample format of wav and flac; with PCM, all files are attenuated where one would clip "
        "(default: FLOAT in wav, PCM_24 in flac)",
    )
    group.add_argument(
        "--name",
        default=DEFAULT_PATTERN,
        metavar="PATTERN",
        help="names of the files, without the ending: {stem} is the recording's name, {n} the speaker's number, also "
        "as {n:02d}; a slash makes a folder, as in '{stem}/spk{n}' (default: %(default)s)",
    )
    group.add_argument("--rest", action="store_true", help="write the recording minus all speakers too, as NAME_rest")
    group.add_argument("--only", type=int, metavar="N", help="write only speaker N, counted from 1")
    group.add_argument(
        "--activity",
        action="store_true",
        help="also write the speech activity of each speaker: NAME_activity.rttm, .json, and .txt, labels for Audacity "
        '(extra "activity")',
    )


def _add_report_arguments(group):
    group.add_argument(
        "--json", action="store_true", help="print the results as JSON, and nothing else, on the standard output"
    )
    group.add_argument("--list", action="store_true", help="only print which files would be read and written")
    group.add_argument("--quiet", action="store_true", help="print errors only: no progress, notes or summary")


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit code."""
    if arguments.quiet:
        logging.getLogger("mossformer_sb").setLevel(logging.ERROR)
    chunking = Chunking(arguments.chunk_seconds, arguments.chunk_overlap, arguments.chunk_above)
    output = Output(
        format=arguments.format,
        subtype=arguments.subtype,
        pattern=arguments.name,
        only=arguments.only,
        rest=arguments.rest,
        activity=arguments.activity,
    )
    if arguments.output_folder == STDOUT:
        _check_stdout(arguments)
    if arguments.cluster:
        check_cluster_options(arguments.inputs)
    listed = read_input_list(arguments.input_list) if arguments.input_list else []
    if not arguments.inputs and not listed:
        raise InputError("no recording is given: give files, folders or patterns, or an --input-list.")
    passed_over = []
    jobs = check_distinct(list_recordings(arguments.inputs, arguments.output_folder, listed, passed_over), output)
    if arguments.list:
        return _print_list(jobs, output, passed_over, arguments.json)
    if output.activity:
        from mossformer_sb.inference.activity import check_installed

        check_installed()
    return _separate(arguments, shard(jobs), output, chunking, passed_over)


def _separate(arguments, jobs, output, chunking, passed_over):
    """Separate the recordings of a list, and return the exit code."""
    with deferred("scipy.stats"):  # SpeechBrain's samplers import it, which is slower than separating some seconds
        from mossformer_sb.inference.separation import MossFormerSeparation
    from mossformer_sb.pretrained import default_model

    source = default_model() if arguments.model is None else arguments.model
    options = {"level": arguments.level, "channel": arguments.channel, "chunking": chunking}
    options["batch_size"] = arguments.batch_size
    loading = model_options(arguments)
    device = _device_of_rank(arguments.device)
    if arguments.output_folder == STDOUT:
        if len(jobs) != 1:
            raise InputError(f"the standard output is for one file, and {len(jobs)} recordings are given. Give one.")
        model = MossFormerSeparation.from_hparams(source, device=device, **loading)
        return _separate_to_stdout(model, jobs[0], output, options)
    make_output_folder(arguments.output_folder)
    if arguments.cluster:
        choice = ModelChoice(arguments.model, arguments.device, **loading)
        results = separate_on_cluster(
            arguments.cluster, choice, jobs, output, options, arguments.overwrite, quiet=arguments.quiet
        )
    else:
        model = MossFormerSeparation.from_hparams(source, device=device, **loading)
        output.speakers(model.hparams.num_spks)  # an error if the speaker does not exist
        results = separate_jobs(model, jobs, output, options, arguments.overwrite, quiet=arguments.quiet)
    report(results, passed_over, str(source), arguments.output_folder, arguments.json, arguments.quiet)
    return _worst(SOME_FAILED if any(result["status"] == "failed" for result in results) else 0)


def _worst(code):
    """The exit code of this process; under torchrun, when all have finished, the greatest of theirs.

    torchrun ends the other processes as soon as one of them ends with another code than 0.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return code
    import torch

    if not torch.distributed.is_torchelastic_launched():
        return code
    torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    codes = [0] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(codes, code)
    torch.distributed.destroy_process_group()
    return max(codes)


def _check_stdout(arguments):
    """Raise InputError for options that don't fit the standard output."""
    given = [f"--{name}" for name in ("rest", "activity", "json", "cluster") if getattr(arguments, name)]
    if arguments.only is None or given:
        raise InputError(
            f"the standard output (--output_folder -) is for one file: choose a speaker with --only N"
            f"{', and remove ' + ', '.join(given) if given else ''}."
        )


def _separate_to_stdout(model, job, output, options):
    """Write one speaker's complete file to the standard output."""
    with tempfile.TemporaryDirectory() as folder:
        if job.problem:
            raise InputError(job.problem)
        found = model.separate_recording(open_recording(job), folder, "talk", output, **options)
        with open(found.audio_paths[0], "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return 0


def _print_list(jobs, output, passed_over, as_json):
    """Print which files would be read and written."""
    plan = [
        {
            "recording": str(job.path),
            "files": [] if job.problem else [str(path) for path in planned(job, output)],
            "problem": job.problem,
        }
        for job in jobs
    ]
    if as_json:
        print(json.dumps({"recordings": plan, "passed_over": [str(path) for path in passed_over]}, indent=2))
        return 0
    for entry in plan:
        print(f"{entry['recording']} -> {entry['problem'] or ', '.join(entry['files'])}")
    return 0


def _device_of_rank(device):
    """The GPU of this process under torchrun."""
    import torch

    if device == "auto" and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    return device
