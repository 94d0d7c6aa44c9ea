"""A part of the corpus of many speakers as a few Ogg files, for a machine without internet access.

    python -m benchmarks.gpu_corpus pack --speech speech8k --noise noise8k --librispeech_folder LibriSpeech .gpu
    python -m benchmarks.gpu_corpus unpack .gpu data

`speech8k` and `noise8k` hold Ogg files of several minutes and an index of the clips in each, `SOURCE.jsonl.gz`: one
line per clip, with `f` its file, `s` its first sample, `n` its samples, `spk` its speaker or kind. `pack` copies whole
files of the sources in `SOURCES`, test utterances and noise, and writes checksums. `unpack` checks them and writes the
input of `train.py hparams/mossformer_many_speakers.yaml`: `data/clips`, `data/noise`, `data/list.csv`, and the test
utterances in `data/corpus/speech/tt`.
"""

import argparse
import csv
import gzip
import hashlib
import io
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from data_prep.audio import resample
from data_prep.corpora.many_speakers_list import LIBRISPEECH, LIST_FILE
from data_prep.corpora.many_speakers_sources import SAMPLE_RATE
from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.audio_writing import write_audio
from mossformer_sb.errors import InputError

# Source → number of files: many speakers rather than long recordings.
SOURCES = {"libri_train5": 4, "cv61_60langs": 6, "cv13d_en": 4, "libri_devclean": 1, "so762": 1}
NOISE_SHARE = 2  # every second clip of noise
TEST = "test"  # name of the file with the test utterances
SUMS, INDEX = "sums.json", "index.jsonl"
MOST_MB = 34.0  # beside 24 MB of wheels and 4 MB of the checkout


def pack(speech, noise, librispeech_folder, target, sources=None):
    """Write the files into a folder; return a line with their number and size.

    Raises
    ------
    InputError
        If something is missing, or it is larger than the limit.
    """
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    lines = []
    for source, count in (SOURCES if sources is None else sources).items():
        clips = _index(Path(speech) / f"{source}.jsonl.gz")
        taken = sorted({clip["f"] for clip in clips})[:count]
        for name in taken:
            shutil.copyfile(Path(speech) / name, target / name)
        lines += [{**clip, "clip": f"{source}-{number:05d}"} for number, clip in enumerate(clips) if clip["f"] in taken]
    lines += _pack_noise(Path(noise), target)
    lines += _pack_test(librispeech_folder, target)
    (target / INDEX).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    files = sorted(path for path in target.iterdir() if path.name != SUMS)
    (target / SUMS).write_text(json.dumps({path.name: _checksum(path) for path in files}, indent=1), encoding="utf-8")
    size = sum(path.stat().st_size for path in files) / 1e6
    if size > MOST_MB:
        raise InputError(f"{target}: {size:.1f} MB are more than the limit of {MOST_MB:g} MB: choose fewer files.")
    hours = sum(line["n"] for line in lines if line["kind"] == "speech") / SAMPLE_RATE / 3600
    return f"{target}: {size:.1f} MB, {len(lines)} clips, {hours:.2f} h of speech"


def _index(path):
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [{"kind": "speech", **json.loads(line)} for line in file]
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error}); needed a folder with Ogg files and their index.") from error


def _pack_noise(folder, target):
    """Every second clip of noise, in new files: the original ones are longer."""
    lines = []
    for path in sorted(folder.glob("*.jsonl.gz")):
        clips = _index(path)[::NOISE_SHARE]
        whole = {name: read_audio(folder / name)[0] for name in {clip["f"] for clip in clips}}
        signals = [whole[clip["f"]][clip["s"] : clip["s"] + clip["n"]] for clip in clips]
        name = f"noise-{path.name.split('.')[0]}.ogg"
        lines += _write(target, name, signals, "noise", [(clip["spk"], clip["spk"]) for clip in clips])
    return lines


def _pack_test(librispeech_folder, target):
    rows = [row for row in _rows() if row["source"] == LIBRISPEECH]
    root = Path(librispeech_folder)
    signals = [resample(read_audio(root / row["file"])[0].astype(np.float64), SAMPLE_RATE) for row in rows]
    return _write(target, f"{TEST}.ogg", signals, TEST, [(row["clip"], row["speaker"]) for row in rows])


def _write(target, name, signals, kind, names):
    """One Ogg file of all signals, and its lines of the index."""
    starts = np.cumsum([0, *(len(signal) for signal in signals)])
    with soundfile.SoundFile(target / name, "w", SAMPLE_RATE, 1, format="OGG", subtype="VORBIS") as file:
        for signal in signals:  # libsndfile crashes on long arrays at once
            file.write(signal.astype(np.float32))
    return [
        {"kind": kind, "f": name, "s": int(start), "n": len(signal), "spk": spk, "clip": f"{clip}-{number:04d}"}
        if kind == "noise"
        else {"kind": kind, "f": name, "s": int(start), "n": len(signal), "spk": spk, "clip": clip}
        for number, (start, signal, (clip, spk)) in enumerate(zip(starts, signals, names, strict=False))
    ]


def unpack(source, target, workers=16):
    """Check the files of `pack`, and write the recordings and the list; return a line with their number.

    Raises
    ------
    InputError
        If a file is missing or differs from the packed one.
    """
    source, target = Path(source), Path(target)
    try:
        sums = json.loads((source / SUMS).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{source / SUMS}: can't be read ({error.strerror}); needed a folder that `pack` wrote."
        ) from error
    wrong = [name for name, value in sums.items() if not (source / name).is_file() or _checksum(source / name) != value]
    if wrong:
        raise InputError(f"{source}: {', '.join(wrong)} differ from the packed files: copy them again.")
    lines = [json.loads(line) for line in (source / INDEX).read_text(encoding="utf-8").splitlines()]
    by_file = {}
    for line in lines:
        by_file.setdefault(line["f"], []).append(line)
    with ThreadPoolExecutor(workers) as pool:  # libsndfile decodes without Python's lock
        list(pool.map(lambda item: _unpack_file(source / item[0], item[1], target), by_file.items()))
    here = {line["clip"] for line in lines}
    with open(target / "list.csv", "w", encoding="utf-8", newline="") as file:
        rows = _rows()
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row for row in rows if row["clip"] in here)
    return f"{target}: {len(lines)} recordings"


def _unpack_file(path, lines, target):
    samples, _ = read_audio(path)
    folders = {"speech": target / "clips", "noise": target / "noise", TEST: target / "corpus" / "speech" / "tt"}
    for line in lines:
        folder = folders[line["kind"]] / ("" if line["kind"] == TEST else line["spk"])
        folder.mkdir(parents=True, exist_ok=True)
        write_audio(folder / f"{line['clip']}.wav", samples[line["s"] : line["s"] + line["n"]], SAMPLE_RATE)


def _rows():
    with gzip.open(LIST_FILE, "rb") as file:
        return list(csv.DictReader(io.StringIO(file.read().decode())))


def _checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments=None):
    """Pack or unpack; 0, or 2 after an error in the user's input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_corpus", description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command = commands.add_parser("pack", help="pack a part of the corpus")
    command.set_defaults(function=pack)
    for name in ("speech", "noise", "librispeech_folder"):
        command.add_argument(f"--{name}", required=True)
    command.add_argument("target")
    command = commands.add_parser("unpack", help="write the recordings and the list")
    command.set_defaults(function=unpack)
    command.add_argument("source")
    command.add_argument("target")
    options = vars(parser.parse_args(arguments))
    function = options.pop("function")
    try:
        print(function(**options))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
