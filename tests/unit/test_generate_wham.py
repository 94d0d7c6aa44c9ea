"""WHAM! equals a literal computation of the published steps; messages for wrong metadata and noise."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from data_prep.corpora.wham import prepare_wham
from data_prep.generate import npz
from data_prep.generate.__main__ import main
from data_prep.generate.wham import generate
from mossformer_sb.errors import InputError
from tests.forked import run as run_program
from tests.unit.generate_items import tree
from tests.unit.generate_trees import (
    SPLITS,
    mixture_names,
    scaling,
    utterance_samples,
    write_wham_metadata,
    write_wham_noise,
    write_wsj0,
)
from tests.unit.permissions import closed

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
NAME = "40na010x_1.9857_01xo031a_-1.9857.wav"
EVERYTHING = {"sample_rates": (8000, 16000), "modes": ("min", "max")}


@pytest.fixture
def raw(tmp_path):
    """Folders of the recordings, the noise and the metadata."""
    return write_wsj0(tmp_path / "raw"), write_wham_noise(tmp_path / "noise"), write_wham_metadata(tmp_path / "lists")


def make(raw, folder, **options):
    return generate(*raw, folder, **{"workers": 1} | options)


def fails(raw, tmp_path, *parts, **options):
    with pytest.raises(InputError) as caught:
        make(raw, tmp_path / "out", **options)
    for part in parts:
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def literal(noise_folder, split, name, sample_rate, mode):
    """The published steps, one sample at a time: folder → list of numbers."""
    arrays = np.load(noise_folder / "metadata" / f"scaling_{split}.npz")
    row = arrays["utterance_id"].tolist().index(name)
    version = f"{sample_rate // 1000}k_{mode}"
    sources = []
    for number, utterance in enumerate(mixture_names(split)[name]):
        samples = np.array([sample / 2**15 for sample in utterance_samples(utterance).tolist()])
        if sample_rate == 8000:
            samples = resample_poly(samples, 8000, 16000)
        gain = float(arrays[f"scaling_wsjmix_{version}"][row, number])
        integers = [round(2**15 * (float(sample) * gain)) for sample in samples]
        sources.append([i / 2**15 * float(arrays[f"scaling_wham_speech_{version}"][row]) for i in integers])
    noise, _ = soundfile.read(noise_folder / split / name)
    noise = noise[:, 0]
    if sample_rate == 8000:
        noise = resample_poly(noise, 8000, 16000)
    noise = [float(sample) * float(arrays[f"scaling_wham_noise_{version}"][row]) for sample in noise]
    start = int(arrays["speech_start_sample_16k"][row])
    start = start // 2 if sample_rate == 8000 else start
    if mode == "min":
        length = min(map(len, sources))
        s1, s2 = (source[:length] for source in sources)
        noise = noise[start : start + length]
    else:
        s1, s2 = ([0.0] * start + source + [0.0] * (len(noise) - start - len(source)) for source in sources)
    return {
        "s1": s1,
        "s2": s2,
        "noise": noise,
        "mix_clean": [a + b for a, b in zip(s1, s2, strict=True)],
        "mix_single": [a + n for a, n in zip(s1, noise, strict=True)],
        "mix_both": [a + b + n for a, b, n in zip(s1, s2, noise, strict=True)],
    }


def test_equal_to_a_literal_computation(raw, tmp_path):
    make(raw, tmp_path / "out", **EVERYTHING)
    expected = {"wham.json"}
    for sample_rate in (8000, 16000):
        for mode in ("min", "max"):
            for split in SPLITS:
                for name in mixture_names(split):
                    signals = literal(raw[1], split, name, sample_rate, mode)
                    for folder, samples in signals.items():
                        path = f"wav{sample_rate // 1000}k/{mode}/{split}/{folder}/{name}"
                        expected.add(path)
                        found, rate = soundfile.read(tmp_path / "out" / path, dtype="float64")
                        assert (rate, soundfile.info(tmp_path / "out" / path).subtype) == (sample_rate, "FLOAT")
                        assert found.shape == (len(samples),)
                        np.testing.assert_allclose(found, samples, rtol=0, atol=1e-6)
                        assert np.abs(found).max() > 1e-3
    assert tree(tmp_path / "out").keys() == expected


def test_speech_has_the_steps_of_16_bit(raw, tmp_path):
    make(raw, tmp_path / "out", splits=["tr"])
    gain = float(scaling(mixture_names("tr"))["scaling_wham_speech_8k_min"][0])
    samples, _ = soundfile.read(tmp_path / "out/wav8k/min/tr/s1" / NAME)
    steps = samples / gain * 2**15
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-2)


def test_manifests_accept_it(raw, tmp_path):
    make(raw, tmp_path / "out", **EVERYTHING)
    for sample_rate in (8000, 16000):
        for mode in ("min", "max"):
            manifests = prepare_wham(tmp_path / "out", tmp_path / "manifests", sample_rate, mode)
            assert manifests.keys() == set(SPLITS)


def test_chosen_splits_rates_and_modes(raw, tmp_path):
    make(raw, tmp_path / "out", splits=["cv"], sample_rates=[16000], modes=["max"])
    folders = ("mix_clean", "mix_single", "mix_both", "s1", "s2", "noise")
    found = {os.path.dirname(path) for path in tree(tmp_path / "out")}
    assert found == {"", *(f"wav16k/max/cv/{folder}" for folder in folders)}


@pytest.mark.parametrize("number", [2, 61])
def test_killed_in_the_middle_and_started_again(raw, tmp_path, number):
    folders = [str(folder) for folder in (*raw, tmp_path / "out")]
    code = (
        "from tests.unit.generate_items import kill_in_write; from data_prep.generate.wham import generate; "
        f"kill_in_write({number}); generate(*{folders}, workers=1, **{EVERYTHING})"
    )
    assert run_program(["-c", code], ROOT).returncode == -9
    make(raw, tmp_path / "whole", **EVERYTHING)
    assert len(tree(tmp_path / "out")) == number + 1
    make(raw, tmp_path / "out", **EVERYTHING)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_workers_change_nothing(raw, tmp_path):
    make(raw, tmp_path / "one")
    make(raw, tmp_path / "two", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_other_places_of_the_metadata(raw, tmp_path):
    make(raw, tmp_path / "whole")
    wsj0, noise, lists = raw
    for path in (noise / "metadata").iterdir():
        path.rename(lists / path.name)
    (lists / "data").mkdir()
    for path in lists.glob("*.csv"):
        path.rename(lists / "data" / path.name)
    make(raw, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


# Noise


@pytest.mark.parametrize("mode, needed", [("min", 1600), ("max", 2001)])
def test_noise_shorter_than_the_mixture(raw, tmp_path, mode, needed):
    path = raw[1] / "tr" / NAME
    for frames, works in ((301 + needed, True), (301 + needed - 1, False)):
        soundfile.write(path, np.ones((frames, 2)) / 8, 16000)
        if works:
            make(raw, tmp_path / "works", modes=[mode], **{"sample_rates": (8000, 16000)})
            continue
        found = f"{path}: the noise has {frames} samples; mixture {NAME[:-4]} needs {needed} from sample 301 on"
        fails(raw, tmp_path, found, modes=[mode])


def test_absent_noise(raw, tmp_path):
    (raw[1] / "tr" / NAME).unlink()
    fails(
        raw, tmp_path, "noise of WHAM!: 1 of 5 recordings", f"tr/{NAME} does not exist; needed '{raw[1] / 'tr' / NAME}'"
    )


def test_noise_of_another_rate(raw, tmp_path):
    soundfile.write(raw[1] / "tr" / NAME, np.zeros((4000, 2)), 8000)
    fails(raw, tmp_path, f"tr/{NAME} has a sample rate of 8000 Hz; needed 16000 Hz")


def test_truncated_noise(raw, tmp_path):
    path = raw[1] / "tr" / NAME
    path.write_bytes(path.read_bytes()[:-4])
    fails(raw, tmp_path, f"tr/{NAME} is truncated: its last 4 bytes")


def test_noise_with_one_channel(raw, tmp_path):
    make(raw, tmp_path / "whole")
    for path in raw[1].rglob("*.wav"):
        samples, _ = soundfile.read(path, dtype="int16")
        soundfile.write(path, samples[:, 0], 16000, subtype="PCM_16")
    make(raw, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


# Metadata


@pytest.mark.parametrize(
    "name, advice",
    [
        (
            "noise/metadata/scaling_cv.npz",
            "give the unzipped wham_noise, with tr/, cv/, tt/ and metadata/, as noise",
        ),
        (
            "lists/mix_2_spk_filenames_cv.csv",
            "give the folder of the published scripts, wham_scripts, as metadata_folder",
        ),
    ],
)
def test_missing_metadata(raw, tmp_path, name, advice):
    (tmp_path / name).unlink()
    fails(raw, tmp_path, f"Metadata file {os.path.basename(name)} does not exist in '{tmp_path}", advice)


@pytest.mark.parametrize(
    "path", ["noise/metadata", "noise/metadata/scaling_tr.npz", f"noise/tr/{NAME}", "noise/cv", "lists"]
)
def test_files_without_read_permission(raw, tmp_path, path):
    with closed(tmp_path / path):
        fails(raw, tmp_path, f"can't be read (Permission denied): '{tmp_path / path}'")


@pytest.mark.parametrize(
    "text, found",
    [
        ("output_filename,s1_path\n", ":1: has 2 fields; needed 3: output_filename, s1_path, s2_path"),
        ("output_filename,s2_path,s1_path\n", ":1: has the columns output_filename,s2_path,s1_path; needed output_"),
        ("output_filename,s1_path,s2_path\na.wav,b.wav\n", ":2: has 2 fields; needed 3"),
        ("output_filename,s1_path,s2_path\n" + 2 * "a.wav,b.wav,c.wav\n", ":3: a second mixture has the name a"),
        ("output_filename,s1_path,s2_path\n", "has a header and no mixtures"),
        ("output_filename,s1_path,s2_path\na.wav,b.wav,c.wav\n", "scaling_cv.npz: lacks 1 mixtures that "),
        ("", ": is empty"),
    ],
)
def test_damaged_list(raw, tmp_path, text, found):
    path = raw[2] / "mix_2_spk_filenames_cv.csv"
    path.write_text(text)
    fails(raw, tmp_path, str(path), found)


def test_list_and_scaling_must_have_the_same_mixtures(raw, tmp_path):
    path = raw[2] / "mix_2_spk_filenames_cv.csv"
    path.write_text(path.read_text() + "new.wav,a.wav,b.wav\n")
    fails(raw, tmp_path, f"scaling_cv.npz: lacks 1 mixtures that {path} has, new among them")
    path = raw[2] / "mix_2_spk_filenames_tr.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    fails(raw, tmp_path, f"{path}: lacks 1 mixtures that", "01ca0102_0.45012408_20mo010h_-0.450124 among them")


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"scaling_wham_noise_8k_min": None}, "lacks the array scaling_wham_noise_8k_min; found utterance_id, "),
        ({"scaling_wsjmix_8k_min": np.ones(2)}, "scaling_wsjmix_8k_min has the shape (2,); needed (2, 2)"),
        ({"speech_start_sample_16k": np.ones(1)}, "speech_start_sample_16k has the shape (1,); needed (2,)"),
        ({"scaling_wham_speech_8k_min": np.array([1, np.nan])}, "has entries that are not finite numbers"),
        ({"speech_start_sample_16k": np.array(["a", "b"])}, "has entries that are not finite numbers"),
        ({"utterance_id": np.array([NAME, NAME])}, f"two mixtures have the name {NAME[:-4]}"),
        ({"utterance_id": np.array([NAME, None])}, "utterance_id is not a list of names"),
        ({"utterance_id": np.array([NAME, len])}, "it names builtins.len, and holds more than an array of strings"),
        ({"utterance_id": np.array(NAME, object)}, "utterance_id is not a list of names"),
        ({key: array[:0] for key, array in scaling(mixture_names("tr")).items()}, "has no mixtures"),
        ({"utterance_id": np.array([NAME])}, "speech_start_sample_16k has the shape (2,); needed (1,)"),
    ],
)
def test_damaged_scaling(raw, tmp_path, changes, found):
    path = raw[1] / "metadata" / "scaling_tr.npz"
    arrays = scaling(mixture_names("tr")) | changes
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    fails(raw, tmp_path, str(path), found)


@pytest.mark.parametrize("length", [0, 3, 100])
def test_scaling_that_is_no_archive(raw, tmp_path, length):
    path = raw[1] / "metadata" / "scaling_tr.npz"
    path.write_bytes(path.read_bytes()[:length])
    fails(raw, tmp_path, f"{path}: can't be read as an .npz file")


def test_names_as_bytes(raw, tmp_path):
    make(raw, tmp_path / "whole")
    for split in SPLITS:
        arrays = scaling(mixture_names(split))
        np.savez(
            raw[1] / "metadata" / f"scaling_{split}.npz",
            **arrays | {"utterance_id": arrays["utterance_id"].astype("S")},
        )
    (tmp_path / "whole" / "wham.json").unlink()
    make(raw, tmp_path / "out")
    (tmp_path / "out" / "wham.json").unlink()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def write_objects(raw, protocol=4, table=False):
    """Names as objects of Python, as `DataFrame.values` gives them; and the table that they came from."""
    for split in SPLITS:
        arrays = scaling(mixture_names(split))
        names = arrays["utterance_id"].astype(object)
        metadata = raw[1] / "metadata"
        path = metadata / f"scaling_{split}.npz"
        with io.BytesIO() as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": names.shape})
            pickle.dump(names, stream, protocol=protocol)
            content = stream.getvalue()
        np.savez(path, **{key: array for key, array in arrays.items() if key != "utterance_id"})
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("utterance_id.npy", content)
        if table:
            rows = [f"{name},0,0,1.5\n" for name in names]
            header = "utterance_id,noise_samples_beginning_16k,noise_samples_end_16k,target_speaker1_snr_db\n"
            (metadata / f"mix_param_meta_{split}.csv").write_text(header + "".join(rows))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_names_as_objects(raw, tmp_path, protocol):
    make(raw, tmp_path / "whole")
    write_objects(raw, protocol)
    with pytest.raises(ValueError, match="Object arrays"):
        np.load(raw[1] / "metadata" / "scaling_tr.npz")["utterance_id"]
    make(raw, tmp_path / "out")
    (tmp_path / "whole" / "wham.json").unlink()
    (tmp_path / "out" / "wham.json").unlink()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_names_from_the_table_beside_the_gains(raw, tmp_path, monkeypatch):
    """Then no pickle is read at all."""
    make(raw, tmp_path / "whole")
    write_objects(raw, table=True)
    monkeypatch.setattr(npz, "_StringArrays", None)
    make(raw, tmp_path / "out")
    (tmp_path / "whole" / "wham.json").unlink()
    (tmp_path / "out" / "wham.json").unlink()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    path = raw[1] / "metadata" / "mix_param_meta_tr.csv"
    path.write_text(path.read_text().replace("utterance_id", "name"))
    fails(raw, tmp_path / "other", f"{path}: column utterance_id is missing; found name, noise_samples_beginning_16k")
    path.write_text(path.read_text().replace("name", "utterance_id").rpartition("01ca")[0])
    fails(raw, tmp_path / "other", "speech_start_sample_16k has the shape (2,); needed (1,)")


class Run:
    """What runs a program when it is read from a pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_run_nothing(raw, tmp_path):
    arrays = scaling(mixture_names("tr")) | {"utterance_id": np.array([NAME, Run(tmp_path / "made")])}
    np.savez(raw[1] / "metadata" / "scaling_tr.npz", **arrays)
    fails(raw, tmp_path, "scaling_tr.npz: can't be read as an .npz file (it names posix.mkdir, and holds more than")
    assert not (tmp_path / "made").exists()


# From WSJ0-2mix


@pytest.fixture
def wsj0mix(raw, tmp_path):
    """WSJ0-2mix whose sources are WHAM!'s, before their last gain, as `scaling_wsjmix` has them."""
    for split in SPLITS:
        gains = scaling(mixture_names(split))
        for row, (name, utterances) in enumerate(mixture_names(split).items()):
            for sample_rate in (8000, 16000):
                speech = [resample_poly(utterance_samples(u) / 2**15, sample_rate, 16000) for u in utterances]
                for mode, length in (("min", min(map(len, speech))), ("max", max(map(len, speech)))):
                    version = f"{sample_rate // 1000}k_{mode}"
                    for number, samples in enumerate(speech):
                        scaled = np.round(2**15 * samples * gains[f"scaling_wsjmix_{version}"][row, number])
                        padded = np.pad(scaled, (0, max(0, length - len(scaled))))[:length].astype(np.int16)
                        top = tmp_path / f"mixed/2speakers/wav{sample_rate // 1000}k/{mode}/{split}/s{number + 1}"
                        top.mkdir(parents=True, exist_ok=True)
                        soundfile.write(top / name, padded, sample_rate, subtype="PCM_16")
    return tmp_path / "mixed"


def remix(wsj0mix, raw, folder, **options):
    return generate(wsj0mix_folder=wsj0mix, noise_folder=raw[1], output_folder=folder, **{"workers": 1} | options)


@pytest.mark.parametrize("given", [".", "2speakers"])
def test_from_wsj0mix(raw, wsj0mix, tmp_path, given):
    make(raw, tmp_path / "whole", **EVERYTHING)
    remix(wsj0mix / given, raw, tmp_path / "out", **EVERYTHING)
    whole, found = tree(tmp_path / "whole"), tree(tmp_path / "out")
    assert found.pop("wham.json") != whole.pop("wham.json")
    assert found == whole and len(found) == 5 * 6 * 4


def test_a_tree_is_not_continued_from_the_other_source(raw, wsj0mix, tmp_path):
    make(raw, tmp_path / "out")
    with pytest.raises(InputError, match="was generated with version 1; requested is version '1 from WSJ0-2mix'"):
        remix(wsj0mix, raw, tmp_path / "out")


def remix_fails(wsj0mix, raw, tmp_path, *parts, **options):
    with pytest.raises(InputError) as caught:
        remix(wsj0mix, raw, tmp_path / "out", **options)
    for part in parts:
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_wrong_sources(raw, wsj0mix, tmp_path):
    path = wsj0mix / "2speakers/wav8k/min/tr/s2" / NAME
    samples, _ = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples[:-1], 8000)
    remix_fails(wsj0mix, raw, tmp_path, f"{path}: has 799 samples, and ", "needed the same number")
    soundfile.write(path, np.stack([samples, samples], axis=1), 8000)
    remix_fails(wsj0mix, raw, tmp_path, "WSJ0-2mix: 1 of 10 recordings", "has 2 channels; needed 1")
    soundfile.write(path, samples, 16000)
    remix_fails(wsj0mix, raw, tmp_path, "has a sample rate of 16000 Hz; needed 8000 Hz")
    soundfile.write(path, samples, 8000)
    path.write_bytes(path.read_bytes()[:-100])
    remix_fails(wsj0mix, raw, tmp_path, "is truncated: its last 100 bytes")
    path.unlink()
    remix_fails(
        wsj0mix, raw, tmp_path, f"s2/{NAME} does not exist", "Give wsj0mix_folder, the folder that holds 2speakers/"
    )


def test_noise_shorter_than_the_sources(raw, wsj0mix, tmp_path):
    soundfile.write(raw[1] / "tr" / NAME, np.ones((1890, 2)) / 8, 16000)
    text = f"the noise has 945 samples; mixture {NAME[:-4]} needs 800 from sample 150 on"
    remix_fails(wsj0mix, raw, tmp_path, text)


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "Give either wsj0_folder, raw WSJ0, or wsj0mix_folder, WSJ0-2mix, not both"),
        ({"wsj0_folder": "a", "wsj0mix_folder": "b"}, "WSJ0-2mix, not both"),
        ({"wsj0_folder": "a"}, "metadata_folder is missing"),
        ({"wsj0mix_folder": "a", "metadata_folder": "b"}, "metadata_folder has no effect with wsj0mix_folder"),
        ({"wsj0mix_folder": "a"}, "noise_folder is missing"),
        ({"wsj0mix_folder": "a", "noise_folder": "b"}, "output_folder is missing"),
    ],
)
def test_conflicting_folders(options, message):
    with pytest.raises(InputError, match=message):
        generate(**options)


def test_absent_utterance(raw, tmp_path):
    (raw[0] / "wsj0/si_tr_s/40n/40na010x.wav").unlink()
    fails(raw, tmp_path, "WSJ0: 1 of 8 recordings", "wsj0/si_tr_s/40n/40na010x.wav does not exist")


@pytest.mark.parametrize("option", [{"sample_rates": [44100]}, {"modes": ["mid"]}, {"splits": ["test"]}])
def test_unknown_choices(raw, tmp_path, option):
    fails(raw, tmp_path, "is not known: choose one of", **option)


# The command


def test_command(raw, tmp_path, capsys):
    folders = ["--wsj0_folder", raw[0], "--noise_folder", raw[1], "--metadata_folder", raw[2]]
    command = ["wham", *map(str, folders), "--output_folder", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--sample_rates", "8000", "16000", "--splits", "cv"]) == 0
    make(raw, tmp_path / "whole", sample_rates=(16000, 8000), splits=["cv"])
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    (raw[1] / "metadata" / "scaling_cv.npz").unlink()
    assert main(command) == 2
    assert "Metadata file scaling_cv.npz does not exist" in capsys.readouterr().err
