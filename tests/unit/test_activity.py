"""Speech activity: the detector on synthetic voices, its rules about leakage on generated signals, and its files."""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.inference.activity import FRAME_SECONDS, ActivityDetector, _is_leakage, _one_thread, speech_activity
from mossformer_sb.inference.activity_files import activity_texts
from mossformer_sb.inference.output_files import Output
from mossformer_sb.inference.output_gain import LevelMeter
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export
from tests.forked import run

ROOT = Path(__file__).parents[2]

pytest.importorskip("silero_vad")
STARTS = (0.5, 5.0)  # seconds, of each speaker's sentence
LEAK = np.array([[1, 0.4], [0.4, 1]], dtype=np.float32)  # -8 dB of each speaker in the other output


@pytest.fixture(scope="module")
def talk():
    """A function: sample rate to two speakers who take turns, [T, 2], and the end of each one's sentence in seconds."""
    pytest.importorskip("espeakng_loader")
    from data_prep.demo_corpus.voices import synthesize

    texts = (
        "The weather is fine today, and we will go for a walk along the river.",
        "My brother bought seven new books.",
    )

    def make(rate):
        sources, ends = np.zeros((9 * rate, 2), np.float32), []
        for speaker, (text, voice) in enumerate(zip(texts, ("f2", "m3"), strict=True)):
            speech = synthesize(text, voice, sample_rate=rate)
            start = round(STARTS[speaker] * rate)
            sources[start : start + len(speech), speaker] = 0.05 * speech / speech.std()
            ends.append(STARTS[speaker] + len(speech) / rate)
        return sources, ends

    return make


def check(segments, ends):
    """Each speaker has one sentence, whose ends are found to a tenth of a second or so."""
    assert len(segments) == 2
    for found, start, end in zip(segments, STARTS, ends, strict=True):
        assert found, segments
        assert found[0][0] == pytest.approx(start, abs=0.15) and found[-1][1] == pytest.approx(end, abs=0.3)
        assert sum(stop - begin for begin, stop in found) > 0.8 * (end - start)


class TestSpeech:
    @pytest.mark.parametrize("rate", [8000, 16000, 44100])
    def test_rates(self, talk, rate):
        sources, ends = talk(rate)
        check(speech_activity(torch.from_numpy(sources), rate), ends)

    @pytest.mark.parametrize("gain", [1.0, 0.001, 30.0])
    def test_leakage_is_no_speech_at_any_level_of_the_recording(self, talk, gain):
        sources, ends = talk(8000)
        check(speech_activity(gain * sources @ LEAK, 8000), ends)

    def test_outputs_at_arbitrary_levels(self, talk):
        """The first output is far softer than the other one; in the recording, its speaker is not."""
        sources, ends = talk(8000)
        estimates = sources @ LEAK * np.float32([0.01, 3.0])
        check(speech_activity(estimates, 8000, mixture=(sources @ LEAK).sum(1)), ends)
        assert speech_activity(estimates, 8000)[0] == []

    def test_one_speaker_comes_out_twice(self, talk):
        sources, _ = talk(8000)
        both = np.stack((0.4 * sources.sum(1), sources.sum(1)), 1)
        first, second = speech_activity(both, 8000)
        assert first == [] and len(second) >= 2

    def test_blocks_give_what_the_whole_gives(self, talk):
        sources, _ = talk(8000)
        meter, blocks = LevelMeter(), np.split(sources, [1, 1000, 40001])
        for block in blocks:
            meter.add(block, block.sum(1))
        assert ActivityDetector(2, 8000).segments(blocks, meter, fit=False) == speech_activity(sources, 8000)

    def test_no_segment_ends_after_the_recording(self, talk):
        sources, _ = talk(8000)
        cut = sources[: 2 * 8000 + 100]
        assert speech_activity(cut, 8000)[0][-1][1] == pytest.approx(len(cut) / 8000, abs=1e-3)

    @pytest.mark.parametrize("shape", [(8000, 2), (1, 1)])
    def test_silence(self, shape):
        assert speech_activity(torch.zeros(shape), 8000) == [[]] * shape[1]


class TestLeakage:
    """Frames of two outputs, [F, S, S]: 200 of noise at 8 kHz."""

    def rule(self, outputs):
        size = round(FRAME_SECONDS * 8000)
        frames = outputs.reshape(-1, size, 2)
        return _is_leakage(np.einsum("fts,ftu->fsu", frames, frames))

    @pytest.fixture
    def voices(self):
        return np.random.default_rng(0).standard_normal((200 * 256, 2))

    @pytest.mark.parametrize("leak_db", [-6, -8, -12, -20, -40])
    def test_a_copy_of_the_other_one(self, voices, leak_db):
        outputs = voices[:, :1] * [1, 10 ** (leak_db / 20)]
        assert not self.rule(outputs)[:, 0].any() and self.rule(outputs)[:, 1].all()

    @pytest.mark.parametrize("level_db", [0, -5, -10, -15])
    def test_a_softer_speaker_is_none(self, voices, level_db):
        outputs = (voices * [1, 10 ** (level_db / 20)]) @ LEAK
        assert self.rule(outputs).mean() < 0.02

    def test_a_copy_as_loud_is_left_alone(self, voices):
        """Which of the two it belongs to can't be told."""
        assert not self.rule(voices[:, :1] * [1, 0.9]).any()

    def test_leakage_is_decided_frame_by_frame(self, voices):
        voices[: 100 * 256, 1] = 0  # the second speaker comes in after half of the time
        second = self.rule(voices @ LEAK)[:, 1]
        assert second[:99].all() and not second[102:].any()

    def test_silence(self):
        assert self.rule(np.zeros((512, 2))).all()


class TestWrongArguments:
    @pytest.mark.parametrize("shape", [(100,), (2, 100), (100, 2, 1), (0, 2)])
    def test_shapes(self, shape):
        with pytest.raises(InputError, match=r"estimates must be \[samples, speakers\]; found shape"):
            speech_activity(torch.zeros(shape), 8000)

    @pytest.mark.parametrize("rate", [0, 8000.0, None])
    def test_rates(self, rate):
        with pytest.raises(InputError, match="sample_rate must be a whole number of Hz"):
            speech_activity(torch.zeros(100, 2), rate)

    def test_mixture(self):
        with pytest.raises(InputError, match=r"as long as the estimates: 100; found shape \[99\]"):
            speech_activity(torch.zeros(100, 2), 8000, mixture=np.zeros(99))

    def test_silero_is_not_installed(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "silero_vad", None)
        with pytest.raises(InputError, match=r'pip install "mossformer_sb\[activity\]"'):
            speech_activity(torch.zeros(100, 2), 8000)


def test_the_number_of_threads_stays():
    """Importing silero_vad sets it to one, which would slow down all that is separated after it."""
    code = (
        "import torch; torch.set_num_threads(2); from mossformer_sb.inference.activity import speech_activity; "
        "speech_activity(torch.zeros(8000, 2), 8000); print(torch.get_num_threads())"
    )
    done = run(["-c", code], ROOT)
    assert done.stdout == "2\n" and done.returncode == 0


class TestFiles:
    SEGMENTS = [[(0.5, 1.25), (3.0, 4.0)], [(1.0, 2.0)]]
    PATHS = {"rttm": "r", "json": "j", "txt": "t"}

    def test_rttm(self):
        """The ten fields that NIST's definition and all readers have, sorted by time."""
        lines = activity_texts(self.SEGMENTS, "a b", self.PATHS, {1: "x", 2: "y"})["r"].splitlines()
        assert [line.split()[:8] for line in lines] == [
            ["SPEAKER", "a_b", "1", "0.500", "0.750", "<NA>", "<NA>", "spk1"],
            ["SPEAKER", "a_b", "1", "1.000", "1.000", "<NA>", "<NA>", "spk2"],
            ["SPEAKER", "a_b", "1", "3.000", "1.000", "<NA>", "<NA>", "spk1"],
        ]
        assert {len(line.split()) for line in lines} == {10}

    def test_labels(self):
        """Audacity's: start, end and text, with tabs between."""
        text = activity_texts(self.SEGMENTS, "a", self.PATHS, {2: "y"})["t"]
        assert text == "1.000\t2.000\tspk2\n"

    def test_separating(self, talk, tmp_path, monkeypatch):
        """Through a network that gives each speaker with some of the other one, at levels of their own."""
        sources, ends = talk(16000)
        soundfile.write(tmp_path / "talk 1.wav", sources.sum(1), 16000)
        modules = dict(MossFormerSeparator.from_size("mini").named_children())
        model = MossFormerSeparation.from_hparams(export(tmp_path / "model", modules, 16000), device="cpu")
        outputs = torch.from_numpy(sources @ LEAK * np.float32([1, 0.1]))
        monkeypatch.setattr(model, "separate_batch", lambda mix: outputs[None])
        found = model.separate_recording(tmp_path / "talk 1.wav", tmp_path / "out", output=Output(activity=True))
        check(found.segments, ends)
        names = {ending: path.name for ending, path in found.activity.items()}
        assert names == {ending: f"talk 1_activity.{ending}" for ending in ("rttm", "json", "txt")}
        content = json.loads(found.activity["json"].read_text())
        assert [speaker["path"] for speaker in content["speakers"]] == list(map(str, found.audio_paths))
        assert content["speakers"][0]["segments"][0]["start"] == found.segments[0][0][0]
        assert found.activity["rttm"].read_text().startswith("SPEAKER talk_1 1 0.4")


def test_detectors_in_two_threads_restore_the_number_of_threads():
    before, inside, leave, found = torch.get_num_threads(), threading.Event(), threading.Event(), []

    def first():
        with _one_thread:
            inside.set()
            leave.wait(10)
            found.append(torch.get_num_threads())
        found.append(torch.get_num_threads())

    def second():  # begins while the first one computes, and ends after it
        with _one_thread:
            leave.set()
            one.join(10)
            found.append(torch.get_num_threads())
        found.append(torch.get_num_threads())

    torch.set_num_threads(3)
    try:
        one, other = threading.Thread(target=first), threading.Thread(target=second)
        one.start()
        inside.wait(10)
        other.start()
        other.join(10)
        later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        later.start()
        later.join(10)
    finally:
        torch.set_num_threads(before)
    assert found == [1, 3, 1, 3, 3]
