"""Raw WSJ0 (LDC93S6A), the recordings of WSJ0-mix, WHAM! and WHAMR!: finding and reading them."""

from __future__ import annotations

import filecmp
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data_prep.audio import SAMPLE_RATE
from data_prep.generate.file_access import FolderListings, access_problem
from data_prep.messages import NUM_SHOWN
from data_prep.parallel import thread_map
from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.audio_reader import AudioReader, DamagedAudio
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np

logger = logging.getLogger(__name__)

PARTS = ("si_tr_s", "si_dt_05", "si_et_05")
FIRST_MICROPHONE, SECOND_MICROPHONE = ".wv1", ".wv2"  # Sennheiser near the mouth, and others
SUFFIXES = (".wav", FIRST_MICROPHONE, ".flac", ".sph")  # of an utterance, in order of precedence
_SPHERE_HEADER = 1024  # bytes


class RawRecording(NamedTuple):
    """A usable file, and its length.

    Attributes
    ----------
    path : str
        Its path.
    frames : int
        Number of samples per channel, from its header.
    """

    path: str
    frames: int


def find_wsj0(wsj0_folder: str | Path, names: Iterable[str]) -> dict:
    """Finds utterances of WSJ0, as WAV, NIST SPHERE or FLAC files, and checks their headers.

    An utterance with the name `wsj0/si_tr_s/40n/40na010x.wav` in the metadata may also exist as `40na010x.wv1`, the
    name of the first microphone's recordings on the discs, as `.flac` or `.sph`, and in upper case.

    Arguments
    ---------
    wsj0_folder : str or Path
        The folder that holds `wsj0/`, or `wsj0/` itself, or the folder of the discs (`11-1.1/wsj0/`, …), or the folder
        that contains `csr_1`.
    names : Iterable of str
        Paths as in the metadata.

    Returns
    -------
    recordings : dict
        name → RawRecording.

    Raises
    ------
    InputError
        If an utterance is missing or invalid, or exists twice with different content; the message lists all of these.
    """
    utterances = _Utterances(Path(expanded(wsj0_folder)))
    places = {name: utterances.locate(name) for name in dict.fromkeys(names)}
    if utterances.first_microphone:
        logger.info(
            "WSJ0: %d utterances are from the first microphone (.wv1); %d of them exist from the second, too (.wv2), "
            "which is not used",
            utterances.first_microphone,
            utterances.second_microphone,
        )
    copies = {paths[0]: paths[1:] for paths in places.values()}
    return check_recordings(
        {name: paths[0] for name, paths in places.items()},
        "WSJ0",
        lambda path, header: _wsj0_problem(path, header) or _copies_problem(path, copies[path]),
    )


def check_recordings(
    files: Mapping,
    corpus: str,
    explain: Callable | None = None,
    sample_rate: int = SAMPLE_RATE,
    advice: str = "Complete or repair them",
) -> dict:
    """Reads the headers of raw recordings.

    Arguments
    ---------
    files : Mapping
        name → path. Names are for messages.
    corpus : str
        Name of the corpus for messages.
    explain : Callable, optional
        Function from a path and its header (None if it can't be read) to a further problem, or None.
    sample_rate : int
        Required sample rate in Hz.
    advice : str
        Remedy for messages.

    Returns
    -------
    recordings : dict
        name → RawRecording.

    Raises
    ------
    InputError
        If a file is missing, can't be read, or has another sample rate; the message lists all of these.
    """
    results = thread_map(
        lambda path: _check_header(path, explain, sample_rate), list(files.values()), f"Checking {corpus}", "file"
    )
    problems = [f"  {name} {result}" for name, result in zip(files, results, strict=True) if isinstance(result, str)]
    if problems:
        lines = [f"{corpus}: {len(problems)} of {len(files)} recordings in the metadata can't be used:"]
        lines += problems[:NUM_SHOWN]
        if len(problems) > NUM_SHOWN:
            lines.append(f"  … and {len(problems) - NUM_SHOWN} more")
        lines.append(f"Nothing was written. {advice}, then start again.")
        raise InputError("\n".join(lines))
    return dict(zip(files, results, strict=True))


def read_recording(recording: RawRecording, channel: int = 0) -> np.ndarray:
    """Reads one channel of a recording.

    Arguments
    ---------
    recording : RawRecording
        The recording.
    channel : int
        Number of the channel, from 0.

    Returns
    -------
    samples : numpy.ndarray
        float32, shape [frames], full scale 1: 16-bit samples are exact.

    Raises
    ------
    InputError
        If the length of the file differs from that in its header.
    """
    samples, _ = read_audio(recording.path)
    if len(samples) != recording.frames:
        raise InputError(
            f"{recording.path}: has {len(samples)} frames, and its header states {recording.frames}: "
            "the file is truncated or has changed. Copy it again, then start again."
        )
    return samples if samples.ndim == 1 else samples[:, channel]


# Finding


def _find_roots(folder, listings):
    """The folders of the metadata's relative paths: those that contain `wsj0/`, or `wsj0/` itself."""
    if not os.path.isdir(folder) and access_problem(folder) is None:
        found = "is a file" if os.path.exists(folder) else "does not exist"
        raise InputError(f"wsj0_folder '{folder}' {found}: give the folder that holds wsj0/.")
    children = _subfolders(folder)
    roots = [place for place in (folder, *children) if _is_folder(listings.find(place, "wsj0"))]
    if not roots and any(_is_folder(listings.find(folder, part)) for part in PARTS):
        return [folder]
    if not roots:  # the folder of csr_1, which contains the discs
        below = (place for child in children for place in _subfolders(child, must=False))
        roots = [place for place in below if _is_folder(listings.find(place, "wsj0"))]
    if not roots:
        raise InputError(
            f"wsj0_folder '{folder}' is not laid out as WSJ0: it holds neither wsj0/ nor {', '.join(PARTS[:-1])} or "
            f"{PARTS[-1]}, nor has a folder in it wsj0/, as csr_1/11-1.1/wsj0/. Give the folder that holds wsj0/."
        )
    return list({os.path.realpath(root): root for root in reversed(roots)}.values())[::-1]


def _subfolders(folder, must=True):
    """The folders in a folder, sorted; an InputError if it can't be read and is required."""
    problem = access_problem(folder)
    if problem:
        if must:
            raise InputError(f"wsj0_folder '{folder}' {problem}. Allow reading it, or give another copy of WSJ0.")
        return []
    return [Path(path) for path in sorted(entry.path for entry in os.scandir(folder)) if os.path.isdir(path)]


def _is_folder(path):
    return path is not None and os.path.isdir(path)


class _Utterances:
    """Paths of the utterances."""

    def __init__(self, folder):
        self.listings = FolderListings()
        self.roots = _find_roots(folder, self.listings)
        self.first_microphone = 0  # number of utterances from the first one
        self.second_microphone = 0  # number of these that also exist from the second one

    def locate(self, name):
        """Paths of an utterance, one for each root that has it; if there is none, the expected one."""
        places = []
        for root in self.roots:
            below = name if _is_folder(self.listings.find(root, "wsj0")) else name.removeprefix("wsj0/")
            places.append((root, below))
        found = [path for root, below in places if (path := self.listings.find(root, below, SUFFIXES))]
        if found and found[0].suffix.lower() == FIRST_MICROPHONE:
            self.first_microphone += 1
            self.second_microphone += bool(self.listings.find(*places[0], [SECOND_MICROPHONE]))
        root, below = places[0]
        return found or [root / below]


# Headers


def _check_header(path, explain, sample_rate):
    """Returns a RawRecording, or the problem."""
    problem = access_problem(path)
    if problem:
        return problem
    header = error = None
    if os.path.isfile(path):
        try:
            with AudioReader(path) as header:
                pass
        except InputError as caught:
            error = caught
    problem = explain(path, header) if explain else None
    if problem:
        return problem
    if isinstance(error, DamagedAudio):
        return f"{error.damage.text}; needed the complete file '{path}'"
    if error:
        reason = str(error).removeprefix(f"{path}: ")
        return f"{reason} Needed WAV or uncompressed NIST SPHERE: '{path}'"
    if header is None:
        return f"does not exist; needed '{path}'"
    if header.sample_rate != sample_rate:
        return f"has a sample rate of {header.sample_rate} Hz; needed {sample_rate} Hz: '{path}'"
    if header.frames == 0:
        return f"has no samples; needed at least one: '{path}'"
    return RawRecording(str(path), header.frames)


def _wsj0_problem(path, header):
    if header is not None:
        return f"has {header.channels} channels; needed 1 (mono): '{path}'" if header.channels != 1 else None
    if not os.path.isfile(path):
        if path.with_suffix(".wv2").is_file():
            return (
                "exists only from the second microphone (.wv2), and the corpus is made from the first one's recordings "
                f"(.wv1): put '{path.with_suffix('.wv1')}' next to it"
            )
        return None
    with open(path, "rb") as stream:
        start = stream.read(_SPHERE_HEADER)
    if start.startswith(b"NIST_1A") and b"shorten" in start:
        return (
            "is compressed with shorten, which can't be read here: convert all .wv1 files with LDC's sph2pipe, as in "
            f"`sph2pipe -f wav {path.with_suffix('.wv1').name} {path.with_suffix('.wav').name}`: '{path}'"
        )
    return None


def _copies_problem(path, copies):
    """The problem of an utterance that exists in several folders, or None."""
    for copy in copies:
        if not access_problem(copy) and os.path.isfile(copy) and not filecmp.cmp(path, copy, shallow=False):
            return f"exists twice, with different content: '{path}' and '{copy}'; give the folder of one of them"
    return None
