"""LibriMix equals a literal computation of the published steps, from published metadata and from our own."""

import csv
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from data_prep.audio import to_int16_libsndfile
from data_prep.corpora.librimix import prepare_librimix
from data_prep.corpora.whamr import prepare_whamr
from data_prep.generate import librimix_drawing
from data_prep.generate.__main__ import main
from data_prep.generate.librimix import generate
from data_prep.generate.librimix_drawing import Drawing, draw_noises, draw_tuples
from data_prep.generate.librimix_splits import split_noises, split_speakers
from data_prep.generate.reading import FADE, read_recording
from data_prep.generate.recordings import Clip, find_speech
from mossformer_sb.data.source_pools import extend_noise
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import walk_files
from tests.forked import run as run_program
from tests.unit.generate_items import tree
from tests.unit.permissions import closed, read_only

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
RATE = 16000
EVERYTHING = {"sample_rates": (8000, 16000), "modes": ("min", "max")}

# Published metadata for the recordings below: number of speakers → table → lines.
UTTERANCES = {"19-198-0000": 9001, "26-495-0001": 7000, "27-123349-0002": 20003, "40-222-0000": 12345}
NOISES = {"tr/a_1_b_-1.wav": 9500, "tr/c_2_d_-2.wav": 30000, "cv/e_0.5_f_-0.5.wav": 21000}
MIXTURES = {
    "libri2mix_train-clean-100.csv": [
        (
            ["19-198-0000", "26-495-0001"],
            [0.7875413348848695, 1.4352834120507272],
            "tr/a_1_b_-1.wav",
            1.7990499862874463,
        ),
        (["27-123349-0002", "40-222-0000"], [2.25, 0.61], "tr/a_1_b_-1.wav", 0.3),  # extended twice
    ],
    "libri2mix_dev-clean.csv": [(["40-222-0000", "19-198-0000"], [1.1, 9.9], "cv/e_0.5_f_-0.5.wav", 0.7)],  # clips
    "libri3mix_test-clean.csv": [
        (["26-495-0001", "40-222-0000", "27-123349-0002"], [1.5, 0.5, 0.75], "tr/c_2_d_-2.wav", 0.9)
    ],
}


def samples_of(name, frames, channels=1):
    """16-bit samples, different for each name; speech-like in that they are loud in parts."""
    rng = np.random.default_rng(list(name.encode()))
    swell = 0.2 + np.abs(np.sin(np.arange(frames) / 3000 + rng.uniform(0, 3)))
    signal = 2500 * swell[:, None] * rng.standard_normal((frames, channels))
    return np.squeeze(signal.astype(np.int16), axis=-1) if channels == 1 else signal.astype(np.int16)


def speech_path(utterance):
    speaker, chapter, _ = utterance.split("-")
    return f"train-clean-100/{speaker}/{chapter}/{utterance}.flac"


def write(path, samples, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")


def columns(num_spks):
    pairs = [f"source_{n}_{what}" for n in range(1, num_spks + 1) for what in ("path", "gain")]
    return ["mixture_ID", *pairs, "noise_path", "noise_gain"]


@pytest.fixture
def raw(tmp_path):
    """Folders of LibriSpeech, noise and the published metadata, as options of `generate`."""
    for utterance, frames in UTTERANCES.items():
        write(tmp_path / "speech" / speech_path(utterance), samples_of(utterance, frames))
    for name, frames in NOISES.items():
        write(tmp_path / "noise" / name, samples_of(name, frames, channels=2))
    (tmp_path / "lists").mkdir()
    for name, mixtures in MIXTURES.items():
        lines = [",".join(columns(len(mixtures[0][0])))]
        for utterances, gains, noise, noise_gain in mixtures:
            pairs = [item for u, g in zip(utterances, gains, strict=True) for item in (speech_path(u), repr(g))]
            lines.append(",".join(["_".join(utterances), *pairs, noise, repr(noise_gain)]))
        (tmp_path / "lists" / name).write_text("\n".join(lines) + "\n")
        (tmp_path / "lists" / name.replace(".csv", "_info.csv")).write_text("mixture_ID,speaker_1_ID,speaker_1_sex\n")
    return {
        "librispeech_folder": str(tmp_path / "speech"),
        "noise": str(tmp_path / "noise"),
        "metadata_folder": str(tmp_path / "lists"),
    }


def make(raw, folder, **options):
    return generate(folder, **{"workers": 1} | raw | options)


def fails(raw, tmp_path, *parts, **options):
    with pytest.raises(InputError) as caught:
        make(raw, tmp_path / "out", **options)
    for part in parts:
        assert part in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.wav"))


def read_csv(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


# The published steps


def literal_extension(noise, length):
    """Repetition with cross-fades of half a second, a sample at a time."""
    window = [0.5 - 0.5 * np.cos(2 * np.pi * n / 16000) for n in range(8001)]
    extended = [float(sample) for sample in noise]
    while len(extended) < length:
        tail, head = extended[-8001:], [float(sample) for sample in noise[:8001]]
        faded = [tail[n] * window[8000 - n] + head[n] * window[n] for n in range(8001)]
        extended = extended[:-8001] + faded + [float(sample) for sample in noise[8001:]]
    return np.array(extended[:length])


def literal(raw, utterances, gains, noise, noise_gain, sample_rate, mode):
    """The published steps in their order and precision: folder → samples before the rounding to 16 bit."""
    signals = [soundfile.read(f"{raw['librispeech_folder']}/{speech_path(u)}", dtype="float32")[0] for u in utterances]
    longest = max(len(signal) for signal in signals)
    clip = soundfile.read(f"{raw['noise']}/{noise}", dtype="float32", stop=longest)[0][:, 0]
    if len(clip) < longest:
        clip = literal_extension(clip, longest)
    signals = [
        resample_poly(s * g, sample_rate, 16000) for s, g in zip([*signals, clip], [*gains, noise_gain], strict=True)
    ]
    if mode == "min":
        shortest = min(len(signal) for signal in signals)
        signals = [signal[:shortest] for signal in signals]
    else:
        longest = max(len(signal) for signal in signals)
        signals = [np.concatenate([s, np.zeros(longest - len(s), s.dtype)]) for s in signals]
    parts = {"mix_clean": signals[:-1], "mix_both": signals, "mix_single": [signals[0], signals[-1]]}
    made = {f"s{n}": signal for n, signal in enumerate(signals[:-1], 1)} | {"noise": signals[-1]}
    for name, summands in parts.items():
        made[name] = np.zeros_like(signals[0])
        for summand in summands:
            made[name] += summand
    return made


def cases():
    for table, mixtures in MIXTURES.items():
        corpus, _, rest = table.partition("_")
        split = rest.replace("-clean", "").replace(".csv", "")
        for mixture in mixtures:
            for sample_rate in (8000, 16000):
                for mode in ("min", "max"):
                    top = f"Libri{corpus[5]}Mix/wav{sample_rate // 1000}k/{mode}"
                    yield f"{top}/{split}", split, mixture, sample_rate, mode


def test_equal_to_a_literal_computation(raw, tmp_path):
    make(raw, tmp_path / "out", **EVERYTHING)
    make(raw, tmp_path / "out", num_spks=3, **EVERYTHING)
    expected = {"libri2mix.json", "libri3mix.json"}
    for top, split, mixture, sample_rate, mode in cases():
        for folder, samples in literal(raw, *mixture, sample_rate, mode).items():
            name = "_".join(mixture[0]) + ".wav"
            expected.add(f"{top}/{folder}/{name}")
            soundfile.write(tmp_path / "published.wav", samples, sample_rate)  # as the script does
            found, rate = soundfile.read(tmp_path / "out" / top / folder / name, dtype="int16")
            wanted, _ = soundfile.read(tmp_path / "published.wav", dtype="int16")
            assert (rate, soundfile.info(tmp_path / "out" / top / folder / name).subtype) == (sample_rate, "PCM_16")
            np.testing.assert_array_equal(found, wanted)
            assert np.abs(found.astype(int)).max() > 100
        metadata = f"{os.path.dirname(top)}/metadata"
        expected |= {
            f"{metadata}/{what}_{split}_{kind}.csv"
            for what in ("mixture", "metrics")
            for kind in ("mix_clean", "mix_both", "mix_single")
        }
    assert tree(tmp_path / "out").keys() == expected


def test_tables_of_the_generated_files(raw, tmp_path):
    make(raw, tmp_path / "out", sample_rates=[8000], modes=["max"], splits=["train-100"])
    folder = tmp_path / "out/Libri2Mix/wav8k/max"
    for row, metrics, mixture in zip(
        read_csv(folder / "metadata/mixture_train-100_mix_both.csv"),
        read_csv(folder / "metadata/metrics_train-100_mix_both.csv"),
        MIXTURES["libri2mix_train-clean-100.csv"],
        strict=True,
    ):
        signals = literal(raw, *mixture, 8000, "max")
        name = "_".join(mixture[0])
        assert list(row) == ["mixture_ID", "mixture_path", "source_1_path", "source_2_path", "noise_path", "length"]
        assert row["mixture_ID"] == metrics["mixture_ID"] == name
        assert row["mixture_path"] == str(folder / "train-100" / "mix_both" / f"{name}.wav")
        assert row["source_2_path"] == str(folder / "train-100" / "s2" / f"{name}.wav")
        assert row["length"] == str(len(signals["s1"]))
        for column, part in (("source_1_SNR", "s1"), ("source_2_SNR", "s2"), ("noise_SNR", "noise")):
            rest = np.mean((signals["mix_both"] - signals[part]) ** 2)
            ratio = 10 * np.log10(np.mean(signals[part] ** 2) / (rest + 1e-10) + 1e-10)
            assert float(metrics[column]) == pytest.approx(ratio, abs=1e-4)


def test_manifests_accept_it(raw, tmp_path):
    make(raw, tmp_path / "out", splits=["train-100"])
    splits = {"splits": ["train-100"], "check_samples": True}
    for task in ("separate_clean", "separate_noisy", "enhance_single"):
        manifests = prepare_librimix(tmp_path / "out", tmp_path / "manifests", task=task, **splits)
        assert read_csv(manifests["train-100"])[0]["s1_spk"] == "19"


def test_clean_mixtures_need_no_noise(raw, tmp_path):
    make(raw | {"noise": None}, tmp_path / "out", splits=["dev"])
    folders = {os.path.dirname(path).rpartition("/")[2] for path in tree(tmp_path / "out")}
    assert folders == {"", "metadata", "s1", "s2", "mix_clean"}


def test_sixteen_bit_as_soundfile_writes_them(tmp_path):
    for dtype in (np.float32, np.float64):
        samples = np.linspace(-1.2, 1.2, 5001).astype(dtype)
        soundfile.write(tmp_path / "a.wav", samples, 16000)
        np.testing.assert_array_equal(
            to_int16_libsndfile(samples), soundfile.read(tmp_path / "a.wav", dtype="int16")[0]
        )


@pytest.mark.parametrize("length", [100, 9000, 20000, 47001])
def test_extended_noise(length):
    noise = samples_of("noise", 9000).astype(np.float32)
    np.testing.assert_allclose(extend_noise(noise, length, FADE), literal_extension(noise, length), rtol=0, atol=1e-6)


def test_ten_speakers_have_short_names(tmp_path):
    utterances = [f"{speaker}-1-0000" for speaker in range(10)]
    for utterance in utterances:
        write(tmp_path / "speech" / f"{utterance}.flac", samples_of(utterance, 900))
    pairs = [item for utterance in utterances for item in (f"{utterance}.flac", "0.1")]
    (tmp_path / "lists").mkdir()
    lines = [",".join(columns(10)[:-2]), ",".join(["_".join(utterances), *pairs])]
    (tmp_path / "lists/libri10mix_test-clean.csv").write_text("\n".join(lines))
    folders = {"metadata_folder": tmp_path / "lists", "librispeech_folder": tmp_path / "speech"}
    make(folders, tmp_path / "out", num_spks=10)
    names = os.listdir(tmp_path / "out/Libri10Mix/wav8k/min/test/mix_clean")
    assert [len(name) for name in names] == [32 + len(".wav")]


def test_names_that_are_too_long_for_a_file_are_short(tmp_path):
    """Of two speakers with letters of two bytes."""
    for speaker in ("ж" * 70, "щ" * 70):
        write(tmp_path / "speech" / speaker / "a.wav", samples_of(speaker[0], 50000))
    options = {"layout": "speakers", "speaker_shares": (1, 0, 0), "min_seconds": 1.0}
    generate(tmp_path / "out", from_speech=tmp_path / "speech", workers=1, **options)
    (name,) = os.listdir(tmp_path / "out/Libri2Mix/wav8k/min/train-100/mix_clean")
    assert len(name) == 32 + len(".wav")
    manifests = prepare_librimix(tmp_path / "out", tmp_path / "manifests", splits=["train-100"])
    assert "жжж" in Path(manifests["train-100"]).read_text(encoding="utf-8")  # speakers are known by the metadata


@pytest.mark.parametrize("number", [2, 30])
def test_killed_in_the_middle_and_started_again(raw, tmp_path, number):
    code = (
        "from tests.unit.generate_items import kill_in_write; from data_prep.generate.librimix import generate; "
        f"kill_in_write({number}); generate({str(tmp_path / 'out')!r}, workers=1, **{raw | EVERYTHING})"
    )
    assert run_program(["-c", code], ROOT).returncode == -9
    assert len(tree(tmp_path / "out")) == number + 1
    make(raw, tmp_path / "out", **EVERYTHING)
    whole = tmp_path / "whole"
    make(raw, whole, **EVERYTHING)
    found = {path: content.replace(b"/out/", b"/whole/") for path, content in tree(tmp_path / "out").items()}
    assert found == tree(whole)  # tables hold whole paths


# Wrong metadata and recordings


def table(raw, name="libri2mix_train-clean-100.csv"):
    return os.path.join(raw["metadata_folder"], name)


def edit(path, change):
    with open(path) as stream:
        text = stream.read()
    with open(path, "w") as stream:
        stream.write(change(text))


def test_no_metadata(raw, tmp_path):
    fails(raw, tmp_path, f"'{raw['metadata_folder']}' has no libri4mix_*.csv", num_spks=4)


def test_split_without_metadata(raw, tmp_path):
    fails(raw, tmp_path, "split 'test': there is no metadata file", "found dev, train-100", splits=["test"])


def test_metadata_for_another_number_of_speakers(raw, tmp_path):
    os.rename(table(raw), table(raw, "libri3mix_dev-clean.csv"))
    fails(
        raw,
        tmp_path,
        "has the columns mixture_ID, source_1_path",
        "Check that num_spks 3 is right for this file",
        num_spks=3,
    )


def test_a_table_from_an_editor(raw, tmp_path):
    path = Path(table(raw))
    text = path.read_text(encoding="utf-8")
    path.write_bytes(text.encode("utf-8-sig"))
    make(raw, tmp_path / "out")
    path.write_bytes(text.replace("mixture_ID", "mixture_\xe9").encode("cp1252"))
    fails(raw, tmp_path / "other", f"{table(raw)}: can't be read as text", "Is it the published file?")


def test_line_with_too_few_fields(raw, tmp_path):
    edit(table(raw), lambda text: text.rpartition(",")[0] + "\n")
    fails(raw, tmp_path, f"{table(raw)}:3: has 6 fields; needed 7")


@pytest.mark.parametrize(
    "gain, message", [("loud", "could not convert string"), ("nan", "has a gain that is not finite")]
)
def test_gain_that_is_none(raw, tmp_path, gain, message):
    edit(table(raw), lambda text: text.replace("0.61", gain))
    fails(raw, tmp_path, f"{table(raw)}:3: {message}")


def test_two_mixtures_with_one_name(raw, tmp_path):
    edit(table(raw), lambda text: text + text.splitlines()[1] + "\n")
    fails(raw, tmp_path, "two mixtures have the same name", "19-198-0000_26-495-0001")


def test_utterance_absent(raw, tmp_path):
    os.remove(os.path.join(raw["librispeech_folder"], speech_path("26-495-0001")))
    fails(raw, tmp_path, f"{speech_path('26-495-0001')}: there is no such recording")


def test_noise_absent(raw, tmp_path):
    edit(table(raw), lambda text: text.replace("a_1_b_-1.wav", "a_1_b_-1sp08.wav"))
    fails(raw, tmp_path, "tr/a_1_b_-1sp08.wav: there is no such recording", "SoX")


def test_truncated_flac(raw, tmp_path):
    path = tmp_path / "speech" / speech_path("26-495-0001")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError) as caught:
        make(raw, tmp_path / "out")
    assert f"{path}: " in str(caught.value)
    assert "truncated" in str(caught.value) and "opy or download it again" in str(caught.value)
    assert not list((tmp_path / "out").rglob("*26-495-0001*"))


@pytest.mark.parametrize("folder, name", [("noise", "tr/a_1_b_-1.wav"), ("speech", speech_path("26-495-0001"))])
def test_truncated_wav(raw, tmp_path, folder, name):
    """libsndfile gives what is left without a word, and noise would be repeated to fill up."""
    path = tmp_path / folder / name
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples, rate, format="WAV", subtype="PCM_16")
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size * 3 // 4])
    fails(raw, tmp_path, f"{path}: is truncated: its last {size - size * 3 // 4} bytes of audio are missing")


def test_absent_recordings_are_counted(raw, tmp_path):
    """Where a subset was never downloaded, its name and what can be made without it are what helps."""
    edit(table(raw, "libri2mix_dev-clean.csv"), lambda text: text.replace("train-clean-100", "dev-clean"))
    text = "librispeech_folder '{}': 2 of 6 recordings can't be used.".format(raw["librispeech_folder"])
    fails(
        raw,
        tmp_path,
        text,
        "Absent: 2 of 2 of dev-clean.",
        "omit the splits that need them with --splits train-100",
    )
    assert make(raw, tmp_path / "out", splits=["train-100"]).files > 0
    everywhere = raw | {"librispeech_folder": str(tmp_path)}
    text = "Absent: 2 of 2 of dev-clean, 4 of 4 of train-clean-100.\nGive the folder of the relative paths as "
    fails(everywhere, tmp_path / "other", text + "librispeech_folder: it holds dev-clean, train-clean-100.")
    assert not (tmp_path / "other" / "out").exists()


def test_splits_under_the_names_of_librispeech(raw, tmp_path):
    make(raw, tmp_path / "out", splits=["dev-clean", "train-clean-100"])
    make(raw, tmp_path / "whole", splits=["train-100", "dev"])
    found = {path: content.replace(b"/out/", b"/whole/") for path, content in tree(tmp_path / "out").items()}
    assert found == tree(tmp_path / "whole")


def test_a_clone_of_the_repository(raw, tmp_path):
    make(raw, tmp_path / "whole")
    (tmp_path / "clone" / "metadata").mkdir(parents=True)
    os.rename(raw["metadata_folder"], tmp_path / "clone" / "metadata" / "Libri2Mix")
    make(raw | {"metadata_folder": str(tmp_path / "clone")}, tmp_path / "out")
    found = {path: content.replace(b"/out/", b"/whole/") for path, content in tree(tmp_path / "out").items()}
    assert found == tree(tmp_path / "whole")


@pytest.mark.parametrize("name", ["libri2mix_dev-clean.csv", "libri2mix_train-clean-100.csv"])
@pytest.mark.parametrize("splits", [None, ["dev", "train-100"]])
def test_table_without_mixtures(raw, tmp_path, name, splits):
    edit(table(raw, name), lambda text: text.splitlines()[0] + "\n")
    fails(raw, tmp_path, f"{table(raw, name)}: has a header and no mixtures", splits=splits)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "path", ["speech/train-clean-100/26", f"speech/{speech_path('26-495-0001')}", "noise/tr", "lists"]
)
def test_files_without_read_permission(raw, tmp_path, path):
    with closed(tmp_path / path):
        fails(raw, tmp_path, f"can't be read (Permission denied): '{tmp_path / path}'")


def test_recordings_in_a_closed_folder_are_not_skipped(speech, tmp_path):
    folder = tmp_path / "speech/train-clean-100/103"
    with closed(folder):
        fails(speech, tmp_path, f"'{folder}' can't be read (Permission denied)")


def test_of_two_links_to_a_folder_always_the_same_is_followed(tmp_path, monkeypatch):
    """Whatever the order of the directory: it may decide whose speech it is."""
    write(tmp_path / "elsewhere" / "x.wav", np.zeros(9, np.int16))
    for name in ("a", "b"):
        (tmp_path / "speech" / name).mkdir(parents=True)
        (tmp_path / "speech" / name / "link").symlink_to(tmp_path / "elsewhere")
    walk, found = os.walk, []
    for backwards in (False, True):

        def ordered(*arguments, backwards=backwards, **options):
            for place, folders, files in walk(*arguments, **options):
                folders.sort(reverse=backwards)
                yield place, folders, files

        monkeypatch.setattr(os, "walk", ordered)
        found.append(list(walk_files(tmp_path / "speech", "speech")))
    assert found[0] == found[1] == [str(tmp_path / "speech/a/link/x.wav")]


def test_a_link_to_a_folder_above(tmp_path):
    """Its recordings would be listed twice, once as those of a speaker with the name of the link."""
    write(tmp_path / "above" / "speech" / "s1" / "x.wav", np.zeros(9, np.int16))
    (tmp_path / "above" / "speech" / "link").symlink_to("..")
    assert list(walk_files(tmp_path / "above" / "speech", "speech")) == [str(tmp_path / "above/speech/s1/x.wav")]


def test_folders_that_are_links(speech, tmp_path):
    make(speech, tmp_path / "whole")
    folder = tmp_path / "speech/train-clean-100/103"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "speech")
    make(speech, tmp_path / "out")
    found = {path: content.replace(b"/out/", b"/whole/") for path, content in tree(tmp_path / "out").items()}
    assert found == tree(tmp_path / "whole")


# The tables of ratios


def published_ratios(raw, mixture, sample_rate, mode):
    """As the published script measures them: on signals as they are before they are written."""
    signals = literal(raw, *mixture, sample_rate, mode)
    numbers = range(1, len(mixture[0]) + 1)
    parts = {"mix_clean": [f"s{n}" for n in numbers], "mix_both": [*(f"s{n}" for n in numbers), "noise"]}
    parts["mix_single"] = ["s1", "noise"]
    return {
        name: [
            10 * np.log10(np.mean(signals[part] ** 2) / (np.mean((signals[name] - signals[part]) ** 2) + 1e-10) + 1e-10)
            for part in names
        ]
        for name, names in parts.items()
    }


def ratios_in(folder, split, name):
    return [list(map(float, list(row.values())[1:])) for row in read_csv(folder / f"metrics_{split}_{name}.csv")]


def test_ratios_are_the_published_ones(raw, tmp_path):
    """Also where a mixture clips: there, what is written differs by some dB."""
    make(raw, tmp_path / "out", splits=["dev"], **EVERYTHING)
    (mixture,) = MIXTURES["libri2mix_dev-clean.csv"]
    for sample_rate in (8000, 16000):
        for mode in ("min", "max"):
            expected = published_ratios(raw, mixture, sample_rate, mode)
            folder = tmp_path / f"out/Libri2Mix/wav{sample_rate // 1000}k/{mode}/metadata"
            for name, ratios in expected.items():
                np.testing.assert_allclose(ratios_in(folder, "dev", name), [ratios], rtol=0, atol=1e-4)
    written = [soundfile.read(next((folder.parent / "dev" / part).glob("*.wav")))[0] for part in ("mix_both", "s1")]
    assert np.abs(written[0]).max() > 0.999
    rest = np.mean((written[0] - written[1]) ** 2)
    assert abs(10 * np.log10(np.mean(written[1] ** 2) / rest) - expected["mix_both"][0]) > 0.1


def test_tables_of_a_corpus_made_in_steps(raw, tmp_path):
    make(raw, tmp_path / "whole", **EVERYTHING)
    make(raw, tmp_path / "out", splits=["train-100"])
    make(raw, tmp_path / "out", modes=["max"], sample_rates=[16000], types=["mix_clean"])
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*train-100_mix_both.csv")}
    make(raw, tmp_path / "out", **EVERYTHING)
    assert len(stamps) == 2 and all(path.is_file() for path in stamps)
    found = {path: content.replace(b"/out/", b"/whole/") for path, content in tree(tmp_path / "out").items()}
    assert found == tree(tmp_path / "whole")


def test_tables_that_are_lacking_are_measured_again(raw, tmp_path):
    make(raw, tmp_path / "out")
    whole = tree(tmp_path / "out")
    lost = tmp_path / "out/Libri2Mix/wav8k/min/metadata/metrics_train-100_mix_both.csv"
    kept = lost.with_name("metrics_dev_mix_both.csv")
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    (lost.parent / ".metrics_dev_mix_both.csv.4711.tmp").write_text("half")
    assert make(raw, tmp_path / "out").files == 0
    assert tree(tmp_path / "out") == whole and kept.stat().st_mtime_ns == stamp


def test_a_finished_corpus_may_lie_where_nothing_can_be_written(raw, tmp_path):
    make(raw, tmp_path / "out")
    with read_only(tmp_path / "out"):
        assert make(raw, tmp_path / "out").files == 0


def test_stereo_and_mono_noise_in_one_folder(raw, tmp_path):
    """As in wham_noise with the files that LibriMix adds, which have one channel; made twice into one folder."""
    make(raw, tmp_path / "whole")
    path = tmp_path / "noise" / "tr/a_1_b_-1.wav"
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples[:, 0], rate, subtype="PCM_16")
    for _ in range(2):
        make(raw, tmp_path / "out")
        found = {path: content.replace(b"/out/", b"/whole/") for path, content in tree(tmp_path / "out").items()}
        assert found == tree(tmp_path / "whole")


def test_not_audio(raw, tmp_path):
    path = tmp_path / "speech" / speech_path("26-495-0001")
    path.write_text("404 not found")
    fails(raw, tmp_path, f"{path}: can't be read as audio", "opy or download it again")


def test_wrong_sample_rate(raw, tmp_path):
    path = tmp_path / "speech" / speech_path("26-495-0001")
    write(path, samples_of("a", 9000), 22050)
    fails(raw, tmp_path, f"{path}: has a sample rate of 22050 Hz; needed 16000 Hz", "--resample")
    make(raw, tmp_path / "out", resample=True, splits=["train-100"])
    first = sorted(os.listdir(tmp_path / "out/Libri2Mix/wav8k/min/train-100/s2"))[0]
    assert soundfile.info(tmp_path / "out/Libri2Mix/wav8k/min/train-100/s2" / first).frames == -(-9000 * 8000 // 22050)


def test_noise_too_short_to_repeat(raw, tmp_path):
    write(tmp_path / "noise" / "tr/a_1_b_-1.wav", samples_of("a", 8001, 2))
    fails(raw, tmp_path, "tr/a_1_b_-1.wav: has 0.50 s; needed more than 0.5 s")


def test_folder_that_cannot_be_written(raw, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="out' can't be written"):
        make(raw, tmp_path / "out")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_spks": 1}, "num_spks is 1: give 2 or more"),
        ({"metadata_folder": None}, "Give either metadata_folder"),
        ({"from_speech": "speech"}, "Give either metadata_folder"),
        ({"librispeech_folder": None}, "librispeech_folder is missing"),
        ({"metadata_folder": None, "from_speech": "speech"}, "librispeech_folder has no effect with from_speech"),
        ({"seed": 1}, "seed has no effect on existing metadata"),
        ({"types": ["mix_all"]}, "type 'mix_all' is not known"),
        ({"noise": None, "types": ["mix_both"]}, "type 'mix_both' has noise, and none is given"),
        ({"sample_rates": [44100]}, "sample_rate 44100 is not known"),
        ({"modes": ["mid"]}, "mode 'mid' is not known"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_wrong_arguments(raw, tmp_path, options, message):
    fails(raw, tmp_path, message, **options)


def test_noise_that_the_metadata_lacks(raw, tmp_path):
    edit(
        table(raw, "libri2mix_dev-clean.csv"),
        lambda text: "\n".join(line.rsplit(",", 2)[0] for line in text.splitlines()),
    )
    fails(raw, tmp_path, "The metadata of split 'dev' has no noise", splits=["dev"])


# From nothing but speech


def write_speech(folder, speakers=12, each=3, seconds=1.0):
    """A folder in the layout of LibriSpeech, and how to draw from it quickly."""
    for speaker in range(speakers):
        for number in range(each):
            name = f"{speaker + 100}-7-{number:04d}"
            path = folder / "train-clean-100" / f"{speaker + 100}" / "7" / f"{name}.flac"
            write(path, samples_of(name, int(RATE * (seconds + 0.1 * number))))
    return {"from_speech": str(folder), "min_seconds": 0.5, "speaker_shares": (0.5, 0.25, 0.25)}


def write_noise(folder, count=4, seconds=2.0):
    for number in range(count):
        write(folder / f"noise{number}.wav", samples_of(f"noise{number}", int(RATE * seconds)))
    return {"noise": str(folder)}


@pytest.fixture
def speech(tmp_path):
    return write_speech(tmp_path / "speech")


@pytest.fixture
def noise(tmp_path):
    return write_noise(tmp_path / "noise")


def drawn(folder, split="train-100", num_spks=2):
    return read_csv(folder / f"metadata/Libri{num_spks}Mix/libri{num_spks}mix_{split}.csv")


@pytest.mark.parametrize("num_spks", [2, 3])
def test_each_utterance_once_and_no_speaker_in_two_splits(speech, noise, tmp_path, num_spks):
    make(speech | noise, tmp_path / "out", num_spks=num_spks, types=["mix_clean", "mix_both"])
    of_split = {}
    for split in ("train-100", "dev", "test"):
        rows = drawn(tmp_path / "out", split, num_spks)
        paths = [row[f"source_{n}_path"] for row in rows for n in range(1, num_spks + 1)]
        assert len(paths) == len(set(paths)) and len(rows) >= 2
        of_split[split] = {path.split("/")[1] for path in paths}
        for row in rows:
            assert len({row[f"source_{n}_path"].split("/")[1] for n in range(1, num_spks + 1)}) == num_spks
            assert row["noise_path"].startswith("noise")
    assert not of_split["train-100"] & of_split["dev"] and not of_split["train-100"] & of_split["test"]
    assert not of_split["dev"] & of_split["test"]
    manifests = prepare_librimix(
        tmp_path / "out", tmp_path / "manifests", num_spks=num_spks, task="separate_noisy", check_samples=True
    )
    assert len(manifests) == 3


def literal_loudness(signal):
    import pyloudnorm

    return pyloudnorm.Meter(16000).integrated_loudness(signal)


def test_levels_are_the_published_ones(speech, noise, tmp_path):
    make(speech | noise, tmp_path / "out", sample_rates=[16000], modes=["max"])
    levels = {"speech": [], "noise": []}
    for row in drawn(tmp_path / "out"):
        parts = [("speech", tmp_path / "speech" / row[f"source_{n}_path"], row[f"source_{n}_gain"]) for n in (1, 2)]
        parts.append(("noise", tmp_path / "noise" / row["noise_path"], row["noise_gain"]))
        for kind, path, gain in parts:
            levels[kind].append(literal_loudness(soundfile.read(path)[0] * float(gain)))
    # Nothing here comes near the peak; padding and cutting change the loudness a little.
    assert min(levels["speech"]) > -33.5 and max(levels["speech"]) < -24.5 and np.ptp(levels["speech"]) > 4
    assert min(levels["noise"]) > -38.5 and max(levels["noise"]) < -29.5


def test_sums_do_not_exceed_the_peak(tmp_path):
    rng = np.random.default_rng(0)
    clicks = np.zeros((3, RATE), np.float32)  # much peak for their loudness
    clicks[:, ::1600] = 1.0
    gains = librimix_drawing.draw_gains(rng, clicks, [(-33, -25), (-33, -25), (-38, -30)])
    assert np.abs(sum(gain * signal for gain, signal in zip(gains, clicks, strict=True))).max() <= 0.9001
    assert max(gains) < 0.9


def literal_gains(rng, signals, ranges):
    """The published steps for the levels of one mixture."""
    before, scaled = [], []
    for signal, (lowest, highest) in zip(signals, ranges, strict=True):
        before.append(literal_loudness(signal))
        new = signal * 10 ** ((rng.uniform(lowest, highest) - before[-1]) / 20)
        if np.max(np.abs(new)) >= 1:
            new = signal * 0.9 / np.max(np.abs(signal))
        scaled.append(new)
    peak = np.max(np.abs(np.sum(scaled, axis=0)))
    weight = 0.9 / peak if peak > 0.9 else 1
    after = [literal_loudness(signal * weight) for signal in scaled]
    return [10 ** ((a - b) / 20) for a, b in zip(after, before, strict=True)]


@pytest.mark.parametrize("level", [0.01, 1.0])
def test_gains_are_those_of_a_literal_computation(level):
    ranges = [(-33, -25), (-33, -25), (-38, -30)]
    signals = level * np.random.default_rng(1).standard_normal((3, RATE)) ** 5 / 100
    found = librimix_drawing.draw_gains(np.random.default_rng(2), signals, ranges)
    np.testing.assert_allclose(found, literal_gains(np.random.default_rng(2), signals, ranges), rtol=1e-6)


def test_same_seed_same_corpus_whatever_the_workers(speech, noise, tmp_path):
    make(speech | noise, tmp_path / "a", n_mixtures=(5, 2, 2))
    make(speech | noise, tmp_path / "b", n_mixtures=(5, 2, 2), workers=2)
    make(speech | noise, tmp_path / "c", n_mixtures=(5, 2, 2), seed=1)
    first, second, other = (
        {path: content for path, content in tree(tmp_path / name).items() if "/metadata/" not in path} for name in "abc"
    )
    assert first == second
    assert first.keys() != other.keys()


def test_made_again_from_its_metadata(speech, noise, tmp_path):
    make(speech | noise, tmp_path / "a")
    again = noise | {"librispeech_folder": speech["from_speech"], "metadata_folder": tmp_path / "a/metadata"}
    make(again, tmp_path / "b")
    wavs = [{path: c for path, c in tree(tmp_path / name).items() if path.endswith(".wav")} for name in "ab"]
    assert wavs[0] == wavs[1] and len(wavs[0]) > 20


def test_more_mixtures_than_a_pass(speech, tmp_path):
    make(speech, tmp_path / "out", n_mixtures=(30, 4, 4))
    rows = drawn(tmp_path / "out")
    pairs = {frozenset((row["source_1_path"], row["source_2_path"])) for row in rows}
    assert len(rows) == len(pairs) == 30


def test_more_mixtures_than_there_can_be(speech, tmp_path):
    fails(speech, tmp_path, "Split 'dev': found 27 different mixtures; needed 500", n_mixtures=(5, 500, 5))
    assert not (tmp_path / "out").exists()  # nor what was drawn of other splits: another seed or count may follow


def test_published_counts_are_floored(speech, tmp_path, monkeypatch):
    monkeypatch.setattr(librimix_drawing, "NUM_EVALUATION", 10)
    drawing = Drawing(speech["from_speech"], min_seconds=0.5, published=True)
    clips = [Clip(f"{n}.flac", f"{n}", f"{n}", 16000) for n in range(450)]
    assert len(drawing.plan("train-100", clips)) == 200
    fails(
        speech,
        tmp_path,
        "Split 'train-100': 18 utterances of 6 speakers give no mixture (or less than 100)",
        published=True,
    )


def test_three_thousand_for_evaluation():
    drawing = Drawing("speech", min_seconds=0.5, published=True)
    clips = [Clip(f"{n}.flac", f"{n}", f"{n}", 16000) for n in range(300)]
    assert len(drawing.plan("dev", clips)) == 3000


def test_one_pass_is_random_and_complete():
    clips = [Clip(f"{n}", f"{n}", f"{n % 4}", 16000) for n in range(40)]
    one, other = (draw_tuples(np.random.default_rng(seed), clips, 2) for seed in (0, 1))
    assert one != other and len(one) >= 18
    assert all(first.speaker != second.speaker for first, second in one)


@pytest.mark.parametrize("num_spks", [2, 3])
@pytest.mark.parametrize("shares", [(25,) * 4, (85, 5, 5, 5), (100,)])
def test_one_pass_is_a_literal_one(num_spks, shares):
    """From the end of a random order, always the next utterance of another speaker."""
    clips = [Clip(f"{s}-{n}", "", f"{s}", 16000) for s, count in enumerate(shares) for n in range(count)]
    left = [clips[index] for index in np.random.default_rng(5).permutation(len(clips))][::-1]
    expected = []
    while True:
        chosen = []
        for clip in left:
            if len(chosen) < num_spks and clip.speaker not in {other.speaker for other in chosen}:
                chosen.append(clip)
        if len(chosen) < num_spks:
            break
        expected.append(tuple(chosen))
        left = [clip for clip in left if clip not in chosen]
    assert draw_tuples(np.random.default_rng(5), clips, num_spks) == expected


def test_drawing_takes_no_quadratic_time():
    """Most of the speech of one speaker; noise of many lengths."""
    clips = [Clip(f"{n}", "", f"{max(0, n - 180_000)}", n) for n in range(200_000)]
    start = time.process_time()
    tuples = draw_tuples(np.random.default_rng(0), clips, 2)
    noises = [Clip(f"n{n}", "", "", 10 * n) for n in range(len(tuples))]
    draw_noises(np.random.default_rng(0), tuples, noises, extend=False, drop=False)
    assert len(tuples) > 20_000 - 2 and time.process_time() - start < 20


def test_noise_of_wham_stays_in_its_splits():
    noises = [Clip(f"{folder}/{n}.wav", "", "", 16000) for folder in ("cv", "tr", "tt") for n in range(4)]
    divided = split_noises(noises, ("train-100", "dev", "test"), (0.8, 0.1, 0.1), seed=0)
    found = {split: {clip.path[:2] for clip in clips} for split, clips in divided.items()}
    assert found == {"train-100": {"tr"}, "dev": {"cv"}, "test": {"tt"}}
    others = [*noises, Clip("x.wav", "", "", 16000)]
    divided = split_noises(others, ("train-100", "dev", "test"), (0.8, 0.1, 0.1), seed=0)
    assert sorted(clip.path for clips in divided.values() for clip in clips) == sorted(clip.path for clip in others)


@pytest.mark.parametrize("number", [3, 4, 5, 7])
@pytest.mark.parametrize("shares", [(0.2, 0.4, 0.4), (0.1, 0.1, 0.8), (0.8, 0.1, 0.1)])
def test_every_split_has_noise(number, shares):
    noises = [Clip(f"{n}.wav", "", "", 16000) for n in range(number)]
    divided = split_noises(noises, ("train-100", "dev", "test"), shares, seed=0)
    assert all(divided.values()) and sum(map(len, divided.values())) == number


def test_noise_is_long_enough_and_used_once():
    rng = np.random.default_rng(0)
    tuples = [(Clip("a", "a", "1", 300), Clip("b", "b", "2", 100))] * 3
    noises = [Clip(f"n{frames}", "", "", frames) for frames in (50, 299, 300, 500)]
    pairs = draw_noises(rng, tuples, noises, extend=False, drop=False)
    assert {noise.frames for _, noise in pairs[:2]} == {300, 500}
    assert pairs[2][1].frames == 299  # training takes the longest that is left
    assert len(draw_noises(rng, tuples, noises, extend=False, drop=True)) == 2
    drawn = [draw_noises(np.random.default_rng(seed), tuples, noises, extend=True, drop=True) for seed in range(20)]
    assert {noise.frames for pairs in drawn for _, noise in pairs} == {50, 299, 300, 500}


def test_short_noise(speech, tmp_path):
    short = write_noise(tmp_path / "noise", seconds=0.9)
    options = speech | short | {"min_seconds": 0.95}
    fails(options, tmp_path, "none of 2 noises has 0.95 s", "--extend_noise")
    make(options, tmp_path / "out", extend_noise=True)
    assert len(drawn(tmp_path / "out")) >= 4


def test_no_mixture_gets_a_noise(speech, tmp_path):
    short = write_noise(tmp_path / "noise", seconds=0.9)
    fails(speech | short, tmp_path, "Split 'dev'", "--extend_noise", n_mixtures=(2, 2, 2))


def silence(path):
    write(path, np.zeros(RATE, np.int16))


def too_short(path):
    write(path, samples_of("short", 6000))  # 0.375 s


@pytest.mark.parametrize("damage", [silence, too_short])
def test_clips_without_a_loudness_are_drawn_again(speech, tmp_path, damage, caplog):
    folder = tmp_path / "speech/train-clean-100"
    for speaker in range(100, 112):
        damage(folder / f"{speaker}/7/{speaker}-7-0000.flac")
        if damage is too_short:  # alone: beside a longer one it is padded, and has a loudness
            too_short(folder / f"{speaker}/7/{speaker}-7-0001.flac")
    make(speech | {"min_seconds": 0.1}, tmp_path / "out", n_mixtures=(6, 2, 2))
    rows = drawn(tmp_path / "out")
    assert len(rows) == 6
    if damage is silence:
        assert not any("-0000.flac" in row[f"source_{n}_path"] for row in rows for n in (1, 2))
        assert "mixtures were drawn again, since clips are too short or too silent for a loudness: train" in caplog.text


def test_count_of_mixtures_drawn_again(tmp_path):
    options = write_speech(tmp_path / "speech", speakers=4, each=2)
    silence(tmp_path / "speech/train-clean-100/100/7/100-7-0000.flac")
    folder, clips = find_speech(options["from_speech"])
    recipes, redrawn = Drawing(str(folder), min_seconds=0.5).draw("train-100", clips)
    assert redrawn == 1
    assert len(recipes) == 3 and not any("100-7-0000" in recipe.name for recipe in recipes)


def test_nothing_is_loud_enough(tmp_path):
    options = write_speech(tmp_path / "speech", speakers=6, each=1)
    for path in (tmp_path / "speech").rglob("*.flac"):
        silence(path)
    fails(options, tmp_path, "give no mixture")


def test_speaker_with_one_utterance_is_a_warning(speech, tmp_path, caplog):
    for number in (1, 2):
        (tmp_path / f"speech/train-clean-100/105/7/105-7-000{number}.flac").unlink()
    make(speech, tmp_path / "out", dry_run=True)
    assert "1 of 12 speakers have a single utterance: 105" in caplog.text


def test_dry_run_writes_nothing(speech, noise, tmp_path):
    options = speech | noise | {"n_mixtures": (5, 2, 2)}
    planned = make(options, tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    assert make(options, tmp_path / "out") == planned


def test_dry_run_of_what_is_there_or_in_part(speech, tmp_path):
    options = speech | {"n_mixtures": (3, 2, 2)}
    make(options, tmp_path / "out", splits=["dev"])
    before = tree(tmp_path / "out")
    whole, rest = (make(options, folder, dry_run=True) for folder in (tmp_path / "none", tmp_path / "out"))
    assert rest.files < whole.files and tree(tmp_path / "out") == before
    assert make(options, tmp_path / "out") == rest
    assert make(options, tmp_path / "out", dry_run=True).files == 0


def test_other_arguments_do_not_continue(speech, tmp_path):
    make(speech, tmp_path / "out", n_mixtures=(3, 2, 2))
    with pytest.raises(InputError, match="was drawn with n_mixtures 3; requested is n_mixtures 4"):
        make(speech, tmp_path / "out", n_mixtures=(4, 2, 2))
    write(tmp_path / "speech/999-1-0000.flac", samples_of("new", RATE))
    with pytest.raises(InputError, match="was drawn with other versions of these: speech: give"):
        make(speech, tmp_path / "out", n_mixtures=(3, 2, 2))


def test_drawing_killed_and_started_again(speech, tmp_path):
    options = speech | {"n_mixtures": (4, 2, 2)}
    make(options, tmp_path / "whole")
    make(options, tmp_path / "out")
    record = tmp_path / "out/metadata/Libri2Mix/libri2mix_dev.json"
    assert json.loads(record.read_text())["seed"] == 72
    record.unlink()  # it is written last: without it, the rest may be from an unfinished run
    (record.parent / ".libri2mix_dev.csv.4711.tmp").write_text("half a ta")
    (record.parent / "libri2mix_dev.csv").write_text("half a ta")
    make(options, tmp_path / "out")
    whole, found = (
        {p: c for p, c in tree(tmp_path / name).items() if "/min/metadata" not in p} for name in ("whole", "out")
    )
    assert found == whole


# In rooms


@pytest.mark.parametrize("with_noise", [False, True])
def test_rooms(speech, noise, tmp_path, with_noise):
    options = (
        speech | (noise if with_noise else {}) | {"rooms": True, "reverberation": "medium", "n_mixtures": (3, 2, 2)}
    )
    make(options, tmp_path / "out", sample_rates=[16000], modes=["max"])
    row = drawn(tmp_path / "out")[0]
    top = tmp_path / "out/Libri2Mix/wav16k/max/tr"

    def signal(folder):
        return soundfile.read(top / folder / f"{row['mixture_ID']}.wav")[0]

    dry = soundfile.read(tmp_path / "speech" / row["source_1_path"])[0] * float(row["source_1_gain"])
    assert np.sum(signal("s1_anechoic") ** 2) == pytest.approx(np.sum(dry**2), rel=0.05)
    assert np.sum(signal("s1_reverb") ** 2) > 1.05 * np.sum(dry**2)
    mixture = signal("mix_both_reverb" if with_noise else "mix_clean_reverb")
    parts = ["s1_reverb", "s2_reverb"] + ["noise"] * with_noise
    np.testing.assert_allclose(mixture, sum(signal(part) for part in parts), atol=4 / 2**15)
    assert np.abs(mixture).max() <= 0.9
    task = "separate_noisy_reverb" if with_noise else "separate_clean_reverb"
    manifests = prepare_whamr(
        tmp_path / "out/Libri2Mix", tmp_path / "manifests", sample_rate=16000, mode="max", task=task, check_samples=True
    )
    assert len(read_csv(manifests["tr"])) == 3
    again = {"librispeech_folder": speech["from_speech"], "metadata_folder": tmp_path / "out/metadata", "rooms": True}
    make(again | (noise if with_noise else {}), tmp_path / "again", sample_rates=[16000], modes=["max"])
    wavs = [{p: c for p, c in tree(tmp_path / name).items() if p.endswith(".wav")} for name in ("out", "again")]
    assert wavs[0] == wavs[1]


def test_other_rooms_are_other_mixtures(speech, tmp_path):
    make(speech | {"rooms": True, "n_mixtures": (2, 2, 2)}, tmp_path / "out")
    metadata = tmp_path / "out" / "metadata"
    again = {"librispeech_folder": speech["from_speech"], "metadata_folder": metadata, "rooms": True}
    make(again, tmp_path / "again")
    (table,) = metadata.rglob("libri2mix_dev_rooms.csv")
    header, first, *others = table.read_text().splitlines()
    cells = dict(zip(header.split(","), first.split(","), strict=True))
    cells["T60"] = str(0.9 * float(cells["T60"]))
    table.write_text("\n".join([header, ",".join(cells.values()), *others, ""]))
    with pytest.raises(InputError, match="generated with other versions of these: libri2mix_dev_rooms.csv"):
        make(again, tmp_path / "again")


def test_metadata_without_rooms(speech, tmp_path):
    make(speech, tmp_path / "out", n_mixtures=(2, 2, 2))
    again = {"librispeech_folder": speech["from_speech"], "metadata_folder": tmp_path / "out/metadata", "rooms": True}
    with pytest.raises(InputError, match="_rooms.csv: there is no such file"):
        make(again, tmp_path / "again")


# What speech may look like


def test_one_folder_a_speaker(tmp_path):
    for speaker in "abcdef":
        write(tmp_path / "speech" / speaker / "day one" / "01.wav", samples_of(speaker, RATE))
    options = {"from_speech": tmp_path / "speech", "layout": "speakers", "min_seconds": 0.5}
    make(options, tmp_path / "out")
    row = drawn(tmp_path / "out")[0]
    assert row["source_1_path"][1:] == "/day one/01.wav"
    assert row["mixture_ID"].count("-day one-01") == 2


def test_table_of_speech(tmp_path):
    lines = ["path,spk"]
    for number in range(6):
        write(tmp_path / "all" / f"{number}.wav", samples_of(str(number), RATE))
        path = f"all/{number}.wav" if number % 2 else tmp_path / "all" / f"{number}.wav"
        lines.append(f"{path},speaker{number}")
    (tmp_path / "speech.csv").write_text("\n".join(lines) + "\n")
    make({"from_speech": tmp_path / "speech.csv", "min_seconds": 0.5}, tmp_path / "out")
    info = read_csv(tmp_path / "out/metadata/Libri2Mix/libri2mix_dev_info.csv")
    assert info[0]["speaker_1_ID"].startswith("speaker")


@pytest.mark.parametrize(
    "text, message",
    [
        ("path,speaker\na.wav,a\n", "speech.csv: column spk is missing"),
        ("path,spk\n", "speech.csv: has no rows"),
        ("path,spk\na.wav\n", "speech.csv:2: needed 2 fields, none of path and spk empty"),
        ("path,spk\na.wav,\n", "speech.csv:2: needed 2 fields, none of path and spk empty"),
        ("path,spk\na.wav,a\n", "a.wav: there is no such recording"),
    ],
)
def test_wrong_table_of_speech(tmp_path, text, message):
    (tmp_path / "speech.csv").write_text(text)
    fails({"from_speech": tmp_path / "speech.csv"}, tmp_path, message)


def test_two_recordings_with_one_name(tmp_path):
    for name in ("x/1.wav", "x/1.flac"):
        write(tmp_path / name, samples_of(name, RATE))
    (tmp_path / "speech.csv").write_text("path,spk\nx/1.wav,a\nx/1.flac,a\n")
    fails(
        {"from_speech": tmp_path / "speech.csv"},
        tmp_path,
        "two recordings have the same name, a-x-1",
        "x/1.flac and x/1.wav",
    )


def test_files_of_one_name_in_several_folders(tmp_path):
    """As those of several sessions are; the others keep their short names."""
    rows = [("x/1.wav", "a"), ("y/1.wav", "a"), ("y/2.wav", "a"), ("z/1.wav", "b")]
    for name, _ in rows:
        write(tmp_path / name, samples_of(name, RATE))
    (tmp_path / "speech.csv").write_text("path,spk\n" + "".join(f"{name},{speaker}\n" for name, speaker in rows))
    _, clips = find_speech(tmp_path / "speech.csv", resample=8000)
    assert sorted(clip.name for clip in clips) == ["a-2", "a-x-1", "a-y-1", "b-1"]


def test_speech_in_another_layout(speech, tmp_path):
    write(tmp_path / "speech" / "hello.wav", samples_of("hello", RATE))
    fails(speech, tmp_path, "hello.wav is not called speaker-chapter-utterance", "--layout speakers")
    fails(speech | {"layout": "speakers"}, tmp_path, "hello.wav is not in a speaker's folder")
    fails(speech | {"layout": "flat"}, tmp_path, "layout 'flat' is not known: choose one of 'librispeech', 'speakers'")


def test_truncated_flac_of_custom_speech(speech, tmp_path):
    path = tmp_path / "speech/train-clean-100/103/7/103-7-0001.flac"
    path.write_bytes(path.read_bytes()[:9000])
    fails(speech, tmp_path, f"{path}: ", "truncated", "opy or download it again")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"speaker_shares": (1, 1)}, "speaker_shares (1, 1): give three numbers"),
        ({"speaker_shares": (0, 0, 0)}, "give three numbers"),
        ({"n_mixtures": (1, 0, 1)}, "n_mixtures (1, 0, 1): give three numbers of at least 1"),
        ({"num_spks": 5}, "from_speech has 12 speakers; needed at least 5 for each of train-100, dev, test"),
        ({"seed": -1}, "seed is -1: give 0 or more"),
        (
            {"min_seconds": 60.0},
            "0 of 18 utterances have 60 s or more",
        ),
        ({"extend_noise": True}, "extend_noise has no effect without noise"),
        ({"reverberation": "low"}, "reverberation has no effect without rooms"),
        ({"from_speech": "/no/such/folder"}, "from_speech '/no/such/folder' is not a folder"),
        ({"splits": ["train-360"]}, "split 'train-360' is not known"),
    ],
)
def test_wrong_arguments_of_drawing(speech, tmp_path, options, message):
    fails(speech, tmp_path, message, **options)


def test_folder_without_recordings(tmp_path):
    (tmp_path / "speech").mkdir()
    fails({"from_speech": tmp_path / "speech"}, tmp_path, "holds no recording; needed files that end in .wav, .flac")


def test_a_split_may_be_omitted(speech):
    _, clips = find_speech(speech["from_speech"])
    assert list(split_speakers(clips, 2, (1, 0, 1), seed=0)) == ["train-100", "test"]


def test_first_channel_and_length(tmp_path):
    samples = samples_of("stereo", 1000, 2)
    write(tmp_path / "a.wav", samples)
    np.testing.assert_array_equal(
        read_recording(tmp_path / "a.wav", num_frames=10), samples[:10, 0] / np.float32(2**15)
    )


def test_command(speech, noise, tmp_path):
    arguments = ["librimix", "--from_speech", speech["from_speech"], "--noise", noise["noise"], "--min_seconds", "0.5"]
    arguments += ["--output_folder", str(tmp_path / "out"), "--n_mixtures", "2", "2", "2", "--workers", "1"]
    arguments += ["--num_spks", "3", "--rooms", "--reverberation", "low", "--splits", "dev", "--types", "mix_both"]
    assert main(arguments) == 0
    assert sorted(os.listdir(tmp_path / "out/Libri3Mix/wav8k/min/cv")) == sorted(
        [f"{name}_{kind}" for kind in ("anechoic", "reverb") for name in ("s1", "s2", "s3", "mix_both")] + ["noise"]
    )
