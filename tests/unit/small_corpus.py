"""What the corpus of many speakers can be made of in a second: clips, noise, a tree like LibriSpeech's, and a list."""

import numpy as np
import pandas as pd
import soundfile

from tests.unit.mixing_pools import stationary

SPEAKERS = {
    "tr": ("cv-a", "cv-b", "ls-11"),
    "cv": ("ls-21", "ls-22"),
    "tt": ("31", "32"),
    "tt_commonvoice": ("cv-c", "cv-d"),
    "tt_so762": ("so762-1", "so762-2"),
}
NUMBERS = {"num_train": 3, "num_valid": 3, "num_test": 6, "num_rooms": 2, "num_noises": 4, "workers": 1}


def write_source(root):
    """Writes it; returns the arguments of `prepare_many_speakers` that name it."""
    rng = np.random.default_rng(0)
    rows = []
    for split, speakers in SPEAKERS.items():
        for speaker in speakers:
            rows.append(_write_utterance(root, rng, speaker) if split == "tt" else _write_clip(root, rng, speaker))
            rows[-1]["split"] = split
    pd.DataFrame(rows)[["clip", "speaker", "split", "source", "file"]].to_csv(root / "list.csv", index=False)
    for kind, rate in (("rain", 8000), ("dog", 16000)):
        (root / "noise" / kind).mkdir(parents=True)
        soundfile.write(root / "noise" / kind / "0.wav", stationary(rng, 1.5, rate=rate), rate, subtype="PCM_16")
    return {
        "clips_folder": root / "clips",
        "recorded_noise_folder": root / "noise",
        "librispeech_folder": root / "LibriSpeech",
        "list_file": root / "list.csv",
    }


def _write_clip(root, rng, speaker):
    path = root / "clips" / speaker / f"{speaker}-00000.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, stationary(rng, rng.uniform(1.2, 1.6)), 8000, subtype="PCM_16")
    return {"clip": path.stem, "speaker": speaker, "source": "clips", "file": f"{speaker}.mp3"}


def _write_utterance(root, rng, speaker):
    path = root / "LibriSpeech" / "test-other" / speaker / "7" / f"{speaker}-7-0000.flac"
    path.parent.mkdir(parents=True)
    soundfile.write(path, stationary(rng, rng.uniform(1.2, 1.6), rate=16000), 16000, subtype="PCM_16")
    file = path.relative_to(root / "LibriSpeech").as_posix()
    return {"clip": path.stem, "speaker": speaker, "source": "librispeech", "file": file}
