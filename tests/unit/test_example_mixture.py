"""The example recording: speakers that no clip is of, drawn by seed; what is written is what is drawn."""

import numpy as np
import pytest
import soundfile

from benchmarks import example_mixture
from benchmarks.example_mixture import draw, main, utterances
from tests.unit.mixing_pools import stationary


@pytest.fixture
def librispeech(tmp_path, monkeypatch):
    """Three speakers, one of whom is trained on, and one utterance that is too short."""
    rng = np.random.default_rng(0)
    for speaker, seconds in (("1", 9.0), ("2", 8.5), ("3", 9.0), ("4", 2.0)):
        path = tmp_path / "train-clean-100" / speaker / "7" / f"{speaker}-7-0000.flac"
        path.parent.mkdir(parents=True)
        soundfile.write(path, stationary(rng, seconds, 16000), 16000)
    clips = [("x", "ls-3", "tr")] + [(f"{split}{n}", f"{split}{n}", split) for split in SPLITS for n in range(2)]
    rows = "".join(f"{clip},{speaker},{split},libri_train5,x.flac\n" for clip, speaker, split in clips)
    listed = tmp_path / "list.csv"
    listed.write_text("clip,speaker,split,source,file\n" + rows)
    monkeypatch.setattr(example_mixture, "read_list", lambda: original(listed))
    return tmp_path


original = example_mixture.read_list
SPLITS = ("tr", "cv", "tt", "tt_commonvoice", "tt_so762")


def test_speakers_are_those_that_no_clip_is_of(librispeech):
    assert [path.stem for path in utterances(librispeech)] == ["1-7-0000", "2-7-0000"]


def test_the_example_is_the_sum_of_two_speakers(librispeech, capsys):
    paths = utterances(librispeech)
    names, mixture, sources = draw(paths, 0)
    assert sorted(names) == ["1-7-0000", "2-7-0000"] and len(mixture) == 64000
    np.testing.assert_allclose(mixture, sources.sum(axis=1), atol=1e-6)
    assert np.sqrt(np.mean(mixture**2)) == pytest.approx(example_mixture.LEVEL, rel=1e-4)
    levels = 10 * np.log10(np.mean(sources**2, axis=0))
    assert abs(levels[0] - levels[1]) <= example_mixture.MAX_DIFFERENCE
    assert not np.array_equal(mixture, draw(paths, 1)[1])
    target = librispeech / "example.flac"
    assert main(["--librispeech_folder", str(librispeech), "--write", str(target)]) == 0
    written, rate = soundfile.read(target)
    assert rate == 8000
    np.testing.assert_allclose(written, mixture, atol=2**-15)
    assert names[0] in capsys.readouterr().out


def test_too_few_speakers(librispeech, capsys):
    (librispeech / "train-clean-100/1/7/1-7-0000.flac").unlink()
    assert main(["--librispeech_folder", str(librispeech)]) == 2
    assert "holds utterances of 8 s of fewer than two speakers that are not trained on" in capsys.readouterr().err


def test_the_committed_example_is_one_of_these():
    samples, rate = soundfile.read("mossformer_sb/web/two_speakers.flac")
    assert rate == 8000 and len(samples) == 64000
