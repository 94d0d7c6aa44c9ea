"""A bad file never ends a batch: it is reported, the others are separated, and the exit code is 1."""

import errno
import os
import resource

import numpy as np
import pytest
import soundfile
import torch

from mossformer_sb import MossFormerSeparator
from mossformer_sb.cli import main
from mossformer_sb.cli.input_files import list_recordings
from mossformer_sb.data import audio_reader
from mossformer_sb.data.audio_io import AUDIO_ENDINGS, OTHER_MEDIA_ENDINGS
from mossformer_sb.errors import InputError
from mossformer_sb.inference import bulk
from mossformer_sb.sharing.folder import export
from tests.unit.sound_files import encode

RATE = 8000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    return export(tmp_path_factory.mktemp("export") / "model", modules, RATE)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def write(path, num_samples=4000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(num_samples), RATE)
    return path


def outputs(*inputs, out="/nowhere"):
    return sorted(f"{job.folder.relative_to(out)}/{job.name}".removeprefix("./") for job in jobs(*inputs, out=out))


def jobs(*inputs, out="/nowhere"):
    return list_recordings(list(map(str, inputs)), out)


class TestLinks:
    def test_to_a_file_have_their_own_name(self, folder, tmp_path):
        write(tmp_path / "store/ab12.wav")
        (folder / "call.wav").symlink_to(tmp_path / "store/ab12.wav")
        assert outputs(folder) == outputs(folder / "call.wav") == outputs(f"{folder}/*.wav") == ["call"]

    def test_to_a_folder_are_entered(self, folder, tmp_path):
        write(tmp_path / "store/deep/x.wav")
        (folder / "sub").symlink_to(tmp_path / "store")
        assert outputs(folder) == ["sub/deep/x"]

    def test_that_lead_in_circles_are_entered_once(self, folder):
        write(folder / "a/x.wav")
        (folder / "a/self").symlink_to(".")
        (folder / "a/up").symlink_to("../..")
        (folder / "b").symlink_to("a")
        assert outputs(folder) == outputs(f"{folder}/**/*.wav") == ["a/x"]

    def test_that_lead_nowhere_are_reported(self, folder):
        (folder / "gone.wav").symlink_to("nowhere.wav")
        (folder / "loop.wav").symlink_to("loop.wav")
        (folder / "gone.txt").symlink_to("nowhere.txt")
        problems = [job.problem for job in jobs(folder)]
        assert [problem.split("in/")[1] for problem in problems] == [
            "gone.wav: is a link to nowhere.wav, which does not exist.",
            "loop.wav: is a link to loop.wav, which does not exist.",
        ]
        assert jobs(folder / "gone.wav")[0].problem == problems[0]


class TestNames:
    def test_that_differ_only_in_their_endings(self, folder):
        for name in ("a.wav", "a.flac", "a.wav.wav", "b.wav"):
            write(folder / name)
        assert outputs(folder) == ["a.flac", "a.wav", "a.wav.wav", "b"]

    def test_there_is_one_list_of_endings(self, folder):
        assert {".sph", ".wv1", ".wv2", ".aifc", ".opus", ".mp2"} <= set(AUDIO_ENDINGS)
        assert not OTHER_MEDIA_ENDINGS & set(AUDIO_ENDINGS)

    def test_unreadable_formats_are_counted(self, folder, caplog, monkeypatch):
        monkeypatch.setattr("mossformer_sb.cli.input_files.can_read_media", lambda: False)
        for name in ("a.m4a", "b.M4A", "c.mp4", "d.txt", ".e.m4a"):
            (folder / name).touch()
        with pytest.raises(InputError, match=r"Skipped 3 files of unsupported formats \(2 .m4a, 1 .mp4\)"):
            jobs(folder)
        write(folder / "x.wav")
        assert outputs(folder) == ["x"] and "(2 .m4a, 1 .mp4): convert them" in caplog.text


def test_a_folder_that_can_not_be_read(folder, monkeypatch):
    write(folder / "a.wav"), write(folder / "closed.2024/x.wav")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed.2024"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = {job.path.name: job.problem for job in jobs(folder)}
    assert found["a.wav"] is None
    assert "closed.2024: this folder can't be read (Permission denied)" in found["closed.2024"]


class TestSeparate:
    def run(self, model, tmp_path, *options):
        options = ["--model", model, "--output_folder", tmp_path / "out", "--device", "cpu", *options]
        return main(["separate", str(tmp_path / "in"), *map(str, options)])

    def separated(self, tmp_path):
        found = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
        assert all(name.endswith((".wav", ".flac")) for name in found)  # nothing half-written
        return [name.removesuffix("_spk1.wav") for name in found if name.endswith("_spk1.wav")]

    @pytest.mark.parametrize("name", ["b" * 240, "絆" * 80, "a b%20=c#1;2&3", "[x] *?", "-dash", "new\nline", "Ünï"])
    def test_names(self, model, folder, tmp_path, name):
        write(folder / f"{name}.wav")
        assert self.run(model, tmp_path) == 0
        assert self.separated(tmp_path) == [name]

    def test_each_is_reported_and_the_rest_is_separated(self, model, folder, tmp_path, caplog, capsys):
        write(folder / "a.wav"), write(folder / "z.wav"), write(folder / f"{'c' * 250}.wav")
        (folder / "cut.wav").write_bytes((folder / "a.wav").read_bytes()[:-1000])
        (folder / "empty.wav").touch()
        (folder / "gone.wav").symlink_to("nowhere.wav")
        (folder / "h.sph").write_bytes(encode("NIST", "PCM_16"))
        assert self.run(model, tmp_path) == 1
        assert self.separated(tmp_path) == ["a", "h", "z"]
        assert "cut.wav: is truncated: its last 1000 bytes of audio are missing" in caplog.text
        assert "empty.wav: is empty" in caplog.text and "gone.wav: is a link" in caplog.text
        assert "can't be written (File name too long). Give the recording a shorter name" in caplog.text
        assert "3 of 7 recordings separated, 4 failed" in capsys.readouterr().out

    def test_a_full_disk(self, model, folder, tmp_path, caplog):
        write(folder / "a.wav"), write(folder / "big.wav", 40000), write(folder / "z.wav")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            assert self.run(model, tmp_path) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert self.separated(tmp_path) == ["a", "z"]
        assert "can't be written (File too large). Is the disk full" in caplog.text

    def test_a_file_that_vanishes(self, model, folder, tmp_path, caplog, monkeypatch):
        write(folder / "a.wav"), write(folder / "b.wav"), write(folder / "z.wav")
        real = bulk.Recording

        def then_remove(*args, **options):
            (folder / "b.wav").unlink(missing_ok=True)
            return real(*args, **options)

        monkeypatch.setattr(bulk, "Recording", then_remove)
        assert self.run(model, tmp_path) == 1
        assert self.separated(tmp_path) == ["a", "z"] and "b.wav: there is no such audio file" in caplog.text

    def test_a_file_that_may_not_be_read(self, model, folder, tmp_path, caplog, monkeypatch):
        write(folder / "a.wav"), write(folder / "b.wav")
        real = audio_reader.survey_file

        def refuse(path):
            if str(path).endswith("a.wav"):
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path)

        monkeypatch.setattr(audio_reader, "survey_file", refuse)
        assert self.run(model, tmp_path) == 1
        assert self.separated(tmp_path) == ["b"] and "a.wav: can't be read (Permission denied)" in caplog.text

    def test_a_bug_is_reported_and_the_rest_is_separated(self, model, folder, tmp_path, caplog, monkeypatch):
        write(folder / "a.wav"), write(folder / "b.wav")
        real = bulk.write_separated

        def fail(recording, *args, **options):
            if recording.name.endswith("a.wav"):
                raise RuntimeError("a fault of ours")
            return real(recording, *args, **options)

        monkeypatch.setattr(bulk, "write_separated", fail)
        assert self.run(model, tmp_path) == 1
        assert self.separated(tmp_path) == ["b"]
        assert "a.wav" in caplog.text and "RuntimeError: a fault of ours" in caplog.text
