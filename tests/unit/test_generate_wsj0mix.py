"""WSJ0-mix equals a literal computation of the published steps; messages for wrong raw data."""

import math
import os
import shutil

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from data_prep.audio import num_resampled, resample
from data_prep.corpora.wsj0mix import prepare_wsj0mix
from data_prep.generate.__main__ import main
from data_prep.generate.wsj0 import RawRecording, find_wsj0, read_recording
from data_prep.generate.wsj0mix import generate
from mossformer_sb.errors import InputError
from tests.forked import run as run_program
from tests.unit.generate_items import tree
from tests.unit.generate_trees import (
    FRAMES,
    MIXTURES,
    SPLITS,
    level,
    name_in_metadata,
    utterance_samples,
    write_wsj0,
    write_wsj0mix_metadata,
)
from tests.unit.permissions import closed

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
UTTERANCE = "wsj0/si_tr_s/40n/40na010x.wav"
EVERYTHING = {"sample_rates": (8000, 16000), "modes": ("min", "max")}


@pytest.fixture
def raw(tmp_path):
    """Folders of the recordings and of the metadata."""
    return write_wsj0(tmp_path / "raw"), write_wsj0mix_metadata(tmp_path / "metadata")


def make(raw, folder, **options):
    return generate(*raw, folder, **{"workers": 1} | options)


def fails(raw, tmp_path, *parts, **options):
    with pytest.raises(InputError) as caught:
        make(raw, tmp_path / "out", **options)
    for part in parts:
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def literal(mixture, sample_rate, mode):
    """The published steps, one sample at a time: lists of integers for the mixture and the sources."""
    sources = []
    for utterance, gain in mixture:
        speech = np.array([sample / 2**15 for sample in utterance_samples(utterance).tolist()], dtype=np.float32)
        speech = resample_poly(speech, sample_rate, 16000)
        factor = 10 ** (float(gain) / 20)
        sources.append([float(sample) / math.sqrt(float(level(utterance))) * factor for sample in speech])
    longest, shortest = max(map(len, sources)), min(map(len, sources))
    sources = [source + [0.0] * (longest - len(source)) for source in sources]
    mixed = []
    for samples in zip(*sources, strict=True):
        total = 0.0
        for sample in samples:
            total += sample
        mixed.append(total)
    signals = [mixed, *sources]
    if mode == "min":
        signals = [signal[:shortest] for signal in signals]
    peak = max(1.0, *(abs(sample) for signal in signals for sample in signal))
    return [[round(2**15 * (sample / (peak / 0.9))) for sample in signal] for signal in signals]


@pytest.mark.parametrize("num_spks", [2, 3, 4, 5])
def test_equal_to_a_literal_computation(raw, tmp_path, num_spks):
    make(raw, tmp_path / "out", num_spks=num_spks, **EVERYTHING)
    expected = {f"wsj0-{num_spks}mix.json"}
    for sample_rate in (8000, 16000):
        for mode in ("min", "max"):
            for split, mixtures in MIXTURES[num_spks].items():
                for mixture in mixtures:
                    name = "_".join(f"{utterance}_{float(gain):.8g}" for utterance, gain in mixture)
                    signals = literal(mixture, sample_rate, mode)
                    for folder, samples in zip(("mix", "s1", "s2", "s3", "s4", "s5"), signals, strict=False):
                        path = f"{num_spks}speakers/wav{sample_rate // 1000}k/{mode}/{split}/{folder}/{name}.wav"
                        expected.add(path)
                        found, rate = soundfile.read(tmp_path / "out" / path, dtype="int16")
                        assert (rate, soundfile.info(tmp_path / "out" / path).subtype) == (sample_rate, "PCM_16")
                        assert found.tolist() == samples
    assert tree(tmp_path / "out").keys() == expected


def test_names_are_those_of_the_published_corpus(raw, tmp_path):
    make(raw, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "2speakers").rglob("*.wav")}
    assert {
        "40na010x_1.9857_01xo031a_-1.9857.wav",
        "209c0105_6.9829e-05_01ca0102_-6.9829e-05.wav",
        "01ca0102_0.45012408_20mo010h_-0.450124.wav",
    } < names
    make(raw, tmp_path / "out", num_spks=3)
    assert (tmp_path / "out/3speakers/wav8k/min/tr/s3/01ca0102_1.2972_209c0105_-1.2972_20mo010h_0.wav").is_file()


def test_resampling_is_the_published_filter():
    signal = np.random.default_rng(0).standard_normal(101)
    taps = [math.sin(math.pi * n / 2) / (math.pi * n) if n else 0.5 for n in range(-20, 21)]
    taps = [
        tap * np.i0(5 * math.sqrt(1 - (n / 20) ** 2)) / np.i0(5) for n, tap in zip(range(-20, 21), taps, strict=True)
    ]
    taps = [tap / sum(taps) for tap in taps]
    padded = [0.0] * 20 + signal.tolist() + [0.0] * 20
    literal = [sum(tap * padded[2 * i + n] for n, tap in enumerate(taps)) for i in range(51)]
    np.testing.assert_allclose(resample(signal, 8000), literal, atol=1e-12)
    assert num_resampled(101, 8000) == 51


@pytest.mark.parametrize("num_spks", [2, 5])
def test_manifests_accept_it(raw, tmp_path, num_spks):
    make(raw, tmp_path / "out", num_spks=num_spks)
    manifests = prepare_wsj0mix(tmp_path / "out", tmp_path / "manifests", num_spks, check_samples=True)
    assert manifests.keys() == set(SPLITS)


def test_chosen_splits_rates_and_modes(raw, tmp_path):
    make(raw, tmp_path / "out", splits=["cv"], sample_rates=[16000], modes=["max"])
    assert {os.path.dirname(path) for path in tree(tmp_path / "out")} == {
        "",
        *(f"2speakers/wav16k/max/cv/{folder}" for folder in ("mix", "s1", "s2")),
    }


def test_a_corpus_is_completed_in_steps(raw, tmp_path):
    make(raw, tmp_path / "whole", **EVERYTHING)
    for split in SPLITS:
        for sample_rate in (8000, 16000):
            make(raw, tmp_path / "out", sample_rates=[sample_rate], modes=["max", "min"], splits=[split])
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("number", [2, 31])
def test_killed_in_the_middle_and_started_again(raw, tmp_path, number):
    folders = [str(folder) for folder in (*raw, tmp_path / "out")]
    code = (
        "from tests.unit.generate_items import kill_in_write; from data_prep.generate.wsj0mix import generate; "
        f"kill_in_write({number}); generate(*{folders}, workers=1, **{EVERYTHING})"
    )
    assert run_program(["-c", code], ROOT).returncode == -9
    make(raw, tmp_path / "whole", **EVERYTHING)
    assert len(tree(tmp_path / "out")) == number + 1
    make(raw, tmp_path / "out", **EVERYTHING)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_metadata_that_changed_is_not_continued(raw, tmp_path):
    make(raw, tmp_path / "out")
    path = raw[1] / "mix_2_spk_tr.txt"
    path.write_text(path.read_text().replace("1.9857", "1.9858"))
    with pytest.raises(InputError, match="was generated with other versions of these: mix_2_spk_tr.txt: give"):
        make(raw, tmp_path / "out")


# Where the recordings lie


@pytest.mark.parametrize("extension", [".wav", ".wv1"])
def test_sphere_files(raw, tmp_path, extension):
    sphere = write_wsj0(tmp_path / "sphere", extension, format="NIST")
    make(raw, tmp_path / "wav")
    make((sphere, raw[1]), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "wav")


def test_folder_of_wsj0_itself_and_folder_of_discs(raw, tmp_path):
    make(raw, tmp_path / "whole")
    make((raw[0] / "wsj0", raw[1]), tmp_path / "itself")
    for disc, part in (("11-1.1", "si_tr_s"), ("11-6.1", "si_dt_05"), ("11-14.1", "si_et_05")):
        shutil.copytree(raw[0] / "wsj0" / part, tmp_path / "discs" / disc / "wsj0" / part)
    make((tmp_path / "discs", raw[1]), tmp_path / "discs_out")
    assert tree(tmp_path / "itself") == tree(tmp_path / "discs_out") == tree(tmp_path / "whole")


def test_shorten(raw, tmp_path):
    path = (raw[0] / UTTERANCE).with_suffix(".wv1")
    (raw[0] / UTTERANCE).unlink()
    path.write_bytes(b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\n".ljust(1024) + b"ajkg\2")
    message = "convert all .wv1 files with LDC's sph2pipe, as in `sph2pipe -f wav 40na010x.wv1 40na010x.wav`"
    fails(raw, tmp_path, UTTERANCE, "compressed with shorten", message, f"'{path}'")


def test_second_microphone(raw, tmp_path):
    path = raw[0] / UTTERANCE
    path.rename(path.with_suffix(".wv2"))
    fails(
        raw,
        tmp_path,
        UTTERANCE,
        "exists only from the second microphone (.wv2)",
        f"put '{path.with_suffix('.wv1')}' next to it",
    )


@pytest.mark.parametrize(
    "folder, found", [("absent", "does not exist"), ("file", "is a file"), ("metadata", "is not laid out as WSJ0")]
)
def test_wrong_folder(raw, tmp_path, folder, found):
    (tmp_path / "file").write_text("")
    fails((tmp_path / folder, raw[1]), tmp_path, f"wsj0_folder '{tmp_path / folder}' {found}")


def test_a_clone_of_the_repository(raw, tmp_path):
    make(raw, tmp_path / "whole")
    raw[1].rename(tmp_path / "moved")
    (tmp_path / "clone").mkdir()
    (tmp_path / "moved").rename(tmp_path / "clone" / "metadata")
    make((raw[0], tmp_path / "clone"), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def capital(path):
    """Renames what lies below a folder to capitals."""
    for child in [*path.iterdir()]:
        if child.is_dir():
            capital(child)
        child.rename(child.with_name(child.name.upper()))


@pytest.mark.parametrize(
    "extension, options", [(".wav", {}), (".wv1", {"format": "NIST"}), (".sph", {"format": "NIST"})]
)
def test_names_in_capitals(raw, tmp_path, extension, options):
    make(raw, tmp_path / "whole")
    upper = write_wsj0(tmp_path / "upper", extension, **options)
    capital(upper)
    assert (upper / "WSJ0/SI_TR_S/40N" / f"40NA010X{extension.upper()}").is_file()
    make((upper, raw[1]), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_utterances_as_flac(raw, tmp_path):
    make(raw, tmp_path / "whole")
    make((write_wsj0(tmp_path / "flac", ".flac", format="FLAC"), raw[1]), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("given", [".", "csr_1"])
def test_folder_of_csr_1(raw, tmp_path, given):
    make(raw, tmp_path / "whole")
    for disc, part in (("11-1.1", "si_tr_s"), ("11-6.1", "si_dt_05"), ("11-14.1", "si_et_05")):
        shutil.copytree(raw[0] / "wsj0" / part, tmp_path / "ldc/csr_1" / disc / "wsj0" / part)
    make((tmp_path / "ldc" / given, raw[1]), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_two_copies(raw, tmp_path):
    """The same recording twice is as good as once; but which of two different ones is meant, nobody can tell."""
    make(raw, tmp_path / "whole")
    (tmp_path / "both").mkdir()
    for name in ("first", "second"):
        shutil.copytree(raw[0], tmp_path / "both" / name)
    make((tmp_path / "both", raw[1]), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    shutil.rmtree(tmp_path / "out")
    other = tmp_path / "both" / "second" / UTTERANCE
    soundfile.write(other, utterance_samples("40na010x")[::-1], 16000)
    text = f"twice, with different content: '{tmp_path / 'both' / 'first' / UTTERANCE}' and '{other}'"
    fails((tmp_path / "both", raw[1]), tmp_path, "1 of 8 recordings", text)


def test_both_microphones(raw, tmp_path, caplog):
    """Those of the second one are the worse, and have the same names."""
    caplog.set_level("INFO")
    make(raw, tmp_path / "whole")
    assert "first microphone" not in caplog.text
    both = write_wsj0(tmp_path / "both", ".wv1", format="NIST")
    for path in both.rglob("*.wv1"):
        soundfile.write(path.with_suffix(".wv2"), np.ones(99) / 8, 16000, format="NIST", subtype="PCM_16")
    make((both, raw[1]), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert "8 utterances are from the first microphone (.wv1); 8 of them exist from the second" in caplog.text


# Recordings that can't be used


@pytest.mark.parametrize(
    "path, found",
    [
        ("raw/wsj0/si_tr_s/40n/40na010x.wav", "1 of 8 recordings in the metadata can't be used"),
        ("raw/wsj0/si_tr_s/40n", "1 of 8 recordings"),
        ("raw/wsj0", "8 of 8 recordings"),
        ("raw", "wsj0_folder '{}/raw' can't be read (Permission denied): '{}/raw'. Allow reading it"),
        ("metadata/activlev", "Metadata file activlev_si_tr_s.txt can't be read (Permission denied)"),
        ("metadata/mix_2_spk_tr.txt", "Metadata file mix_2_spk_tr.txt can't be read (Permission denied)"),
        ("metadata", "Metadata file mix_2_spk_tr.txt can't be read (Permission denied)"),
    ],
)
def test_files_without_read_permission(raw, tmp_path, path, found):
    refused = f"can't be read (Permission denied): '{tmp_path / path}'"
    with closed(tmp_path / path):
        fails(raw, tmp_path, found.format(tmp_path, tmp_path), refused)


def test_absent_utterances_are_counted(raw, tmp_path):
    for utterance in FRAMES:
        (raw[0] / name_in_metadata(utterance)).unlink()
    message = fails(
        raw, tmp_path, "WSJ0: 8 of 8 recordings", f"{UTTERANCE} does not exist; needed '{raw[0] / UTTERANCE}'"
    )
    assert message.count("does not exist") == 8
    fails(raw, tmp_path, "2 of 2 recordings", splits=["cv"])


def test_many_absent_utterances_are_not_all_shown(raw, tmp_path):
    lines = [f"wsj0/si_tr_s/000/000{i:05d}.wav 1 {UTTERANCE} -1\n" for i in range(20)]
    (raw[1] / "mix_2_spk_tr.txt").write_text("".join(lines))
    assert fails(raw, tmp_path, "20 of 2", "… and 10 more", splits=["tr"]).count("does not exist") == 10


@pytest.mark.parametrize(
    "options, found",
    [
        ({"samplerate": 8000}, "has a sample rate of 8000 Hz; needed 16000 Hz"),
        ({"data": np.zeros((100, 2))}, "has 2 channels; needed 1 (mono)"),
        ({"data": np.zeros(0)}, "has no samples; needed at least one"),
    ],
)
def test_wrong_recordings(raw, tmp_path, options, found):
    soundfile.write(raw[0] / UTTERANCE, **{"data": np.zeros(100), "samplerate": 16000} | options)
    fails(raw, tmp_path, "1 of ", UTTERANCE, found)


def test_recording_that_is_no_audio(raw, tmp_path):
    (raw[0] / UTTERANCE).write_bytes(b"hello")
    fails(raw, tmp_path, UTTERANCE, "can't be read as audio")


@pytest.mark.parametrize("container", ["WAV", "NIST"])
def test_truncated_recording(raw, tmp_path, container):
    path = raw[0] / UTTERANCE
    soundfile.write(path, utterance_samples("40na010x"), 16000, format=container, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:-1000])
    fails(raw, tmp_path, f"{UTTERANCE} is truncated: its last 1000 bytes of audio are missing")


def test_recording_that_changes_during_the_work(raw, tmp_path):
    path = raw[0] / UTTERANCE
    recording = RawRecording(str(path), 2002)
    with pytest.raises(InputError, match="has 2001 frames, and its header states 2002"):
        read_recording(recording)


# Metadata that can't be used


@pytest.mark.parametrize("name", ["mix_2_spk_cv.txt", "activlev/activlev_si_dt_05.txt"])
def test_missing_metadata(raw, tmp_path, name):
    (raw[1] / name).unlink()
    fails(raw, tmp_path, f"Metadata file {os.path.basename(name)} does not exist in '{raw[1]}'", "metadata_folder")


def test_levels_without_a_folder_of_their_own(raw, tmp_path):
    make(raw, tmp_path / "whole")
    for path in (raw[1] / "activlev").iterdir():
        path.rename(raw[1] / path.name)
    make(raw, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("num_spks, fields", [(3, "has 4 fields; needed 6"), (2, "has 6 fields; needed 4")])
def test_wrong_number_of_fields(raw, tmp_path, num_spks, fields):
    lists = [raw[1] / f"mix_{number}_spk_cv.txt" for number in (num_spks, 5 - num_spks)]
    lists[0].write_text("\n" + lists[0].read_text() + lists[1].read_text())
    fails(raw, tmp_path, f"{lists[0]}:3: {fields}: utterance 1, gain 1", num_spks=num_spks)


@pytest.mark.parametrize(
    "name, text, found",
    [
        ("mix_2_spk_tr.txt", f"{UTTERANCE} loud {UTTERANCE} 0", "mix_2_spk_tr.txt:1: a gain is 'loud'"),
        ("mix_2_spk_tr.txt", f"{UTTERANCE} nan {UTTERANCE} 0", "mix_2_spk_tr.txt:1: a gain is 'nan'"),
        ("mix_2_spk_tr.txt", "\n", "mix_2_spk_tr.txt: is empty"),
        (
            "activlev/activlev_si_tr_s.txt",
            "40na010x",
            "activlev_si_tr_s.txt:1: has 1 fields; needed 2: utterance, level",
        ),
        ("activlev/activlev_si_tr_s.txt", "40na010x -", "activlev_si_tr_s.txt:1: the level is '-'"),
        (
            "activlev/activlev_si_tr_s.txt",
            "40na010x 0",
            "activlev_si_tr_s.txt:1: the level is 0; needed a power above 0",
        ),
        ("activlev/activlev_si_tr_s.txt", "01xo031a 1", "no activlev file has a level of utterance 40na010x"),
    ],
)
def test_damaged_metadata(raw, tmp_path, name, text, found):
    (raw[1] / name).write_text(text)
    fails(raw, tmp_path, found)


def test_metadata_that_is_no_text(raw, tmp_path):
    path = raw[1] / "mix_2_spk_tr.txt"
    path.write_bytes(b"\xff\xfe\x00")
    fails(raw, tmp_path, f"{path}: can't be read as text")


def test_two_mixtures_with_one_name(raw, tmp_path):
    path = raw[1] / "mix_2_spk_tr.txt"
    path.write_text(2 * path.read_text())
    fails(
        raw,
        tmp_path,
        "two mixtures have the same name",
        "2speakers/wav8k/min/tr/mix/40na010x_1.9857_01xo031a_-1.9857.wav",
    )


@pytest.mark.parametrize(
    "option, found",
    [
        ({"num_spks": 6}, "num_spks 6 is not known"),
        ({"sample_rates": [44100]}, "sample_rate 44100 is not known"),
        ({"modes": ["mid"]}, "mode 'mid' is not known"),
        ({"splits": ["test"]}, "split 'test' is not known"),
    ],
)
def test_unknown_choices(raw, tmp_path, option, found):
    fails(raw, tmp_path, found, **option)


# The command


def test_command(raw, tmp_path, capsys):
    folders = ["--wsj0_folder", str(raw[0]), "--metadata_folder", str(raw[1])]
    options = ["--num_spks", "3", "--modes", "min", "max", "--splits", "cv", "--workers", "1"]
    assert main(["wsj0mix", *folders, "--output_folder", str(tmp_path / "out"), *options, "--dry_run"]) == 0
    assert not (tmp_path / "out").exists()
    assert main(["wsj0mix", *folders, "--output_folder", str(tmp_path / "out"), *options]) == 0
    make(raw, tmp_path / "whole", num_spks=3, modes=("min", "max"), splits=["cv"])
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert main(["wsj0mix", *folders, "--output_folder", str(tmp_path / "out"), "--modes", "mid"]) == 2
    assert capsys.readouterr().err.endswith("mode 'mid' is not known: choose one of 'min', 'max'.\n")


def test_two_microphones(tmp_path, caplog):
    """The first one's recordings are taken, and the log says so."""
    caplog.set_level("INFO")
    folder = tmp_path / "wsj0" / "si_tr_s" / "011"
    folder.mkdir(parents=True)
    for ending, amplitude in (("wv1", 0.1), ("wv2", 0.2)):
        soundfile.write(folder / f"011a0101.{ending}", np.full(100, amplitude), 16000, format="NIST", subtype="PCM_16")
    found = find_wsj0(tmp_path, ["wsj0/si_tr_s/011/011a0101.wav"])["wsj0/si_tr_s/011/011a0101.wav"]
    assert found.path.endswith(".wv1") and abs(read_recording(found)[0] - 0.1) < 1e-3
    assert "1 utterances are from the first microphone (.wv1); 1 of them exist from the second" in caplog.text
