"""Room impulse responses (RIR) for dynamic mixing, computed once.

`mossformer_sb.data.impulse_responses` reads them.

Each room has its own file, written atomically: an interrupted run resumes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly
from tqdm import tqdm

from data_prep.generate.engine import alone
from data_prep.generate.image_source import impulse_responses
from data_prep.generate.rooms import SAMPLE_RATE, draw_room, read_rooms
from data_prep.messages import first_of
from data_prep.parallel import process_map
from mossformer_sb.data.impulse_responses import DESCRIPTION, response_name
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import atomic_write

logger = logging.getLogger(__name__)

UNFINISHED = f"{DESCRIPTION}.unfinished"
_RESPONSE = re.compile(r"\d{6,}\.npy")  # as `response_name` makes them
WORTH_WORKERS = 20  # minimum number of rooms for several processes
VERSION = 1  # increase when the same rooms give other responses


def compute_rooms(
    folder: str | Path,
    num_rooms: int,
    num_spks: int = 2,
    sample_rate: int = 8000,
    rooms_csv: str | Path | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Computes the RIRs of rooms from each speaker to the left microphone, unless they exist.

    They are computed at 16 kHz, as for WHAMR!, and then resampled.

    Arguments
    ---------
    folder : str or Path
        Output folder.
    num_rooms : int
        Number of rooms to draw, from the distribution of WHAMR!, with a mean reverberation time of 0.56 s.
    num_spks : int
        Number of sources per room.
    sample_rate : int
        Sample rate of the RIRs in Hz.
    rooms_csv : str or Path, optional
        WHAMR!'s table of rooms, `reverb_params_tr.csv`, instead of `num_rooms` and `seed`.
    seed : int
        Seed of the rooms.
    workers : int, optional
        Number of processes. Default: one per CPU.

    Raises
    ------
    InputError
        If the table is invalid, or the folder can't be written, or holds other rooms (of another seed, number of
        speakers or rate), with which another training may be working, or other files.
    """
    folder = Path(folder)
    if rooms_csv is None and (isinstance(num_rooms, bool) or not isinstance(num_rooms, int) or num_rooms < 1):
        raise InputError(
            f"num_rooms {num_rooms!r}: give a whole number of one or more; or rir_folder null, for no rooms."
        )
    if rooms_csv is None:
        rooms = [draw_room(np.random.default_rng([seed, number]), num_spks) for number in range(num_rooms)]
    else:
        rooms = list(read_rooms(rooms_csv, num_spks).values())
    # WHAMR!'s rooms get the RIRs of WHAMR!
    sinc = "exact" if rooms_csv is None else "table"
    described = (VERSION, sample_rate, rooms) + ((sinc,) if sinc != "exact" else ())
    identity = hashlib.sha256(repr(described).encode()).hexdigest()
    facts = {"num_rooms": len(rooms), "num_spks": num_spks, "sample_rate": sample_rate, "rooms": identity}
    try:
        _compute_missing(folder, facts, rooms, sinc, workers)
    except OSError as error:
        raise InputError(
            f"rir_folder '{folder}' can't be written ({error.strerror or error}): give a writable folder. Finished "
            "rooms are kept, and not computed again."
        ) from error
    logger.info("%s: %d rooms, mean T60 %.2f s", folder, len(rooms), np.mean([room.t60 for room in rooms]))


def _compute_missing(folder, facts, rooms, sinc, workers):
    if _described(folder / DESCRIPTION) == facts and not _missing(folder, rooms):
        return  # a finished folder may be read-only
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        _make_ready(folder, facts)
        jobs = [(number, rooms[number]) for number in _missing(folder, rooms)]
        compute = functools.partial(_compute, folder, facts["sample_rate"], sinc)
        with process_map(compute, 1 if len(jobs) < WORTH_WORKERS else workers) as mapped:
            done = len(rooms) - len(jobs)
            for _ in tqdm(mapped(jobs), "Computing rooms", len(rooms), done, unit="room", disable=None):
                pass
        _write(folder / DESCRIPTION, json.dumps(facts, indent=2).encode())


def _missing(folder, rooms):
    """Numbers of the rooms without a file."""
    return [number for number in range(len(rooms)) if not (folder / response_name(number)).is_file()]


def _make_ready(folder, facts):
    """Prepares the folder for its first or its missing RIRs; those of an unfinished run for other rooms are deleted."""
    complete, unfinished = (_described(folder / name) for name in (DESCRIPTION, UNFINISHED))
    if facts in (complete, unfinished):
        return
    if complete is not None:
        raise InputError(
            f"{folder}: holds {complete['num_rooms']} simulated rooms of other settings "
            f"({_difference(complete, facts)}), with which another training may be working. Give another rir_folder, "
            "or the same settings; or delete it, if nobody needs it."
        )
    if unfinished is None:
        _check_empty(folder)
    for path in folder.iterdir():
        if _RESPONSE.fullmatch(path.name):
            path.unlink()
    _write(folder / UNFINISHED, json.dumps(facts).encode())


def _difference(there, now):
    """What differs between two descriptions."""
    values = [f"{key} {there[key]} there, {now[key]} now" for key in list(now)[:-1] if there.get(key) != now[key]]
    return ", ".join(values) or "another seed, rooms_csv or version"


def _described(path):
    """The content of a description, or None if there is none of ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() >= {"num_rooms", "num_spks"} else None


def _check_empty(folder):
    """Raises an InputError if a folder holds files that were not written here, such as measured RIRs."""
    strange = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
    if strange:
        raise InputError(
            f"rir_folder '{folder}' holds {first_of(strange)}, and no {DESCRIPTION} of rooms that were simulated here. "
            "Simulated room impulse responses are written to it: give a new or an empty folder."
        )


def _compute(folder, sample_rate, sinc, job):
    number, room = job
    direct, full = (impulse_responses(room, anechoic=anechoic, sinc=sinc)[:, 0] for anechoic in (True, False))
    responses = np.stack([direct, full], axis=1)  # [S, 2, R]
    if sample_rate != SAMPLE_RATE:
        # At a lower rate, the sum over fewer samples needs a larger factor.
        responses = resample_poly(responses, sample_rate, SAMPLE_RATE, axis=-1) * (SAMPLE_RATE / sample_rate)
    path = folder / response_name(number)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, responses.astype(np.float32))


def _write(path, content):
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
