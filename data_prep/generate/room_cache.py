"""Room impulse responses (RIR) for dynamic mixing, computed once.

`mossformer_sb.data.impulse_responses` reads them.

Each room has its own file, written atomically: an interrupted run resumes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly
from tqdm import tqdm

from data_prep.generate.image_source import impulse_responses
from data_prep.generate.rooms import SAMPLE_RATE, draw_room, read_rooms
from data_prep.parallel import process_map
from mossformer_sb.data.impulse_responses import DESCRIPTION, response_name
from mossformer_sb.utils.files import atomic_write

logger = logging.getLogger(__name__)

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

    They are computed at 16 kHz, as for WHAMR!, and then resampled. Those of another seed, number of speakers or rate in
    the same folder are replaced.

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
        If the table is invalid.
    """
    folder = Path(folder)
    if rooms_csv is None:
        rooms = [draw_room(np.random.default_rng([seed, number]), num_spks) for number in range(num_rooms)]
    else:
        rooms = list(read_rooms(rooms_csv, num_spks).values())
    # WHAMR!'s rooms get the RIRs of WHAMR!
    sinc = "exact" if rooms_csv is None else "table"
    described = (VERSION, sample_rate, rooms) + ((sinc,) if sinc != "exact" else ())
    identity = hashlib.sha256(repr(described).encode()).hexdigest()
    facts = {"num_rooms": len(rooms), "num_spks": num_spks, "sample_rate": sample_rate, "rooms": identity}
    _make_folder(folder, facts)
    missing = [number for number in range(len(rooms)) if not (folder / response_name(number)).is_file()]
    if missing:
        jobs = [(number, rooms[number]) for number in missing]
        compute = functools.partial(_compute, folder, sample_rate, sinc)
        with process_map(compute, 1 if len(missing) < WORTH_WORKERS else workers) as mapped:
            for _ in tqdm(
                mapped(jobs), "Computing rooms", len(rooms), len(rooms) - len(missing), unit="room", disable=None
            ):
                pass
    _write(folder / DESCRIPTION, json.dumps(facts, indent=2).encode())
    logger.info("%s: %d rooms, mean T60 %.2f s", folder, len(rooms), np.mean([room.t60 for room in rooms]))


def _make_folder(folder, facts):
    """Creates the folder, or deletes the RIRs of other rooms from it."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{DESCRIPTION}.unfinished"
    for path in (unfinished, folder / DESCRIPTION):
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) == facts:
            return
    (folder / DESCRIPTION).unlink(missing_ok=True)
    for path in folder.glob("[0-9]*.npy"):
        path.unlink()
    _write(unfinished, json.dumps(facts).encode())


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
