"""Writes a corpus of noisy two-speaker mixtures, laid out as WHAM!, from any utterances and any noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.io import wavfile
from tqdm import tqdm

from data_prep.choices import SAMPLE_RATES, SPLITS, check_choice
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import atomic_folder, expanded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DESCRIPTION = "corpus.json"
MAX_PEAK = 0.95  # as in WHAM!
MAX_GAIN = 2.5  # dB. Speaker 1 gets a gain from 0 to 2.5 dB, speaker 2 its negative, as in WSJ0-2mix
SNR_RANGE = (-3.0, 6.0)  # dB, of the louder speaker against the noise, as in WHAM!
LEVEL_RANGE = (-32.0, -22.0)  # dB, RMS of the louder speaker against full scale
MIN_NOISE_LEVEL = 0.1  # minimum level of a noise segment, relative to its clip's RMS


def write_wham_tree(
    data_folder: str,
    speech: Mapping,
    noise: Mapping,
    num_mixtures: Mapping,
    seed: int = 0,
    sample_rate: int = 8000,
    loop_noise: bool = True,
    description: dict | None = None,
) -> None:
    """Writes `data_folder/wav{8k,16k}/min/{split}/{mix_both,mix_clean,mix_single,s1,s2,noise}/ID.wav`.

    IDs are `{utt1}_{gain1}_{utt2}_{gain2}`, with utterance ids of 8 characters that begin with the speaker's 3. Files
    are 32-bit float, mono, and `mix_both` is exactly `s1 + s2 + noise`. The corpus is written atomically: an
    interrupted run leaves no files.

    Gains and signal-to-noise ratios are drawn as for WSJ0-2mix and WHAM!, with two differences: levels are the RMS of
    the mixed segments, without their mean, where those corpora use active speech level and loudness; and noise is
    scaled to fit the speech, not the speech to fit the noise.

    Arguments
    ---------
    data_folder : str
        Folder of the corpus, which must not exist or must be empty.
    speech : Mapping
        split → speaker → utterances. Speakers are codes of 3 lowercase letters or digits, and each split needs two;
        utterances are a sequence of arrays of shape [time]. Trim their silence first: a mixture is cut to the shorter
        utterance, and should contain only speech.
    noise : Mapping
        split → sequence of arrays of shape [time]. A mixture gets a random segment of a random clip.
    num_mixtures : Mapping
        split → number of mixtures, for some of "tr", "cv" and "tt".
    seed : int
        A mixture depends only on this, its split, its number, the utterances and the clips.
    sample_rate : int
        Sample rate of all signals: 8000 or 16000.
    loop_noise : bool
        Whether a clip that is shorter than the mixture is repeated, without a cross-fade; if False, only clips that are
        long enough are drawn.
    description : dict, optional
        Content of `corpus.json`.

    Raises
    ------
    InputError
        If the folder is in use, or an utterance, a clip or a speaker's code is invalid.
    """
    data_folder = Path(expanded(data_folder))
    check_free(data_folder)
    check_choice("sample_rate", sample_rate, SAMPLE_RATES)
    for split in num_mixtures:
        check_choice("split", split, SPLITS)
        _check_signals(split, speech[split], noise[split])
    with atomic_folder(data_folder) as corpus:
        for split, count in num_mixtures.items():
            folder = corpus / f"wav{sample_rate // 1000}k" / "min" / split
            for index in tqdm(range(count), f"Mixing {split}", unit="mixture", disable=None):
                rng = np.random.default_rng([seed, SPLITS.index(split), index])
                mixture_id, signals = mix(speech[split], noise[split], rng, loop_noise)
                _write_signals(folder, mixture_id, signals, sample_rate)
        (corpus / DESCRIPTION).write_text(json.dumps(description or {}, indent=2) + "\n")


def mix(
    speech: Mapping, noise: Sequence[np.ndarray], rng: np.random.Generator, loop_noise: bool = True
) -> tuple[str, dict]:
    """Draws one mixture.

    Arguments
    ---------
    speech : Mapping
        speaker → utterances.
    noise : sequence of numpy.ndarray
        Noise clips.
    rng : numpy.random.Generator
        Random generator.
    loop_noise : bool
        Whether a clip that is shorter than the mixture is repeated; if False, only clips long enough are drawn.

    Returns
    -------
    mixture_id : str
        Utterances and gains.
    signals : dict
        Folder name → float32 array of shape [time].

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> speech = {"abc": [rng.standard_normal(80)], "xyz": [rng.standard_normal(100)]}
    >>> mixture_id, signals = mix(speech, [rng.standard_normal(50)], rng)
    >>> mixture_id
    'xyzu0000_1.4469_abcu0000_-1.4469'
    >>> list(signals), len(signals["s1"])
    (['mix_both', 'mix_clean', 'mix_single', 's1', 's2', 'noise'], 80)
    """
    gain = float(f"{rng.uniform(0, MAX_GAIN):.5g}")  # rounded as in the ID
    names, utterances = [], []
    for speaker, sign in zip(rng.choice(sorted(speech), 2, replace=False), (1, -1), strict=True):
        number = rng.integers(len(speech[speaker]))
        names.append(f"{speaker}u{number:04d}_{sign * gain:.5g}")
        utterances.append(speech[speaker][number])

    length = min(map(len, utterances))
    clip = _draw_clip(noise, length, rng, loop_noise)
    noise_segment = _random_segment(clip, length, rng)
    level, snr = rng.uniform(*LEVEL_RANGE), rng.uniform(*SNR_RANGE)
    s1 = _scale(utterances[0][:length], level)
    s2 = _scale(utterances[1][:length], level - 2 * gain)
    background = _scale(noise_segment, level - snr, least=MIN_NOISE_LEVEL * np.std(clip))

    mixtures = (s1, s2, background, s1 + s2, s1 + background, s1 + s2 + background)
    factor = min(1.0, MAX_PEAK / max(np.abs(signal).max() for signal in mixtures))
    s1, s2, background = (np.float32(factor * signal) for signal in (s1, s2, background))
    clean = s1 + s2
    signals = {"mix_both": clean + background, "mix_clean": clean, "mix_single": s1 + background}
    return "_".join(names), signals | {"s1": s1, "s2": s2, "noise": background}


def rms(signal: np.ndarray) -> float:
    """Root mean square of an array."""
    return np.sqrt(np.mean(np.square(signal, dtype=np.float64)))


def trim_silence(signal: np.ndarray, sample_rate: int, threshold: float = -40.0) -> np.ndarray:
    """Removes silence at the ends of an utterance.

    Arguments
    ---------
    signal : numpy.ndarray
        Shape [time].
    sample_rate : int
        Sample rate in Hz.
    threshold : float
        Frames of 10 ms are silent if their RMS is this many dB below that of the loudest.

    Returns
    -------
    trimmed : numpy.ndarray
        A view of the signal from its first loud frame to its last.

    Example
    -------
    >>> signal = np.concatenate([np.zeros(800), np.sin(np.arange(1600)), np.zeros(2400)])
    >>> len(trim_silence(signal, 8000))
    1600
    """
    size = sample_rate // 100
    frames = (signal - np.mean(signal))[: len(signal) // size * size].reshape(-1, size)
    levels = np.sqrt(np.mean(np.square(frames), axis=1))
    loud = np.flatnonzero(levels > levels.max() * 10 ** (threshold / 20))
    return signal[loud[0] * size : (loud[-1] + 1) * size] if len(loud) else signal[:0]


def check_free(data_folder: Path) -> None:
    """Raises an InputError unless a folder for a corpus is new or empty."""
    if data_folder.is_file() or data_folder.is_dir() and any(data_folder.iterdir()):
        raise InputError(f"data_folder '{data_folder}' is in use: give the name of a new folder, or delete this one.")


def _check_signals(split, speech, noise):
    if len(speech) < 2:
        raise InputError(f"Split '{split}' has {len(speech)} speakers: a mixture needs two.")
    if not len(noise):
        raise InputError(f"Split '{split}' has no noise: give at least one clip.")
    for speaker, utterances in speech.items():
        if not (len(speaker) == 3 and speaker.isascii() and speaker.isalnum() and speaker == speaker.lower()):
            raise InputError(f"Speaker {speaker!r} of split '{split}': a code is 3 lowercase letters or digits.")
        if not 1 <= len(utterances) <= 10_000:
            raise InputError(f"Speaker {speaker!r} of split '{split}' has {len(utterances)} utterances: 1 to 10,000.")
        for number, utterance in enumerate(utterances):
            _check_signal(f"Utterance {number} of speaker {speaker!r} of split '{split}'", utterance)
    for number, clip in enumerate(noise):
        _check_signal(f"Noise clip {number} of split '{split}'", clip)


def _check_signal(name, signal):
    if signal.ndim != 1:
        raise InputError(f"{name} has shape {signal.shape}: needed one dimension, time.")
    if not len(signal) or not np.isfinite(signal).all() or signal.min() == signal.max():
        raise InputError(f"{name} is empty, silent or not finite: remove it.")


def _scale(signal, level, least=1e-20):
    """Scales the RMS of a signal to `level` dB, with `least` as the minimum of the measured RMS.

    Its mean is subtracted: some recordings have an offset that is stronger than their speech.
    """
    signal = np.asarray(signal, dtype=np.float64)
    signal = signal - signal.mean()
    return signal * (10 ** (level / 20) / max(rms(signal), least))


def _draw_clip(noise, length, rng, loop_noise):
    clips = noise if loop_noise else [clip for clip in noise if len(clip) >= length]
    if not clips:
        longest = max(map(len, noise))
        raise InputError(
            f"No noise clip is as long as a mixture of {length} samples, and the longest has {longest}: "
            "give longer clips or shorter utterances, or set loop_noise."
        )
    return clips[rng.integers(len(clips))]


def _random_segment(clip, length, rng):
    """A random segment of a clip, which is repeated if it is too short."""
    start = rng.integers(len(clip) - length + 1 if len(clip) >= length else len(clip))
    return np.take(clip, np.arange(start, start + length), mode="wrap")


def _write_signals(folder, mixture_id, signals, sample_rate):
    for name, signal in signals.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        # Not with soundfile, which writes a timestamp into the headers of float files.
        wavfile.write(folder / name / f"{mixture_id}.wav", sample_rate, signal)
