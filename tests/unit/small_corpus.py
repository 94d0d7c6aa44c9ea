"""What the small LibriSpeech corpus can be made of in a second: a tree like LibriSpeech's, and a list of its files."""

import numpy as np
import pandas as pd
import soundfile

from tests.unit.mixing_pools import stationary

PARTS = {"tr": "train-clean-100", "cv": "train-clean-100", "tt": "test-other"}
SPEAKERS = {"tr": ("11", "12", "13"), "cv": ("21", "22"), "tt": ("31", "32")}
NUMBERS = {"num_train": 3, "num_valid": 3, "num_test": 6, "num_rooms": 2, "num_noises": 4, "workers": 1}


def write_source(root):
    """Writes it; returns the arguments of `prepare_small_librispeech` that name it."""
    rng = np.random.default_rng(0)
    rows = []
    for split, part in PARTS.items():
        for speaker in SPEAKERS[split]:
            path = root / "LibriSpeech" / part / speaker / "7" / f"{speaker}-7-0000.flac"
            path.parent.mkdir(parents=True)
            soundfile.write(path, stationary(rng, rng.uniform(1.2, 1.6), rate=16000), 16000, subtype="PCM_16")
            rows.append({"utterance": path.stem, "part": part, "split": split})
    pd.DataFrame(rows).to_csv(root / "list.csv", index=False)
    return {"librispeech_folder": root / "LibriSpeech", "list_file": root / "list.csv"}
