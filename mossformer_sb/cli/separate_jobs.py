"""Separating the recordings of a list, and reporting the result of each."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from typing import TYPE_CHECKING

from mossformer_sb.cli.input_files import STDIN
from mossformer_sb.cli.progress import Progress
from mossformer_sb.errors import InputError
from mossformer_sb.inference.output_names import ANY_SPEAKER, companion_path, harmless, speaker_path
from mossformer_sb.utils.files import for_soundfile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

    from mossformer_sb.cli.input_files import Job
    from mossformer_sb.inference.output_files import Output
    from mossformer_sb.inference.separation import MossFormerSeparation

logger = logging.getLogger(__name__)

SEPARATED, EXISTS, FAILED = "separated", "already there", "failed"  # statuses of a recording
_CHECKED_SPEAKERS = range(1, 10)  # no model separates more
_EXACT_LENGTH = {"WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF"}  # libsndfile's names of formats


def planned(job: Job, output: Output) -> list[Path]:
    """The files of a recording, before the model's number of speakers is known.

    Arguments
    ---------
    job : mossformer_sb.cli.input_files.Job
        The recording.
    output : mossformer_sb.inference.output_files.Output
        The files to write.

    Returns
    -------
    list of Path
        Paths, with ``{n}`` for a speaker's number unless one is chosen.

    Raises
    ------
    InputError
        If the recording's name leads out of the output folder.
    """
    number = ANY_SPEAKER if output.only is None else output.only
    speakers = [speaker_path(job.folder, job.name, number, output.format, output.pattern)]
    rest = [companion_path(job.folder, job.name, "rest", output.format, output.pattern)] if output.rest else []
    return [*speakers, *rest, *output.activity_paths(job.folder, job.name).values()]


def check_distinct(jobs: list[Job], output: Output) -> list[Job]:
    """Check that no two recordings have the same output file, and that none is written over a recording.

    Arguments
    ---------
    jobs : list of mossformer_sb.cli.input_files.Job
        All recordings.
    output : mossformer_sb.inference.output_files.Output
        The files to write.

    Returns
    -------
    list of mossformer_sb.cli.input_files.Job
        The same recordings. One whose own name can't name its output has this as its problem, so that the others are
        separated.

    Raises
    ------
    InputError
        If the pattern gives files of two recordings the same name, or that of a recording.
    """
    inputs = {os.path.realpath(job.path): job for job in jobs if job.path != STDIN}
    owners = {}
    return [job if job.problem else _with_owned_names(job, output, owners, inputs) for job in jobs]


def _with_owned_names(job, output, owners, inputs):
    """The recording, now the owner of its files' names; or with the problem why it can't be."""
    numbers = _CHECKED_SPEAKERS if output.only is None else [output.only]
    try:
        paths = [speaker_path(job.folder, job.name, number, output.format, output.pattern) for number in numbers]
    except InputError as error:
        return dataclasses.replace(job, problem=f"{job.path}: {error}")
    paths += planned(job, output)[1:]
    recording = next((path for path in paths if os.path.realpath(path) in inputs), None)
    if recording is not None:
        raise InputError(
            f"{job.path} would be written to {recording}, which is one of the recordings: choose another output folder "
            f"or name pattern, or leave that file out."
        )
    owner, taken = next(((owners[path], path) for path in paths if path in owners), (None, None))
    if owner is None:
        owners.update(dict.fromkeys(paths, job))
        return job
    both = f"{owner.path} and {job.path} would both be written to {taken}"
    if job.name != owner.name and harmless(job.name) == harmless(owner.name):
        return dataclasses.replace(job, problem=f"{both}: rename one of them.")
    raise InputError(
        f"{both}: give a name pattern with {{stem}} in it, and something between {{stem}} and {{n}}; it is "
        f"'{output.pattern}'."
    )


def separate_jobs(
    model: MossFormerSeparation,
    jobs: list[Job],
    output: Output,
    options: Mapping,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[dict]:
    """Separate recordings; an error in one of them does not affect the others.

    Arguments
    ---------
    model : mossformer_sb.inference.separation.MossFormerSeparation
    jobs : list of mossformer_sb.cli.input_files.Job
    output : mossformer_sb.inference.output_files.Output
        The files to write.
    options : mapping
        More arguments of `mossformer_sb.inference.bulk.separate_recordings`.
    overwrite : bool
        Whether to separate again where output exists.
    quiet : bool
        Whether to show no progress.

    Returns
    -------
    list of dict
        One per recording: ``recording``, ``status``, and the keys of `SeparatedRecording.to_dict`, or ``error``.
    """
    from tqdm.contrib.logging import logging_redirect_tqdm

    from mossformer_sb.inference.bulk import separate_recordings

    results, due = known_results(jobs, output, model.hparams.num_spks, overwrite)
    with logging_redirect_tqdm(), Progress([jobs[index] for index in due], hidden=quiet) as progress:
        tasks = ((open_recording(jobs[index]), jobs[index].folder, jobs[index].name) for index in due)
        separated = separate_recordings(model, tasks, output, report=progress.add, **options)
        for number, (index, found) in enumerate(zip(due, separated, strict=True)):
            results[index] = _job_result(jobs[index], found)
            progress.finish(number)
    return results


def known_results(
    jobs: list[Job], output: Output, num_spks: int, overwrite: bool = False
) -> tuple[list[dict | None], list[int]]:
    """Results that are known before separation: existing output, and recordings that can't be read.

    Arguments
    ---------
    jobs, output, overwrite
        As for `separate_jobs`.
    num_spks : int
        Number of speakers that the model separates.

    Returns
    -------
    results : list of dict or None
        One per recording, as from `separate_jobs`; None if it is to be separated.
    due : list of int
        Positions of the recordings to separate.
    """
    results = [_known(job, output, num_spks, overwrite) for job in jobs]
    return results, [index for index, result in enumerate(results) if result is None]


def _known(job, output, num_spks, overwrite):
    try:
        if job.problem:
            raise InputError(job.problem)
        paths = output.paths(job.folder, job.name, num_spks)
    except InputError as error:
        logger.error("failed: %s", error)
        return _failure(str(job.path), error)
    if overwrite or job.path == STDIN or not all(map(os.path.isfile, paths)):
        return None
    if other := _other_length(job.path, paths[0]):
        error = (
            f"{job.path}: {paths[0]} is there already, and of another recording: it has {other}. Give another "
            f"--output_folder or --name, or --overwrite to replace it."
        )
        logger.error("failed: %s", error)
        return _failure(str(job.path), error)
    return {"recording": str(job.path), "status": EXISTS, "files": [str(path) for path in paths]}


def _other_length(recording, estimate):
    """The length and rate of an estimate, if they are not those of its recording, which they always are; else None.

    Only for formats whose headers have exact lengths.
    """
    import soundfile

    try:
        found, needed = (soundfile.info(for_soundfile(path)) for path in (estimate, recording))
    except (OSError, RuntimeError):  # not of these formats; or damaged, which the separation would report
        return None
    is_exact = {found.format, needed.format} <= _EXACT_LENGTH and needed.frames > 0
    if not is_exact or (found.frames, found.samplerate) == (needed.frames, needed.samplerate):
        return None
    return f"{found.frames} samples at {found.samplerate} Hz, not {needed.frames} at {needed.samplerate}"


def _job_result(job, found):
    """The result of a recording, from that of `separate_recordings`; logs errors and warnings."""
    import torch

    name = str(job.path)
    if isinstance(found, Exception):
        if isinstance(found, InputError):
            logger.error("failed: %s", found)
        elif isinstance(found, (OSError, MemoryError, torch.OutOfMemoryError)):
            logger.error("failed: %s: %s", name, found)
        else:  # a bug in this program: report it, and separate the other files
            logger.error("failed: %s", name, exc_info=found)
        return _failure(name, found)
    if found.one_speaker_suspected:
        logger.warning("%s: there seems to be only one speaker: all other outputs are far softer.", name)
    return {"status": SEPARATED, **found.to_dict(), "recording": name}


def open_recording(job: Job) -> str | Path | BinaryIO:
    """The input for `separate_recording`: a path, or the standard input."""
    return sys.stdin.buffer if job.path == STDIN else job.path


def _failure(name, error):
    return {"recording": name, "status": FAILED, "error": str(error) or type(error).__name__}


def report(
    results: list[dict],
    passed_over: list[Path],
    model: str,
    output_folder: str | Path,
    as_json: bool = False,
    quiet: bool = False,
) -> None:
    """Print the results.

    Arguments
    ---------
    results : list of dict
        Results of `separate_jobs`.
    passed_over : list of Path
        Files of unsupported formats.
    model : str
        Name of the model.
    output_folder : str or Path
        Folder of the files.
    as_json : bool
        Print JSON.
    quiet : bool
        Print nothing, unless as JSON.
    """
    if as_json:
        content = {"model": model, "recordings": results, "passed_over": [str(path) for path in passed_over]}
        print(json.dumps(content, indent=2))  # in ASCII, which any console has
        return
    if quiet:
        return
    counts = {status: sum(result["status"] == status for result in results) for status in (SEPARATED, EXISTS, FAILED)}
    hint = " (--overwrite separates again, with this model and these options)"
    there = f", {counts[EXISTS]} were already there{hint}" if counts[EXISTS] else ""
    single = sum(result.get("one_speaker_suspected", False) for result in results)
    print(f"{counts[SEPARATED]} of {len(results)} recordings separated{there}, {counts[FAILED]} failed.", end="")
    print(f" {single} seem to have only one speaker." if single else "", end="")
    print(f" {len(passed_over)} files of other formats were skipped." if passed_over else "", end="")
    print(f" Output folder: {output_folder}" if counts[SEPARATED] or counts[EXISTS] else "")
