"""Small corpora for tests: a few short files in the folders of the real ones."""

import numpy as np
import soundfile

IDS = ("40na010x_1.9857_01xo031a_-1.9857", "209c0105_6.9829e-05_01ca0102_-6.9829e-05")
IDS_3 = ("01ca0102_1.2972_209c0105_-1.2972_20mo010h_0",)
WHAM_FOLDERS = ("mix_both", "mix_clean", "mix_single", "s1", "s2", "noise")
FRAMES = 1601  # at 8 kHz no round number of seconds


def write_wav(path, frames=FRAMES, sample_rate=8000, channels=1, subtype="FLOAT"):
    """Writes noise; the same for the same arguments."""
    path.parent.mkdir(parents=True, exist_ok=True)
    signal = 0.1 * np.random.default_rng(0).standard_normal((frames, channels))
    soundfile.write(path, signal.astype(np.float32), sample_rate, subtype=subtype)


def write_tree(top, folders, ids=IDS, splits=("tr", "cv", "tt"), **wav):
    """Writes `top/{split}/{folder}/{id}.wav`."""
    for split in splits:
        for folder in folders:
            for mixture_id in ids:
                write_wav(top / split / folder / f"{mixture_id}.wav", **wav)


def write_wham(root, **options):
    """Writes 8 kHz min WHAM!, and returns its folder."""
    write_tree(root / "wav8k" / "min", WHAM_FOLDERS, **options)
    return root


def write_wsj0mix(root, num_spks=2, **options):
    """Writes 8 kHz min WSJ0-2mix or WSJ0-3mix, and returns the folder of both."""
    folders = ("mix", *(f"s{i}" for i in range(1, num_spks + 1)))
    write_tree(root / f"{num_spks}speakers" / "wav8k" / "min", folders, ids=IDS if num_spks == 2 else IDS_3, **options)
    return root
