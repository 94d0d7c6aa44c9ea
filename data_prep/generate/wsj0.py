"""Raw WSJ0 (LDC93S6A), the recordings that WSJ0-mix, WHAM! and WHAMR! are made of, and their way into arrays."""

import math
from pathlib import Path
from typing import NamedTuple

from data_prep.audio import SAMPLE_RATE
from data_prep.messages import NUM_SHOWN
from data_prep.parallel import thread_map
from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.audio_reader import AudioReader, DamagedAudio
from mossformer_sb.errors import InputError

_SPHERE_HEADER = 1024  # bytes


class RawRecording(NamedTuple):
    """A file that can be used, and its length.

    Attributes
    ----------
    path : str
        Where it lies.
    frames : int
        Samples per channel, as its header says.
    """

    path: str
    frames: int


def find_wsj0(wsj0_folder, names):
    """Finds utterances of WSJ0, as WAV or NIST SPHERE files, and checks their headers.

    An utterance that the metadata calls `wsj0/si_tr_s/40n/40na010x.wav` may also lie there as `40na010x.wv1`, the name
    that the recordings of the first microphone have on the discs.

    Arguments
    ---------
    wsj0_folder : str or Path
        The folder that holds `wsj0/`, or this folder itself, or the one that holds the discs (`11-1.1/wsj0/`, …).
    names : Iterable of str
        Paths as in the metadata.

    Returns
    -------
    recordings : dict
        name → RawRecording.

    Raises
    ------
    InputError
        If an utterance is absent or can't be used; it counts and names all that can't.
    """
    roots = _roots(Path(wsj0_folder).expanduser())
    return check_recordings({name: _locate(roots, name) for name in dict.fromkeys(names)}, "WSJ0", _wsj0_problem)


def check_recordings(files, corpus, explain=None):
    """Reads the headers of raw recordings.

    Arguments
    ---------
    files : Mapping
        name → path. Names are for messages.
    corpus : str
        For messages.
    explain : Callable, optional
        From a path and its header, or None where it can't be read, to what is wrong in addition, or None.

    Returns
    -------
    recordings : dict
        name → RawRecording.

    Raises
    ------
    InputError
        If a file is absent, can't be read, or does not have 16 kHz; it counts and names all that can't be used.
    """
    results = thread_map(lambda path: _check_header(path, explain), list(files.values()), f"Checking {corpus}", "file")
    problems = [f"  {name} {result}" for name, result in zip(files, results, strict=True) if isinstance(result, str)]
    if problems:
        lines = [f"{corpus}: {len(problems)} of {len(files)} recordings that the metadata names can't be used:"]
        lines += problems[:NUM_SHOWN]
        if len(problems) > NUM_SHOWN:
            lines.append(f"  … and {len(problems) - NUM_SHOWN} more")
        lines.append("Nothing was written. Complete or repair them, then start again.")
        raise InputError("\n".join(lines))
    return dict(zip(files, results, strict=True))


def read_recording(recording, channel=0):
    """Reads one channel of a whole recording.

    Arguments
    ---------
    recording : RawRecording
        Which.
    channel : int
        Number of the channel, from 0, of a recording with several.

    Returns
    -------
    samples : numpy.ndarray
        float32, shape [frames], full scale 1: 16-bit samples are exact.

    Raises
    ------
    InputError
        If the file is not as long as its header says.
    """
    samples, _ = read_audio(recording.path)
    if len(samples) != recording.frames:
        raise InputError(
            f"{recording.path}: has {len(samples)} frames where its header promised {recording.frames}: "
            "the file is truncated or has changed. Copy it again, then start again."
        )
    return samples if samples.ndim == 1 else samples[:, channel]


def find_metadata(folders, name):
    """Finds a metadata file.

    Arguments
    ---------
    folders : sequence of str or Path
        Where it may lie, the first that has it counts.
    name : str
        Its name.

    Returns
    -------
    path : Path
        The file.

    Raises
    ------
    InputError
        If none has it.
    """
    paths = [Path(folder).expanduser() / name for folder in folders]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        looked = ", ".join(f"'{path.parent}'" for path in paths)
        raise InputError(
            f"Metadata file {name} does not exist in {looked}: give the folder of the published metadata files as "
            "metadata_folder."
        )
    return found


def read_fields(path, needed, separator=None):
    """Reads a text file with the same number of fields in every line.

    Arguments
    ---------
    path : str or Path
        The file; empty lines don't count.
    needed : sequence of str
        What the fields are, for messages.
    separator : str, optional
        What lies between fields; any white space if None.

    Returns
    -------
    lines : list of tuple
        For each line, its place for messages and its fields.

    Raises
    ------
    InputError
        If the file is no text, a line has another number of fields, or there is none at all.

    Example
    -------
    >>> path = getfixture("tmp_path") / "levels.txt"
    >>> _ = path.write_text("20va010q 2.5717652515284110e-04\\n")
    >>> [fields for place, fields in read_fields(path, ("utterance", "level"))]
    [['20va010q', '2.5717652515284110e-04']]
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as text ({error}). Is it the published file?") from error
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split(separator)
        if not line.strip():
            continue
        if len(fields) != len(needed):
            raise InputError(
                f"{path}:{number}: has {len(fields)} fields; needed {len(needed)}: {', '.join(needed)}. "
                "Is it the published file, and whole?"
            )
        lines.append((f"{path}:{number}", fields))
    if not lines:
        raise InputError(f"{path}: is empty; needed lines with the fields {', '.join(needed)}. Copy it again.")
    return lines


def read_number(place, what, text):
    """Reads a finite number; raises an InputError that names its place if it is none.

    Example
    -------
    >>> read_number("mix_2_spk_tr.txt:1", "gain", "-1.9857")
    -1.9857
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{place}: {what} is {text!r}; needed a finite number. Is it the published file?")
    return number


# Finding


def _roots(folder):
    """The folders that paths of the metadata may start from, and whether these begin with `wsj0/` there."""
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"wsj0_folder '{folder}' {found}: give the folder that holds wsj0/.")
    roots = [parent for parent in (folder, *sorted(folder.iterdir())) if (parent / "wsj0").is_dir()]
    if not roots and not any((folder / part).is_dir() for part in ("si_tr_s", "si_dt_05", "si_et_05")):
        raise InputError(
            f"wsj0_folder '{folder}' is not laid out as WSJ0: it holds neither wsj0/ nor si_tr_s/, si_dt_05/ or "
            "si_et_05/. Give the folder that holds wsj0/."
        )
    return roots or [folder]


def _locate(roots, name):
    """The path of an utterance; where there is none, the one that it should have."""
    places = []
    for root in roots:
        path = root / name if (root / "wsj0").is_dir() else root / name.removeprefix("wsj0/")
        places += [path, path.with_suffix(".wv1")]
    return next((place for place in places if place.is_file()), places[0])


# Headers


def _check_header(path, explain):
    """Returns a RawRecording, or what is wrong."""
    header = error = None
    if path.is_file():
        try:
            with AudioReader(path) as header:
                pass
        except InputError as caught:
            error = caught
    problem = explain(path, header) if explain else None
    if problem:
        return problem
    if isinstance(error, DamagedAudio):
        return f"{error.damage.text}; needed the whole file '{path}'"
    if error:
        reason = str(error).removeprefix(f"{path}: ")
        return f"{reason} Needed WAV or uncompressed NIST SPHERE: '{path}'"
    if header is None:
        return f"does not exist; needed '{path}'"
    if header.sample_rate != SAMPLE_RATE:
        return f"has a sample rate of {header.sample_rate} Hz; needed {SAMPLE_RATE} Hz: '{path}'"
    if header.frames == 0:
        return f"has no samples; needed at least one: '{path}'"
    return RawRecording(str(path), header.frames)


def _wsj0_problem(path, header):
    if header is not None:
        return f"has {header.channels} channels; needed 1 (mono): '{path}'" if header.channels != 1 else None
    if not path.is_file():
        if path.with_suffix(".wv2").is_file():
            return (
                "is there from the second microphone only (.wv2), and the corpus is made of the first's recordings "
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
