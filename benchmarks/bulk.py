"""Many recordings: `python -m benchmarks.bulk batches`, `python -m benchmarks.bulk archive`.

    python -m benchmarks.bulk batches --sizes small S --seconds 4 10 30 --batches 1 2 4 8
    python -m benchmarks.bulk archive --calls 1000 --seconds 30 --speech_folder LibriSpeech --ways single bulk bulk:8

`batches` times the network alone on batches of noise; on a CPU it measures CPU time. `archive` generates calls of two
overlapping speakers at 8 kHz, and separates them in several ways, each in its own process: `single` calls
`separate_recording` for one recording after the other, `bulk` does what `mossformer-sb separate` does, and `bulk:N` the
same with `--batch-size N`. It reports time and memory of each, and the greatest difference of its files from those of
the first way, as a share of the peak. Weights are random: they don't affect time.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.resampling import resample
from mossformer_sb.errors import InputError
from mossformer_sb.inference.bulk import separate_recordings
from mossformer_sb.inference.output_files import Output
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.network.separator import MossFormerSeparator
from mossformer_sb.sharing.folder import export

ROOT = Path(__file__).parents[1]
RATE = 8000  # Hz


def time_batches(size, seconds, batches, device="cpu", rounds=3):
    """Time the network on batches of several sizes, in alternation.

    Arguments
    ---------
    size : str
        One of `mossformer_sb.SIZES`.
    seconds : float
        Length of the mixtures.
    batches : list of int
        Batch sizes.
    device : str
        As torch writes it; on "cpu" CPU time is measured.
    rounds : int
        Rounds; the median is reported.

    Returns
    -------
    list of dict
        ``size``, ``seconds``, ``batch``, and ``item_seconds``: time per mixture.

    Example
    -------
    >>> [row["batch"] for row in time_batches("mini", 0.1, [1, 2], rounds=1)]
    [1, 2]
    """
    network = MossFormerSeparator.from_size(size).eval().to(device)
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = {batch: [] for batch in batches}
    with torch.no_grad():
        network(torch.randn(1, round(RATE * seconds), device=device))  # warm-up
        for _ in range(rounds):
            for batch in batches:
                mixture = torch.randn(batch, round(RATE * seconds), device=device)
                start = clock()
                network(mixture).sum().item()
                times[batch].append((clock() - start) / batch)
    return [
        {"size": size, "seconds": seconds, "batch": batch, "item_seconds": statistics.median(found)}
        for batch, found in times.items()
    ]


def make_archive(folder, calls, seconds, speech_folder=None, seed=0):
    """Write calls of two overlapping speakers, at 8 kHz, 16 bit.

    Arguments
    ---------
    folder : Path
        Output folder.
    calls : int
        Number of calls.
    seconds : float
        Length of each.
    speech_folder : str, optional
        FLAC files in folders, whose stems begin with a speaker and a hyphen, as in LibriSpeech. Default: harmonic tones
        with the rhythm of syllables.
    seed : int
        Random seed.
    """
    rng, length = np.random.default_rng(seed), round(RATE * seconds)
    utterances = _utterances(speech_folder) if speech_folder else None
    for number in tqdm(range(calls), "Writing the archive", unit="call", disable=None):
        voices = [_talk(utterances, length, rng) if utterances else _tones(length, rng) for _ in range(2)]
        mixture = sum(0.05 * voice / max(np.sqrt(np.square(voice).mean()), 1e-9) for voice in voices)
        soundfile.write(folder / f"call{number:04d}.wav", mixture.clip(-1, 1), RATE, subtype="PCM_16")


def _utterances(folder):
    """Speaker → recordings at 8 kHz."""
    found = {}
    for path in sorted(Path(folder).rglob("*.flac")):
        samples, rate = read_audio(path)
        samples = samples.mean(1) if samples.ndim > 1 else samples
        found.setdefault(path.stem.split("-")[0], []).append(resample(np.asarray(samples), rate, RATE))
    if not found:
        raise InputError(f"{folder}: holds no FLAC file. Give a folder of LibriSpeech, or no speech_folder.")
    return found


def _talk(utterances, length, rng):
    speaker = utterances[rng.choice(sorted(utterances))]
    parts = []
    while sum(map(len, parts)) < length:
        parts.append(speaker[rng.integers(len(speaker))])
    return np.concatenate(parts)[:length]


def _tones(length, rng):
    times = np.arange(length) / RATE
    pitch = rng.uniform(90, 250)
    voice = sum(np.sin(2 * np.pi * pitch * harmonic * times) / harmonic for harmonic in range(1, 12))
    return voice * np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * times), 0, None) + 1e-4 * rng.standard_normal(length)


def separate_archive(model, archive, output, way, device="cpu"):
    """Separate an archive in one way; call it in a new process.

    Arguments
    ---------
    model, archive, output : str
        Folders.
    way : str
        single, bulk, or bulk:N.
    device : str
        As torch writes it.

    Returns
    -------
    dict
        ``seconds``, ``cpu_seconds``, ``peak_mb`` of the process above its memory with the loaded model, and on a GPU
        ``gpu_mb``.
    """
    kind, _, number = way.partition(":")
    separator = MossFormerSeparation.from_hparams(model, device=device, shifts=1)
    recordings = sorted(Path(archive).glob("*.wav"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    if kind == "single":
        for path in tqdm(recordings, way, unit="call", disable=None):
            separator.separate_recording(path, output)
    else:
        tasks = ((path, output, path.stem) for path in recordings)
        found = separate_recordings(separator, tasks, Output(), batch_size=int(number) if number else None)
        for result in tqdm(found, way, len(recordings), unit="call", disable=None):
            if isinstance(result, Exception):
                raise result
    row = {"way": way, "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    row["peak_mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6
    if torch.device(device).type == "cuda":
        row["gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return row


def greatest_difference(first, second):
    """The greatest difference between the files of two folders, as a share of each file's peak.

    Arguments
    ---------
    first, second : pathlib.Path
        Folders of WAV files with the same names.

    Returns
    -------
    float
    """
    names = [path.name for path in sorted(first.glob("*.wav"))]
    if names != [path.name for path in sorted(second.glob("*.wav"))]:
        raise InputError(f"{first} and {second} hold files of other names: a way has lost some.")
    shares = []
    for name in names:
        expected, found = (read_audio(folder / name)[0] for folder in (first, second))
        shares.append(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-9))
    return float(max(shares))


def _apart(**arguments):
    code = "import json, sys; from benchmarks.bulk import separate_archive as f"
    code += "; print(json.dumps(f(**json.loads(sys.argv[1]))))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)], env=environment, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def _run_batches(arguments):
    rows = []
    print("| network | seconds | batch | time per mixture, s | against batch 1 |\n|---|---|---|---|---|")
    for size in arguments.sizes:
        for seconds in arguments.seconds:
            found = time_batches(size, seconds, arguments.batches, arguments.device, arguments.rounds)
            for row in found:
                ratio = found[0]["item_seconds"] / row["item_seconds"]
                print(
                    f"| {size} | {seconds:g} | {row['batch']} | {row['item_seconds']:.3f} | {ratio:.2f}x |", flush=True
                )
            rows += found
    return rows


def _run_archive(arguments):
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        folder = Path(folder)
        separator = dict(MossFormerSeparator.from_size(arguments.size).named_children())
        model = export(folder / "model", separator, RATE)
        (folder / "archive").mkdir()
        make_archive(folder / "archive", arguments.calls, arguments.seconds, arguments.speech_folder)
        print(
            "| way | time, s | calls per hour | seconds of audio per second | CPU time, s "
            "| memory above the model's, MB | difference |"
        )
        print("|---|---|---|---|---|---|---|")
        for number, way in enumerate(arguments.ways):
            case = {"model": str(model), "archive": str(folder / "archive"), "output": str(folder / f"out{number}")}
            row = _apart(**case, way=way, device=arguments.device)
            row["difference"] = greatest_difference(folder / "out0", folder / f"out{number}")
            calls_per_second = arguments.calls / row["seconds"]
            print(
                f"| {way} | {row['seconds']:.1f} | {3600 * calls_per_second:.0f} "
                f"| {calls_per_second * arguments.seconds:.1f} | {row['cpu_seconds']:.1f} | {row['peak_mb']:.0f} "
                f"| {row['difference']:.1e} |",
                flush=True,
            )
            rows.append(row)
    return rows


def main(argv=None):
    """Run a benchmark, print its table, and optionally write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--device", default="cpu", help="as torch writes it (default: cpu)")
    common.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    common.add_argument("--json", help="file for the rows")
    batches = parts.add_parser("batches", parents=[common], help="the network alone")
    batches.add_argument("--sizes", nargs="+", default=["small"], help="networks (default: small)")
    batches.add_argument("--seconds", nargs="+", type=float, default=[4, 10, 30], help="lengths of the mixtures")
    batches.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8], help="batch sizes")
    batches.add_argument("--rounds", type=int, default=3, help="rounds, of which the median is reported (default: 3)")
    batches.set_defaults(run=_run_batches)
    archive = parts.add_parser("archive", parents=[common], help="a folder of calls")
    archive.add_argument("--size", default="small", help="the network (default: small)")
    archive.add_argument("--calls", type=int, default=1000, help="number of calls (default: 1000)")
    archive.add_argument("--seconds", type=float, default=30, help="length of each (default: 30)")
    archive.add_argument("--speech_folder", help="folder of LibriSpeech; without it, tones in the rhythm of speech")
    archive.add_argument("--ways", nargs="+", default=["single", "bulk"], help="single, bulk, bulk:N")
    archive.add_argument("--folder", help="folder for temporary files (default: the system's)")
    archive.set_defaults(run=_run_archive)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # of the started processes
    rows = arguments.run(arguments)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
