"""Evaluation of a two-speaker model on the corpus of many speakers: `python -m benchmarks.pretrained`.

    python -m benchmarks.pretrained MODEL --data_folder results/…/corpus --manifest_folder results/…/manifests \\
        --noise_folder /path/to/recorded/noise

It scores the test mixtures: clean, noisy, reverberant, in recorded noise, and of other corpora. It separates single
speakers, and one recording at several levels. It times the separation of 30 s, and counts swaps of the speakers and
clicks in conversations of three minutes. These speakers are in no training set. It accepts any exported model of two
speakers at 8 kHz, including the baselines.

Shapes: T samples, S speakers.
"""

import argparse
import json
import logging
import math
import statistics
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from scipy.signal import resample_poly
from tqdm import tqdm

from benchmarks.conversations import conversation, separate_conversations
from data_prep.corpora.many_speakers import CONDITIONS
from data_prep.corpora.many_speakers_list import CLEAN_SPLITS
from data_prep.corpora.many_speakers_sources import PREFIX, SAMPLE_RATE
from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.metrics import separation_scores
from mossformer_sb.evaluation.si_snr import si_snr
from mossformer_sb.inference.separation import MossFormerSeparation

TIMED_SECONDS = 30.0
CONVERSATION_SECONDS = 180.0
ROUNDS = 3  # of the timing
LEVEL_LIMIT = 120.0  # dB: the level difference that is reported for a silent output
GAINS = (1.0, 0.1, 0.003)  # at which a recording is separated
RECORDED = "recorded noise"

# Targets of the packaged model: figure → (whether it is reached, description).
TARGETS = {
    "SI-SNRi, clean": (lambda found: found["scores"]["clean"]["si_snr_i"] >= 8, "8 dB or more, 11 dB aimed for"),
    "SI-SNRi, synthetic noise": (lambda found: found["scores"]["noisy"]["si_snr_i"] >= 5, "5 dB, 8 dB"),
    "SI-SNRi, recorded noise": (lambda found: found["scores"][RECORDED]["si_snr_i"] >= 5, "5 dB, 8 dB"),
    "SI-SNRi, rooms and noise": (lambda found: found["scores"]["reverb"]["si_snr_i"] >= 4, "4 dB, 6 dB"),
    "SI-SNRi, Common Voice": (lambda found: found["scores"]["commonvoice"]["si_snr_i"] >= 7, "7 dB, 10 dB"),
    "SI-SNRi, speechocean762": (lambda found: found["scores"]["so762"]["si_snr_i"] >= 7, "7 dB, 10 dB"),
    "a single speaker": (lambda found: found["single"]["below"] >= 15, "the other output 15 dB below, 25 dB"),
    "any level": (lambda found: found["levels"] >= 50, "equal to 50 dB"),
    "30 s of audio": (lambda found: found["seconds"] <= 10, "10 s or less, 5 s"),
    "swaps": (lambda found: max(found["conversations"]["swaps"]) <= 1, "1 or less in each conversation, 0"),
    "clicks": (lambda found: found["conversations"]["clicks"] == 0, "0"),
}


def check_model(
    model_folder,
    data_folder,
    manifest_folder,
    noise_folder=None,
    limit=None,
    conversations=10,
    threads=2,
    device="cpu",
    shifts=None,
):
    """Take all measurements.

    Arguments
    ---------
    model_folder : str or Path
        An exported model of two speakers at 8 kHz.
    data_folder : str or Path
        The corpus of many speakers.
    manifest_folder : str or Path
        Its manifests.
    noise_folder : str or Path, optional
        Recordings of noise of any rate, in no training set. Default: without this condition.
    limit : int, optional
        Maximum number of test mixtures of each condition, and of single speakers. Default: all.
    conversations : int
        Number of conversations, of three minutes each.
    threads : int
        CPU threads.
    device, shifts
        As for `MossFormerSeparation.from_hparams`.

    Returns
    -------
    dict
        ``scores``, ``single``, ``levels``, ``seconds`` and ``conversations``, as the functions give them; and
        ``parameters``.

    Raises
    ------
    InputError
        If the model has another number of speakers or another rate, or the corpus or the noise is missing.
    """
    torch.set_num_threads(threads)
    model = MossFormerSeparation.from_hparams(model_folder, device=device, shifts=shifts)
    found = (model.hparams.num_spks, model.hparams.sample_rate)
    if found != (2, SAMPLE_RATE):
        raise InputError(
            f"{model_folder}: separates {found[0]} speakers at {found[1]} Hz; needed 2 at {SAMPLE_RATE} Hz, as the "
            "corpus has them. Give another model."
        )
    speakers = read_speakers(data_folder)
    utterances = [utterance for utterances in speakers.values() for utterance in utterances]
    sample = conversation(*list(speakers.values())[:2], TIMED_SECONDS, seed=0).sum(1)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "scores": {
            name: score(model, data, len(data) if limit is None else min(limit, len(data)), name)
            for name, data in conditions(data_folder, manifest_folder, noise_folder).items()
        },
        "single": separate_singles(model, utterances[:: max(1, len(utterances) // (limit or len(utterances)))][:limit]),
        "levels": compare_levels(model, sample),
        "seconds": time_separation(model, sample),
        "conversations": asdict(separate_conversations(model, speakers, conversations, CONVERSATION_SECONDS)),
    }


def conditions(data_folder, manifest_folder, noise_folder=None):
    """The test mixtures: name of the condition → indexable of mixture [T] and sources [T, 2].

    `clean`, `noisy` and `reverb`; with a folder of noise `recorded noise`; and the held-out speakers of other corpora.
    """

    def read(name):
        manifest = Path(manifest_folder) / f"{PREFIX}_{name}.csv"
        return MixtureDataset(manifest, data_folder, num_spks=2, sample_rate=SAMPLE_RATE)

    found = {condition: read(f"tt_{condition}") for condition in CONDITIONS}
    if noise_folder is not None:
        found[RECORDED] = RecordedNoise(found["noisy"], Path(data_folder) / "tt" / "noisy" / "noise", noise_folder)
    return found | {split.removeprefix("tt_"): read(split) for split in CLEAN_SPLITS}


class RecordedNoise:
    """The noisy mixtures, with recorded noise instead of the synthetic one, at the same level.

    Arguments
    ---------
    mixtures : MixtureDataset
        The noisy ones.
    synthetic_folder : Path
        Their noise, ID.wav.
    noise_folder : str or Path
        Recordings, at any depth. Each mixture gets one, in the order of their paths; short ones are repeated. Several
        channels are averaged.

    Raises
    ------
    InputError
        If there is no recording.
    """

    def __init__(self, mixtures, synthetic_folder, noise_folder):
        self.mixtures, self.synthetic_folder = mixtures, synthetic_folder
        self.paths = sorted(path for path in Path(noise_folder).expanduser().rglob("*.wav") if path.is_file())
        if not self.paths:
            raise InputError(f"{noise_folder}: holds no WAV file; needed recordings of noise as noise_folder.")

    def __len__(self):
        return len(self.mixtures)

    def __getitem__(self, index):
        item = self.mixtures[index]
        synthetic = read_audio(self.synthetic_folder / f"{item.id}.wav")[0]
        samples, rate = read_audio(self.paths[index % len(self.paths)])
        samples = resample_poly(samples.reshape(len(samples), -1).mean(axis=1), SAMPLE_RATE, rate)
        noise = np.resize(samples, len(item.mixture))
        noise *= np.sqrt(np.mean(np.square(synthetic)) / max(1e-12, np.mean(np.square(noise))))
        return replace(item, mixture=item.sources.sum(1) + torch.from_numpy(noise).float())


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
    """Mean scores of the first mixtures.

    Returns
    -------
    dict
        ``input_si_snr``, ``si_snr_i`` with its ``standard_error``, and ``sdr_i`` in dB; and the ``number`` of mixtures.
    """
    rows = []
    for index in tqdm(range(number), f"Scoring {name}", unit="mixture", disable=None):
        item = data[index]
        estimates = model.separate_batch(item.mixture[None])[0]
        rows.append(separation_scores(item.mixture, item.sources, estimates)[0])
    gains = [row.si_snr_i for row in rows]
    return {
        "input_si_snr": statistics.mean(row.si_snr - row.si_snr_i for row in rows),
        "si_snr_i": statistics.mean(gains),
        "standard_error": statistics.stdev(gains) / math.sqrt(number) if number > 1 else math.nan,
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
        ``below``, dB by which the softer output is below the louder one, the median; ``share`` of those with 15 dB or
        more; ``si_snr`` of the louder output against the recording, the median; and ``number``.
    """
    levels, ratios = [], []
    for utterance in tqdm(utterances, "Single speakers", unit="recording", disable=None):
        estimates = model.separate_batch(torch.from_numpy(utterance)[None])[0].float().cpu()
        levels.append(level_between(estimates))
        louder = estimates[:, estimates.square().sum(0).argmax()]
        ratios.append(si_snr(louder[None, :, None], torch.from_numpy(utterance)[None, :, None]).item())
    return {
        "below": statistics.median(levels),
        "share": statistics.mean(level >= 15 for level in levels),
        "si_snr": statistics.median(ratios),
        "number": len(levels),
    }


def level_between(estimates):
    """dB by which the softest channel is below the loudest one: [T, S] → float.

    Example
    -------
    >>> round(level_between(torch.tensor([[1.0, 0.1], [-1.0, -0.1]])), 3)
    20.0
    """
    energies = estimates.double().square().sum(0)
    if energies.min() == 0:
        return LEVEL_LIMIT
    return min(LEVEL_LIMIT, 10 * math.log10(energies.max() / energies.min()))


def compare_levels(model, recording):
    """Agreement of the outputs of a recording, [T], at other levels with those at its own: the lowest SNR, dB."""
    expected = model.separate(recording).double()
    worst = LEVEL_LIMIT
    for gain in GAINS:
        difference = model.separate((gain * recording).astype(np.float32)).double() / gain - expected
        ratio = difference.square().sum() / expected.square().sum()
        worst = min(worst, -10 * math.log10(max(ratio.item(), 10 ** (-LEVEL_LIMIT / 10))))
    return worst


def time_separation(model, mixture):
    """Seconds to separate a recording, [T], in one piece: the median of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        model.separate(mixture)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# ---- command line


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
        "| two speakers | mixtures | input SI-SNR | SI-SNRi | SDRi |",
        "|---|---|---|---|---|",
        *(
            f"| {condition} | {row['number']} | {row['input_si_snr']:.2f} dB | {row['si_snr_i']:.2f} ± "
            f"{row['standard_error']:.2f} dB | {row['sdr_i']:.2f} dB |"
            for condition, row in found["scores"].items()
        ),
        "",
    ]
    lines += ["| | found | at least, aim | |", "|---|---|---|---|"]
    figures = _figures(found)
    for name, (is_met, wanted) in TARGETS.items():
        if name in figures:
            lines.append(f"| {name} | {figures[name]} | {wanted} | {'reached' if is_met(found) else 'missed'} |")
    return "\n".join(lines)


def _figures(found):
    """Name of a target → result; targets without data are omitted."""
    single, talks = found["single"], found["conversations"]
    gains = dict(zip(("clean", "noisy", RECORDED, "reverb", "commonvoice", "so762"), list(TARGETS)[:6], strict=True))
    return {
        **{gains[name]: f"{row['si_snr_i']:.2f} dB" for name, row in found["scores"].items() if name in gains},
        "a single speaker": f"{single['below']:.1f} dB below in the median, 15 dB or more in {single['share']:.0%} of "
        f"{single['number']} recordings; SI-SNR of the louder output {single['si_snr']:.1f} dB",
        "any level": f"{found['levels']:.0f} dB at gains of {', '.join(f'{gain:g}' for gain in GAINS)}",
        "30 s of audio": f"{found['seconds']:.1f} s on {found['machine']}",
        "swaps": f"{' '.join(map(str, talks['swaps']))} in {len(talks['swaps'])} conversations of "
        f"{CONVERSATION_SECONDS:g} s, {talks['windows']} windows in which both speak",
        "clicks": f"{talks['clicks']} at {talks['edges']} borders of chunks",
    }


def missed(found):
    """Names of the measured targets that were missed."""
    return [name for name in _figures(found) if not TARGETS[name][0](found)]


def main(arguments=None):
    """Run the checks of the command line.

    Returns
    -------
    int
        0; 1 if a target was missed; 2 after an error in the user's input.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    try:
        found = check_model(
            options.model,
            options.data_folder,
            options.manifest_folder,
            options.noise_folder,
            options.limit,
            options.conversations,
            options.threads,
            options.device,
            options.shifts,
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
    return 1 if missed(found) else 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrained", description=__doc__.partition(":")[0])
    parser.add_argument("model", help="folder of an exported model of two speakers at 8 kHz")
    parser.add_argument("--data_folder", required=True, help="folder of the corpus of many speakers")
    parser.add_argument("--manifest_folder", required=True, help="folder of its manifests")
    parser.add_argument("--noise_folder", help="noise, WAV of any rate, for the condition recorded noise")
    parser.add_argument("--limit", type=int, help="maximum number of mixtures of each condition, for a quick check")
    parser.add_argument("--conversations", type=int, default=10, help="number of conversations (default: 10)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu (default), or cuda")
    parser.add_argument("--shifts", type=int, help="delayed copies to average (default: the model's own number)")
    parser.add_argument("--markdown", help="file for the tables")
    parser.add_argument("--json", help="file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
