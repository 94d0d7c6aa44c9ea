"""Recordings to mix dynamically: stationary, so that the level of a crop is that of the whole."""

import json

import numpy as np
import pandas as pd
import soundfile
from scipy.signal import butter, sosfilt

from data_prep.generate.room_cache import compute_rooms
from data_prep.manifests.source_tables import prepare_mixing

RATE = 8000


def stationary(rng, seconds, rate=RATE, level=0.05):
    """Noise in the band of speech."""
    band = butter(2, (200, 3000), "bandpass", fs=rate, output="sos")
    return level * sosfilt(band, rng.standard_normal(round(seconds * rate)))


def write_speech(root, num_speakers=5, num_utterances=3, seconds=(2.0, 4.0), rate=RATE):
    """One folder a speaker; levels differ by up to 20 dB. Returns the folder."""
    rng = np.random.default_rng(1)
    for speaker in range(num_speakers):
        (root / f"spk{speaker}").mkdir(parents=True)
        for number in range(num_utterances):
            signal = stationary(rng, rng.uniform(*seconds), rate, 10 ** rng.uniform(-2.5, -1.5))
            soundfile.write(root / f"spk{speaker}" / f"u{speaker}{number}.wav", signal, rate, subtype="FLOAT")
    return root


def write_noise(root, seconds=(3.0, 5.0, 0.7)):
    """Recordings of noise, one of them short. Returns the folder."""
    rng = np.random.default_rng(2)
    root.mkdir(parents=True)
    for number, length in enumerate(seconds):
        soundfile.write(root / f"n{number}.wav", stationary(rng, length, level=0.02 * 2**number), RATE, subtype="FLOAT")
    return root


def write_rooms(root):
    """Four rooms with two speakers each. Returns the folder."""
    compute_rooms(root, num_rooms=4, num_spks=2, workers=1)
    return root


def write_manifest(path, num_mixtures=50, num_spks=2, is_sum=True):
    """A manifest of mixtures that are not there: for the length of an epoch alone."""
    sources = {f"s{i}_wav": "$data_root/s.wav" for i in range(1, num_spks + 1)}
    rows = [
        {"ID": f"m{n:03d}", "duration": 2.0, "sample_rate": RATE, "mix_wav": "$data_root/m.wav", **sources}
        for n in range(num_mixtures)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    path.with_suffix(".json").write_text(json.dumps({"mixture_is_sum": is_sum}))
    return path


def prepare_pools(root, num_spks=2, noise=True, **options):
    """Write it all and prepare it; returns the arguments of a `DynamicMixtureDataset`."""
    root.mkdir(exist_ok=True)
    speech = options.pop("speech_folder", None) or write_speech(root / "speech")
    noise_folder = write_noise(root / "noise") if noise else None
    manifest = write_manifest(root / "tr.csv", num_spks=num_spks)
    prepare_mixing(
        True,
        manifest,
        root,
        root,
        num_spks=num_spks,
        speech_folder=speech,
        noise_folder=noise_folder,
        workers=1,
        **options,
    )
    return {
        "manifest": manifest,
        "data_root": root,
        "speech_table": root / "mixing_speech.csv",
        "noise_table": root / "mixing_noise.csv",
        "num_spks": num_spks,
    }
