"""From the folders of a corpus to its manifests: scanning, checking and writing, the same for every corpus.

A manifest is a CSV with one row a mixture, sorted by ID:

    ID,duration,sample_rate,mix_wav,s1_wav,…,sN_wav[,noise_wav][,s1_spk,…,sN_spk]

Durations are seconds, read from the files. Paths start with `$data_root`, so that a manifest moves with its data. The
column names are SpeechBrain's. A corpus is described by a `Corpus`: which folder fills which column of which split.
"""

import collections
import csv
import logging
import os
import re
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import soundfile
from tqdm import tqdm

from mossformer_sb.dataio import DATA_ROOT
from mossformer_sb.errors import InputError

logger = logging.getLogger(__name__)

SAMPLE_RATES = (8000, 16000)
MODES = ("min", "max")  # mixtures cut to the shortest source, or padded to the longest
SPLITS = ("tr", "cv", "tt")

MIXTURE = "mix_wav"  # the column whose folder says which mixtures there are
NUM_READERS = 16  # headers are small: on a network disk the waiting dominates, and threads overlap it
NUM_SHOWN = 10  # problems shown in full

# What gives each known corpus away, and where the person who has it should go.
LAYOUTS = {
    "WSJ0-2mix": ("2speakers/wav*/*/*/mix", "`python -m data_prep wsj0mix` or hparams/mossformer_wsj0mix.yaml"),
    "WSJ0-3mix": (
        "3speakers/wav*/*/*/mix",
        "`python -m data_prep wsj0mix --num_spks 3` or hparams/mossformer_wsj0mix.yaml with num_spks 3",
    ),
    "WHAM!": ("wav*/*/*/mix_both", "`python -m data_prep wham` or hparams/mossformer_wham.yaml"),
    "WHAMR!": ("wav*/*/*/mix_both_reverb", "hparams/mossformer_whamr.yaml"),
    "LibriMix": ("Libri*Mix/wav*/*/*/mix_*", "hparams/mossformer_librimix.yaml"),
}


@dataclass(frozen=True)
class Corpus:
    """How the files of a corpus lie in its folder.

    In each split, the files of one mixture have the same name in every folder.

    Attributes
    ----------
    name : str
        Name for messages, such as "WHAM!".
    prefix : str
        The manifests are called `{prefix}_{split}.csv`.
    sample_rate : int
        Sample rate that every file must have, in Hz.
    folders : Mapping
        For each split, a mapping from the manifest's column to a folder relative to the corpus, with `mix_wav` first:
        `{"tr": {"mix_wav": "wav8k/min/tr/mix_both", "s1_wav": "wav8k/min/tr/s1", …}}`.
    speakers : Callable, optional
        From the ID of a mixture to the names of its speakers in the order of the sources, or None where the ID does
        not tell. The manifests have speaker columns if every ID tells.
    """

    name: str
    prefix: str
    sample_rate: int
    folders: Mapping[str, Mapping[str, str]]
    speakers: Callable | None = None


class Problem(NamedTuple):
    """One thing wrong with one file."""

    kind: str
    file: str
    text: str


class Header(NamedTuple):
    """What the header of an audio file says."""

    frames: int
    sample_rate: int
    channels: int


def write_manifests(corpus, data_folder, output_folder):
    """Checks every file of a corpus and writes one manifest per split.

    Only headers are read. All problems are collected before any is reported, and nothing is written if there are any.

    Arguments
    ---------
    corpus : Corpus
        Description of the folders.
    data_folder : str
        Folder that the corpus lies in.
    output_folder : str
        Folder for the manifests, created if absent.

    Returns
    -------
    manifests : dict
        For each split, the path of its manifest.

    Raises
    ------
    InputError
        If a folder is missing, or a file is missing or can't be used.
    """
    root = _existing_folder(data_folder)
    _check_layout(corpus, root)
    splits, problems = _scan(corpus, root)
    rows = [row for mixtures in splits.values() for row in mixtures.values()]
    headers, unusable = _read_headers(root, rows)
    problems += unusable + _check_headers(rows, headers, corpus.sample_rate)
    if problems:
        raise InputError(_report(corpus, root, problems, len(rows)))

    output_folder = Path(output_folder)
    manifests = {split: str(output_folder / f"{corpus.prefix}_{split}.csv") for split in splits}
    for split, mixtures in splits.items():
        _write_csv(manifests[split], _rows(corpus, mixtures, headers))
        logger.info("%s: %d mixtures of split '%s' in %s", corpus.name, len(mixtures), split, manifests[split])
    return manifests


def check_choice(key, value, allowed):
    """Raises an InputError unless `value` is one of `allowed`.

    Example
    -------
    >>> check_choice("mode", "min", ("min", "max"))
    >>> check_choice("mode", "mid", ("min", "max"))
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: mode 'mid' is not known: choose one of 'min', 'max'.
    """
    if value not in allowed:
        raise InputError(f"{key} {value!r} is not known: choose one of {', '.join(map(repr, allowed))}.")


def wsj0_speakers(mixture_id):
    """Speakers of a mixture whose ID is built from WSJ0 utterances, as in WSJ0-2mix, WSJ0-3mix, WHAM! and WHAMR!

    Arguments
    ---------
    mixture_id : str
        `{utterance}_{gain}_{utterance}_{gain}…`, with 8-character utterance ids that begin with the speaker's 3.

    Returns
    -------
    speakers : tuple of str, or None
        None where the ID is not of this form.

    Example
    -------
    >>> wsj0_speakers("40na010x_1.9857_01xo031a_-1.9857")
    ('40n', '01x')
    >>> wsj0_speakers("4077-13754-0001_5142-33396-0065") is None
    True
    """
    if not re.fullmatch(rf"{_WSJ0_SOURCE}(_{_WSJ0_SOURCE})*", mixture_id):
        return None
    return tuple(utterance[:3] for utterance in mixture_id.split("_")[::2])


_WSJ0_SOURCE = r"[0-9a-z]{8}_-?\d+(\.\d+)?(e-?\d+)?"  # utterance_gain; a few gains are like 6.9829e-05


def _existing_folder(data_folder):
    root = Path(data_folder).expanduser()
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise InputError(f"data_folder '{data_folder}' {found}: give the folder that the corpus lies in.")
    return root


def _check_layout(corpus, root):
    """Raises an InputError that names the folders a corpus lacks, and what seems to have happened."""
    needed = [folder for columns in corpus.folders.values() for folder in columns.values()]
    missing = [folder for folder in needed if not (root / folder).is_dir()]
    if missing:
        named = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise InputError(
            f"data_folder '{root}' is not laid out as {corpus.name}: it lacks {named}. {_advice(corpus, root, missing)}"
        )


def _advice(corpus, root, missing):
    layouts = {name: next(root.glob(telltale), None) for name, (telltale, _) in LAYOUTS.items()}
    if not layouts.get(corpus.name):  # several corpora may share a folder, and this one be the incomplete one
        for name, found in layouts.items():
            if found:
                return (
                    f"Found {found.relative_to(root).as_posix()}: this is the layout of {name}. "
                    f"Use {LAYOUTS[name][1]}, or give the folder that has {missing[0]}."
                )
    for other in (*root.resolve().parents[:4], *sorted(root.iterdir())):
        if os.path.isdir(other / missing[0]):  # not Path.is_dir, which raises where we may not look
            return f"Found it in '{other}': give that as data_folder."
    return _what_is_there(root, missing[0])


def _what_is_there(root, folder):
    """Says what the deepest existing folder on the way to a missing one holds instead."""
    parent = root / folder
    while not parent.is_dir():
        wanted, parent = parent.name, parent.parent
    names = sorted(child.name for child in parent.iterdir() if child.is_dir())
    found = ", ".join(names[:NUM_SHOWN]) + ("…" if len(names) > NUM_SHOWN else "") if names else "no folder at all"
    return f"'{parent}' should have a folder '{wanted}', and has: {found}."


def _scan(corpus, root):
    """Lists the mixtures of each split, with the files of each.

    Returns
    -------
    splits : dict
        split → ID → column → file, relative to the root. IDs are sorted; missing files are left out.
    problems : list of Problem
        Files without their mixture, mixtures without a file, and splits without any.
    """
    splits, problems = {}, []
    for split, folders in corpus.folders.items():
        names = {column: _wav_names(root / folder) for column, folder in folders.items()}
        mixtures = sorted(names[MIXTURE], key=_mixture_id)
        splits[split] = {
            _mixture_id(name): {col: f"{folder}/{name}" for col, folder in folders.items() if name in names[col]}
            for name in mixtures
        }
        if not mixtures:
            problems.append(Problem("no mixtures", folders[MIXTURE], "holds no .wav file; needed at least one"))
        for column, folder in folders.items():
            for name in sorted(names[MIXTURE] - names[column]):
                text = f"does not exist; needed as the {column} of {folders[MIXTURE]}/{name}"
                problems.append(Problem("missing files", f"{folder}/{name}", text))
            for name in sorted(names[column] - names[MIXTURE]):
                text = f"belongs to no mixture; needed {folders[MIXTURE]}/{name}"
                problems.append(Problem("files without a mixture", f"{folder}/{name}", text))
    return splits, problems


def _wav_names(folder):
    # Names that begin with a dot are leftovers of file managers, such as "._a.wav".
    return {entry.name for entry in os.scandir(folder) if entry.name.endswith(".wav") and entry.name[0] != "."}


def _mixture_id(name):
    return name.removesuffix(".wav")


def _read_headers(root, rows):
    """Reads the header of every file of every mixture: one pass with threads.

    Returns
    -------
    headers : dict
        file → Header, for the files that can be read.
    problems : list of Problem
        One for each of the others.
    """
    headers, problems = {}, []
    with ThreadPoolExecutor(NUM_READERS) as pool:
        results = pool.map(lambda row: {file: _read_header(root, file) for file in row.values()}, rows)
        for result in tqdm(results, "Checking audio files", len(rows), unit="mixture", disable=None):
            for file, header in result.items():
                if isinstance(header, Header):
                    headers[file] = header
                else:
                    problems.append(header)
    return headers, problems


def _read_header(root, file):
    """Returns a Header, or a Problem where there is none to be used."""
    path = root / file
    try:
        if path.stat().st_size == 0:
            return Problem("unreadable files", file, "is empty (0 bytes); needed a WAV file")
        lost = _lost_bytes(path)
        if lost:
            text = f"is truncated: its last {lost} bytes of audio are missing; needed the whole file"
            return Problem("truncated files", file, text)
        info = soundfile.info(str(path))
    except (OSError, soundfile.SoundFileError) as error:
        return Problem("unreadable files", file, f"can't be read as audio ({error}); needed a WAV file")
    if info.frames == 0:
        return Problem("files without samples", file, "has no samples; needed at least one")
    return Header(info.frames, info.samplerate, info.channels)


def _lost_bytes(path):
    """Number of bytes that a RIFF header promises and the file lacks.

    libsndfile shortens such a file without a word, and an interrupted copy would pass for a short recording. Programs
    that write to a stream can't know the size and leave 0xFFFFFFFF, which says nothing.
    """
    with open(path, "rb") as stream:
        riff = stream.read(12)
        if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
            return 0
        while len(chunk := stream.read(8)) == 8:
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                present = os.fstat(stream.fileno()).st_size - stream.tell()
                return 0 if size == 0xFFFFFFFF else max(0, size - present)
            stream.seek(size + size % 2, os.SEEK_CUR)  # chunks are padded to even sizes
    return 0


def _check_headers(rows, headers, sample_rate):
    """Lists files of the wrong format, and files that differ in length from their mixture."""
    problems = []
    for row in rows:
        mixture = headers.get(row[MIXTURE])
        for file in row.values():
            header = headers.get(file)
            if header is None:
                continue  # already reported
            if header.channels != 1:
                text = f"has {header.channels} channels; needed 1 (mono)"
                problems.append(Problem("files that are not mono", file, text))
            if header.sample_rate != sample_rate:
                text = f"has a sample rate of {header.sample_rate} Hz; needed {sample_rate} Hz"
                problems.append(Problem("wrong sample rates", file, text))
            elif mixture and mixture.sample_rate == sample_rate and header.frames != mixture.frames:
                text = f"has {header.frames} samples; needed {mixture.frames}, as in {row[MIXTURE]}"
                problems.append(Problem("different lengths", file, text))
    return problems


def _report(corpus, root, problems, num_mixtures):
    kinds = collections.Counter(problem.kind for problem in problems)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    lines = [f"{corpus.name} in '{root}', {num_mixtures} mixtures looked at: {counts}."]
    lines += [f"  {problem.file} {problem.text}" for problem in problems[:NUM_SHOWN]]
    if len(problems) > NUM_SHOWN:
        lines.append(f"  … and {len(problems) - NUM_SHOWN} more")
    lines.append("No manifest was written. Repair these files, or copy or generate them again, then start again.")
    return "\n".join(lines)


def _rows(corpus, mixtures, headers):
    """The rows of one manifest, as dicts."""
    speakers = [corpus.speakers(mixture_id) for mixture_id in mixtures] if corpus.speakers else [None]
    rows = []
    for index, (mixture_id, files) in enumerate(mixtures.items()):
        frames, sample_rate, _ = headers[files[MIXTURE]]
        row = {"ID": mixture_id, "duration": frames / sample_rate, "sample_rate": sample_rate}
        row |= {column: f"{DATA_ROOT}/{file}" for column, file in files.items()}
        if all(speakers):
            row |= {f"s{i}_spk": name for i, name in enumerate(speakers[index], 1) if f"s{i}_wav" in files}
        rows.append(row)
    return rows


def _write_csv(path, rows):
    """Writes rows under a temporary name first: an interrupted run leaves no half manifest."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    unfinished = f"{path}.tmp"
    with open(unfinished, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(unfinished, path)
