"""Dynamic mixing, compared with SpeechBrain's.

Both make two-speaker mixtures in noise at 8 kHz, with speed perturbation, from the same recordings. The measure
is mixtures/s of one data loader worker.
"""

from pathlib import Path

import numpy as np
import soundfile

from benchmarks.alternating import time_alternating
from benchmarks.speechbrain_mixing import SpeechBrainMixing
from data_prep.manifests.source_tables import prepare_mixing
from mossformer_sb.data.augmentation import Augmentation
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset

SAMPLE_RATE = 8000
NUM_SPEAKERS, UTTERANCES_EACH, NUM_NOISES = 40, 5, 100


def write_recordings(folder):
    """Write the recordings for both: utterances of 5 to 12 s, one folder per speaker, and noise of 6 to 14 s; 16 bit.

    Their content does not matter here: all are noise.
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


def ours(folder, tables, segment, levels, speed_perturb):
    """Our dataset of a folder's recordings, with their tables in another folder."""
    speech, noise = folder / "speech", folder / "noise"
    prepare_mixing(True, None, folder, tables, speech_folder=speech, noise_folder=noise, workers=1)
    return DynamicMixtureDataset(
        manifest=None,
        data_root=None,
        speech_table=tables / "mixing_speech.csv",
        noise_table=tables / "mixing_noise.csv",
        level_distribution=levels,
        segment=segment,
        mixtures_per_epoch=10**6,
        augmentation=Augmentation(speed_perturb),
    )


def compare(folder, tables, segment=4.0, items=40, rounds=9):
    """Time both in alternation.

    Arguments
    ---------
    folder : Path
        Recordings, in the layout of `write_recordings`.
    tables : Path
        Output folder of our tables of them.
    segment : float
        Seconds of a mixture.
    items : int
        Mixtures per round.
    rounds : int
        Number of rounds.

    Returns
    -------
    list of dict
        As `benchmarks.alternating.time_alternating` returns them; the first is SpeechBrain's.
    """
    pipelines = {
        f"ours, levels: {levels}, {speed} speeds": ours(folder, tables, segment, levels, speed).__getitem__
        for levels in ("wham", "speechbrain")
        for speed in ("discrete", "continuous")
    }
    reference = SpeechBrainMixing(folder / "speech", folder / "noise", SAMPLE_RATE, segment)
    return time_alternating({"SpeechBrain's, literally": reference.__getitem__, **pipelines}, items, rounds, "Mixing")
