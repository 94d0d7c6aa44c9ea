"""A corpus that a small network learns within a minute: one speaker is a low hum, the other high noise."""

import shutil

import numpy as np
import soundfile
from scipy.signal import butter, sosfilt

from data_prep.demo_corpus.mixture_tree import write_wham_tree

RATE = 8000


def write_easy_wham(folder, num_mixtures, seconds=(1.0, 1.4)):
    """Write it in WHAM!'s layout, and return its folder.

    Arguments
    ---------
    folder : Path
        Where to.
    num_mixtures : dict
        Split to number of mixtures.
    seconds : tuple of float
        Shortest and longest utterance.
    """
    speech, noise = {}, {}
    for index, split in enumerate(num_mixtures):
        rng = np.random.default_rng(index)
        lengths = rng.integers(RATE * seconds[0], RATE * seconds[1], (2, 8))
        speech[split] = {
            f"lo{index}": [_filtered(rng, length, "lowpass", 700) for length in lengths[0]],
            f"hi{index}": [_filtered(rng, length, "highpass", 1800) for length in lengths[1]],
        }
        noise[split] = [rng.standard_normal(4 * RATE)]
    write_wham_tree(folder, speech, noise, num_mixtures, seed=0, sample_rate=RATE)
    return folder


def write_easy_wsj0mix(folder, num_mixtures):
    """The speakers of `write_easy_wham` without its noise, in WSJ0-2mix's layout; returns its folder."""
    write_easy_wham(folder / "wham", num_mixtures)
    for split in num_mixtures:
        there, here = folder / "wham/wav8k/min" / split, folder / "2speakers/wav8k/min" / split
        for kind in ("s1", "s2"):
            shutil.copytree(there / kind, here / kind)
        (here / "mix").mkdir()
        for path in (here / "s1").iterdir():
            one, two = (soundfile.read(here / kind / path.name)[0] for kind in ("s1", "s2"))
            soundfile.write(here / "mix" / path.name, one + two, RATE)
    return folder


def _filtered(rng, length, kind, frequency):
    return sosfilt(butter(6, frequency, kind, fs=RATE, output="sos"), rng.standard_normal(length))
