"""Manifests say what the files say, and every way in which a corpus can be wrong has its message."""

import csv
import os
import struct

import pytest

from data_prep.__main__ import main
from data_prep.corpora.custom import prepare_custom
from data_prep.corpora.wham import prepare_wham
from data_prep.corpora.whamr import prepare_whamr
from data_prep.corpora.wsj0mix import prepare_wsj0mix
from data_prep.manifests.folders import wsj0_speakers
from mossformer_sb.data.manifests import mixtures_are_sums
from mossformer_sb.errors import InputError
from tests.unit.trees import (
    FRAMES,
    IDS,
    IDS_3,
    WHAM_FOLDERS,
    write_custom,
    write_tree,
    write_wav,
    write_wham,
    write_whamr,
    write_wsj0mix,
)

A, B = IDS
TRAIN = "wav8k/min/tr"


@pytest.fixture
def wham(tmp_path):
    return write_wham(tmp_path / "wham")


def read(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def fails(tmp_path, *parts, data="wham", prepare=prepare_wham, **options):
    """Preparation must fail, name all parts in its message, and write no more than its report."""
    with pytest.raises(InputError) as caught:
        prepare(tmp_path / data, tmp_path / "out", **options)
    for part in parts:
        assert part in str(caught.value)
    assert [path.name for path in tmp_path.glob("out/*") if not path.name.endswith("_problems.csv")] == []
    return str(caught.value)


# What is written


def test_wham_rows(wham, tmp_path):
    manifests = prepare_wham(wham, tmp_path / "out")
    assert manifests == {split: str(tmp_path / "out" / f"wham_{split}.csv") for split in ("tr", "cv", "tt")}
    first, second = read(manifests["tr"])
    assert first == {
        "ID": B,
        "duration": "0.200125",
        "sample_rate": "8000",
        "mix_wav": f"$data_root/{TRAIN}/mix_both/{B}.wav",
        "s1_wav": f"$data_root/{TRAIN}/s1/{B}.wav",
        "s2_wav": f"$data_root/{TRAIN}/s2/{B}.wav",
        "noise_wav": f"$data_root/{TRAIN}/noise/{B}.wav",
        "s1_spk": "209",
        "s2_spk": "01c",
    }
    assert (second["ID"], second["s1_spk"], second["s2_spk"]) == (A, "40n", "01x")
    assert round(float(first["duration"]) * 8000) == FRAMES
    assert "wav8k/min/cv/s2/" in read(manifests["cv"])[0]["s2_wav"]


@pytest.mark.parametrize(
    "task, mixture, columns",
    [
        ("separate_noisy", "mix_both", ["s1_wav", "s2_wav", "noise_wav", "s1_spk", "s2_spk"]),
        ("separate_clean", "mix_clean", ["s1_wav", "s2_wav", "s1_spk", "s2_spk"]),
        ("enhance_single", "mix_single", ["s1_wav", "noise_wav", "s1_spk"]),
    ],
)
def test_wham_tasks(wham, tmp_path, task, mixture, columns):
    row = read(prepare_wham(wham, tmp_path / "out", task=task)["tt"])[0]
    assert list(row) == ["ID", "duration", "sample_rate", "mix_wav", *columns]
    assert f"/tt/{mixture}/" in row["mix_wav"]


def test_wham_16k_max_and_chosen_splits(tmp_path):
    write_tree(tmp_path / "wham/wav16k/max", ("mix_clean", "s1", "s2"), splits=["cv"], sample_rate=16000)
    options = {"sample_rate": 16000, "mode": "max", "task": "separate_clean", "splits": ["cv"]}
    manifests = prepare_wham(tmp_path / "wham", tmp_path / "out", **options)
    assert list(manifests) == ["cv"]
    assert read(manifests["cv"])[0]["mix_wav"].startswith("$data_root/wav16k/max/cv/mix_clean/")


@pytest.mark.parametrize("num_spks, ids", [(2, IDS), (3, IDS_3)])
def test_wsj0mix_rows(tmp_path, num_spks, ids):
    write_wsj0mix(tmp_path / "wsj0", num_spks, subtype="PCM_16")
    manifests = prepare_wsj0mix(tmp_path / "wsj0", tmp_path / "out", num_spks)
    assert os.path.basename(manifests["tt"]) == f"wsj0_{num_spks}mix_tt.csv"
    rows = read(manifests["tt"])
    assert [row["ID"] for row in rows] == sorted(ids)
    assert rows[0]["mix_wav"] == f"$data_root/{num_spks}speakers/wav8k/min/tt/mix/{sorted(ids)[0]}.wav"
    last = f"s{num_spks}"
    assert f"/{last}/" in rows[0][f"{last}_wav"] and rows[0][f"{last}_spk"] == {2: "01c", 3: "20m"}[num_spks]


def test_no_speaker_columns_unless_every_name_has_speakers(wham, tmp_path):
    for folder in ("mix_both", "s1", "s2", "noise"):
        write_wav(wham / TRAIN / folder / "zz-other.wav")
    manifests = prepare_wham(wham, tmp_path / "out")
    assert "s1_spk" not in read(manifests["tr"])[0] and "s1_spk" in read(manifests["cv"])[0]


@pytest.mark.parametrize(
    "mixture_id", ["40na010x", "40na010_1_01xo031a_-1", "40na010x_x_01xo031a_1", "40NA010x_1", "40na010x_1_b"]
)
def test_speakers_need_the_whole_pattern(mixture_id):
    assert wsj0_speakers(mixture_id) is None


def test_rows_are_sorted(tmp_path):
    ids = [f"{i:03d}" for i in range(20)]
    root = write_wham(tmp_path / "wham", ids=ids, splits=["cv"])
    assert [row["ID"] for row in read(prepare_wham(root, tmp_path / "out", splits=["cv"])["cv"])] == ids


def test_second_run_writes_the_same_bytes(wham, tmp_path):
    first = prepare_wham(wham, tmp_path / "one")
    second = prepare_wham(wham, tmp_path / "two")
    for split in first:
        with open(first[split], "rb") as one, open(second[split], "rb") as two:
            assert one.read() == two.read()
    assert sorted(os.listdir(tmp_path / "one")) == [
        f"wham_{s}.{e}" for s in ("cv", "tr", "tt") for e in ("csv", "json")
    ]


def test_hidden_and_foreign_files_are_ignored(wham, tmp_path):
    (wham / TRAIN / "mix_both" / f"._{A}.wav").write_bytes(b"Mac OS")
    (wham / TRAIN / "s1" / "README.txt").write_text("hello")
    assert len(read(prepare_wham(wham, tmp_path / "out")["tr"])) == 2


# Wrong arguments


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"task": "separate"}, ["task 'separate'", "'separate_noisy', 'separate_clean', 'enhance_single'"]),
        ({"mode": "mid"}, ["mode 'mid'", "'min', 'max'"]),
        ({"sample_rate": 44100}, ["sample_rate 44100", "8000, 16000"]),
        ({"splits": ["tr", "dev"]}, ["split 'dev'", "'tr', 'cv', 'tt'"]),
    ],
)
def test_unknown_value(wham, tmp_path, options, parts):
    fails(tmp_path, *parts, **options)


def test_unknown_num_spks(tmp_path):
    fails(tmp_path, "num_spks 6", "2, 3, 4, 5", prepare=prepare_wsj0mix, num_spks=6)


# Wrong folders


def test_folder_missing(tmp_path):
    fails(tmp_path, str(tmp_path / "wham"), "does not exist")


def test_folder_is_a_file(tmp_path):
    (tmp_path / "wham").write_text("")
    fails(tmp_path, "is a file")


@pytest.mark.parametrize(
    "top, folder, telltale, name, yaml",
    [
        ("2speakers/wav8k/min", "mix", "2speakers/wav8k/min/tr/mix", "WSJ0-2mix", "mossformer_wsj0mix.yaml"),
        ("wav8k/min", "mix_both_reverb", "wav8k/min/tr/mix_both_reverb", "WHAMR!", "mossformer_whamr.yaml"),
        ("Libri2Mix/wav8k/min", "mix_both", "Libri2Mix/wav8k/min/tr/mix_both", "Libri2Mix", "mossformer_librimix.yaml"),
    ],
)
def test_another_corpus(tmp_path, top, folder, telltale, name, yaml):
    write_tree(tmp_path / "wham" / top, [folder], splits=["tr"])
    fails(tmp_path, f"Found {telltale}: this is the layout of {name}", yaml, "wav8k/min/tr/mix_both")


def test_wham_given_as_wsj0mix(wham, tmp_path):
    parts = ["Found wav8k/min/", "this is the layout of WHAM!", "mossformer_wham.yaml", "2speakers/wav8k/min/tr/mix"]
    fails(tmp_path, *parts, prepare=prepare_wsj0mix)


@pytest.mark.parametrize("data", ["wham/wav8k/min", ".", "wham/wav8k"])
def test_folder_above_or_below(wham, tmp_path, data):
    fails(tmp_path, f"Found it in '{wham}': give that as data_folder.", data=data)


def test_another_sample_rate(wham, tmp_path):
    fails(tmp_path, f"'{wham}' should have a folder 'wav16k', and has: wav8k.", sample_rate=16000)


def test_split_missing(tmp_path):
    root = write_wham(tmp_path / "wham", splits=["tr", "cv"])
    fails(
        tmp_path, "lacks wav8k/min/tt/mix_both", f"'{root / 'wav8k/min'}' should have a folder 'tt', and has: cv, tr."
    )


def test_split_missing_next_to_another_corpus(tmp_path):
    root = write_wsj0mix(tmp_path / "wsj0", 2, splits=["tr"])
    write_wsj0mix(root, 3, splits=["tr"])
    text = f"'{root / '2speakers/wav8k/min'}' should have a folder 'cv', and has: tr."
    fails(tmp_path, text, data="wsj0", prepare=prepare_wsj0mix)


# Wrong files


def test_source_missing(wham, tmp_path):
    (wham / TRAIN / "s2" / f"{A}.wav").unlink()
    text = f"{TRAIN}/s2/{A}.wav does not exist; needed as the s2_wav of {TRAIN}/mix_both/{A}.wav"
    fails(tmp_path, "1 missing files", text)


def test_source_without_mixture(wham, tmp_path):
    (wham / TRAIN / "mix_both" / f"{A}.wav").unlink()
    text = f"{TRAIN}/noise/{A}.wav belongs to no mixture; needed {TRAIN}/mix_both/{A}.wav"
    fails(tmp_path, "3 files without a mixture", text)


def test_split_without_mixtures(tmp_path):
    for folder in WHAM_FOLDERS:
        (tmp_path / "wham" / TRAIN / folder).mkdir(parents=True)
    fails(tmp_path, f"{TRAIN}/mix_both holds no .wav file", splits=["tr"])


def empty(path):
    path.write_bytes(b"")


def not_audio(path):
    path.write_text("404 not found")


def no_samples(path):
    write_wav(path, frames=0)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


def stereo(path):
    write_wav(path, channels=2)


def other_rate(path):
    write_wav(path, sample_rate=16000)


def other_length(path):
    write_wav(path, frames=FRAMES - 1)


@pytest.mark.parametrize(
    "damage, kind, text",
    [
        (empty, "unreadable files", "is empty (0 bytes)"),
        (not_audio, "unreadable files", "can't be read as audio"),
        (no_samples, "files without samples", "has no samples; needed at least one"),
        (truncated, "truncated files", "is truncated: its last 1000 bytes of audio are missing"),
        (stereo, "files that are not mono", "has 2 channels; needed 1 (mono)"),
        (other_rate, "wrong sample rates", "has a sample rate of 16000 Hz; needed 8000 Hz"),
        (
            other_length,
            "different lengths",
            f"has {FRAMES - 1} samples; needed {FRAMES}, as in {TRAIN}/mix_both/{A}.wav",
        ),
    ],
)
def test_damaged_source(wham, tmp_path, damage, kind, text):
    damage(wham / TRAIN / "s1" / f"{A}.wav")
    fails(tmp_path, f"6 mixtures checked: 1 {kind}.", f"{TRAIN}/s1/{A}.wav {text}", "No manifest was written")


def test_damaged_mixture_is_reported_once(wham, tmp_path):
    truncated(wham / TRAIN / "mix_both" / f"{A}.wav")
    fails(tmp_path, "checked: 1 truncated files.")


def test_all_problems_are_counted_and_some_shown(wham, tmp_path):
    for split in ("tr", "cv", "tt"):
        for folder in ("mix_both", "s1", "s2"):
            other_rate(wham / f"wav8k/min/{split}/{folder}/{A}.wav")
    empty(wham / TRAIN / "noise" / f"{B}.wav")
    (wham / "wav8k/min/tt/noise" / f"{B}.wav").unlink()
    message = fails(tmp_path, "1 missing files, 1 unreadable files, 9 wrong sample rates", "and 1 more")
    assert len(message.splitlines()) == 13


def test_streamed_file_of_unknown_size_is_whole(wham, tmp_path):
    path = wham / TRAIN / "s1" / f"{A}.wav"
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"data") + 4, 0xFFFFFFFF)
    path.write_bytes(content)
    assert len(read(prepare_wham(wham, tmp_path / "out")["tr"])) == 2


@pytest.mark.parametrize("lost", [0, 10])
def test_audio_is_found_after_a_chunk_of_odd_size(wham, tmp_path, lost):
    path = wham / TRAIN / "s1" / f"{A}.wav"
    content = path.read_bytes()
    path.write_bytes(content[:12] + b"note\3\0\0\0abc\0" + content[12 : len(content) - lost])
    if lost:
        fails(tmp_path, "its last 10 bytes of audio are missing")
    else:
        assert len(read(prepare_wham(wham, tmp_path / "out")["tr"])) == 2


# The command line


def test_command(wham, tmp_path):
    arguments = ["wham", "--data_folder", str(wham), "--output_folder", str(tmp_path / "out"), "--splits", "tr", "cv"]
    assert main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.csv")) == ["wham_cv.csv", "wham_tr.csv"]


def test_command_shows_only_the_message(tmp_path, capsys):
    arguments = ["wsj0mix", "--data_folder", str(tmp_path / "none"), "--output_folder", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"data_folder '{tmp_path / 'none'}' does not exist")


@pytest.mark.parametrize(
    "prepare, expected",
    [
        (lambda root, out: prepare_custom(write_custom(root), out), True),
        (lambda root, out: prepare_custom(write_custom(root), out, mixture_is_sum=False), False),
        (lambda root, out: prepare_whamr(write_whamr(root), out), False),
        (lambda root, out: prepare_whamr(write_whamr(root), out, check_samples=True), False),
        (lambda root, out: prepare_whamr(write_whamr(root), out, target="reverb"), True),
        (lambda root, out: prepare_whamr(write_whamr(root), out, task="separate_clean_anechoic"), True),
    ],
)
def test_says_whether_mixtures_are_sums(tmp_path, prepare, expected):
    manifests = prepare(tmp_path / "data", tmp_path / "out")
    assert {mixtures_are_sums(path) for path in manifests.values()} == {expected}
