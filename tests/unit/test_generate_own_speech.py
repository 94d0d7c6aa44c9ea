"""Any folder of speech: speakers by a pattern, rates that are high enough, long recordings cut at their pauses."""

import numpy as np
import pytest
import soundfile

from data_prep.generate.librimix import generate
from data_prep.generate.librimix_from_speech import draw_metadata
from data_prep.generate.reading import count_frames, file_and_part, read_recording
from data_prep.generate.recordings import Clip, find_speech, name_speech
from data_prep.generate.utterances import cut_long, find_utterances
from data_prep.manifests.source_tables import prepare_mixing
from mossformer_sb.errors import InputError
from tests.unit.mixing_pools import stationary, write_manifest

RATE = 16000


def interview(seconds, pauses, rate=RATE, floor=1e-5, seed=0):
    """Stretches of sound with pauses between them, and the start and end of each in seconds."""
    rng = np.random.default_rng(seed)
    signal, spans, now = [], [], 0.0
    for length, pause in zip(seconds, pauses, strict=True):
        signal += [stationary(rng, length, rate), np.zeros(round(pause * rate))]
        spans.append((now, now + length))
        now += length + pause
    signal = np.concatenate(signal)
    return signal + floor * rng.standard_normal(len(signal)), spans


class TestPattern:
    def test_the_group_is_the_speaker(self, tmp_path):
        for name in ("ann_1.wav", "bob_1.wav", "sub/ann_1.wav"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        _, named = name_speech(tmp_path, "speakers", r"([a-z]+)_\d")
        assert [(path, speaker) for path, _, speaker in named] == [
            ("ann_1.wav", "ann"),
            ("bob_1.wav", "bob"),
            ("sub/ann_1.wav", "ann"),
        ]
        assert len({name for _, name, _ in named}) == 3 and not any("/" in name for _, name, _ in named)
        assert name_speech(tmp_path, "speakers", "ann|bob")[1][1][2] == "bob"  # without a group: what fits

    @pytest.mark.parametrize(
        "pattern, message",
        [
            (r"(\d+)_x", "finds no speaker in ann.wav"),
            ("(", "is not a regular expression"),
            (3, "is not a regular expression"),
        ],
    )
    def test_messages(self, tmp_path, pattern, message):
        (tmp_path / "ann.wav").touch()
        with pytest.raises(InputError, match=message):
            name_speech(tmp_path, "speakers", pattern)

    @pytest.mark.parametrize("layout", ["speakers", "librispeech"])
    def test_a_flat_folder_names_the_option(self, tmp_path, layout):
        (tmp_path / "ann.wav").touch()
        with pytest.raises(InputError, match="--speaker_pattern, a regular expression with the speaker in parentheses"):
            name_speech(tmp_path, layout)

    def test_dynamic_mixing_has_it_too(self, tmp_path):
        (tmp_path / "flat").mkdir()
        for name in ("ann_1", "bob_1"):
            soundfile.write(tmp_path / "flat" / f"{name}.wav", stationary(np.random.default_rng(0), 2.0), 8000)
        manifest = write_manifest(tmp_path / "tr.csv")
        options = {"speech_folder": tmp_path / "flat", "speaker_pattern": "^(.+)_", "workers": 1}
        prepare_mixing(True, manifest, tmp_path, tmp_path, **options)
        assert [line.split(",")[3] for line in (tmp_path / "mixing_speech.csv").read_text().split()[1:]] == [
            "ann",
            "bob",
        ]


class TestRates:
    @pytest.fixture
    def speech(self, tmp_path):
        for number, rate in enumerate((8000, 22050, 44100, 16000)):
            for take in range(2):
                path = tmp_path / "speech" / f"s{number}" / f"{take}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, stationary(np.random.default_rng(take), 1.0, rate), rate)
        return tmp_path / "speech"

    OPTIONS = {
        "layout": "speakers",
        "min_seconds": 0.5,
        "speaker_shares": (1, 0, 0),
        "n_mixtures": (2, 1, 1),
        "workers": 1,
    }

    def test_recordings_of_the_corpus_rate_need_no_option(self, speech, tmp_path):
        generate(tmp_path / "out", from_speech=speech, sample_rates=(8000,), **self.OPTIONS)
        (path, *_) = (tmp_path / "out/Libri2Mix/wav8k/min/train-100/s1").iterdir()
        assert soundfile.info(path).frames == 8000

    def test_lower_rates_do(self, speech, tmp_path):
        message = "has a sample rate of 8000 Hz; needed 16000 Hz or more, as the corpus has: frequencies above 4000 Hz"
        with pytest.raises(InputError, match=message):
            generate(tmp_path / "out", from_speech=speech, sample_rates=(8000, 16000), **self.OPTIONS)
        generate(tmp_path / "out", from_speech=speech, sample_rates=(16000,), resample=True, **self.OPTIONS)

    def test_published_metadata_is_exact(self, speech):
        with pytest.raises(InputError, match="needed 16000 Hz, as LibriSpeech and wham_noise have"):
            read_recording(speech / "s1" / "0.wav")


class TestCutting:
    @pytest.mark.parametrize("rate, floor", [(16000, 1e-5), (44100, 1e-3), (8000, 5e-3)])
    def test_at_the_pauses(self, tmp_path, rate, floor):
        signal, spans = interview((4, 3, 5, 2, 6), (1.5, 0.5, 2.0, 1.2, 0.6), rate, floor)
        soundfile.write(tmp_path / "talk.wav", signal, rate, subtype="FLOAT")
        found = find_utterances(tmp_path / "talk.wav", max_seconds=9, min_seconds=3)
        expected = [
            spans[0],
            (spans[1][0], spans[2][1]),
            spans[4],
        ]  # a short pause joins, and what is short is left out
        assert len(found) == 3
        for (start, end), (first, last) in zip(found, expected, strict=True):
            assert first - 0.15 <= start <= first + 0.03 and last - 0.03 <= end <= last + 0.15

    @pytest.mark.parametrize("rate", [11025, 22050])
    def test_rates_of_which_20_ms_are_no_whole_number(self, tmp_path, rate):
        """Frames must not drift from seconds; lengths are those that will be read."""
        lengths = (5.13, 4.37, 6.11, 3.59) * 25
        signal, spans = interview(lengths, (1.43,) * 99 + (0.0,), rate)
        soundfile.write(tmp_path / "talk.wav", signal, rate, subtype="FLOAT")
        whole = Clip("talk.wav", "ann-talk", "ann", round(len(signal) * RATE / rate))
        parts = cut_long(tmp_path, [whole], max_seconds=9, min_seconds=1)
        assert len(parts) == 100
        for part, (first, last) in zip(parts, spans, strict=True):
            _, (start, end) = file_and_part(part.path)
            assert first - 0.15 <= start <= first + 0.03 and last - 0.03 <= end <= last + 0.15
            assert len(read_recording(tmp_path / part.path, resample=True)) == part.frames

    def test_speech_without_a_pause(self, tmp_path):
        signal, _ = interview((25,), (0,))
        soundfile.write(tmp_path / "talk.wav", signal, RATE, subtype="FLOAT")
        found = find_utterances(tmp_path / "talk.wav", max_seconds=8, min_seconds=1)
        assert all(1 <= end - start <= 8 for start, end in found) and sum(e - s for s, e in found) > 24
        assert all(before[1] <= after[0] for before, after in zip(found, found[1:], strict=False))

    def test_silence(self, tmp_path):
        soundfile.write(tmp_path / "talk.wav", np.zeros(RATE), RATE)
        assert all(end <= 1 for _, end in find_utterances(tmp_path / "talk.wav", 0.5, 0.1))

    def test_parts_are_read_as_such(self, tmp_path):
        signal, _ = interview((4, 5), (1, 0))
        soundfile.write(tmp_path / "talk.wav", signal, RATE, subtype="FLOAT")
        whole = Clip("talk.wav", "ann-talk", "ann", len(signal))
        parts = cut_long(tmp_path, [whole], max_seconds=6, min_seconds=2)
        assert [part.speaker for part in parts] == ["ann", "ann"] and len({part.name for part in parts}) == 2
        for part in parts:
            _, (start, end) = file_and_part(part.path)
            samples = read_recording(tmp_path / part.path)
            assert len(samples) == part.frames == count_frames(tmp_path / part.path)
            assert np.array_equal(samples, signal[round(start * RATE) : round(end * RATE)].astype(np.float32))
        assert cut_long(tmp_path, [whole], max_seconds=60, min_seconds=2) == [whole]

    def test_a_part_that_is_not_there(self, tmp_path):
        soundfile.write(tmp_path / "talk.wav", np.zeros(RATE), RATE)
        with pytest.raises(InputError, match="the recording has 1.000 s, so this part does not exist"):
            read_recording(tmp_path / "talk.wav#t=0.5,1.5")

    def test_wrong_lengths(self, tmp_path):
        with pytest.raises(InputError, match="max_seconds is 2, and min_seconds 3: give more for the first"):
            cut_long(tmp_path, [], 2, 3)

    def test_a_corpus_of_interviews(self, tmp_path):
        """Drawn from parts, made of them, and made again from its metadata."""
        for number in range(4):
            (tmp_path / "speech" / f"s{number}").mkdir(parents=True)
            signal, _ = interview((4, 4, 4), (1.5, 1.5, 0), seed=number)
            soundfile.write(tmp_path / "speech" / f"s{number}" / "talk.flac", signal, RATE)
        options = {"layout": "speakers", "max_seconds": 6.0, "speaker_shares": (0.5, 0.5, 0), "n_mixtures": (3, 2, 1)}
        generate(tmp_path / "out", from_speech=tmp_path / "speech", workers=1, **options)
        made = sorted((tmp_path / "out/Libri2Mix/wav8k/min/train-100/mix_clean").iterdir())
        assert len(made) == 3
        metadata = tmp_path / "out/metadata"
        generate(tmp_path / "again", metadata_folder=metadata, librispeech_folder=tmp_path / "speech", workers=1)
        for path in made:
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "out")).read_bytes()

    def test_the_default_leaves_utterances_alone(self, tmp_path):
        for number in range(2):
            (tmp_path / "speech" / f"s{number}").mkdir(parents=True)
            soundfile.write(
                tmp_path / "speech" / f"s{number}" / "a.wav", stationary(np.random.default_rng(0), 39.0, RATE), RATE
            )
        arguments = {"layout": "speakers", "speaker_shares": (1, 0, 0), "dry_run": True}
        _, recipes = draw_metadata(tmp_path / "out", 2, tmp_path / "speech", **arguments)
        assert {path for recipe in recipes["train-100"] for path in recipe.sources} == {"s0/a.wav", "s1/a.wav"}


def test_lists_of_recordings_from_any_spreadsheet(tmp_path):
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(RATE), RATE)
    (tmp_path / "list.csv").write_bytes("Path;SPK\r\n.\\b.wav;é\r\na.wav;x y\r\n".encode("utf-16"))
    folder, clips = find_speech(tmp_path / "list.csv")
    assert folder == tmp_path and [clip.speaker for clip in clips] == ["é", "x y"]
