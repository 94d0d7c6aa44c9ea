"""Output files of a separated recording: subtypes, the rest, single speakers, levels, and the report."""

import contextlib

import numpy as np
import pytest
import soundfile
import torch

from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.data.audio_writing import check_format, write_recordings
from mossformer_sb.inference import output_files
from mossformer_sb.inference.output_files import Output, made_folders, with_mixture
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export

RATE = 8000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    return MossFormerSeparation.from_hparams(
        export(tmp_path_factory.mktemp("export") / "model", modules, RATE), device="cpu"
    )


@pytest.fixture
def voices(model, monkeypatch):
    """[T, 2]: what the network is made to find in its input, which is their sum; at levels of its own."""
    sources = np.random.default_rng(0).standard_normal((4000, 2)).astype(np.float32) * [0.1, 0.05]
    sources -= sources.mean(0)
    found = torch.from_numpy((sources * [3.0, 0.02]).astype(np.float32))
    monkeypatch.setattr(model, "separate_batch", lambda mix: found[None])
    return sources


def write(path, samples):
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    return path


def read(path):
    return soundfile.read(path, dtype="float64")[0]


class TestSubtypes:
    @pytest.mark.parametrize(
        ("format", "subtype", "stored"),
        [
            ("wav", None, "FLOAT"),
            ("wav", "FLOAT", "FLOAT"),
            ("wav", "PCM_16", "PCM_16"),
            ("wav", "PCM_24", "PCM_24"),
            ("flac", None, "PCM_24"),
            ("flac", "PCM_16", "PCM_16"),
            ("ogg", None, "VORBIS"),
            ("mp3", None, "MPEG_LAYER_III"),
        ],
    )
    def test_each(self, model, tmp_path, format, subtype, stored):
        path = write(tmp_path / "talk.wav", 0.1 * np.random.randn(8000))
        found = model.separate_recording(path, tmp_path, output=Output(format=format, subtype=subtype))
        for speaker in found.speakers:
            info = soundfile.info(speaker["path"])
            assert (info.subtype, info.frames) == (stored, 8000)

    @pytest.mark.parametrize(
        ("format", "subtype", "advice"),
        [
            ("flac", "FLOAT", "choose PCM_24 or PCM_16"),
            ("ogg", "PCM_16", "remove it, since"),
            ("wav", "PCM_8", "choose FLOAT, PCM_16 or PCM_24"),
        ],
    )
    def test_what_a_format_can_not_hold(self, format, subtype, advice):
        with pytest.raises(InputError, match=f"{format} files can't have the subtype '{subtype}': {advice}"):
            check_format(format, subtype=subtype)

    @pytest.mark.parametrize("rest", [False, True])
    def test_all_are_softer_where_one_would_clip(self, model, tmp_path, caplog, rest):
        loud = 100.0 * np.random.randn(4000)
        path = write(tmp_path / "talk.wav", loud)
        float_files = model.separate_recording(path, tmp_path / "a", output=Output(rest=rest))
        pcm_files = model.separate_recording(path, tmp_path / "b", output=Output(subtype="PCM_24", rest=rest))
        expected, found = (np.stack([read(file) for file in files.audio_paths]) for files in (float_files, pcm_files))
        peak = np.abs(expected).max()
        assert peak > 1 and "which PCM_24 would clip" in caplog.text
        np.testing.assert_allclose(found, expected / peak, atol=1e-6)
        assert float_files.softer_db == 0 and pcm_files.softer_db == pytest.approx(20 * np.log10(peak), abs=1e-3)

    def test_a_speaker_who_is_not_written_does_not_count(self, model, tmp_path, voices, caplog):
        path = write(tmp_path / "talk.wav", 30 * voices.sum(1))
        model.separate_recording(path, tmp_path, output=Output(subtype="PCM_16", only=2), level="mixture")
        assert "would clip" not in caplog.text


class TestRest:
    @pytest.mark.parametrize("level", ["mixture", "speakers"])
    @pytest.mark.parametrize("rate", [8000, 44100])
    def test_all_files_add_up_to_the_recording(self, model, tmp_path, level, rate):
        mixture = 0.1 * np.random.randn(6000)
        soundfile.write(tmp_path / "talk.wav", mixture, rate, subtype="FLOAT")
        found = model.separate_recording(tmp_path / "talk.wav", tmp_path, output=Output(rest=True), level=level)
        assert found.rest == tmp_path / "talk_rest.wav"
        np.testing.assert_allclose(sum(map(read, found.audio_paths)), mixture, atol=1e-6)

    @pytest.mark.parametrize("level", ["none", "peak"])
    def test_they_do_so_at_other_levels_up_to_a_gain(self, model, tmp_path, level):
        mixture = 0.1 * np.random.randn(6000)
        path = write(tmp_path / "talk.wav", mixture)
        found = model.separate_recording(path, tmp_path, output=Output(rest=True), level=level)
        total = sum(map(read, found.audio_paths))
        # An untrained network may turn the recording's sign around.
        assert abs(np.corrcoef(total, mixture)[0, 1]) == pytest.approx(1, abs=1e-6)

    def test_it_is_what_the_speakers_leave(self, model, tmp_path, voices):
        noise = 0.01 * np.random.default_rng(1).standard_normal(4000)
        path = write(tmp_path / "talk.wav", voices.sum(1) + noise)
        found = model.separate_recording(path, tmp_path, output=Output(rest=True, only=1), level="speakers")
        assert [file.name for file in found.audio_paths] == ["talk_spk1.wav", "talk_rest.wav"]
        assert np.corrcoef(read(found.rest), noise)[0, 1] > 0.99


class TestLevels:
    def test_each_speaker_has_the_level_of_the_recording(self, model, tmp_path, voices):
        """The network gives the second one far too soft; SI-SNR does not see that."""
        path = write(tmp_path / "talk.wav", voices.sum(1))
        found = model.separate_recording(path, tmp_path, level="speakers")
        np.testing.assert_allclose(np.stack([read(file) for file in found.audio_paths], 1), voices, atol=5e-4)
        np.testing.assert_allclose(model.separate(path, level="speakers").numpy(), voices, atol=5e-4)
        rms = 20 * np.log10(np.sqrt(np.square(voices).mean(0)))
        assert [speaker["level_db"] for speaker in found.speakers] == pytest.approx(rms.tolist(), abs=0.01)

    def test_silence(self, model, tmp_path):
        found = model.separate_recording(write(tmp_path / "talk.wav", np.zeros(4000)), tmp_path, level="speakers")
        assert [speaker["level_db"] for speaker in found.speakers] == [None, None]
        assert not found.one_speaker_suspected and not read(found.audio_paths[0]).any()


class TestOneSpeaker:
    def test_two(self, model, tmp_path, voices):
        """However soft the network gives one of them."""
        path = write(tmp_path / "talk.wav", voices.sum(1))
        assert not model.separate_recording(path, tmp_path).one_speaker_suspected

    def test_one(self, model, tmp_path, voices):
        path = write(tmp_path / "talk.wav", voices[:, 0])
        assert model.separate_recording(path, tmp_path).to_dict()["one_speaker_suspected"]

    def test_one_that_comes_out_twice(self, model, tmp_path, monkeypatch):
        voice = 0.1 * np.random.randn(4000).astype(np.float32)
        twice = torch.from_numpy(np.stack((0.3 * voice, voice), 1))
        monkeypatch.setattr(model, "separate_batch", lambda mix: twice[None])
        assert model.separate_recording(write(tmp_path / "talk.wav", voice), tmp_path).one_speaker_suspected


class TestOneOfThem:
    def test_only(self, model, tmp_path):
        path = write(tmp_path / "talk.wav", 0.1 * np.random.randn(4000))
        both = model.separate_recording(path, tmp_path / "both")
        one = model.separate_recording(path, tmp_path / "one", output=Output(only=2))
        assert [file.name for file in (tmp_path / "one").iterdir()] == ["talk_spk2.wav"]
        assert np.array_equal(read(one.audio_paths[0]), read(both.audio_paths[1]))

    @pytest.mark.parametrize("only", [0, -1, "2", 1.0])
    def test_no_number_of_a_speaker(self, only):
        with pytest.raises(InputError, match="speakers are counted from 1"):
            Output(only=only)

    def test_one_that_the_model_does_not_separate(self, model, tmp_path):
        path = write(tmp_path / "talk.wav", 0.1 * np.random.randn(4000))
        with pytest.raises(InputError, match="there is no speaker 3: the model separates 2"):
            model.separate_recording(path, tmp_path / "out", output=Output(only=3))
        assert not (tmp_path / "out").exists()


def test_a_failure_leaves_no_folder_of_the_recording(model, tmp_path):
    path = write(tmp_path / "short.wav", np.ones(5))
    with pytest.raises(InputError, match="samples at the model.s 8000 Hz; at least"):
        model.separate_recording(path, tmp_path / "out", output=Output(pattern="{stem}/spk{n}"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failure_takes_no_folder_from_another_process(tmp_path):
    """Both make the folder of a speaker; one fails, and removes it before the other writes."""
    paths = {name: [tmp_path / "1" / f"{name}.wav"] for name in ("good", "bad")}
    with made_folders(tmp_path, paths["good"]):
        (tmp_path / "1").rmdir()
        with contextlib.suppress(ValueError), made_folders(tmp_path, paths["bad"]):
            raise ValueError
        assert not (tmp_path / "1").exists()
        write_recordings(paths["good"], [np.zeros((10, 1))], RATE)
    assert paths["good"][0].is_file()


def test_the_same_with_the_older_call(model, tmp_path):
    path = write(tmp_path / "talk.wav", 0.1 * np.random.randn(4000))
    older = model.separate_file(path, tmp_path / "a", format="flac", return_estimates=False)
    newer = model.separate_recording(path, tmp_path / "b", output=Output(format="flac")).audio_paths
    assert [file.read_bytes() for file in older] == [file.read_bytes() for file in newer]


class TestBlocksWithTheirMixture:
    class Blocks:
        """A recording of 3000 samples in blocks of 131."""

        samples = np.arange(3000, dtype=np.float32)

        def blocks(self):
            yield from (self.samples[start : start + 131] for start in range(0, 3000, 131))

    @pytest.mark.parametrize("lengths", [[3000], [1] * 3000, [500, 0, 1000, 1500], [131] * 22 + [118]])
    def test_of_any_lengths(self, lengths):
        estimates = np.split(np.zeros((3000, 2)), np.cumsum(lengths)[:-1])
        found = list(with_mixture(estimates, self.Blocks()))
        assert [len(mixture) for _, mixture in found] == lengths
        np.testing.assert_array_equal(np.concatenate([mixture for _, mixture in found]), self.Blocks.samples)

    def test_each_sample_is_copied_once(self, monkeypatch):
        """Not once for each block that follows it: an hour in one block of estimates would take minutes."""
        copied, concatenate = [], np.concatenate

        def counted(parts):
            joined = concatenate(parts)
            copied.append(len(joined))
            return joined

        monkeypatch.setattr(output_files.np, "concatenate", counted)
        list(with_mixture([np.zeros((3000, 2))], self.Blocks()))
        assert sum(copied) == 3000
