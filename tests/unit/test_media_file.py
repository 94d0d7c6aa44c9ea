"""Files of phones and films: decoding, completeness, and the message without PyAV."""

import importlib.util
import io
import subprocess

import numpy as np
import pytest
import soundfile
from scipy.signal import correlate

pytest.importorskip("av")

from mossformer_sb import InputError
from mossformer_sb.cli.input_files import list_recordings
from mossformer_sb.data import media_file
from mossformer_sb.data.audio_io import AUDIO_ENDINGS, Recording, read_audio
from mossformer_sb.data.audio_reader import AudioReader, DamagedAudio
from mossformer_sb.data.media_file import MEDIA_ENDINGS
from tests.unit.media_files import KINDS, signal, write_media


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    return {
        name: write_media(folder / name, container, codec, rate, **more)
        for name, (container, codec, rate, more) in KINDS.items()
    }


@pytest.fixture(autouse=True)
def no_program(monkeypatch):
    """No other program is started, ffmpeg above all."""

    def start(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", start)


@pytest.mark.parametrize("name", KINDS)
class TestEach:
    def test_all_of_it_is_read(self, files, name):
        rate = KINDS[name][2]
        samples, found = read_audio(files[name])
        expected = signal(rate)
        assert found == rate and samples.dtype == np.float32 and samples.ndim == 1
        assert -0.03 < (len(samples) - len(expected)) / rate < 0.15  # codecs fill up their last packet
        lag = int(correlate(samples, expected, "full").argmax()) - len(expected) + 1
        assert -0.05 < lag / rate < 0.07  # some containers keep no count of what a codec adds or drops in front
        there, needed = samples[max(0, lag) :], expected[max(0, -lag) :]
        both = min(len(there), len(needed))
        assert np.corrcoef(there[:both], needed[:both])[0, 1] > 0.9

    def test_in_parts_and_from_any_place(self, files, name):
        whole, _ = read_audio(files[name])
        with AudioReader(files[name]) as reader:
            parts = [reader.read(count) for count in (1, 777, 10**9)]
            np.testing.assert_array_equal(np.concatenate(parts)[:, 0], whole)
            reader.seek(5000)
            np.testing.assert_array_equal(reader.read(100)[:, 0], whole[5000:5100])

    def test_content_and_file_objects(self, files, name):
        content = files[name].read_bytes()
        expected = np.concatenate(list(Recording(files[name]).blocks()))
        behind = io.BytesIO(b"header" + content)
        behind.seek(6)
        for source in (content, io.BytesIO(content), behind):
            recording = Recording(source)
            for _ in range(2):
                np.testing.assert_array_equal(np.concatenate(list(recording.blocks())), expected)

    @pytest.mark.parametrize("share", [0.5, 0.8])
    def test_truncated(self, files, name, share, tmp_path):
        content = files[name].read_bytes()
        path = tmp_path / name
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match="is truncated|holds no audio, though its header states some"):
            read_audio(path)

    def test_by_its_content_whatever_its_name(self, files, name, tmp_path):
        path = tmp_path / "renamed.wav"
        path.write_bytes(files[name].read_bytes())
        np.testing.assert_array_equal(read_audio(path)[0], read_audio(files[name])[0])

    def test_without_pyav(self, files, name, tmp_path, monkeypatch):
        real = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "av" else real(name))
        with pytest.raises(InputError, match=r'pip install "mossformer_sb\[av\]"'):
            read_audio(files[name])


def test_libsndfile_reads_its_own_formats(tmp_path, monkeypatch):
    monkeypatch.setattr(media_file.MediaFile, "__init__", None)
    for format in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF", "AU", "W64", "RF64", "NIST"):
        path = tmp_path / f"a.{format.lower()}"
        soundfile.write(path, signal(16000), 16000, format=format)
        assert read_audio(path)[1] == 16000


def test_a_container_that_was_cut_is_no_other_one_once_it_is_whole(files, tmp_path):
    """What was found of a file is kept only as long as the file stays as it is."""
    content, path = files["a.webm"].read_bytes(), tmp_path / "a.webm"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedAudio):
        read_audio(path)
    path.write_bytes(content)
    assert len(read_audio(path)[0]) > 90000


class TestStreams:
    def test_several(self, tmp_path, caplog):
        path = write_media(tmp_path / "two.mkv", "matroska", "aac", 16000, film=True, streams=2)
        samples, _ = read_audio(path)
        assert len(samples) >= 32000
        assert "two.mkv: has 2 audio streams: the first one is used" in caplog.text

    def test_none(self, tmp_path):
        import av

        with av.open(str(tmp_path / "mute.mp4"), "w") as output:
            pictures = output.add_stream("mpeg4", rate=25)
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
            frame = av.VideoFrame(32, 32, "yuv420p")
            output.mux(pictures.encode(frame))
            output.mux(pictures.encode(None))
        with pytest.raises(InputError, match="has no audio"):
            read_audio(tmp_path / "mute.mp4")

    def test_sound_that_begins_late(self, tmp_path, caplog):
        path = write_media(tmp_path / "late.mkv", "matroska", "pcm_s16le", 16000, film=True, delay=0.5)
        read_audio(path)
        assert "has audio from 0.50 s on: the output begins there" in caplog.text


def test_a_damaged_packet(files, tmp_path):
    content = bytearray(files["faststart.m4a"].read_bytes())
    content[-3000:-500] = bytes(2500)
    (tmp_path / "a.m4a").write_bytes(content)
    with pytest.raises(DamagedAudio, match="can't be read to its end"):
        read_audio(tmp_path / "a.m4a")


class TestFolders:
    @pytest.fixture
    def folder(self, files, tmp_path):
        soundfile.write(tmp_path / "talk.wav", signal(16000), 16000)
        for name in ("a.m4a", "film.mp4"):
            (tmp_path / name).write_bytes(files[name].read_bytes())
        (tmp_path / "old.ra").touch()
        return tmp_path

    def test_with_pyav(self, folder, caplog):
        passed_over = []
        jobs = list_recordings([str(folder)], folder / "out", passed_over=passed_over)
        assert [job.name for job in jobs] == ["a", "film", "talk"] and passed_over == [folder / "old.ra"]
        assert "Skipped 1 files of unsupported formats (1 .ra): convert them" in caplog.text

    def test_without(self, folder, caplog, monkeypatch):
        monkeypatch.setattr("mossformer_sb.cli.input_files.can_read_media", lambda: False)
        passed_over = []
        jobs = list_recordings([str(folder)], folder / "out", passed_over=passed_over)
        assert [job.name for job in jobs] == ["talk"]
        assert [path.name for path in sorted(passed_over)] == ["a.m4a", "film.mp4", "old.ra"]
        assert "Skipped 3 files of unsupported formats (1 .m4a, 1 .mp4, 1 .ra): convert them" in caplog.text
        assert 'pip install "mossformer_sb[av]"' in caplog.text and f"They are {folder}/a.m4a, " in caplog.text

    def test_an_ending_belongs_to_one_reader(self):
        assert not MEDIA_ENDINGS & set(AUDIO_ENDINGS)
