"""Synthetic voices, mixtures and the small corpus: samples, splits and wrong input."""

import csv
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from data_prep.__main__ import main
from data_prep.corpora.mini import prepare_mini
from data_prep.demo_corpus import mini, mixture_tree
from data_prep.demo_corpus.mini import make_mini_corpus, make_sentence, split_voices
from data_prep.demo_corpus.mixture_tree import mix, rms, trim_silence, write_wham_tree
from data_prep.demo_corpus.voices import HIGH_VOICES, list_voices, synthesize
from mossformer_sb.errors import InputError

SMALL = {"num_train": 6, "num_valid": 2, "num_test": 2}
TEXT = "The old farmer found seven small boats."


def decibels(signal):
    return 20 * np.log10(rms(signal))


def signals(seed=0, num_speakers=3, num_utterances=2):
    """Utterances of different lengths and levels, and two short clips of noise."""
    rng = np.random.default_rng(seed)
    speech = {
        f"sp{i}": [rng.uniform(0.01, 3) * rng.standard_normal(900 + 10 * i + j) for j in range(num_utterances)]
        for i in range(num_speakers)
    }
    return speech, [0.02 * rng.standard_normal(300), rng.standard_normal(5000)]


def write(data_folder, num_mixtures=2, speech=None, noise=None, **options):
    own_speech, own_noise = signals()
    speech, noise = {"tr": speech or own_speech}, {"tr": own_noise if noise is None else noise}
    write_wham_tree(data_folder, speech, noise, {"tr": num_mixtures}, **options)
    return {str(p.relative_to(data_folder)): p.read_bytes() for p in sorted(data_folder.rglob("*.wav"))}


def fails(function, *parts):
    with pytest.raises(InputError) as caught:
        function()
    for part in parts:
        assert part in str(caught.value)


# Voices


def test_same_samples_after_other_texts_and_in_another_process():
    code = (
        "import hashlib; from data_prep.demo_corpus.voices import synthesize;"
        f"print(*(hashlib.md5(synthesize({TEXT!r}, voice)).hexdigest() for voice in ('klatt', 'f2', 'm3')))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    synthesize("Something else.", "Andy", pitch=80, rate=300)
    for voice, digest in zip(("f2", "m3", "klatt"), (other[1], other[2], other[0]), strict=True):
        assert hashlib.md5(synthesize(TEXT, voice)).hexdigest() == digest


def test_every_voice_speaks_without_clipping():
    spectra = []
    for voice in list_voices():
        speech = synthesize(TEXT, voice)
        assert rms(speech) > 0.003 and np.abs(speech).max() < 0.95 and 1 < len(speech) / 22050 < 6, voice
        spectra.append(np.abs(np.fft.rfft(speech, 2**16)))
    spectra = np.array(spectra) / np.linalg.norm(spectra, axis=1, keepdims=True)
    assert (spectra @ spectra.T - np.eye(len(spectra))).max() < 0.99  # no two are the same


def test_high_voices_exist_and_come_first():
    assert set(list_voices()[: len(HIGH_VOICES)]) == set(HIGH_VOICES)


def test_pitch_rate_and_sample_rate_matter():
    plain = synthesize(TEXT, "m1", sample_rate=8000)
    assert len(synthesize(TEXT, "m1", rate=250, sample_rate=8000)) < 0.8 * len(plain)
    assert not np.array_equal(synthesize(TEXT, "m1", pitch=80, sample_rate=8000)[:4000], plain[:4000])
    assert len(synthesize(TEXT, "m1", sample_rate=16000)) == pytest.approx(2 * len(plain), abs=2)


def test_unknown_voice():
    fails(lambda: synthesize(TEXT, "whisper"), "voice 'whisper' is not known", "Alicia, Andrea")


def test_engine_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    fails(lambda: synthesize(TEXT, "f2"), 'pip install "mossformer_sb[mini]"')


def test_sentences_vary():
    rng = np.random.default_rng(0)
    sentences = {make_sentence(rng) for _ in range(300)}
    assert len(sentences) == 300 and not any("{" in sentence for sentence in sentences)


# Mixing


def test_mixtures_are_sums_of_different_speakers_at_the_levels_drawn():
    speech, noise = signals()
    ratios, balances, levels = [], [], []
    for seed in range(100):
        mixture_id, made = mix(speech, noise, np.random.default_rng(seed))
        first, gain, second, opposite = mixture_id.split("_")
        assert first[:3] != second[:3] and float(gain) == -float(opposite) and 0 <= float(gain) <= 2.5
        lengths = [len(speech[name[:3]][int(name[4:])]) for name in (first, second)]
        assert {len(signal) for signal in made.values()} == {min(lengths)}
        assert {signal.dtype for signal in made.values()} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(made["mix_clean"], made["s1"] + made["s2"])
        np.testing.assert_array_equal(made["mix_single"], made["s1"] + made["noise"])
        np.testing.assert_array_equal(made["mix_both"], made["s1"] + made["s2"] + made["noise"])
        assert decibels(made["s1"]) - decibels(made["s2"]) == pytest.approx(2 * float(gain), abs=1e-3)
        balances.append(float(gain))
        ratios.append(decibels(made["s1"]) - decibels(made["noise"]))
        levels.append(decibels(made["s1"]))
    assert -3 <= min(ratios) < -2 and 5 < max(ratios) <= 6 and min(balances) < 0.25 and max(balances) > 2.25
    assert -32 <= min(levels) < -31 and -23 < max(levels) <= -22


def test_sources_are_the_utterances_and_noise_is_a_segment_of_its_clip():
    speech, noise = signals(num_speakers=2, num_utterances=1)
    mixture_id, made = mix(speech, noise[1:], np.random.default_rng(0))
    utterance = speech[mixture_id[:3]][0][: len(made["s1"])]
    assert np.corrcoef(made["s1"], utterance)[0, 1] == pytest.approx(1, abs=1e-6)
    windows = np.lib.stride_tricks.sliding_window_view(noise[1], len(made["noise"]))
    assert max(np.corrcoef(window, made["noise"])[0, 1] for window in windows) == pytest.approx(1, abs=1e-6)


def test_offsets_are_subtracted():
    speech, noise = signals()
    shifted = {speaker: [utterance + 10 for utterance in own] for speaker, own in speech.items()}
    plain = mix(speech, noise, np.random.default_rng(0))[1]
    for name, signal in mix(shifted, [clip - 3 for clip in noise], np.random.default_rng(0))[1].items():
        np.testing.assert_allclose(signal, plain[name], atol=1e-6)


def test_short_noise_is_repeated():
    speech, noise = signals()
    _, made = mix(speech, noise[:1], np.random.default_rng(0))
    np.testing.assert_array_equal(made["noise"][:300], made["noise"][300:600])
    assert np.count_nonzero(made["noise"]) == len(made["noise"])


def test_short_noise_is_skipped_if_it_may_not_loop():
    speech, noise = signals()
    rngs = (np.random.default_rng(0), np.random.default_rng(0))
    only_long, both = mix(speech, noise[1:], rngs[0]), mix(speech, noise, rngs[1], loop_noise=False)
    np.testing.assert_array_equal(only_long[1]["noise"], both[1]["noise"])
    fails(lambda: mix(speech, noise[:1], rngs[0], loop_noise=False), "the longest has 300", "set loop_noise")


def test_quiet_segments_of_noise_are_not_amplified():
    speech, _ = signals()
    rng = np.random.default_rng(0)
    clip = np.concatenate([1e-6 * rng.standard_normal(100_000), rng.standard_normal(100)])
    _, made = mix(speech, [clip], np.random.default_rng(0))
    assert decibels(made["noise"]) < decibels(made["s1"]) - 30


def test_peaks_stay_below_full_scale_by_one_factor():
    speech = {"abc": [np.eye(1, 1000)[0]], "xyz": [np.eye(1, 1000, 500)[0]]}  # the largest crest factor there is
    peaks = []
    for seed in range(20):
        mixture_id, made = mix(speech, [np.sin(np.arange(1000))], np.random.default_rng(seed))
        np.testing.assert_array_equal(made["mix_both"], made["s1"] + made["s2"] + made["noise"])
        gain = float(mixture_id.split("_")[1])
        assert decibels(made["s1"]) - decibels(made["s2"]) == pytest.approx(2 * gain, abs=1e-3)
        peaks.append(max(np.abs(signal).max() for signal in made.values()))
    assert max(peaks) == pytest.approx(0.95) and min(peaks) < 0.94


def test_a_mixture_depends_on_seed_split_and_number_alone(tmp_path):
    two, three = write(tmp_path / "two", 2), write(tmp_path / "three", 3)
    assert len(two) == 12 and len(three) == 18 and two.items() <= three.items()
    assert not set(two) & set(write(tmp_path / "seed", 2, seed=1))


def test_files_are_mono_float(tmp_path):
    write(tmp_path / "corpus", sample_rate=16000, description={"from": "test"})
    infos = [soundfile.info(path) for path in (tmp_path / "corpus/wav16k/min/tr").glob("*/*.wav")]
    assert {(info.samplerate, info.channels, info.subtype) for info in infos} == {(16000, 1, "FLOAT")}
    assert json.loads((tmp_path / "corpus/corpus.json").read_text()) == {"from": "test"}


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(mixture_tree.json, "dumps", interrupt)  # the last thing written
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"speech": {"abc": [np.arange(9)]}}, ["Split 'tr' has 1 speakers", "needs two"]),
        (
            {"speech": {"abc": [np.arange(9)], "19-198": [np.arange(9)]}},
            ["Speaker '19-198'", "3 lowercase letters or digits"],
        ),
        ({"speech": {"abc": [np.arange(9)], "xyz": []}}, ["Speaker 'xyz' of split 'tr' has 0 utterances"]),
        ({"speech": {"abc": [np.arange(9)], "xyz": [np.ones((9, 2))]}}, ["Utterance 0 of speaker 'xyz'", "(9, 2)"]),
        ({"speech": {"abc": [np.arange(9)], "xyz": [np.zeros(9)]}}, ["Utterance 0 of speaker 'xyz'", "silent"]),
        ({"noise": []}, ["Split 'tr' has no noise"]),
        ({"noise": [np.array([1, np.nan])]}, ["Noise clip 0 of split 'tr'", "not finite"]),
        ({"sample_rate": 44100}, ["sample_rate 44100", "8000, 16000"]),
    ],
)
def test_signals_that_can_not_be_mixed(tmp_path, options, parts):
    fails(lambda: write(tmp_path / "corpus", **options), *parts)
    assert list(tmp_path.iterdir()) == []


def test_unknown_split(tmp_path):
    fails(lambda: write_wham_tree(tmp_path / "a", {}, {}, {"dev": 1}), "split 'dev'", "'tr', 'cv', 'tt'")


def test_folder_in_use(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    fails(lambda: write(tmp_path), f"data_folder '{tmp_path}' is in use")


def test_trimmed_speech_begins_and_ends_with_speech():
    rng = np.random.default_rng(0)
    speech = rng.standard_normal(1600)
    padded = np.concatenate([1e-4 * rng.standard_normal(810), speech, np.zeros(2395)])
    trimmed = trim_silence(padded, 8000)
    assert len(speech) <= len(trimmed) <= len(speech) + 160 and rms(trimmed[:160]) > 0.5 and rms(trimmed[-160:]) > 0.5
    np.testing.assert_array_equal(trim_silence(padded + 5, 8000), trimmed + 5)  # whatever the offset
    assert len(trim_silence(np.zeros(800), 8000)) == 0


# The small corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini") / "corpus"
    make_mini_corpus(folder, **SMALL)
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_manifests_of_the_small_corpus(corpus, tmp_path):
    manifests = prepare_mini(corpus, tmp_path, **SMALL)
    speakers = {}
    for split, count in (("tr", 6), ("cv", 2), ("tt", 2)):
        with open(manifests[split], newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == count and all(1.5 < float(row["duration"]) < 6 for row in rows)
        speakers[split] = {row[column] for row in rows for column in ("s1_spk", "s2_spk")}
        assert all(row["s1_spk"] != row["s2_spk"] for row in rows)
    assert not speakers["tr"] & speakers["cv"] and not speakers["tr"] & speakers["tt"]


def test_splits_share_no_voice_and_each_has_high_and_low_ones():
    splits = [set(voices.values()) for voices in split_voices(list_voices()).values()]
    assert sum(map(len, splits)) == len(set.union(*splits)) == len(list_voices())
    for voices in splits:
        assert 0.1 < len(voices & set(HIGH_VOICES)) / len(voices) < 0.3
    codes = [set(voices) for voices in split_voices(list_voices()).values()]
    assert sum(map(len, codes)) == len(set.union(*codes)) and {len(code) for code in set.union(*codes)} == {3}


def test_utterances_begin_and_end_with_speech():
    for speech in mini._speak("f2", 3, np.random.default_rng(0), 8000):
        assert min(rms(speech[:80]), rms(speech[-80:])) > 0.009 * rms(speech)


def test_sources_speak_all_the_time(corpus):
    for path in corpus.glob("wav8k/min/*/s[12]/*.wav"):
        speech, _ = soundfile.read(path)
        seconds = speech[: len(speech) // 4000 * 4000].reshape(-1, 4000)
        assert min(map(rms, seconds)) > 0.05 * rms(speech), path


def test_same_arguments_same_bytes(corpus, tmp_path):
    make_mini_corpus(tmp_path / "again", **SMALL)
    assert content(tmp_path / "again") == content(corpus)


def test_another_seed_and_sample_rate(corpus, tmp_path):
    make_mini_corpus(tmp_path / "other", **SMALL, seed=1, sample_rate=16000)
    names = {path.name for path in (tmp_path / "other").glob("wav16k/min/tr/s1/*.wav")}
    assert len(names) == 6 and not names & {path.name for path in corpus.glob("wav8k/min/tr/s1/*.wav")}


def test_corpus_that_is_there_is_used(corpus, monkeypatch):
    monkeypatch.setattr(mini, "synthesize", None)
    make_mini_corpus(corpus, **SMALL)


def test_corpus_of_other_arguments(corpus):
    parts = [f"data_folder '{corpus}' holds a corpus with seed 1234; requested is seed 7", "another data_folder"]
    fails(lambda: make_mini_corpus(corpus, **SMALL, seed=7), *parts)


def test_folder_of_something_else(tmp_path, monkeypatch):
    monkeypatch.setattr(mini, "synthesize", None)  # known before anything is spoken
    (tmp_path / "notes.txt").write_text("mine")
    fails(lambda: make_mini_corpus(tmp_path, **SMALL), f"data_folder '{tmp_path}' is in use")


@pytest.mark.parametrize(
    "options, part",
    [({"num_valid": 0}, "num_valid is 0"), ({"sample_rate": 44100}, "sample_rate 44100"), ({"seed": -1}, "seed is -1")],
)
def test_arguments_that_can_not_be_used(tmp_path, options, part):
    fails(lambda: make_mini_corpus(tmp_path / "corpus", **(SMALL | options)), part)


def test_command(corpus, tmp_path):
    arguments = [f"--{key}={value}" for key, value in SMALL.items()]
    assert main(["mini", "--data_folder", str(corpus), "--output_folder", str(tmp_path), *arguments]) == 0
    assert len(list(tmp_path.glob("wham_*.csv"))) == 3
