"""The example recording of two speakers, `mossformer_sb/web/two_speakers.flac`: generate it, and score a model on it.

    python -m benchmarks.example_mixture --librispeech_folder /path/to/LibriSpeech --write two_speakers.flac
    python -m benchmarks.example_mixture --librispeech_folder /path/to/LibriSpeech --model MODEL

Mixtures of two utterances of train-clean-100 by speakers that are in no training set are drawn by seed. The example is
the first of them, whatever its score; the second command separates many, and reports the rank of the example.

Shapes: T samples.
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch

from data_prep.audio import resample
from data_prep.corpora.many_speakers_list import read_list
from data_prep.corpora.many_speakers_sources import SAMPLE_RATE
from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.metrics import separation_scores

PART = "train-clean-100"
SECONDS = 8.0
SEED = 1
LEVEL = 0.05  # root mean square of the mixture
MAX_DIFFERENCE = 2.5  # dB between the speakers


def utterances(librispeech_folder):
    """Utterances that are long enough, by speakers of no training clip: list of paths.

    Raises
    ------
    InputError
        If there are fewer than two speakers.
    """
    root = Path(librispeech_folder).expanduser() / PART
    trained = {clip.speaker.removeprefix("ls-") for clips in read_list().values() for clip in clips}
    paths = [path for path in sorted(root.rglob("*.flac")) if path.stem.split("-")[0] not in trained]
    paths = [path for path in paths if soundfile.info(path).duration >= SECONDS]
    if len({speaker(path) for path in paths}) < 2:
        raise InputError(
            f"{root}: holds utterances of {SECONDS:g} s of fewer than two speakers that are not trained on."
        )
    return paths


def speaker(path):
    """Speaker of an utterance of LibriSpeech.

    Example
    -------
    >>> speaker("19/198/19-198-0000.flac")
    '19'
    """
    return Path(path).stem.split("-")[0]


def draw(paths, number):
    """Draw the mixture of a number: names of the utterances, mixture [T] and sources [T, 2], float32."""
    rng = np.random.default_rng([SEED, number])
    chosen = [paths[rng.integers(len(paths))]]
    while len(chosen) < 2:
        path = paths[rng.integers(len(paths))]
        if speaker(path) != speaker(chosen[0]):
            chosen.append(path)
    length = round(SECONDS * SAMPLE_RATE)
    sources = []
    for path in chosen:
        samples = resample(read_audio(path)[0].astype(np.float64), SAMPLE_RATE)
        start = int(rng.integers(len(samples) - length + 1))
        excerpt = samples[start : start + length]
        sources.append(excerpt / np.sqrt(np.mean(np.square(excerpt))))
    sources = np.stack(sources, axis=1)
    sources[:, 1] *= 10 ** (rng.uniform(-MAX_DIFFERENCE, MAX_DIFFERENCE) / 20)
    sources *= LEVEL / np.sqrt(np.mean(np.square(sources.sum(axis=1))))
    sources = sources.astype(np.float32)
    return [path.stem for path in chosen], sources.sum(axis=1), sources


def write(paths, target):
    """Write the example as FLAC with 16 bits; report its sources."""
    names, mixture, _ = draw(paths, 0)
    soundfile.write(target, mixture, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    return f"{target}: {' and '.join(names)}, {SECONDS:g} s, {Path(target).stat().st_size} bytes"


def rank(paths, model_folder, count):
    """SI-SNRi of the example, and its rank among others."""
    from mossformer_sb.inference import MossFormerSeparation

    model = MossFormerSeparation.from_hparams(model_folder, device="cpu")
    gains = []
    for number in range(count):
        _, mixture, sources = draw(paths, number)
        estimates = model.separate(mixture, SAMPLE_RATE)
        gains.append(separation_scores(torch.from_numpy(mixture), torch.from_numpy(sources), estimates)[0].si_snr_i)
    better = sum(gain > gains[0] for gain in gains)
    return (
        f"SI-SNRi of the example {gains[0]:.2f} dB: {better} of {count} mixtures drawn alike are better; their mean is "
        f"{statistics.mean(gains):.2f} dB, their median {statistics.median(gains):.2f} dB"
    )


def main(arguments=None):
    """Write the example or rank it; 0, or 2 after an error in the user's input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.example_mixture", description=__doc__.split("\n\n")[0])
    parser.add_argument("--librispeech_folder", required=True, help="folder of train-clean-100/")
    parser.add_argument("--write", metavar="FILE", help="write the example")
    parser.add_argument("--model", help="rank the example by this model")
    parser.add_argument("--count", type=int, default=100, help="mixtures to compare with (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        paths = utterances(options.librispeech_folder)
        if options.write:
            print(write(paths, options.write))
        if options.model:
            print(rank(paths, options.model, options.count))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
