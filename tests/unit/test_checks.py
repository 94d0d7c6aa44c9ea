"""All problems of samples are found, in one report, and bad mixtures can be excluded."""

import csv
import json
import logging

import numpy as np
import pytest
import soundfile

from data_prep.__main__ import main
from data_prep.command import RENAMED
from data_prep.corpora.librimix import prepare_librimix
from data_prep.corpora.wham import prepare_wham
from data_prep.corpora.whamr import prepare_whamr
from data_prep.corpora.wsj0mix import prepare_wsj0mix
from data_prep.manifests.checks import STEP
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.data.manifests import FINGERPRINT_SHOWN
from mossformer_sb.errors import InputError
from tests.unit.trees import FRAMES, IDS, write_librimix, write_wham, write_whamr, write_wsj0mix

A, B = IDS
TRAIN = "wav8k/min/tr"
DEEP = {"check_samples": True}


@pytest.fixture
def wham(tmp_path):
    return write_wham(tmp_path / "wham")


def read(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def fails(prepare, root, *parts, **options):
    """Preparation must fail, name all parts in its message, and write no manifest."""
    with pytest.raises(InputError) as caught:
        prepare(root, root.parent / "out", **options)
    for part in parts:
        assert part in str(caught.value)
    assert not list(root.parent.glob("out/*_t?.csv"))


def change(path, function):
    """Writes function(samples) to a file in its own format."""
    samples, sample_rate = soundfile.read(path)
    subtype = soundfile.info(path).subtype
    soundfile.write(path, function(samples), sample_rate, subtype=subtype)


def put(value, *indices):
    def function(samples):
        samples[list(indices)] = value
        return samples

    return function


# Corpora without a problem


@pytest.mark.parametrize("task", ["separate_noisy", "separate_clean", "enhance_single"])
def test_sound_wham(wham, tmp_path, task):
    assert len(prepare_wham(wham, tmp_path / "out", task=task, check_samples=True)) == 3


@pytest.mark.parametrize("task", ["separate_noisy", "separate_clean", "enhance_single"])
@pytest.mark.parametrize("num_spks", [2, 3])
def test_sound_librimix_in_16_bit(tmp_path, task, num_spks):
    root = write_librimix(tmp_path / "libri", num_spks)
    assert len(prepare_librimix(root, tmp_path / "out", num_spks, task=task, check_samples=True)) == 3


@pytest.mark.parametrize("target", ["anechoic", "reverb"])
def test_sound_whamr_has_reverberant_parts(tmp_path, target):
    root = write_whamr(tmp_path / "whamr")
    assert len(prepare_whamr(root, tmp_path / "out", target=target, check_samples=True)) == 3


# What samples can have


@pytest.mark.parametrize(
    "function, kind, text",
    [
        (put(np.nan, 5), "files with NaN or infinity", "has 1 samples that are NaN or infinite"),
        (put(-np.inf, 5, 9), "files with NaN or infinity", "has 2 samples that are NaN or infinite"),
        (np.zeros_like, "silent files", "is silent"),
        (put(1.0, 100, 101, 102), "clipped files", "is clipped: 3 or more consecutive samples are at full scale"),
        (put(-1.5, 100, 101, 102), "clipped files", "is clipped"),
    ],
)
def test_bad_samples(wham, function, kind, text):
    path = f"{TRAIN}/s2/{A}.wav"
    change(wham / path, function)
    fails(prepare_wham, wham, f"1 {kind}", f"{path} {text}", **DEEP)


@pytest.mark.parametrize("function", [put(np.nan, 5), np.zeros_like])
def test_only_check_samples_reads_samples(wham, tmp_path, function):
    change(wham / TRAIN / "s2" / f"{A}.wav", function)
    assert len(prepare_wham(wham, tmp_path / "out")) == 3


@pytest.mark.parametrize("indices", [(100, 101), (100, 101, 200, 201), (100, 102, 104)])
def test_peaks_at_full_scale_are_no_clipping(wham, indices):
    change(wham / TRAIN / "s2" / f"{A}.wav", put(1.0, *indices))
    with pytest.raises(InputError) as caught:  # the sum is wrong, of course
        prepare_wham(wham, wham.parent / "out", check_samples=True)
    assert "clipped" not in str(caught.value)


def test_peaks_above_full_scale_of_float_files_are_no_clipping(tmp_path):
    root = write_wham(tmp_path / "wham")
    for folder in ("mix_both", "s1", "s2", "noise"):
        for path in (root / TRAIN / folder).iterdir():
            change(path, lambda samples: 30 * samples)
    assert len(prepare_wham(root, tmp_path / "out", check_samples=True)) == 3


def test_full_scale_of_16_bit_is_clipping(tmp_path):
    root = write_wsj0mix(tmp_path / "wsj0", subtype="PCM_16")
    change(root / "2speakers" / TRAIN / "mix" / f"{A}.wav", put(1.0, *range(3)))
    fails(prepare_wsj0mix, root, "1 clipped files", "1 mixtures unlike the sum of their parts", **DEEP)


@pytest.mark.parametrize("folder, named", [("mix_both", "it"), ("s1", f"{TRAIN}/s1/{A}.wav")])
def test_a_single_sample_at_full_scale_is_called_so(wham, tmp_path, folder, named):
    change(wham / TRAIN / folder / f"{A}.wav", put(1.0, 7))
    text = f"at sample 7; needed at most 0.00012. There, {named} is at full scale: a louder signal is cut off"
    fails(prepare_wham, wham, "1 mixtures unlike the sum of their parts", text, **DEEP)


@pytest.mark.parametrize("excess, found", [(0.9, False), (1.1, True)])
def test_the_sum_may_be_off_by_one_step_a_part_plus_one(wham, tmp_path, excess, found):
    """With two sources and noise: by four steps."""
    mixture = wham / TRAIN / "mix_both" / f"{A}.wav"
    change(mixture, lambda samples: samples + excess * 4 * STEP * (np.arange(FRAMES) == 7))
    if found:
        parts = f"{TRAIN}/s1/{A}.wav, {TRAIN}/s2/{A}.wav, {TRAIN}/noise/{A}.wav"
        text = f"is not the sum of {parts}: off by 0.00013 at sample 7; needed at most 0.00012"
        fails(prepare_wham, wham, "1 mixtures unlike the sum of their parts", text, **DEEP)
    else:
        prepare_wham(wham, tmp_path / "out", check_samples=True)


def test_the_sum_of_whamr_needs_the_reverberant_images(tmp_path):
    root = write_whamr(tmp_path / "whamr")
    change(root / TRAIN / "s1_anechoic" / f"{A}.wav", lambda samples: 2 * samples)  # a target, no part
    prepare_whamr(root, tmp_path / "out", check_samples=True)
    change(root / TRAIN / "s1_reverb" / f"{A}.wav", lambda samples: 2 * samples)
    (tmp_path / "second").mkdir()
    fails(
        prepare_whamr, root.rename(tmp_path / "second" / "whamr"), f"not the sum of {TRAIN}/s1_reverb/{A}.wav", **DEEP
    )


def test_missing_image_matters_only_to_checks_of_samples(tmp_path):
    root = write_whamr(tmp_path / "whamr")
    (root / TRAIN / "s2_reverb" / f"{A}.wav").unlink()
    text = f"{TRAIN}/s2_reverb/{A}.wav does not exist; needed as the part of {TRAIN}/mix_both_reverb/{A}.wav"
    fails(prepare_whamr, root, "1 missing files", text, **DEEP)
    assert len(prepare_whamr(root, tmp_path / "out")) == 3


def test_mixtures_with_bad_headers_are_not_read(wham):
    path = wham / TRAIN / "s1" / f"{A}.wav"
    path.write_bytes(b"")
    change(wham / TRAIN / "s2" / f"{A}.wav", np.zeros_like)
    change(wham / TRAIN / "s2" / f"{B}.wav", np.zeros_like)
    fails(prepare_wham, wham, "1 unreadable files, 1 silent files, 1 mixtures unlike the sum", **DEEP)


# The report, and what comes of it


def spoil(wham):
    """Three problems in two mixtures of tr, one in one of cv, and a file of no mixture."""
    (wham / TRAIN / "s1" / f"{A}.wav").unlink()
    change(wham / TRAIN / "s2" / f"{A}.wav", lambda samples: samples[:-1])
    cv = wham / "wav8k/min/cv"
    (cv / "noise" / f"{B}.wav").write_bytes(b"")
    (cv / "s1" / "other.wav").write_bytes(b"")


def test_report_has_all_problems(wham, tmp_path):
    spoil(wham)
    report = tmp_path / "out" / "wham_problems.csv"
    fails(prepare_wham, wham, f"All of them are in {report}. No manifest was written", "--on_invalid skip")
    rows = read(report)
    assert list(rows[0]) == ["kind", "split", "mixture_id", "file", "text"]
    assert {(row["kind"], row["split"], row["mixture_id"], row["file"]) for row in rows} == {
        ("missing files", "tr", A, f"{TRAIN}/s1/{A}.wav"),
        ("files without a mixture", "cv", "other", "wav8k/min/cv/s1/other.wav"),
        ("different lengths", "tr", A, f"{TRAIN}/s2/{A}.wav"),
        ("unreadable files", "cv", B, f"wav8k/min/cv/noise/{B}.wav"),
    }


def test_many_problems_are_all_in_the_report(tmp_path):
    root = write_wham(tmp_path / "wham", ids=[f"{i:02d}" for i in range(30)])
    for path in (root / TRAIN / "s1").iterdir():
        path.unlink()
    fails(prepare_wham, root, "30 missing files", "and 20 more")
    assert len(read(tmp_path / "out" / "wham_problems.csv")) == 30


def test_skip_excludes_bad_mixtures_and_logs_their_number(wham, tmp_path, caplog):
    spoil(wham)
    with caplog.at_level(logging.WARNING):
        manifests = prepare_wham(wham, tmp_path / "out", on_invalid="skip")
    assert {split: [row["ID"] for row in read(path)] for split, path in manifests.items()} == {
        "tr": [B],
        "cv": [A],
        "tt": [B, A],
    }
    assert "1 missing files, 1 files without a mixture, 1 different lengths, 1 unreadable files" in caplog.text
    assert "Excluded 1 of 2 mixtures of split 'tr'" in caplog.text
    assert "Excluded 0 of 2 mixtures of split 'tt'" in caplog.text
    assert len(read(tmp_path / "out" / "wham_problems.csv")) == 4


def test_skip_excludes_problems_that_only_samples_show(wham, tmp_path):
    change(wham / TRAIN / "s2" / f"{A}.wav", np.zeros_like)
    manifests = prepare_wham(wham, tmp_path / "out", on_invalid="skip", check_samples=True)
    assert [row["ID"] for row in read(manifests["tr"])] == [B]


def test_skip_leaves_no_empty_split(wham):
    for mixture_id in IDS:
        (wham / TRAIN / "s1" / f"{mixture_id}.wav").unlink()
    fails(prepare_wham, wham, "no mixture of split 'tr' can be used", on_invalid="skip")


def test_old_report_is_removed(wham, tmp_path):
    spoil(wham)
    prepare_wham(wham, tmp_path / "out", on_invalid="skip")
    write_wham(wham)
    (wham / "wav8k/min/cv/s1/other.wav").unlink()
    prepare_wham(wham, tmp_path / "out")
    assert not (tmp_path / "out" / "wham_problems.csv").exists()


def test_unknown_on_invalid(wham):
    fails(prepare_wham, wham, "on_invalid 'ignore' is not known: choose one of 'error', 'skip'", on_invalid="ignore")


def test_output_folder_that_cannot_be_made(wham, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output_folder '.*out' can't be written .Not a directory.: give another"):
        prepare_wham(wham, tmp_path / "file" / "out")


def test_command_passes_the_checks_on(wham, tmp_path, capsys):
    change(wham / TRAIN / "s2" / f"{A}.wav", np.zeros_like)
    arguments = ["wham", "--data_folder", str(wham), "--output_folder", str(tmp_path / "out")]
    assert main([*arguments, "--check_samples"]) == 2
    assert "1 silent files" in capsys.readouterr().err
    assert main([*arguments, "--check_samples", "--on_invalid", "skip"]) == 0
    assert [row["ID"] for row in read(tmp_path / "out" / "wham_tr.csv")] == [B]


# Speakers


def test_speakers_of_training_and_test_are_compared(tmp_path, caplog):
    root = write_librimix(tmp_path / "libri")
    prepare_librimix(root, tmp_path / "out")
    assert "2 speakers are both in training and in split 'test' (4077, 5142)" in caplog.text


@pytest.mark.parametrize("splits", [("tr", "cv"), ("cv", "tt")])
def test_speakers_of_validation_may_be_those_of_others(wham, tmp_path, caplog, splits):
    prepare_wham(wham, tmp_path / "out", splits=splits)
    assert "speakers" not in caplog.text


# Fingerprints


def stored(path):
    with open(path.replace(".csv", ".json")) as stream:
        return json.load(stream)


def test_fingerprint_is_stored_shown_and_found_again_in_training(wham, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        manifest = prepare_wham(wham, tmp_path / "out")["tr"]
    facts = stored(manifest)
    assert facts["mixtures"] == 2 and len(facts["fingerprint"]) == 64
    assert f"fingerprint {facts['fingerprint'][:FINGERPRINT_SHOWN]}" in caplog.text
    assert MixtureDataset(manifest, wham).fingerprint == facts["fingerprint"]


def test_fingerprint_depends_on_recordings_and_not_on_where_they_lie(wham, tmp_path):
    def fingerprint(name, root=wham, **options):
        return stored(prepare_wham(root, tmp_path / name, **options)["tr"])["fingerprint"]

    first = fingerprint("1")
    assert fingerprint("2", write_wham(tmp_path / "elsewhere")) == first
    assert fingerprint("3", write_wham(tmp_path / "longer", frames=FRAMES + 1)) != first
    assert fingerprint("4", write_wham(tmp_path / "fewer", ids=[A])) != first
    (tmp_path / "rate").mkdir()
    write_wham(tmp_path / "rate", sample_rate=16000).joinpath("wav8k").rename(tmp_path / "rate" / "wav16k")
    assert fingerprint("5", tmp_path / "rate", sample_rate=16000) != first


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_options_of_earlier_versions_are_refused_with_their_new_names(wham, tmp_path, capsys, old, new):
    arguments = ["wham", "--data_folder", str(wham), "--output_folder", str(tmp_path / "out")]
    for words in ([old], [f"{old}=skip"]):
        assert main([*arguments, *words]) == 2
        assert f"{old} is now called {new}: give it under this name." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
