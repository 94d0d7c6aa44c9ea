"""Sources for dynamic mixing: tables of speech and noise, and room impulse responses.

Speech is single-speaker recordings, by default the sources of the static training set; noise is any recordings, by
default the noise of the static training set. The levels of all utterances are measured once, as are energies of the
noise, which give the loudness of any segment: `mossformer_sb.data.noise_energies`; and the pitch of all utterances, if
mixtures of similar voices are to be drawn: `mossformer_sb.data.pitch`.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from data_prep.generate.file_access import check_name
from data_prep.generate.librimix_splits import FOLDERS, SPLITS
from data_prep.generate.recordings import name_noise, name_speech
from data_prep.generate.room_cache import compute_rooms
from data_prep.manifests.resumable import resumable
from data_prep.messages import first_of
from data_prep.parallel import process_map
from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.audio_reader import AudioReader
from mossformer_sb.data.loudness import active_speech_level, loudness
from mossformer_sb.data.manifests import read_manifest
from mossformer_sb.data.noise_energies import cell_energies
from mossformer_sb.data.pitch import median_pitch
from mossformer_sb.data.source_pools import (
    NOISE_COLUMNS,
    NOISE_TABLE,
    SPEECH_COLUMNS,
    SPEECH_TABLE,
    energies_file,
    pitch_file,
)
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import atomic_write, expanded

logger = logging.getLogger(__name__)

SHORTEST_NOISE = 0.01  # seconds
WORTH_WORKERS = 100  # minimum number of recordings for several processes


def prepare_mixing(
    dynamic_mixing: bool,
    manifest: str | Path,
    data_root: str,
    output_folder: str,
    test_manifest: str | Path | None = None,
    task: str = "",
    num_spks: int = 2,
    sample_rate: int = 8000,
    speech_folder: str | None = None,
    speech_layout: str = "speakers",
    speaker_pattern: str | None = None,
    noise_folder: str | None = None,
    rir_folder: str | None = None,
    num_rooms: int = 2000,
    rooms_csv: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    noise_energies: bool = True,
    similar_pitch_rate: float = 0.0,
    target: str | None = None,
) -> None:
    """Writes `mixing_speech.csv` and `mixing_noise.csv`, which is empty without noise, and computes rooms.

    Next to the tables, `mixing_noise.energies.npy` has energies of the noise, and `mixing_speech.pitch.npy` the pitches
    of the utterances, if they are needed.

    Files of an earlier run for the same recordings are kept; an interrupted run resumes.

    Arguments
    ---------
    dynamic_mixing : bool
        Whether to prepare anything.
    manifest : str
        Manifest of the static training set.
    data_root : str
        Value of `$data_root` in the manifest.
    output_folder : str
        Folder for the tables, created if absent.
    test_manifest : str, optional
        Manifest of the test set. A warning is logged if the single-speaker recordings include one of its speakers.
    task : str
        Task of the training set. Tasks that end in "anechoic" can't be combined with rooms.
    num_spks : int
        Number of speakers of each mixture.
    sample_rate : int
        Sample rate of the room impulse responses in Hz.
    speech_folder : str, optional
        Single-speaker recordings, or a CSV with the columns `path,spk`; the sources of the manifest if None.
    speech_layout : str
        Layout of the folder. "speakers": one folder per speaker, as in WSJ0's `si_tr_s`; "librispeech": files called
        `{speaker}-{chapter}-{utterance}`.
    speaker_pattern : str, optional
        Instead of a layout: a regular expression whose group is the speaker in the path of a file.
    noise_folder : str, optional
        Folder of noise recordings, searched recursively; of one with the folders tr, cv and tt alone, as WHAM!'s, only
        tr. Default: the noise in the manifest, if any.
    rir_folder : str, optional
        Folder for room impulse responses. Default: no rooms.
    num_rooms : int
        Number of rooms to draw, from the distribution of WHAMR!.
    rooms_csv : str, optional
        WHAMR!'s `reverb_params_tr.csv`, whose rooms are used instead.
    seed : int
        Seed of the rooms.
    workers : int, optional
        Number of processes. Default: one per CPU.
    noise_energies : bool
        Whether to store energies of the noise, for the loudness of segments. Otherwise each segment is measured when
        it is drawn, which is slower, and exact to the last bit.
    similar_pitch_rate : float
        If it is not 0, the pitch of all utterances is measured.
    target : str, optional
        "reverb": the sources of the manifest are reverberant. Where rooms are simulated, their anechoic versions are
        used, since reverberation would be applied twice. Default: they are anechoic.

    Raises
    ------
    InputError
        If recordings are missing or invalid, or the manifest lacks required speakers or anechoic sources.
    """
    if not dynamic_mixing:
        return
    if rir_folder is not None and task.endswith("anechoic"):
        raise InputError(f"task {task!r} has no reverberation, but rir_folder is {rir_folder}: set it to null.")
    output_folder = Path(output_folder)
    output_folder.mkdir(parents=True, exist_ok=True)
    speech = (
        _static_speech(manifest, data_root, num_spks, dry=target == "reverb" and rir_folder is not None)
        if speech_folder is None
        else _speech(speech_folder, speech_layout, speaker_pattern)
    )
    _write_table(output_folder / SPEECH_TABLE, speech, _measure_speech, SPEECH_COLUMNS, workers)
    pitches = pitch_file(output_folder / SPEECH_TABLE)
    if similar_pitch_rate:
        _write_beside(pitches, SPEECH_TABLE, speech, _measure_pitch, "Pitch", workers)
    else:
        pitches.unlink(missing_ok=True)  # those of another table would be read after --skip_prep
    if speech_folder is not None and test_manifest is not None and os.path.isfile(test_manifest):
        _warn_of_test_speakers(speech_folder, set(speech.values()), test_manifest, data_root)
    noise = _static_noise(manifest, data_root) if noise_folder is None else _noise(noise_folder)
    _write_table(output_folder / NOISE_TABLE, dict.fromkeys(noise), measure_noise, NOISE_COLUMNS, workers)
    energies = energies_file(output_folder / NOISE_TABLE)
    if noise and noise_energies:
        _write_beside(energies, NOISE_TABLE, noise, _measure_energies, "Loudness of noise", workers)
    else:
        energies.unlink(missing_ok=True)
    if rir_folder is not None:
        compute_rooms(rir_folder, num_rooms, num_spks, sample_rate, rooms_csv, seed, workers)


# ---- lists of recordings


def _speech(source, layout, speaker_pattern):
    folder, named = name_speech(source, layout, speaker_pattern, keys=("speech_folder", "speech_layout"))
    return _speaker_of_each([(os.path.abspath(folder / path), speaker) for path, _, speaker in named], source)


def _speaker_of_each(recordings, source):
    """Pairs of path and speaker → path: speaker. A recording of two speakers would be mixed with itself."""
    speakers = {}
    for path, speaker in recordings:
        other = speakers.setdefault(path, speaker)
        if other != speaker:
            raise InputError(
                f"{source}: {path} is given to the speakers {other} and {speaker}. Remove one of the rows."
            )
    return speakers


def _warn_of_test_speakers(speech_folder, speakers, test_manifest, data_root):
    table = read_manifest(test_manifest, data_root)
    columns = [column for column in table.columns if re.fullmatch(r"s\d+_spk", column)]
    shared = sorted(speakers & set(table[columns].astype(str).to_numpy().ravel()))
    if shared:
        logger.warning(
            "speech_folder %s has recordings of %d speakers of the test set (%s): scores on it will be too high.",
            speech_folder,
            len(shared),
            first_of(shared),
        )


def _static_speech(manifest, data_root, num_spks, dry):
    """The sources of a manifest with their speakers; if ``dry``, the anechoic versions of reverberant sources."""
    table = read_manifest(manifest, data_root, num_spks)
    missing = [f"s{i}_spk" for i in range(1, num_spks + 1) if f"s{i}_spk" not in table.columns]
    if missing:
        raise InputError(
            f"{manifest}: has no column {', '.join(missing)}, so the speakers for dynamic mixing are unknown. Give "
            f"single-speaker recordings with --speech_folder; or state the speakers: for custom data in columns of the "
            f"--csv_file, for a corpus of data_prep.generate in its folder metadata next to Libri2Mix."
        )
    sources = [
        (os.path.abspath(_anechoic(manifest, path) if dry else path), speaker)
        for i in range(1, num_spks + 1)
        for path, speaker in zip(table[f"s{i}_wav"], table[f"s{i}_spk"].astype(str), strict=True)
    ]
    return _speaker_of_each(sorted(sources), manifest)


def _anechoic(manifest, path):
    """The anechoic version of a reverberant source, in the layout of WHAMR!."""
    path = Path(path)
    folder = path.parent.name
    found = path.parent.with_name(f"{folder.removesuffix('_reverb')}_anechoic") / path.name
    if not folder.endswith("_reverb") or not found.is_file():
        raise InputError(
            f"{manifest}: target is reverb, so its sources, as '{path}', are reverberant, and rir_folder would add "
            f"reverberation again. Their anechoic versions are needed, as '{found}', which does not exist. Complete "
            f"the corpus; or give --speech_folder, or --rir_folder null."
        )
    return found


def _noise(folder):
    names, training = name_noise(folder, "noise_folder"), f"{FOLDERS[SPLITS[0]]}/"
    if all(name.startswith(tuple(f"{split}/" for split in FOLDERS.values())) for name in names):
        names = [name for name in names if name.startswith(training)]
        if not names:
            raise InputError(f"noise_folder '{folder}' holds the splits of a corpus, and no {training} for training.")
        logger.info("noise_folder %s holds the splits of a corpus: only %s is used", folder, training)
    return [os.path.abspath(Path(expanded(folder)) / name) for name in names]


def _static_noise(manifest, data_root):
    table = read_manifest(manifest, data_root)
    if "noise_wav" not in table.columns:
        return []
    return sorted({os.path.abspath(path) for path in table["noise_wav"]})


# ---- tables


def _write_table(path, recordings, measure, columns, workers):
    """Writes the table of some recordings, path → speaker or None, unless it exists."""
    for name in recordings:
        check_name(name)
    listed = "\n".join(f"{name}\t{spk}\t{_version(name)}" for name, spk in recordings.items())
    key = hashlib.sha256(listed.encode())
    made_of = path.with_suffix(".sha256")
    if path.is_file() and made_of.is_file() and made_of.read_text() == key.hexdigest():
        return
    with process_map(measure, 1 if len(recordings) < WORTH_WORKERS else workers) as mapped:
        rows = resumable(path.with_suffix(".partial"), key.hexdigest(), list(recordings.items()), mapped, path.stem)
    table = pd.DataFrame(rows, columns=columns)
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False)
        made_of.unlink(missing_ok=True)
    made_of.write_text(key.hexdigest())
    path.with_suffix(".partial").unlink(missing_ok=True)
    hours = (table["num_samples"] / table["sample_rate"]).sum() / 3600
    logger.info("%s: %d recordings, %.2f hours", path, len(table), hours)


def _write_beside(path, table, recordings, measure, description, workers):
    """Writes arrays of a table's recordings, joined, to a file beside the table, unless it exists."""
    made_of, note = path.with_name(table).with_suffix(".sha256"), path.with_suffix(".sha256")
    if path.is_file() and note.is_file() and note.read_text() == made_of.read_text():
        return
    note.unlink(missing_ok=True)
    with process_map(measure, 1 if len(recordings) < WORTH_WORKERS else workers) as mapped:
        arrays = list(tqdm(mapped(recordings), description, len(recordings), unit="file", disable=None))
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.concatenate(arrays))
    note.write_text(made_of.read_text())


def _measure_energies(path):
    return cell_energies(*_first_channel(path))


def _measure_pitch(path):
    return np.array([median_pitch(*_first_channel(path))])


def _first_channel(path):
    samples, sample_rate = read_audio(path)
    samples = samples if samples.ndim == 1 else samples[:, 0]
    if not np.isfinite(samples).all():
        raise InputError(f"{path}: has samples of NaN or infinity. Repair or remove it.")
    return samples, sample_rate


def _version(path):
    """Size and time of a file's last change: other levels of the same length need new measurements."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}). The folder may be incomplete.") from error
    return f"{found.st_size}\t{found.st_mtime_ns}"


def _measure_speech(recording):
    path, speaker = recording
    samples, sample_rate = _first_channel(path)
    levels = (active_speech_level(samples, sample_rate), loudness(samples, sample_rate))
    return (
        path,
        len(samples),
        sample_rate,
        speaker,
        *(round(level, 4) if math.isfinite(level) else level for level in levels),
    )


def measure_noise(recording: tuple) -> tuple:
    """Path, number of samples and sample rate in Hz of a recording, given as a tuple that starts with its path."""
    path, _ = recording
    with AudioReader(path) as header:
        if not header.frames:
            raise InputError(f"{path}: has no samples. Remove it.")
        if header.frames < SHORTEST_NOISE * header.sample_rate:
            raise InputError(
                f"{path}: has {header.frames} samples; needed {SHORTEST_NOISE:g} s or more, to be repeated. Remove it."
            )
        return path, header.frames, header.sample_rate
