"""Small corpora for tests: a few short files in the folders of the real ones, mixtures that are sums of their parts."""

import numpy as np
import soundfile

IDS = ("40na010x_1.9857_01xo031a_-1.9857", "209c0105_6.9829e-05_01ca0102_-6.9829e-05")
IDS_3 = ("01ca0102_1.2972_209c0105_-1.2972_20mo010h_0",)
LIBRI_IDS = {2: ("4077-13754-0001_5142-33396-0065",), 3: ("1-2-3_44-5-6_7-88-9", "1-2-4_44-5-6_7-88-9")}
FRAMES = 1601  # at 8 kHz no round number of seconds

WHAM = {"mix_both": ("s1", "s2", "noise"), "mix_clean": ("s1", "s2"), "mix_single": ("s1", "noise")}
WHAM_FOLDERS = (*WHAM, "s1", "s2", "noise")
WHAMR = {
    f"{mixture}_{room}": tuple(part if part == "noise" else f"{part}_{room}" for part in parts)
    for mixture, parts in WHAM.items()
    for room in ("anechoic", "reverb")
}


def write_wav(path, frames=FRAMES, sample_rate=8000, channels=1, subtype="FLOAT", seed=0):
    """Writes noise, the same for the same arguments, and returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    signal = 0.1 * np.random.default_rng(seed).standard_normal((frames, channels)).astype(np.float32)
    soundfile.write(path, signal, sample_rate, subtype=subtype)
    return signal


def write_tree(top, folders, ids=IDS, splits=("tr", "cv", "tt"), **wav):
    """Writes `top/{split}/{folder}/{id}.wav`."""
    for split in splits:
        for folder in folders:
            for mixture_id in ids:
                write_wav(top / split / folder / f"{mixture_id}.wav", **wav)


def write_sums(top, mixtures, ids=IDS, splits=("tr", "cv", "tt"), extension="wav", sample_rate=8000, **wav):
    """Writes the same, with mixtures that are sums: `mixtures` is folder → folders of its parts."""
    folders = dict.fromkeys(part for parts in mixtures.values() for part in parts)
    for split in splits:
        for mixture_id in ids:
            name = f"{mixture_id}.{extension}"
            signals = {
                folder: write_wav(top / split / folder / name, seed=seed, sample_rate=sample_rate, **wav)
                for seed, folder in enumerate(folders)
            }
            for folder, parts in mixtures.items():
                (top / split / folder).mkdir(exist_ok=True)
                total = sum(signals[part] for part in parts)
                soundfile.write(top / split / folder / name, total, sample_rate, subtype=wav.get("subtype", "FLOAT"))


def write_wham(root, **options):
    """Writes 8 kHz min WHAM!, and returns its folder."""
    write_sums(root / "wav8k" / "min", WHAM, **options)
    return root


def write_whamr(root, **options):
    """Writes 8 kHz min WHAMR!, and returns its folder."""
    write_sums(root / "wav8k" / "min", WHAMR, **options)
    return root


def write_wsj0mix(root, num_spks=2, **options):
    """Writes 8 kHz min WSJ0-2mix or WSJ0-3mix, and returns the folder of both."""
    sums = {"mix": tuple(f"s{i}" for i in range(1, num_spks + 1))}
    write_sums(root / f"{num_spks}speakers" / "wav8k" / "min", sums, ids=IDS if num_spks == 2 else IDS_3, **options)
    return root


def write_librimix(root, num_spks=2, splits=("train-100", "dev", "test"), **options):
    """Writes 8 kHz min Libri2Mix or Libri3Mix in 16 bit, and returns the folder of both."""
    speakers = tuple(f"s{i}" for i in range(1, num_spks + 1))
    sums = {"mix_both": (*speakers, "noise"), "mix_clean": speakers, "mix_single": ("s1", "noise")}
    top = root / f"Libri{num_spks}Mix" / "wav8k" / "min"
    write_sums(top, sums, ids=LIBRI_IDS[num_spks], splits=splits, subtype="PCM_16", **options)
    return root


def write_custom(root, num_spks=2, noise=False, **options):
    """Writes data of one's own in folders, and returns their folder."""
    parts = tuple(f"s{i}" for i in range(1, num_spks + 1)) + (("noise",) if noise else ())
    write_sums(root, {"mix": parts}, ids=("b b", "a"), **options)
    return root
