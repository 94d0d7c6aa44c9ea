"""Raw recordings and metadata for tests of generation, in the published trees and formats."""

import numpy as np
import soundfile

SPLITS = ("tr", "cv", "tt")
FRAMES = {  # utterance → samples at 16 kHz, odd and even ones
    "40na010x": 2001,
    "01xo031a": 1600,
    "01ca0102": 1777,
    "209c0105": 2400,
    "20mo010h": 1999,
    "050c0101": 1401,
    "440c0201": 1800,
    "22ha010a": 1500,
}
PARTS = {"050c0101": "si_dt_05", "440c0201": "si_et_05", "22ha010a": "si_et_05"}  # others: si_tr_s

# Per split and number of speakers: utterances and gains, as the lists of mixtures spell them.
MIXTURES = {
    2: {
        "tr": [
            (("40na010x", "1.9857"), ("01xo031a", "-1.9857")),
            (("01ca0102", "0.45012408"), ("20mo010h", "-0.450124")),
        ],
        "cv": [(("209c0105", "6.9829e-05"), ("01ca0102", "-6.9829e-05"))],
        "tt": [(("050c0101", "2.5"), ("440c0201", "-2.5")), (("22ha010a", "0.1"), ("050c0101", "-0.1"))],
    },
    3: {
        "tr": [(("01ca0102", "1.2972"), ("209c0105", "-1.2972"), ("20mo010h", "0"))],
        "cv": [(("40na010x", "0.5"), ("01xo031a", "-0.5"), ("209c0105", "0"))],
        "tt": [(("050c0101", "2"), ("440c0201", "-2"), ("22ha010a", "0"))],
    },
    4: {
        "tr": [
            (
                ("40na010x", "2.247015018217656"),
                ("01xo031a", "1.9091687846056953"),
                ("20mo010h", "-1.9091687846056953"),
                ("01ca0102", "-2.247015018217656"),
            )
        ],
        "cv": [(("209c0105", "0.5"), ("01ca0102", "0.25"), ("40na010x", "-0.25"), ("01xo031a", "-0.5"))],
        "tt": [(("050c0101", "1"), ("440c0201", "-1"), ("22ha010a", "0.5"), ("050c0101", "-0.5"))],
    },
    5: {
        "tr": [
            (
                ("40na010x", "2.007730836629883"),
                ("01xo031a", "0.43545269645782925"),
                ("20mo010h", "-0.43545269645782925"),
                ("01ca0102", "-2.007730836629883"),
                ("209c0105", "0"),
            )
        ],
        "cv": [
            (("209c0105", "1.5"), ("01ca0102", "0.5"), ("40na010x", "-0.5"), ("01xo031a", "-1.5"), ("20mo010h", "0"))
        ],
        "tt": [(("050c0101", "1"), ("440c0201", "0.5"), ("22ha010a", "-0.5"), ("050c0101", "-1"), ("440c0201", "0"))],
    },
}


def name_in_metadata(utterance):
    """Path of an utterance as the metadata has it."""
    return f"wsj0/{PARTS.get(utterance, 'si_tr_s')}/{utterance[:3]}/{utterance}.wav"


def utterance_samples(utterance):
    """16-bit samples, different for each utterance, and loudest at the end: where the longer one is alone."""
    frames = FRAMES[utterance]
    rng = np.random.default_rng(sorted(FRAMES).index(utterance))
    return (2500 * np.linspace(0.1, 1, frames) * rng.standard_normal(frames)).astype(np.int16)


def level(utterance):
    """What stands for the active speech level, as the metadata spells it."""
    return f"{np.mean(np.square(utterance_samples(utterance) / 2**15)):.16e}"


def write_wsj0(root, extension=".wav", **options):
    """Writes all utterances, and returns the folder that holds `wsj0/`."""
    for utterance in FRAMES:
        path = (root / name_in_metadata(utterance)).with_suffix(extension)
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, utterance_samples(utterance), 16000, **{"format": "WAV", "subtype": "PCM_16"} | options)
    return root


def write_wsj0mix_metadata(root):
    """Writes the lists of mixtures and the levels, and returns their folder."""
    (root / "activlev").mkdir(parents=True)
    for num_spks, splits in MIXTURES.items():
        for split, mixtures in splits.items():
            lines = [" ".join(f"{name_in_metadata(u)} {gain}" for u, gain in mixture) + " \n" for mixture in mixtures]
            (root / f"mix_{num_spks}_spk_{split}.txt").write_text("".join(lines))
    for part in ("si_tr_s", "si_dt_05", "si_et_05"):
        lines = [f"{u} {level(u)}\n" for u in FRAMES if PARTS.get(u, "si_tr_s") == part]
        (root / "activlev" / f"activlev_{part}.txt").write_text("".join(lines))
    return root


def mixture_names(split):
    """Names of the files of WHAM!, and their utterances."""
    return {
        "_".join(f"{u}_{float(gain):.8g}" for u, gain in mixture) + ".wav": [u for u, _ in mixture]
        for mixture in MIXTURES[2][split]
    }


def noise_samples(name, frames):
    """Two channels of 16-bit noise."""
    rng = np.random.default_rng(list(name.encode()))
    return (3000 * rng.standard_normal((frames, 2))).astype(np.int16)


def write_wham_noise(root, starts=(301, 40)):
    """Writes the noise of WHAM! and its scaling files, and returns the folder. The speech begins at `starts`."""
    (root / "metadata").mkdir(parents=True)
    for split in SPLITS:
        (root / split).mkdir()
        names = mixture_names(split)
        for (name, utterances), start in zip(names.items(), starts, strict=False):
            frames = start + max(FRAMES[u] for u in utterances) + 55
            soundfile.write(root / split / name, noise_samples(name, frames), 16000, subtype="PCM_16")
        np.savez(root / "metadata" / f"scaling_{split}.npz", **scaling(names, starts))
    return root


def scaling(names, starts=(301, 40)):
    """Arrays of a scaling file."""
    count = len(names)
    rng = np.random.default_rng(count)
    arrays = {"utterance_id": np.array([*names]), "speech_start_sample_16k": np.array(starts[:count])}
    for version in ("16k_max", "16k_min", "8k_max", "8k_min"):
        arrays[f"scaling_wsjmix_{version}"] = rng.uniform(1, 3, (count, 2))
        arrays[f"scaling_wham_speech_{version}"] = rng.uniform(0.1, 2, count)
        arrays[f"scaling_wham_noise_{version}"] = rng.uniform(0.5, 1, count)
    return arrays


def write_wham_metadata(root):
    """Writes the lists of mixtures of WHAM!, and returns their folder."""
    root.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = ["output_filename,s1_path,s2_path"]
        lines += [",".join([name, *map(name_in_metadata, us)]) for name, us in mixture_names(split).items()]
        (root / f"mix_2_spk_filenames_{split}.csv").write_text("\n".join(lines) + "\n")
    return root
