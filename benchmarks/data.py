"""Dynamic mixing, side by side with SpeechBrain's: `python -m benchmarks.data`.

Both make two-speaker mixtures in noise at 8 kHz, with speed perturbation, from the same recordings, in turns and in one
process of one thread. What is compared is items a second of one worker of a data loader.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from benchmarks.speechbrain_mixing import SpeechBrainMixing
from data_prep.mixing_tables import prepare_mixing
from mossformer_sb.augment import Augmentation
from mossformer_sb.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.errors import InputError

SAMPLE_RATE = 8000
NUM_SPEAKERS, UTTERANCES_EACH, NUM_NOISES = 40, 5, 100


def write_recordings(folder):
    """Write what both draw from: utterances of 5 to 12 s, one folder a speaker, and noise of 6 to 14 s; 16 bit.

    What sounds in them does not matter here: noise throughout.
    """
    rng = np.random.default_rng(0)
    folder = Path(folder)
    names = [f"speech/{spk:03d}/{spk:03d}{n:05d}.wav" for spk in range(NUM_SPEAKERS) for n in range(UTTERANCES_EACH)]
    lengths = rng.uniform(5, 12, len(names))
    names += [f"noise/{number:05d}.wav" for number in range(NUM_NOISES)]
    lengths = np.concatenate([lengths, rng.uniform(6, 14, NUM_NOISES)])
    for name, seconds in zip(names, lengths, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(round(seconds * SAMPLE_RATE)), SAMPLE_RATE, subtype="PCM_16")
    return folder


def ours(folder, segment, levels, speed_perturb):
    """Our dataset on the recordings of a folder."""
    manifest = folder / "tr.csv"
    manifest.write_text(f"ID,duration,sample_rate,mix_wav,s1_wav\na,4.0,{SAMPLE_RATE},$data_root/a,$data_root/b\n")
    speech, noise = folder / "speech", folder / "noise"
    prepare_mixing(True, manifest, folder, folder, speech_folder=speech, noise_folder=noise, workers=1)
    return DynamicMixtureDataset(
        manifest,
        folder,
        folder / "mixing_speech.csv",
        folder / "mixing_noise.csv",
        levels=levels,
        segment=segment,
        mixtures_per_epoch=10**6,
        augmentation=Augmentation(speed_perturb),
    )


def compare(folder, segment=4.0, items=40, rounds=9):
    """Time both in turns.

    Arguments
    ---------
    folder : Path
        Recordings, as `write_recordings` lays them out.
    segment : float
        Seconds of an item.
    items : int
        Items of one turn.
    rounds : int
        How many turns each has.

    Returns
    -------
    list of dict
        For each pipeline ``name``, ``items_per_second``, the median, and ``ratio``, the median over the rounds of its
        speed to that of SpeechBrain's.
    """
    reference = SpeechBrainMixing(folder / "speech", folder / "noise", SAMPLE_RATE, segment)
    pipelines = {"SpeechBrain's, literally": reference.__getitem__}
    for levels in ("wham", "speechbrain"):
        for speed in ("discrete", "continuous"):
            pipelines[f"ours, levels: {levels}, {speed} speeds"] = ours(folder, segment, levels, speed).__getitem__
    for draw in pipelines.values():
        draw(0)  # filters are designed, files come into the cache
    seconds = {name: [] for name in pipelines}
    for turn in tqdm(range(rounds), "Mixing", unit="round", disable=None):
        for name, draw in pipelines.items():
            start = time.perf_counter()
            for index in range(turn * items, (turn + 1) * items):
                draw(index)
            seconds[name].append((time.perf_counter() - start) / items)
    base = seconds["SpeechBrain's, literally"]
    return [
        {
            "name": name,
            "items_per_second": 1 / statistics.median(found),
            "ratio": statistics.median(slow / fast for slow, fast in zip(base, found, strict=True)),
        }
        for name, found in seconds.items()
    ]


def main(arguments=None):
    """Runs the comparison that the command line describes; 0, or 2 after an error in what the user gave."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__.partition(":")[0])
    parser.add_argument("--folder", help="recordings: speech/SPEAKER/*.wav and noise/*.wav at 8 kHz; made if left out")
    parser.add_argument("--segment", type=float, default=4.0, help="seconds of an item (default: 4)")
    parser.add_argument("--items", type=int, default=40, help="items of one turn (default: 40)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each pipeline (default: 9)")
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.folder) if options.folder else write_recordings(scratch)
        try:
            rows = compare(folder, options.segment, options.items, options.rounds)
        except InputError as error:
            sys.stderr.write(f"{error}\n")
            return 2
    print(f"{'':46}{'items/s':>9}{'ratio':>8}")
    for row in rows:
        print(f"{row['name']:46}{row['items_per_second']:9.1f}{row['ratio']:8.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
