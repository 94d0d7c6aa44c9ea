"""Clips cut from published corpora: found by name, silence cut, one level; written once; and each message."""

import numpy as np
import pandas as pd
import pytest
import soundfile

from data_prep.clips import LEVEL, main, trim
from tests.unit.mixing_pools import stationary
from tests.unit.small_corpus import write_source


@pytest.fixture
def corpora(tmp_path):
    """Two corpora with the recordings of a list, at 16 kHz and with two channels at 48 kHz: the arguments."""
    source = write_source(tmp_path / "source")
    names = [name for name in pd.read_csv(source["list_file"])["file"] if name.endswith(".mp3")]
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        folder, rate = (("a/deep", 16000), ("b", 48000))[number % 2]
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        speech = stationary(rng, 1.0, rate)
        signal = np.concatenate([np.zeros(rate), speech, np.zeros(2 * rate), speech, np.zeros(rate // 2)])
        signal = signal if number % 2 == 0 else np.stack([signal, signal], axis=1)
        soundfile.write((tmp_path / folder / name).with_suffix(".flac"), signal + 1e-5, rate)
    words = ["--corpora", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "clips")]
    return tmp_path, [*words, "--list_file", str(source["list_file"]), "--workers", "1"]


def test_clips_are_cut_once_at_one_rate_and_level(corpora):
    root, words = corpora
    assert main(words) == 0
    clips = sorted((root / "clips").rglob("*.*"))
    listed = pd.read_csv(root / "source" / "list.csv")
    listed = listed[listed["source"] == "clips"]
    expected = sorted(f"{row.speaker}/{row.clip}.wav" for row in listed.itertuples())
    assert [clip.relative_to(root / "clips").as_posix() for clip in clips] == expected
    for clip in clips:
        samples, rate = soundfile.read(clip)
        assert rate == 8000 and len(samples) / rate == pytest.approx(1 + 0.5 + 1 + 2 * 0.08, abs=0.06)
        assert np.sqrt(np.mean(samples**2)) == pytest.approx(LEVEL, rel=0.01)
    before = [clip.stat().st_mtime_ns for clip in clips]
    clips[0].unlink()
    assert main(words) == 0
    assert [clip.stat().st_mtime_ns for clip in clips[1:]] == before[1:] and clips[0].is_file()


@pytest.mark.parametrize("floor", [0.0, 0.02])
def test_ends_and_long_pauses_are_cut_above_any_floor(floor):
    rng = np.random.default_rng(0)
    tone = 0.3 * np.sin(0.5 * np.arange(8000))
    silence = [np.zeros(round(8000 * seconds)) for seconds in (1.0, 0.3, 2.0, 0.7)]
    parts = [silence[0], tone, silence[1], tone, silence[2], tone, silence[3]]
    trimmed = trim(np.concatenate(parts) + floor * rng.standard_normal(sum(map(len, parts))), 8000)
    assert len(trimmed) / 8000 == pytest.approx(0.08 + 1 + 0.3 + 1 + 0.5 + 1 + 0.08, abs=0.05)


def test_speech_without_pauses_stays_whole():
    signal = stationary(np.random.default_rng(0), 2.0)
    assert len(trim(signal, 8000)) >= 0.98 * len(signal)


def test_silence_has_nothing():
    assert len(trim(np.zeros(8000), 8000)) == 0


class TestMessages:
    def test_recordings_that_are_not_there(self, corpora, capsys):
        root, words = corpora
        lost = next((root / "b").iterdir())
        lost.unlink()
        assert main(words) == 2
        assert (
            f"1 of 9 recordings were not found in {root / 'a'}, {root / 'b'}: {lost.stem}.mp3"
            in capsys.readouterr().err
        )
        assert len(list((root / "clips").rglob("*.wav"))) == 8

    def test_recordings_that_are_silent_or_damaged(self, corpora, capsys):
        root, words = corpora
        silent, damaged, short, infinite = sorted((root / "b").iterdir())[:4]
        soundfile.write(silent, np.zeros(48000), 48000)
        damaged.write_bytes(b"nothing")
        soundfile.write(short, np.full(900, 0.1), 48000)
        soundfile.write(infinite, np.r_[np.full(48000, 0.1), np.nan], 48000, format="WAV", subtype="FLOAT")
        assert main(words) == 2
        message = capsys.readouterr().err
        assert "4 recordings can't be used" in message and str(damaged) in message
        assert f"{silent}: is silent" in message and f"{short}: is silent, or shorter than 0.02 s" in message
        assert f"{infinite}: has samples of NaN or infinity" in message
        assert len(list((root / "clips").rglob("*.wav"))) == 5

    def test_no_folder(self, corpora, capsys):
        root, words = corpora
        assert main([word.replace(str(root / "b"), "nowhere") for word in words]) == 2
        assert "corpora: 'nowhere' is not a folder" in capsys.readouterr().err
