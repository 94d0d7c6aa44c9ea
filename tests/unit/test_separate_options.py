"""`mossformer-sb separate`: output files, reports, and sources of recordings."""

import io
import json
import logging
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.cli import main
from mossformer_sb.cli.input_files import list_recordings
from mossformer_sb.cli.input_list import read_input_list
from mossformer_sb.sharing.folder import export

RATE = 8000
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    return export(tmp_path_factory.mktemp("export") / "model", modules, RATE)


@pytest.fixture(autouse=True)
def log_level():
    """The command sets it for its process."""
    logger = logging.getLogger("mossformer_sb")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with two recordings."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.wav", "in/deep/b.wav"):
        write(tmp_path / name)
    return tmp_path


def write(path, num_samples=4000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.randn(num_samples), RATE)
    return path


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def run(model, folder):
    def run(*words):
        return main(["separate", "--model", str(model), "--device", "cpu", *map(str, words)])

    return run


class TestWritten:
    @pytest.mark.parametrize(
        "words",
        [
            ("talk.wav", "talk_spk1.wav"),
            ("talk.wav", "talk_spk2.wav", "--overwrite"),
            ("talk_spk1.wav", "--name", "talk_spk{n}"),
            ("talk.wav", "talk_rest.wav", "--rest"),
            ("in/a.wav", "talk.wav", "--name", "link{n}"),
        ],
    )
    def test_no_recording_is_replaced(self, run, folder, capsys, words):
        """Neither the one that is separated nor another one of the list."""
        for name in ("talk", "talk_spk1", "talk_spk2", "talk_rest"):
            write(folder / f"{name}.wav")
        (folder / "link1.wav").symlink_to("talk.wav")
        before = {path: path.read_bytes() for path in folder.glob("*.wav")}
        assert run(*words, "--output_folder", ".") == 2
        assert "which is one of the recordings: choose another output folder or name" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in folder.glob("*.wav")} == before

    def test_subtype(self, run, folder):
        assert run("in", "--subtype", "PCM_16") == 0
        assert soundfile.info(folder / "separated/a_spk1.wav").subtype == "PCM_16"

    def test_a_subtype_that_the_format_lacks(self, run, capsys):
        assert run("in", "--subtype", "FLOAT", "--format", "flac") == 2
        assert "flac files can't have the subtype 'FLOAT': choose PCM_24 or PCM_16" in capsys.readouterr().err

    def test_name(self, run, folder):
        assert run("in", "--name", "{stem}/s{n:02d}", "--rest") == 0
        expected = [f"{stem}/{track}.wav" for stem in ("a", "deep/b") for track in ("rest", "s01", "s02")]
        assert names(folder / "separated") == sorted(expected)

    @pytest.mark.parametrize("pattern", ["{stem}", "../{stem}{n}", "/tmp/{stem}{n}", "{name}{n}"])
    def test_a_bad_name_is_refused_before_anything_is_done(self, run, folder, capsys, pattern):
        assert run("in", "--name", pattern) == 2
        assert "name pattern" in capsys.readouterr().err and not (folder / "separated").exists()

    def test_a_name_that_two_recordings_would_share(self, run, folder, capsys):
        write(folder / "in/c.wav")
        assert run("in", "--name", "speaker{n}") == 2
        assert "a.wav and " in (error := capsys.readouterr().err) and "would both be written to" in error
        assert run("in/a.wav", "--name", "speaker{n}") == 0

    @POSIX
    def test_names_that_look_like_paths(self, run, folder):
        for name in ("~a.wav", "A: intro.wav"):
            (folder / "in/a.wav").rename(folder / "in" / name)
            write(folder / "in/a.wav")
        assert run("in", "--only", 1) == 0
        assert names(folder / "separated") == ["A_ intro_spk1.wav", "_a_spk1.wav", "a_spk1.wav", "deep/b_spk1.wav"]

    @POSIX
    @pytest.mark.parametrize(
        ("name", "pattern", "problem"),
        [
            ("in/\\a.wav", "{stem}_{n}", "leads out of the output folder"),
            ("in/~a.wav", "{stem}_{n}", "would both be written to .*rename one of them"),
        ],
    )
    def test_a_name_that_can_not_be_used_fails_alone(self, run, folder, capsys, name, pattern, problem):
        (folder / "in/a.wav").rename(folder / "in/_a.wav")
        write(folder / name)
        assert run("in", "--list", "--json", "--name", pattern) == 0
        told = {Path(entry["recording"]).name: entry for entry in json.loads(capsys.readouterr().out)["recordings"]}
        assert re.search(problem, told[Path(name).name]["problem"]) and not told[Path(name).name]["files"]
        assert run("in", "--only", 1, "--name", pattern) == 1
        assert names(folder / "separated") == ["_a_1.wav", "deep/b_1.wav"]

    def test_only(self, run, folder):
        assert run("in/a.wav", "--only", 2) == 0
        assert names(folder / "separated") == ["a_spk2.wav"]

    def test_only_one_that_there_is_not(self, run, folder, capsys):
        assert run("in", "--only", 3) == 2
        assert "there is no speaker 3: the model separates 2" in capsys.readouterr().err
        assert names(folder / "separated") == []

    def test_activity(self, run, folder):
        pytest.importorskip("silero_vad")
        assert run("in/a.wav", "--activity", "--only", 1) == 0
        files = [f"a_activity.{ending}" for ending in ("json", "rttm", "txt")]
        assert names(folder / "separated") == [*files, "a_spk1.wav"]

    def test_existing_output_is_kept_only_if_complete(self, run, folder, capsys):
        run("in/a.wav")
        assert run("in/a.wav", "--rest") == 0 and "1 of 1 recordings separated, 0" in capsys.readouterr().out
        assert run("in/a.wav", "--rest") == 0 and "1 were already there" in capsys.readouterr().out


class TestTold:
    def test_json(self, run, folder, capsys):
        (folder / "in/bad.wav").write_text("no audio")
        (folder / "in/old.ra").touch()
        run("in/a.wav", "--rest", "--output_folder", "out")
        capsys.readouterr()
        assert run("in", "--json", "--rest", "--output_folder", "out") == 1
        told = json.loads(capsys.readouterr().out)
        assert [Path(entry["recording"]).name for entry in told["recordings"]] == ["a.wav", "bad.wav", "b.wav"]
        assert [entry["status"] for entry in told["recordings"]] == ["already there", "failed", "separated"]
        assert "can't be read as audio" in told["recordings"][1]["error"]
        assert told["passed_over"] == [str(folder / "in/old.ra")]

    def test_json_of_what_was_written(self, run, folder, capsys):
        assert run("in/a.wav", "--json", "--rest", "--subtype", "PCM_16") == 0
        (entry,) = json.loads(capsys.readouterr().out)["recordings"]
        assert (entry["sample_rate"], entry["num_samples"], entry["seconds"]) == (8000, 4000, 0.5)
        for speaker in entry["speakers"]:
            samples, _ = soundfile.read(speaker["path"])
            assert speaker["level_db"] == pytest.approx(10 * np.log10(np.square(samples).mean()), abs=0.05)
        assert entry["status"] == "separated" and Path(entry["rest"]).is_file()
        assert entry["one_speaker_suspected"] in (True, False)

    def test_one_speaker(self, run, capsys, caplog, monkeypatch):
        monkeypatch.setattr("mossformer_sb.inference.output_writer.suspects_one_speaker", lambda energies: True)
        assert run("in") == 0
        assert "2 of 2 recordings separated, 0 failed. 2 seem to have only one speaker." in capsys.readouterr().out
        assert "a.wav: there seems to be only one speaker" in caplog.text

    def test_list(self, run, folder, capsys):
        assert run("in", "--list", "--name", "{stem}/s{n}", "--rest", "--format", "flac", "--model", "none") == 0
        out = folder / "separated"
        assert capsys.readouterr().out.splitlines() == [
            f"{folder}/in/a.wav -> {out}/a/s{{n}}.flac, {out}/a/rest.flac",
            f"{folder}/in/deep/b.wav -> {out}/deep/b/s{{n}}.flac, {out}/deep/b/rest.flac",
        ]
        assert not out.exists()

    def test_list_as_json(self, run, folder, capsys):
        assert run("in", "--list", "--json", "--only", 1) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["recordings"][0]["files"] == [str(folder / "separated/a_spk1.wav")]

    @pytest.mark.parametrize("words", [["--list"], ["--list", "--json"], ["--json"], []])
    @pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
    def test_names_that_the_console_does_not_have(self, run, folder, monkeypatch, words, encoding):
        (folder / "in/deep/b.wav").rename(folder / "絆.wav")
        (folder / "in/a.wav").rename(folder / ("a.wav" if os.name == "nt" else os.fsdecode(b"caf\xe9.wav")))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
        assert run(".", "--only", 1, "--output_folder", "絆", *words) == 0
        sys.stdout.flush()
        told = sys.stdout.buffer.getvalue().decode(encoding)
        if "--json" in words:
            assert all(Path(entry["recording"]).is_file() for entry in json.loads(told)["recordings"])
        elif words:
            assert len(told.splitlines()) == 2 and ("\\u7d46.wav" in told) == (encoding == "cp1252")
        else:
            assert "2 of 2 recordings separated" in told

    def test_quiet(self, run, folder, capfd):
        (folder / "in/old.ra").touch()
        assert run("in", "--quiet") == 0
        assert capfd.readouterr() == ("", "")
        assert len(names(folder / "separated")) == 4

    def test_quiet_still_reports_failures(self, run, folder, capfd, caplog):
        (folder / "in/bad.wav").write_text("no audio")
        assert run("in", "--quiet") == 1
        assert capfd.readouterr().out == "" and "bad.wav: can't be read" in caplog.text


class TestLists:
    def test_paths(self, run, folder):
        (folder / "list.txt").write_text("in/a.wav\r\n\n  in/deep/b.wav\n")
        assert run("--input-list", "list.txt") == 0
        assert names(folder / "separated") == ["a_spk1.wav", "a_spk2.wav", "deep/b_spk1.wav", "deep/b_spk2.wav"]

    def test_kaldi(self, run, folder):
        (folder / "wav.scp").write_text("call1 in/a.wav\ncall2\tin/deep/b.wav\n")
        assert run("--input_list", "wav.scp") == 0
        assert names(folder / "separated") == [f"call{call}_spk{n}.wav" for call in (1, 2) for n in (1, 2)]

    @pytest.mark.parametrize("name", ["list.txt", "wav.scp"])
    def test_recordings_are_found_from_other_folders(self, folder, monkeypatch, name):
        """As the workers of a cluster work in."""
        monkeypatch.chdir(folder)
        (folder / name).write_text("call1 in/a.wav\n" if name.endswith("scp") else "in/a.wav\n")
        (job,) = list_recordings([], folder / "out", read_input_list(name))
        assert job.path == folder / "in" / "a.wav"

    @pytest.mark.parametrize("name", ["list.txt", "wav.scp"])
    def test_one_that_is_not_there_fails_alone(self, run, folder, capsys, caplog, name):
        ids = ("x ", "y ") if name.endswith("scp") else ("", "")
        (folder / name).write_text(f"{ids[0]}in/a.wav\n{ids[1]}in/none.wav\n")
        assert run("--input-list", name) == 1
        assert "none.wav: there is no such file; the list names it" in caplog.text
        assert "1 of 2 recordings separated, 1 failed" in capsys.readouterr().out

    def test_paths_with_blanks(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "my talk.wav")
        (tmp_path / "a.scp").write_text("my talk.wav\ncall my talk.wav\n")
        assert read_input_list("a.scp") == [(Path("my talk.wav"), None), (Path("my talk.wav"), "call")]

    @pytest.mark.parametrize(("name", "words"), [("a.txt", ""), ("a.scp", "call ")])
    def test_the_home_folder(self, tmp_path, monkeypatch, name, words):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        (tmp_path / name).write_text(f"{words}~/talk.wav\n")
        assert read_input_list(tmp_path / name)[0].path == tmp_path / "talk.wav"

    def test_tabs(self, tmp_path):
        (tmp_path / "a.scp").write_text("call1\taudio/my talk.wav\ncall2 \t b\t2.wav\n")
        assert read_input_list(tmp_path / "a.scp") == [
            (Path("audio/my talk.wav"), "call1"),
            (Path("b\t2.wav"), "call2"),
        ]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a sph2pipe -f wav a.sph |\n", "line 1: has a command, 'sph2pipe -f wav a.sph |', which is not run here"),
            ("a x.wav\nb raw.ark:1234\n", "line 2: has an offset in an archive, 'raw.ark:1234'"),
            ("a x.wav\na y.wav\n", "has the ID a twice"),
            ("../a x.wav\n", "has the ID '../a', which can't name a file"),
            ("\n \n", "this list is empty"),
            ("a\0.\0w\0a\0v\0", "can't be read (it is not in UTF-8)"),
        ],
    )
    def test_what_is_refused(self, tmp_path, text, message):
        path = tmp_path / "wav.scp"
        path.write_text(text)
        with pytest.raises(InputError) as error:
            read_input_list(path)
        assert message in str(error.value)

    def test_many_lines_take_no_quadratic_time(self, tmp_path):
        lines = [f"id{number} x.wav" for number in (*range(50_000), 49_999)]
        (tmp_path / "wav.scp").write_text("\n".join(lines))
        start = time.process_time()
        with pytest.raises(InputError, match="has the ID id49999 twice"):
            read_input_list(tmp_path / "wav.scp")
        assert time.process_time() - start < 5

    def test_no_list(self, run, folder, capsys):
        assert run("--input-list", "none.txt") == 2
        assert "none.txt: this list can't be read (No such file or directory)" in capsys.readouterr().err
        (folder / "list.txt").write_bytes(b"\xff\xfea\0")
        assert run("--input-list", "list.txt") == 2
        assert "it is not in UTF-8" in capsys.readouterr().err

    def test_nothing_is_given(self, run, capsys):
        assert run() == 2
        assert "no recording is given" in capsys.readouterr().err


class Pipe:
    """A standard stream, with the binary one inside it."""

    def __init__(self, content=b""):
        self.buffer = io.BytesIO(content)
        self.buffer.seekable = lambda: False

    def write(self, text):
        self.buffer.write(text.encode())

    def flush(self):
        pass


class TestPipes:
    def test_standard_input(self, run, folder, monkeypatch):
        monkeypatch.setattr(sys, "stdin", Pipe((folder / "in/a.wav").read_bytes()))
        assert run("-", "in/deep/b.wav") == 0
        assert names(folder / "separated") == [f"{name}_spk{n}.wav" for name in ("b", "stdin") for n in (1, 2)]

    def test_input_that_is_no_audio(self, run, monkeypatch, caplog):
        monkeypatch.setattr(sys, "stdin", Pipe(b"text"))
        assert run("-") == 1
        assert "can't be read as audio" in caplog.text

    @pytest.mark.parametrize("format", ["wav", "flac"])
    def test_standard_output(self, run, folder, monkeypatch, format):
        monkeypatch.setattr(sys, "stdin", Pipe((folder / "in/a.wav").read_bytes()))
        out = Pipe()
        monkeypatch.setattr(sys, "stdout", out)
        assert run("-", "--only", 1, "--output_folder", "-", "--format", format) == 0
        monkeypatch.undo()
        assert run(folder / "in/a.wav", "--only", 1, "--format", format, "--output_folder", folder / "x") == 0
        out.buffer.seek(0)
        np.testing.assert_array_equal(soundfile.read(out.buffer)[0], soundfile.read(folder / f"x/a_spk1.{format}")[0])
        assert names(folder) == ["in/a.wav", "in/deep/b.wav", f"x/a_spk1.{format}"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["in/a.wav"], "is for one file: choose a speaker with --only N"),
            (["in/a.wav", "--only", 1, "--rest", "--json"], "and remove --rest, --json"),
            (["in", "--only", 1], "is for one file, and 2 recordings are given"),
        ],
    )
    def test_options_that_do_not_fit_the_standard_output(self, run, capsys, words, message):
        assert run("--output_folder", "-", *words) == 2
        assert message in capsys.readouterr().err


def test_without_the_detector_nothing_is_begun(run, folder, capsys, monkeypatch):
    """One message before the work, not one for each recording after it has been separated."""
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    assert run("in", "--activity") == 2
    assert 'pip install "mossformer_sb[activity]"' in capsys.readouterr().err
    assert not (folder / "separated").exists()
