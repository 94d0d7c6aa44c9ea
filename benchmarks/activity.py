"""Errors of speech activity detection: `python -m benchmarks.activity --manifest TEST.csv --data_folder CORPUS`.

The ground truth is the level of the clean sources, in frames of 10 ms. Three detections are compared with it: Silero
VAD alone on each clean source; after separation by a model (``--model``); and after simulated separation with the other
speaker in each output at a defined level, whose SI-SNR is that level's negative. There are three kinds of recordings:
the test mixtures, in which both speak nearly all the time; conversations of the same speakers, with turns; and one
speaker alone.

Shapes: T samples, F frames of 10 ms, S speakers.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.conversations import SAMPLE_RATE, conversation
from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.manifests import read_manifest
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.si_snr import pairwise_si_snr
from mossformer_sb.inference import activity
from mossformer_sb.utils.files import write_text

FRAME_SECONDS = 0.01
ACTIVE_DB = -40.0  # of a frame, relative to the speaker's loudest; less is a pause
LONGEST_GAP = 10  # frames of a pause that counts as speech, like the detector's own 100 ms
LEAKS_DB = (-8, -12, -20)
CONVERSATION_SECONDS = 24.0
ALLOWED = "1.5 times the error on clean sources plus 3 points; with one speaker, 5 % of false activity"


def activity_of_sources(sources, sample_rate):
    """When each speaker speaks, by the level of frames.

    Arguments
    ---------
    sources : numpy.ndarray
        [T, S], clean.
    sample_rate : int
        Hz.

    Returns
    -------
    numpy.ndarray
        [F, S], bool.

    Example
    -------
    >>> sources = np.repeat([1.0, 0.0, 1.0, 0.0], [800, 400, 800, 4000])[:, None]
    >>> int(activity_of_sources(sources, 8000).sum())  # the short pause counts as speech, the long one doesn't
    25
    """
    size = round(FRAME_SECONDS * sample_rate)
    frames = sources[: len(sources) // size * size].reshape(-1, size, sources.shape[1])
    levels = np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1))
    active = levels > 10 ** (ACTIVE_DB / 20) * levels.max(axis=0)
    for column in active.T:
        places = np.flatnonzero(column)
        for before, after in zip(places, places[1:], strict=False):
            column[before:after] |= after - before <= LONGEST_GAP
    return active


def to_frames(segments, num_frames):
    """Segments in seconds as frames: [F, S], bool.

    Example
    -------
    >>> to_frames([[(0.01, 0.03)], []], 4).astype(int).tolist()
    [[0, 0], [1, 0], [1, 0], [0, 0]]
    """
    found = np.zeros((num_frames, len(segments)), dtype=bool)
    for speaker, spans in enumerate(segments):
        for start, end in spans:
            found[round(start / FRAME_SECONDS) : round(end / FRAME_SECONDS), speaker] = True
    return found


def leaking(sources, leak_db):
    """Separation that leaves the other speaker in each output, at a level relative to the output's own speaker.

    Arguments
    ---------
    sources : numpy.ndarray
        [T, 2].
    leak_db : float
        A speaker who is silent throughout gets the leak at this level below the other one.

    Returns
    -------
    numpy.ndarray
        [T, 2].

    Example
    -------
    >>> sources = np.random.randn(8000, 2) * [1.0, 0.1]
    >>> outputs = leaking(sources, -20)
    >>> [round(float(20 * np.log10(leak.std() / own.std()))) for leak, own in zip((outputs - sources).T, sources.T)]
    [-20, -20]
    """
    levels = np.sqrt(np.square(sources).mean(axis=0))
    own, other = np.where(levels > 0, levels, levels.max()), np.where(levels > 0, levels, 1)[::-1]
    return sources + 10 ** (leak_db / 20) * sources[:, ::-1] * own / other


def separated(model, sources):
    """A model's estimates for the sum of sources, in the order of the sources: [T, 2]."""
    estimates = model.separate(sources.sum(1).astype(np.float32))
    if not sources.any(axis=0).all():  # one speaker alone: the louder output is theirs
        loudest = int(np.square(estimates.numpy()).sum(0).argmax())
        order = [loudest, 1 - loudest] if sources[:, 0].any() else [1 - loudest, loudest]
        return estimates.numpy()[:, order]
    ratios = pairwise_si_snr(estimates[None], torch.from_numpy(sources.astype(np.float32))[None])[0]
    swap = ratios.diagonal().sum() < ratios.flip(0).diagonal().sum()
    return (estimates.flip(1) if swap else estimates).numpy()


def examples(manifest, data_folder, number):
    """Sources [T, 2] of each kind of recording, and their sample rate.

    Arguments
    ---------
    manifest, data_folder : str or Path
        Of mixtures of two clean speakers.
    number : int
        Recordings of each kind.

    Returns
    -------
    kinds : dict
        Kind → list of numpy.ndarray.
    sample_rate : int
        Hz.
    """
    rows = read_manifest(manifest, data_folder, num_spks=2).head(number).itertuples()
    mixtures = [np.stack([read_audio(path)[0] for path in (row.s1_wav, row.s2_wav)], 1) for row in rows]
    sample_rate = read_audio(read_manifest(manifest, data_folder)["s1_wav"].iloc[0])[1]
    if sample_rate != SAMPLE_RATE:
        raise InputError(f"{manifest}: has {sample_rate} Hz; needed {SAMPLE_RATE} Hz, as of conversations.")
    talks = [conversation([pair[:, 0]], [pair[:, 1]], CONVERSATION_SECONDS, seed) for seed, pair in enumerate(mixtures)]
    singles = [pair * [index % 2 == 0, index % 2 == 1] for index, pair in enumerate(mixtures)]
    return {"mixtures": mixtures, "conversations": talks, "one speaker": singles}, sample_rate


def measure(kinds, sample_rate, model=None):
    """Errors of each kind of recording with each separation.

    Arguments
    ---------
    kinds : mapping
        As from `examples`.
    sample_rate : int
        Hz.
    model : MossFormerSeparation, optional
        One more separation.

    Returns
    -------
    list of dict
        ``talk``, ``separation``, ``error``: frame error rate over both speakers; and ``active``: share of frames in
        which they speak. With one speaker alone, only the silent one's frames count.
    """
    separations = {"clean sources": None, **{f"leak of {leak} dB": leak for leak in LEAKS_DB}}
    rows = []
    for talk, items in kinds.items():
        for name, leak in [*separations.items(), *([("the model", model)] if model else [])]:
            wrong = [
                _errors(sources, sample_rate, leak, model) for sources in tqdm(items, f"{talk}, {name}", disable=None)
            ]
            errors, active = np.mean(wrong, axis=0)
            rows.append({"talk": talk, "separation": name, "error": float(errors), "active": float(active)})
    return rows


def _errors(sources, sample_rate, leak, model):
    truth = activity_of_sources(sources, sample_rate)
    if leak is None:  # each separately, so that nothing is treated as leakage
        segments = [activity.speech_activity(source[:, None], sample_rate)[0] for source in sources.T]
    else:
        outputs = separated(model, sources) if leak is model else leaking(sources, leak)
        segments = activity.speech_activity(outputs, sample_rate, mixture=sources.sum(1))
    wrong = to_frames(segments, len(truth)) != truth
    silent = ~sources.any(axis=0)
    return (wrong[:, silent] if silent.any() else wrong).mean(), truth.mean()


def passes(rows):
    """Whether each row is within the allowed error, see `ALLOWED`: list of bool.

    Example
    -------
    >>> rows = [{"talk": "mixtures", "separation": name, "error": error}
    ...         for name, error in (("clean sources", 0.08), ("leak of -8 dB", 0.14), ("the model", 0.16))]
    >>> passes(rows)
    [True, True, False]
    """
    clean = {row["talk"]: row["error"] for row in rows if row["separation"] == "clean sources"}
    limits = {talk: 0.05 if talk == "one speaker" else 1.5 * error + 0.03 for talk, error in clean.items()}
    return [row["error"] <= limits[row["talk"]] for row in rows]


def main(arguments=None):
    """Measure, and print a table.

    Arguments
    ---------
    arguments : list of str, optional
        The words after the program's name. Default: those of this program.

    Returns
    -------
    int
        0; 1 if an error is larger than allowed; 2 after an error in the user's input.
    """
    options = _parser().parse_args(arguments)
    try:
        kinds, sample_rate = examples(options.manifest, options.data_folder, options.number)
        model = None
        if options.model:
            from mossformer_sb.inference import MossFormerSeparation

            model = MossFormerSeparation.from_hparams(options.model, device="cpu")
            if model.hparams.sample_rate != sample_rate:
                raise InputError(f"{options.model}: is for {model.hparams.sample_rate} Hz; needed {sample_rate} Hz.")
        rows = measure(kinds, sample_rate, model)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    within = passes(rows)
    print(f"Frame errors, {options.number} of each kind. Allowed: {ALLOWED}.\n")
    print("| talk | speech | separation | error | |\n|---|---|---|---|---|")
    for row, good in zip(rows, within, strict=True):
        print(
            f"| {row['talk']} | {100 * row['active']:.0f} % | {row['separation']} | {100 * row['error']:.1f} % | "
            f"{'' if good else 'too much'} |"
        )
    if options.json:
        write_text(Path(options.json), json.dumps(rows, indent=2) + "\n")
    return 0 if all(within) else 1


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.activity", description=__doc__.partition(":")[0])
    parser.add_argument("--manifest", required=True, help="mixtures of two clean speakers, a manifest of data_prep")
    parser.add_argument("--data_folder", required=True, help="folder of its paths")
    parser.add_argument("--model", help="folder of an exported model (default: simulated separation only)")
    parser.add_argument("--number", type=int, default=100, help="mixtures and conversations (default: 100)")
    parser.add_argument("--json", help="file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
