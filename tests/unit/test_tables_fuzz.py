"""Random tables: whatever is in them, reading gives a result or an `InputError`, and nothing else.

Seeds are fixed. It stops after 10 seconds; MOSSFORMER_SB_FUZZ_SECONDS sets another time.
"""

import logging
import os
import random
import sys
import time
from types import SimpleNamespace

import pytest

from data_prep.corpora.custom import prepare_custom
from data_prep.generate.recordings import name_speech
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.data.manifests import read_manifest
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.score_files import find_utterances, read_utterances, score
from tests.unit.trees import FRAMES, write_custom

SECONDS = float(os.environ.get("MOSSFORMER_SB_FUZZ_SECONDS", 10))
MOST = 400 if SECONDS <= 10 else 10**9  # tables of each kind
SEPARATORS = [",", ";", "\t", "|", " ", ":", ", ", ""]
ENCODINGS = ["utf-8"] * 5 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "utf-7", "cp037"]
ENDS = ["\n", "\n", "\r\n", "\r", "\n\n", "\n \n", "\x0b", "\u2028"]
ODD = [
    "",
    " ",
    "nan",
    "inf",
    "-1",
    "0",
    "1e999",
    "1e-9",
    "1,5",
    "١",
    "true",
    "None",
    '"',
    '""',
    "'",
    "\\",
    "a\nb",
    "\x00",
]
ODD += [
    "~",
    "~nobody/x",
    "$data_root",
    "$data_root/",
    "$HOME/x",
    "/",
    ".",
    "..",
    "*",
    "C:\\x\\y.wav",
    "x" * 300,
    "é絆",
    "\ufeff",
]
ODD += [
    "1" * 5000,
    "=1+1",
    "#",
    "sep=;",
    "tr/mix/a.wav\x00",
    "file:///a.wav",
    "http://x/a.wav",
    "a.wav?x=1",
    "%s%d",
    "{0}",
]
KINDS = {
    "manifest": ["ID", "duration", "sample_rate", "mix_wav", "s1_wav", "s2_wav"],
    "list": ["ID", "split", "mix_wav", "s1_wav", "s2_wav", "s1_spk", "s2_spk"],
    "speech": ["path", "spk"],
    "score": ["ID", "mix_wav", "s1_wav", "s2_wav", "est1_wav", "est2_wav"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = write_custom(tmp_path_factory.mktemp("fuzz"))
    return SimpleNamespace(root=root, table=root / "table.csv", out=root / "out")


def value(rng, column, root, number, oddity):
    """One that fits, mostly."""
    if rng.random() < 0.04 * oddity:
        return rng.choice(ODD)
    split = rng.choice(["tr", "cv", "tt"])
    stem = rng.choice(["a", "b b"])
    kind = {"mix_wav": "mix", "path": "s1"}.get(column, column.replace("est", "s").partition("_")[0])
    path = rng.choice(["$data_root/{}", "{}", f"{root}/{{}}", "./{}"]).format(f"{split}/{kind}/{stem}.wav")
    path = path.replace("/", "\\") if rng.random() < 0.1 else path
    return {
        "ID": str(number) if rng.random() < 1 - 0.03 * oddity else "0",
        "duration": str(FRAMES / 8000) if rng.random() < 1 - 0.1 * oddity else "1.0",
        "sample_rate": rng.choice(["8000"] * (1 if oddity else 3) + ["8000.0"] + ["16000", "8 kHz"] * (oddity > 0.5)),
        "split": rng.choice([split, "train", "Valid", "test"] + ["none"] * (oddity > 0.5)),
        "spk": rng.choice(["1", "2", "a b"]),
        "s1_spk": rng.choice("ABC"),
        "s2_spk": rng.choice("ABC"),
    }.get(column, path)


def random_table(rng, kind, root):
    """The bytes of a table, which may be of any form."""
    oddity = rng.choice([0, 0.1, 1])
    columns = list(KINDS[kind])
    if rng.random() < 0.3 * oddity:
        columns.remove(rng.choice(columns))
    if rng.random() < 0.3 * oddity:
        columns.insert(
            rng.randrange(len(columns) + 1), rng.choice([*KINDS[kind], "mix_wav_format", "", "noise_wav", "x"])
        )
    rng.shuffle(columns)
    separator, end = (
        rng.choice(SEPARATORS if oddity == 1 else SEPARATORS[:4]),
        rng.choice(ENDS if oddity == 1 else ENDS[:6]),
    )
    rows = [
        [value(rng, column, root, number, oddity) for column in columns]
        for number in range(rng.choice([0, 1, 2, 3, 12]))
    ]
    for row in rows:
        if rng.random() < 0.05 * oddity:
            row[:] = row[: rng.randrange(len(row) + 1)] + [rng.choice(ODD)] * rng.randrange(3)
    quoted = rng.random() < 0.3
    lines = [
        separator.join(f'"{cell}"' if quoted or rng.random() < 0.02 * oddity else cell for cell in line)
        for line in (columns, *rows)
    ]
    text = end.join(lines) + rng.choice(["", end] + ['"', "\x1a"] * (oddity == 1))
    if rng.random() < 0.2:
        columns_line, *rest = text.split(end)
        text = end.join([rng.choice([columns_line.upper(), columns_line.title(), f" {columns_line} "]), *rest])
    content = text.encode(rng.choice(ENCODINGS if oddity == 1 else ENCODINGS[:9]), errors="replace")
    for _ in range(rng.choice([0, 0, 0, 1, 3]) if oddity == 1 else 0):  # damage
        place = rng.randrange(len(content) + 1)
        content = content[:place] + bytes([rng.randrange(256)]) * rng.randrange(3) + content[place + rng.randrange(3) :]
    return content


def use(kind, place, rng):
    """What the programs do with such a table."""
    if kind == "manifest":
        if rng.random() < 0.5:
            return read_manifest(place.table, place.root, rng.choice([None, 1, 2, 3]))
        data = MixtureDataset(place.table, place.root, segment=rng.choice([None, 0.1]), trim=rng.choice([0, 5]))
        return [data[index] for index in range(min(2, len(data)))]
    if kind == "list":
        root = rng.choice([None, place.root])
        options = {"on_invalid": rng.choice(["error", "skip"]), "num_spks": rng.choice([1, 2, 3])}
        return prepare_custom(
            root, place.out, csv_file=place.table, splits=rng.choice([("tr",), ("tr", "cv", "tt")]), **options
        )
    if kind == "speech":
        return name_speech(place.table)
    if rng.random() < 0.5:
        return list(score(read_utterances(place.table, rng.choice([None, place.root]))))
    return find_utterances(place.root / "tr", place.table, data_root=place.root, subset=True)


@pytest.mark.parametrize("kind", KINDS)
def test_results_or_input_errors(kind, place, caplog):
    caplog.set_level(logging.CRITICAL)
    end = time.monotonic() + SECONDS / len(KINDS)
    results = errors = seed = 0
    while seed < MOST and (time.monotonic() < end or seed < 20):
        rng = random.Random(f"{kind} {seed}")
        content = random_table(rng, kind, place.root)
        place.table.write_bytes(content)
        try:
            use(kind, place, rng)
            results += 1
        except InputError as error:
            errors += 1
            assert 10 < len(str(error)), seed
        except Exception as error:
            raise AssertionError(f"table {seed} of kind {kind}: {type(error).__name__} {error}\n{content!r}") from error
        seed += 1
    assert results and errors
    if "MOSSFORMER_SB_FUZZ_SECONDS" in os.environ:
        sys.__stderr__.write(f"\n{kind}: {seed} tables, {results} results, {errors} errors\n")
