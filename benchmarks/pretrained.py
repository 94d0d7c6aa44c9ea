"""What a model of two speakers can do on the corpus of many speakers: `python -m benchmarks.pretrained`.

    python -m benchmarks.pretrained MODEL --data_folder results/…/corpus --manifest_folder results/…/manifests

It scores the test mixtures, clean, noisy and reverberant; separates single speakers; times half a minute; and looks for
swaps of the speakers and for clicks in mixtures of three minutes. Speakers are those of the test, whom no training has
heard. Any exported model of two speakers at 8 kHz will do, those of the baselines too.

Shapes: T samples, S speakers.
"""

import argparse
import json
import logging
import math
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data_prep.corpora.many_speakers import CONDITIONS
from data_prep.corpora.many_speakers_sources import PREFIX, SAMPLE_RATE
from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.metrics import separation_scores
from mossformer_sb.evaluation.si_snr import pairwise_si_snr, si_snr
from mossformer_sb.inference.chunking import Chunking, joins
from mossformer_sb.inference.separation import MossFormerSeparation

TIMED_SECONDS = 30.0
LONG_SECONDS = 180.0
LONG_LEVEL = 0.05  # root mean square of each speaker
ROUNDS = 3  # of the timing
LEVEL_LIMIT = 120.0  # dB: how far below a silent channel counts as
WINDOW_SECONDS = 2.0  # in which it is decided who is where
MARGIN = 3.0  # dB between the two orders in a window; less decides nothing
CLICK_REACH = 0.25  # seconds around a join that it is compared with
CLICK_SAMPLES = 2  # on either side of an edge that belong to it

# What the package's model is to reach: name of the figure, what is needed, in words.
TARGETS = {
    "clean SI-SNRi": (lambda found: found["scores"]["clean"]["si_snr_i"] >= 7, "at least 7 dB, 10 dB aimed for"),
    "a single speaker": (lambda found: found["single"]["below"] >= 20, "the other channel at least 20 dB below"),
    "30 s of audio": (lambda found: found["seconds"] < TIMED_SECONDS, "less than 30 s"),
    "swaps in three minutes": (lambda found: found["long"]["swaps"] == 0, "none"),
    "clicks at joins": (lambda found: found["long"]["clicks"] == 0, "none"),
}


def check_model(model_folder, data_folder, manifest_folder, limit=None, pairs=3, threads=2, device="cpu"):
    """Take all measurements.

    Arguments
    ---------
    model_folder : str or Path
        An exported model of two speakers at 8 kHz.
    data_folder : str or Path
        The corpus of many speakers.
    manifest_folder : str or Path
        Its manifests.
    limit : int, optional
        Take so many test mixtures of each condition and so many single speakers at most. Default: all.
    pairs : int
        How many mixtures of three minutes.
    threads : int
        Of the processor.
    device : str
        As for `MossFormerSeparation.from_hparams`.

    Returns
    -------
    dict
        ``scores``, ``single``, ``seconds`` and ``long``, as the functions below give them; and ``parameters``.

    Raises
    ------
    InputError
        If the model has another number of speakers or another rate, or the corpus is absent.
    """
    torch.set_num_threads(threads)
    model = MossFormerSeparation.from_hparams(model_folder, device=device)
    found = (model.hparams.num_spks, model.hparams.sample_rate)
    if found != (2, SAMPLE_RATE):
        raise InputError(
            f"{model_folder}: separates {found[0]} speakers at {found[1]} Hz; needed 2 at {SAMPLE_RATE} Hz, as the "
            "corpus has them. Give another model."
        )
    speakers = read_speakers(data_folder)
    scores = {}
    for condition in CONDITIONS:
        manifest = Path(manifest_folder) / f"{PREFIX}_tt_{condition}.csv"
        data = MixtureDataset(manifest, data_folder, num_spks=2, sample_rate=SAMPLE_RATE)
        scores[condition] = score(model, data, len(data) if limit is None else min(limit, len(data)), condition)
    utterances = [utterance for utterances in speakers.values() for utterance in utterances]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "scores": scores,
        "single": separate_singles(model, utterances[:: max(1, len(utterances) // (limit or len(utterances)))][:limit]),
        "seconds": time_separation(model, long_sources(*list(speakers.values())[:2], TIMED_SECONDS).sum(1)),
        "long": separate_long(model, speakers, pairs, LONG_SECONDS),
    }


def read_speakers(data_folder):
    """The test speakers of the corpus: speaker → utterances, [T] each.

    Raises
    ------
    InputError
        If the folder has none.
    """
    folder = Path(data_folder) / "speech" / "tt"
    speakers = {}
    for path in sorted(folder.glob("*.wav")):
        speakers.setdefault(path.stem.split("-")[0], []).append(read_audio(path)[0])
    if len(speakers) < 2:
        raise InputError(
            f"{folder}: holds utterances of {len(speakers)} speakers; needed two or more. Give the data_folder of the "
            "corpus of many speakers, which `python -m data_prep many_speakers` makes."
        )
    return speakers


def score(model, data, number, name):
    """Mean scores of the first mixtures: ``input_si_snr``, ``si_snr_i`` and ``sdr_i`` in dB, and their ``number``."""
    rows = []
    for index in tqdm(range(number), f"Scoring {name}", unit="mixture", disable=None):
        item = data[index]
        estimates = model.separate_batch(item.mixture[None])[0]
        rows.append(separation_scores(item.mixture, item.sources, estimates)[0])
    return {
        "input_si_snr": statistics.mean(row.si_snr - row.si_snr_i for row in rows),
        "si_snr_i": statistics.mean(row.si_snr_i for row in rows),
        "sdr_i": statistics.mean(row.sdr_i for row in rows),
        "number": number,
    }


def separate_singles(model, utterances):
    """Separate recordings of one speaker.

    Arguments
    ---------
    model : MossFormerSeparation
    utterances : sequence of numpy.ndarray
        [T] each.

    Returns
    -------
    dict
        ``below``, by how many dB the softer channel lies below the louder one, the median; ``share``, of how many
        that is 20 dB or more; ``si_snr`` of the louder channel against the recording, the median; and ``number``.
    """
    levels, ratios = [], []
    for utterance in tqdm(utterances, "Single speakers", unit="recording", disable=None):
        estimates = model.separate_batch(torch.from_numpy(utterance)[None])[0].float().cpu()
        levels.append(level_between(estimates))
        louder = estimates[:, estimates.square().sum(0).argmax()]
        ratios.append(si_snr(louder[None, :, None], torch.from_numpy(utterance)[None, :, None]).item())
    return {
        "below": statistics.median(levels),
        "share": statistics.mean(level >= 20 for level in levels),
        "si_snr": statistics.median(ratios),
        "number": len(levels),
    }


def level_between(estimates):
    """By how many dB the softest channel lies below the loudest one: [T, S] → float.

    Example
    -------
    >>> round(level_between(torch.tensor([[1.0, 0.1], [-1.0, -0.1]])), 3)
    20.0
    """
    energies = estimates.double().square().sum(0)
    if energies.min() == 0:
        return LEVEL_LIMIT
    return min(LEVEL_LIMIT, 10 * math.log10(energies.max() / energies.min()))


def time_separation(model, mixture):
    """Seconds that it takes to separate a recording, [T], in one piece: the median of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        model.separate(mixture)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# ---- long mixtures


def separate_long(model, speakers, pairs, seconds, chunking=None):
    """Separate mixtures of minutes, in chunks, and see whether one hears where they are joined.

    Arguments
    ---------
    model : MossFormerSeparation
    speakers : mapping
        speaker → utterances, [T] each.
    pairs : int
        How many mixtures, of two speakers each.
    seconds : float
        Length of a mixture.
    chunking : Chunking, optional
        Default: ``Chunking()``.

    Returns
    -------
    dict
        ``swaps`` and ``windows``, ``clicks`` and ``edges``, sums over the mixtures.
    """
    chunking = chunking or Chunking()
    names = list(speakers)
    total = dict.fromkeys(("swaps", "windows", "clicks", "edges"), 0)
    for pair in tqdm(range(pairs), "Long mixtures", unit="mixture", disable=None):
        first, second = (names[(2 * pair + offset) % len(names)] for offset in (0, 1))
        sources = long_sources(speakers[first], speakers[second], seconds)
        estimates = model.separate(sources.sum(1), chunking=chunking).numpy()
        swaps, windows = count_swaps(estimates, sources)
        clicks, edges = count_clicks(estimates, joins(len(sources), *chunking.samples(SAMPLE_RATE)))
        for key, count in zip(total, (swaps, windows, clicks, edges), strict=True):
            total[key] += count
    return total


def long_sources(first, second, seconds):
    """One utterance after the other of each of two speakers, again from the first where they end: [T, 2].

    Example
    -------
    >>> long_sources([np.ones(8000)], [np.ones(3000), np.zeros(9000)], seconds=3).shape
    (24000, 2)
    """
    length = round(seconds * SAMPLE_RATE)
    signals = [np.resize(np.concatenate(utterances), length) for utterances in (first, second)]
    scaled = [LONG_LEVEL * signal / max(1e-9, np.sqrt(np.mean(np.square(signal)))) for signal in signals]
    return np.stack(scaled, axis=1).astype(np.float32)


def count_swaps(estimates, sources):
    """How often the speakers change places.

    Windows in which both orders fit about equally well, as where somebody pauses, decide nothing.

    Arguments
    ---------
    estimates, sources : numpy.ndarray
        [T, 2].

    Returns
    -------
    swaps : int
        From one window that decides to the next one.
    windows : int
        That decide.

    Example
    -------
    >>> sources = np.random.randn(80000, 2)
    >>> swapped = np.concatenate([sources[:40000], sources[40000:, ::-1]])
    >>> count_swaps(sources, sources), count_swaps(swapped, sources)
    ((0, 5), (1, 4))
    """
    size = round(WINDOW_SECONDS * SAMPLE_RATE)
    orders = []
    for start in range(0, len(sources) - size + 1, size):
        pair = (torch.from_numpy(np.ascontiguousarray(x[None, start : start + size])) for x in (estimates, sources))
        ratios = pairwise_si_snr(*pair)[0]
        straight, crossed = ratios.diagonal().sum().item(), ratios.flip(0).diagonal().sum().item()
        if abs(straight - crossed) >= MARGIN:
            orders.append(straight > crossed)
    return sum(before != after for before, after in zip(orders, orders[1:], strict=False)), len(orders)


def count_clicks(estimates, fades):
    """At how many edges of fades an estimate bends more sharply than anywhere around.

    Arguments
    ---------
    estimates : numpy.ndarray
        [T, S].
    fades : sequence of tuple of int
        As from `mossformer_sb.inference.chunking.joins`.

    Returns
    -------
    clicks, edges : int
        How many edges have a click, of how many.

    Example
    -------
    >>> signal = np.sin(np.arange(8000) / 5)[:, None]
    >>> broken = np.concatenate([signal[:4000], signal[4020:]])
    >>> count_clicks(signal, [(3000, 4000)]), count_clicks(broken, [(3000, 4000)])
    ((0, 2), (1, 2))
    """
    bends = np.abs(np.diff(estimates, n=2, axis=0))
    reach = round(CLICK_REACH * SAMPLE_RATE)
    clicks = edges = 0
    for edge in (edge for fade in fades for edge in fade):
        low, high = edge - 2 - CLICK_SAMPLES, edge + 1 + CLICK_SAMPLES  # a bend spans three samples
        for signal in bends.T:
            around = np.concatenate([signal[max(0, low - reach) : low], signal[high : high + reach]])
            clicks += bool(signal[low:high].max() > around.max())
            edges += 1
    return clicks, edges


# ---- the command


def report(found):
    """The measurements in Markdown, for a model card or a README.

    Arguments
    ---------
    found : dict
        From `check_model`.

    Returns
    -------
    str
    """
    lines = [
        "| test-other, two speakers | mixtures | input SI-SNR | SI-SNRi | SDRi |",
        "|---|---|---|---|---|",
        *(
            f"| {condition} | {row['number']} | {row['input_si_snr']:.2f} dB | {row['si_snr_i']:.2f} dB | "
            f"{row['sdr_i']:.2f} dB |"
            for condition, row in found["scores"].items()
        ),
        "",
    ]
    single, long = found["single"], found["long"]
    figures = {
        "clean SI-SNRi": f"{found['scores']['clean']['si_snr_i']:.2f} dB",
        "a single speaker": f"the other channel {single['below']:.1f} dB below in the median, 20 dB or more in "
        f"{single['share']:.0%} of {single['number']} recordings; SI-SNR of the louder one {single['si_snr']:.1f} dB",
        "30 s of audio": f"{found['seconds']:.1f} s on {found['machine']}",
        "swaps in three minutes": f"{long['swaps']} between {long['windows']} windows of {WINDOW_SECONDS:g} s",
        "clicks at joins": f"{long['clicks']} at {long['edges']} edges of chunks",
    }
    lines += ["| | found | wanted | |", "|---|---|---|---|"]
    for name, (is_met, wanted) in TARGETS.items():
        lines.append(f"| {name} | {figures[name]} | {wanted} | {'reached' if is_met(found) else 'missed'} |")
    return "\n".join(lines)


def main(arguments=None):
    """Runs the checks that the command line asks for.

    Returns
    -------
    int
        0; 1 when something that is wanted was missed; 2 after an error in what the user gave.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    try:
        found = check_model(
            options.model,
            options.data_folder,
            options.manifest_folder,
            options.limit,
            options.pairs,
            options.threads,
            options.device,
        )
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    on_gpu = torch.device(options.device).type == "cuda"
    found["machine"] = torch.cuda.get_device_name(options.device) if on_gpu else f"{options.threads} threads"
    text = report(found)
    print(f"{options.model}: {found['parameters'] / 1e6:.2f} M parameters\n\n{text}")
    if options.markdown:
        Path(options.markdown).write_text(f"{text}\n", encoding="utf-8")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if all(is_met(found) for is_met, _ in TARGETS.values()) else 1


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrained", description=__doc__.partition(":")[0])
    parser.add_argument("model", help="folder of an exported model of two speakers at 8 kHz")
    parser.add_argument("--data_folder", required=True, help="folder of the corpus of many speakers")
    parser.add_argument("--manifest_folder", required=True, help="folder of its manifests")
    parser.add_argument("--limit", type=int, help="at most so many mixtures of each condition, for a quick look")
    parser.add_argument("--pairs", type=int, default=3, help="mixtures of three minutes (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="of the processor (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu (default), or cuda")
    parser.add_argument("--markdown", help="file for the tables")
    parser.add_argument("--json", help="file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
