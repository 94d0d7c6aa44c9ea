"""WHAMR! equals a literal computation of the published steps; messages for wrong metadata."""

import os

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from data_prep.corpora.whamr import prepare_whamr
from data_prep.generate.__main__ import main
from data_prep.generate.image_source import impulse_response
from data_prep.generate.rooms import draw_room, rooms_text
from data_prep.generate.whamr import generate
from mossformer_sb.errors import InputError
from tests.forked import run as run_program
from tests.unit.generate_items import tree
from tests.unit.generate_trees import (
    SPLITS,
    mixture_names,
    noise_samples,
    utterance_samples,
    write_wham_metadata,
    write_wham_noise,
    write_wsj0,
)

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
NAME = "40na010x_1.9857_01xo031a_-1.9857.wav"
EVERYTHING = {"sample_rates": (8000, 16000), "modes": ("min", "max")}


def rooms(split):
    """A room for each mixture, with little reverberation."""
    rng = np.random.default_rng(SPLITS.index(split))
    return {name: draw_room(rng, reverberation="low") for name in mixture_names(split)}


@pytest.fixture
def raw(tmp_path):
    """Folders of the recordings, the noise and the metadata."""
    lists = write_wham_metadata(tmp_path / "lists")
    for split in SPLITS:
        (lists / f"reverb_params_{split}.csv").write_text(rooms_text(rooms(split)))
    return write_wsj0(tmp_path / "raw"), write_wham_noise(tmp_path / "noise"), lists


def make(raw, folder, **options):
    return generate(*raw, folder, **{"workers": 1} | options)


def fails(raw, tmp_path, *parts, **options):
    with pytest.raises(InputError) as caught:
        make(raw, tmp_path / "out", **options)
    for part in parts:
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def literal(noise_folder, split, name, sample_rate, mode, channel=0):
    """The published steps in their order, with plain convolution: folder → array, of one channel."""
    arrays = np.load(noise_folder / "metadata" / f"scaling_{split}.npz")
    row = arrays["utterance_id"].tolist().index(name)
    version = f"{sample_rate // 1000}k_{mode}"
    noise = soundfile.read(noise_folder / split / name)[0][:, channel]
    room = rooms(split)[name]
    scaled, images = [], {"anechoic": [], "reverb": []}
    for number, utterance in enumerate(mixture_names(split)[name]):
        dry = np.array([sample / 2**15 for sample in utterance_samples(utterance).tolist()])
        padded = np.zeros(len(noise))
        padded[: len(dry)] = dry
        at_rate = resample_poly(dry, 8000, 16000) if sample_rate == 8000 else dry
        source = np.round(2**15 * at_rate * arrays[f"scaling_wsjmix_{version}"][row, number]) / 2**15
        source = source * arrays[f"scaling_wham_speech_{version}"][row]
        scaled.append(source)
        energy = None
        for kind in ("anechoic", "reverb"):
            heard = [
                np.convolve(
                    padded, impulse_response(room, room.sources[number], microphone, kind == "anechoic", "table")
                )
                for microphone in room.microphones
            ]
            if sample_rate == 8000:
                heard = [resample_poly(signal, 8000, 16000) for signal in heard]
            if energy is None:  # of the anechoic image at the left microphone
                energy = sum(sample**2 for sample in heard[0].tolist())
            images[kind].append(heard[channel] * (sum(sample**2 for sample in source.tolist()) / energy) ** 0.5)
    start = int(arrays["speech_start_sample_16k"][row])
    if sample_rate == 8000:
        noise, start = resample_poly(noise, 8000, 16000), start // 2
    noise = noise * arrays[f"scaling_wham_noise_{version}"][row]
    length = min(map(len, scaled)) if mode == "min" else len(noise)
    signals = {}
    for kind, (s1, s2) in images.items():
        s1, s2 = s1[:length], s2[:length]
        if mode == "min":
            cut = noise[start : start + length]
        else:
            cut = noise
            s1, s2 = (np.concatenate([np.zeros(start), s])[:length] for s in (s1, s2))
        mixtures = {"mix_clean": s1 + s2, "mix_single": s1 + cut, "mix_both": s1 + s2 + cut}
        signals |= {f"{folder}_{kind}": samples for folder, samples in (mixtures | {"s1": s1, "s2": s2}).items()}
        signals["noise"] = cut
    return signals


@pytest.mark.parametrize("channels", ["left", "both"])
def test_equal_to_a_literal_computation(raw, tmp_path, channels):
    make(raw, tmp_path / "out", channels=channels, **EVERYTHING)
    expected = {"whamr.json"}
    for sample_rate in (8000, 16000):
        for mode in ("min", "max"):
            for split in SPLITS:
                for name in mixture_names(split):
                    sides = [literal(raw[1], split, name, sample_rate, mode, c) for c in range(2)]
                    assert len(sides[0]) == 11
                    for folder in sides[0]:
                        path = f"wav{sample_rate // 1000}k/{mode}/{split}/{folder}/{name}"
                        expected.add(path)
                        samples = np.stack([side[folder] for side in sides], axis=-1)
                        samples = samples[:, 0] if channels == "left" else samples
                        found, rate = soundfile.read(tmp_path / "out" / path, dtype="float64")
                        assert (rate, soundfile.info(tmp_path / "out" / path).subtype) == (sample_rate, "FLOAT")
                        assert found.shape == samples.shape
                        np.testing.assert_allclose(found, samples, rtol=0, atol=1e-6)
                        assert np.abs(found).max() > 1e-3
    assert tree(tmp_path / "out").keys() == expected


def test_anechoic_sources_have_the_energy_of_wham(raw, tmp_path):
    make(raw, tmp_path / "out", sample_rates=[16000], modes=["max"], splits=["tr"])
    arrays = np.load(raw[1] / "metadata" / "scaling_tr.npz")
    gain = arrays["scaling_wsjmix_16k_max"][0, 1] * arrays["scaling_wham_speech_16k_max"][0]
    found, _ = soundfile.read(tmp_path / "out/wav16k/max/tr/s2_anechoic" / NAME)
    assert np.sum(found**2) == pytest.approx(np.sum((gain * utterance_samples("01xo031a") / 2**15) ** 2), rel=1e-2)


def test_manifests_accept_it(raw, tmp_path):
    make(raw, tmp_path / "out", **EVERYTHING)
    for task in ("separate_noisy_reverb", "separate_clean_anechoic"):
        manifests = prepare_whamr(
            tmp_path / "out", tmp_path / "manifests", sample_rate=16000, mode="max", task=task, check_samples=True
        )
        assert manifests.keys() == set(SPLITS)


def test_two_channels_are_not_for_training(raw, tmp_path, caplog):
    make(raw, tmp_path / "out", channels="both", splits=["cv"])
    assert "training and `python -m data_prep whamr` need --channels left" in caplog.text
    with pytest.raises(InputError, match="generate whamr --channels left` makes mono files"):
        prepare_whamr(tmp_path / "out", tmp_path / "manifests", splits=["cv"])


@pytest.mark.parametrize("number", [2, 57])
def test_killed_in_the_middle_and_started_again(raw, tmp_path, number):
    folders = [str(folder) for folder in (*raw, tmp_path / "out")]
    code = (
        "from tests.unit.generate_items import kill_in_write; from data_prep.generate.whamr import generate; "
        f"kill_in_write({number}); generate(*{folders}, workers=1, **{EVERYTHING})"
    )
    assert run_program(["-c", code], ROOT).returncode == -9
    assert len(tree(tmp_path / "out")) == number + 1
    make(raw, tmp_path / "whole", **EVERYTHING)
    make(raw, tmp_path / "out", **EVERYTHING)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_number_of_workers_changes_nothing(raw, tmp_path):
    make(raw, tmp_path / "one")
    make(raw, tmp_path / "two", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_dry_run_writes_nothing(raw, tmp_path):
    amount = make(raw, tmp_path / "out", dry_run=True)
    assert amount.files == 5 * 11 and not (tmp_path / "out").exists()


# Wrong input


def test_unknown_channels(raw, tmp_path):
    fails(raw, tmp_path, "channels 'right' is not known: choose one of 'left', 'both'", channels="right")


def test_rooms_missing(raw, tmp_path):
    (raw[2] / "reverb_params_cv.csv").unlink()
    fails(raw, tmp_path, "Metadata file reverb_params_cv.csv does not exist", str(raw[2]))


def test_line_of_rooms_too_short(raw, tmp_path):
    path = raw[2] / "reverb_params_tr.csv"
    path.write_text(path.read_text().rsplit(",", 1)[0] + "\n")
    fails(raw, tmp_path, f"{path}:3: has 15 fields; needed 16")


def test_mixture_without_a_room(raw, tmp_path):
    path = raw[2] / "reverb_params_tr.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if NAME not in line))
    fails(raw, tmp_path, f"{path}: lacks the room of {NAME.removesuffix('.wav')}")


def test_noise_of_one_channel(raw, tmp_path):
    path = raw[1] / "tr" / NAME
    samples, _ = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples[:, 0], 16000, subtype="PCM_16")
    fails(raw, tmp_path, f"tr/{NAME} has 1 channels; needed 2", channels="both")
    assert make(raw, tmp_path / "out", splits=["tr"]).files == 22


@pytest.mark.parametrize("mode", ["min", "max"])
def test_noise_shorter_than_the_mixture(raw, tmp_path, mode):
    soundfile.write(raw[1] / "tr" / NAME, noise_samples(NAME, 2301), 16000, subtype="PCM_16")
    text = f"{NAME}: the noise has 2301 samples; mixture {NAME.removesuffix('.wav')} needs 2001 from sample 301 on"
    fails(raw, tmp_path, text, modes=[mode])


def test_utterance_absent(raw, tmp_path):
    (raw[0] / "wsj0/si_tr_s/40n/40na010x.wav").unlink()
    fails(raw, tmp_path, "wsj0/si_tr_s/40n/40na010x.wav does not exist")


def test_command(raw, tmp_path):
    arguments = ["whamr", "--wsj0_folder", raw[0], "--noise_folder", raw[1], "--metadata_folder", raw[2]]
    arguments += ["--output_folder", tmp_path / "out", "--splits", "cv", "--channels", "both", "--workers", "1"]
    assert main([str(argument) for argument in arguments]) == 0
    assert (tmp_path / "out/wav8k/min/cv/mix_both_reverb").is_dir()
