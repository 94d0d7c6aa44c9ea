"""Checks of a corpus before it is used: the headers of its files, and optionally all samples.

All problems are listed with their mixtures, not only the first one.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_prep.manifests.corpus_index import MIXTURE, Problem
from data_prep.messages import NUM_SHOWN
from data_prep.parallel import thread_map
from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.audio_reader import AudioReader, DamagedAudio
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from data_prep.manifests.corpus_index import CorpusIndex

STEP = 2.0**-15  # of 16-bit audio
NOT_MONO = "files that are not mono"
MONO_ADVICE = {
    "WHAMR!": "If made with --channels both: `python -m data_prep.generate whamr --channels left` makes mono files.",
}
CLIPPED_RUN = 3  # consecutive samples at full scale; fewer may be a peak


class Header(NamedTuple):
    """Facts from the header of an audio file."""

    frames: int
    sample_rate: int
    channels: int


class Fault(NamedTuple):
    """A problem of a file."""

    kind: str
    text: str


def check(listing: CorpusIndex, check_samples: bool = False, trim: int = 0) -> tuple[dict, list[Problem]]:
    """Checks every file of a corpus.

    By its header, each file must exist, be readable and complete, have the right sample rate, be mono, and have the
    length of its mixture's other files. The samples of mixtures that pass are read if `check_samples` is set: there
    must be no NaN, no silence and no clipping, and the mixture must be the sum of its parts.

    Arguments
    ---------
    listing : CorpusIndex
        The corpus to check.
    check_samples : bool
        Whether to read samples too.
    trim : int
        Maximum difference in samples between the lengths of a mixture's files.

    Returns
    -------
    headers : dict
        file → Header, or a Fault if it can't be used.
    problems : list of Problem
        The problems of the listing, then the others.
    """
    files = list(dict.fromkeys(file for _, _, mixture in listing.rows for file in mixture.all_files))
    found = thread_map(lambda file: read_header(listing.root / file), files, "Reading headers", "file")
    headers = dict(zip(files, found, strict=True))
    problems = list(listing.problems)
    for split, mixture_id, mixture in listing.rows:
        for file, fault in _header_faults(mixture, headers, listing.sample_rate, trim):
            problems.append(Problem(fault.kind, split, mixture_id, file, fault.text))
    if check_samples:
        problems += _check_samples(listing, headers, spoiled(problems))
    return headers, problems


def spoiled(problems: list[Problem]) -> set:
    """Mixtures with a problem, as a set of (split, ID)."""
    return {(problem.split, problem.mixture_id) for problem in problems}


def summary(listing: CorpusIndex, problems: list[Problem]) -> str:
    """Numbers of problems of each kind, and the first ones.

    Arguments
    ---------
    listing : CorpusIndex
        The checked corpus.
    problems : list of Problem
        The problems found.

    Returns
    -------
    text : str
        Several lines. A file that several mixtures share is counted once.
    """
    distinct = list({(problem.kind, problem.file): problem for problem in reversed(problems)}.values())[::-1]
    kinds = collections.Counter(problem.kind for problem in distinct)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    lines = [f"{listing.name} in '{listing.root}', {len(listing.rows)} mixtures checked: {counts}."]
    lines += [f"  {problem.file} {problem.text}" for problem in distinct[:NUM_SHOWN]]
    if len(distinct) > NUM_SHOWN:
        lines.append(f"  … and {len(distinct) - NUM_SHOWN} more")
    if NOT_MONO in kinds and listing.name in MONO_ADVICE:
        lines.append(MONO_ADVICE[listing.name])
    return "\n".join(lines)


def shared_speakers(listing: CorpusIndex) -> list[str]:
    """Speakers of the test split who are also in a training split.

    Arguments
    ---------
    listing : CorpusIndex
        The corpus. Mixtures without names of speakers are ignored.

    Returns
    -------
    speakers : list of str
        Sorted names.

    Example
    -------
    >>> from pathlib import Path
    >>> from data_prep.manifests.corpus_index import CorpusIndex, MixtureFiles
    >>> splits = {"tr": {"a": MixtureFiles({}, speakers="AB")}, "tt": {"b": MixtureFiles({}, speakers="BC")}}
    >>> shared_speakers(CorpusIndex("a corpus", "a", 8000, Path("."), splits=splits))
    ['B']
    """
    heard, unheard = set(), set()
    for split, _, mixture in listing.rows:
        if split in listing.train:
            heard.update(mixture.speakers or ())
        elif split == listing.test:
            unheard.update(mixture.speakers or ())
    return sorted(heard & unheard)


# Headers


def read_header(path: Path) -> Header | Fault:
    """Returns a Header, or a Fault if the file can't be used."""
    try:
        if path.stat().st_size == 0:
            return Fault("unreadable files", "is empty (0 bytes); needed an audio file")
        with AudioReader(path) as reader:
            header = Header(reader.frames, reader.sample_rate, reader.channels)
    except FileNotFoundError:
        return Fault("missing files", "does not exist")
    except DamagedAudio as error:
        kind = "truncated files" if error.damage.truncated else "unreadable files"
        return Fault(kind, f"{error.damage.text}; needed the complete file. {error.damage.remedy}")
    except InputError as error:
        return Fault("unreadable files", str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return Fault("unreadable files", f"can't be read ({error.strerror}); needed an audio file")
    if header.frames == 0:
        return Fault("files without samples", "has no samples; needed at least one")
    return header


def _header_faults(mixture, headers, sample_rate, trim):
    """Yields (file, Fault): files that can't be used, have the wrong format, or differ from their mixture in length."""
    first = headers[mixture.files[MIXTURE]]
    comparable = isinstance(first, Header) and first.sample_rate == sample_rate
    if comparable:
        found = [headers[file] for file in mixture.all_files]
        lengths = [
            header.frames for header in found if isinstance(header, Header) and header.sample_rate == sample_rate
        ]
        comparable = max(lengths) - min(lengths) > trim
    for file in mixture.all_files:
        header = headers[file]
        if isinstance(header, Fault):
            yield file, header
            continue
        if header.channels != 1:
            yield file, Fault(NOT_MONO, f"has {header.channels} channels; needed 1 (mono)")
        if header.sample_rate != sample_rate:
            text = f"has a sample rate of {header.sample_rate} Hz; needed {sample_rate} Hz"
            yield file, Fault("wrong sample rates", text)
        elif comparable and header.frames != first.frames:
            text = f"has {header.frames} samples; needed {first.frames}, as in {mixture.files[MIXTURE]}"
            yield file, Fault("different lengths", text)


# Samples


def _check_samples(listing, headers, excluded):
    rows = [row for row in listing.rows if row[:2] not in excluded]
    faults = thread_map(
        lambda row: list(_sample_faults(listing.root, row[2], headers)), rows, "Reading samples", "mixture"
    )
    return [
        Problem(fault.kind, split, mixture_id, file, fault.text)
        for (split, mixture_id, _), found in zip(rows, faults, strict=True)
        for file, fault in found
    ]


def _sample_faults(root, mixture, headers):
    """Yields (file, Fault) for problems in the samples of a mixture's files."""
    signals = {}
    for file in mixture.all_files:
        signal = _read_samples(root / file, headers[file].frames)
        fault = signal if isinstance(signal, Fault) else _signal_fault(signal)
        if fault:
            yield file, fault
        if not isinstance(signal, Fault) and np.isfinite(signal).all():
            signals[file] = signal
    if mixture.parts and all(file in signals for file in (mixture.files[MIXTURE], *mixture.parts)):
        fault = _sum_fault(signals[mixture.files[MIXTURE]], {file: signals[file] for file in mixture.parts})
        if fault:
            yield mixture.files[MIXTURE], fault


def _read_samples(path, frames):
    """Returns the samples [T], or a Fault. Only reading shows that a compressed file is truncated."""
    try:
        samples, _ = read_audio(path)
    except InputError as error:
        return Fault("unreadable files", str(error).removeprefix(f"{path}: "))
    if len(samples) != frames:
        text = f"is truncated: it has {len(samples)} of the {frames} samples in its header; needed the complete file"
        return Fault("truncated files", text)
    return samples


def _signal_fault(signal):
    """The first problem of a signal's samples, or None."""
    if not np.isfinite(signal).all():
        count = np.count_nonzero(~np.isfinite(signal))
        return Fault("files with NaN or infinity", f"has {count} samples that are NaN or infinite; needed none")
    if np.abs(signal).max() <= STEP:
        return Fault("silent files", "is silent: no sample is above one 16-bit step; needed a signal")
    if _is_clipped(signal):
        text = f"is clipped: {CLIPPED_RUN} or more consecutive samples are at full scale; needed a signal below it"
        return Fault("clipped files", text)
    return None


def _is_clipped(signal):
    """Whether the signal has a run of equal samples at or above full scale.

    Float files may exceed it without clipping; clipped samples are equal.
    """
    full = np.abs(signal) >= 1 - STEP
    if np.count_nonzero(full) < CLIPPED_RUN:
        return False
    flat = full[1:] & (signal[1:] == signal[:-1])
    return bool(np.lib.stride_tricks.sliding_window_view(flat, CLIPPED_RUN - 1).all(axis=1).any())


def _sum_fault(mixture, parts):
    """A fault unless the mixture is the sum of its parts, with an error of up to one 16-bit step per file."""
    shortest = min(map(len, (mixture, *parts.values())))
    total = np.sum([signal[:shortest] for signal in parts.values()], axis=0, dtype=np.float64)
    error = np.abs(mixture[:shortest] - total)
    allowed = (len(parts) + 1) * STEP
    worst = int(error.argmax())
    if error[worst] <= allowed:
        return None
    text = (
        f"is not the sum of {', '.join(parts)}: off by {error[worst]:.2g} at sample {worst}; "
        f"needed at most {allowed:.2g}"
    )
    full = [file for file, signal in parts.items() if abs(signal[worst]) >= 1 - STEP]
    if abs(mixture[worst]) >= 1 - STEP or full:
        text += f". There, {', '.join(full) or 'it'} is at full scale: a louder signal is cut off"
    return Fault("mixtures unlike the sum of their parts", text)
