"""The command line: input files, output, bad files, and exit codes."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.cli import COMMANDS, main
from mossformer_sb.cli.input_files import list_recordings, shard
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export

ROOT = Path(__file__).resolve().parents[2]
RATE = 8000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    return export(tmp_path_factory.mktemp("export") / "model", modules, RATE)


def write(path, num_samples=4000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.randn(num_samples), RATE)
    return path


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class TestList:
    def outputs(self, inputs, output_folder):
        jobs = list_recordings(list(map(str, inputs)), output_folder)
        return [(job.folder / job.name).relative_to(output_folder).as_posix() for job in jobs]

    @pytest.fixture
    def tree(self, tmp_path):
        for name in ("a/x.wav", "a/deep/x.flac", "b/x.wav", "b/x.ogg", "b/.hidden.wav", "b/notes.txt"):
            write(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).touch()
        return tmp_path

    def test_a_folder_keeps_its_structure(self, tree):
        assert self.outputs([tree / "a"], tree / "out") == ["deep/x", "x"]

    def test_files_of_one_name_do_not_collide(self, tree):
        assert self.outputs([tree], tree / "out") == ["a/deep/x", "a/x", "b/x.ogg", "b/x.wav"]
        assert self.outputs([tree / "a/x.wav", tree / "b/x.wav"], tree / "out") == ["a/x", "b/x"]

    def test_each_recording_once(self, tree):
        assert self.outputs([tree / "a", tree / "a/x.wav"], tree / "out") == ["deep/x", "x"]

    def test_patterns(self, tree):
        assert self.outputs([f"{tree}/*/x.wav"], tree / "out") == ["a/x", "b/x"]
        assert self.outputs([f"{tree}/a/**/x.*"], tree / "out") == ["deep/x", "x"]

    def test_output_within_the_input_is_no_input(self, tree):
        write(tree / "out" / "a" / "x_spk1.wav")
        assert "out" not in "".join(self.outputs([tree], tree / "out"))

    def test_a_parent_as_the_output_folder(self, tree):
        write(tree / "x_spk1.wav")
        assert self.outputs([tree / "a"], tree) == ["deep/x", "x"]
        assert self.outputs([f"{tree}/a/*.wav"], tree) == ["x"]
        assert self.outputs([tree / "a/x.wav", tree / "b/x.wav"], tree) == ["a/x", "b/x"]

    @pytest.mark.parametrize(
        ("inputs", "output"), [(["a", "b"], "."), (["a/*.wav", "b/*.wav"], "."), (["*.wav"], "."), (["a", "b"], "b")]
    )
    def test_output_where_recordings_are_searched(self, tree, inputs, output):
        with pytest.raises(InputError, match="so the next run would separate what this one writes"):
            self.outputs([tree / given for given in inputs], tree / output)

    def test_output_in_a_folder_of_the_same_name(self, tree):
        write(tree / "a/a/y.wav")
        with pytest.raises(InputError, match=f"^{re.escape(str(tree / 'a'))}: output would be written into .*searched"):
            self.outputs([tree / "a"], tree)

    def test_two_drives(self, tree, monkeypatch):
        def commonpath(paths):
            raise ValueError("Paths don't have the same drive")

        monkeypatch.setattr("os.path.commonpath", commonpath)
        with pytest.raises(InputError, match="are on several drives .*Separate those of one drive at a time"):
            self.outputs([tree / "a", tree / "b"], tree / "out")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("none.wav", "there is no such file or folder"),
            ("*.aiff", "matches no audio file"),
            ("out", "is both an input and the output folder"),
        ],
    )
    def test_wrong_input(self, tree, model, capsys, given, message):
        (tree / "out").mkdir()
        arguments = ["separate", str(tree / given), "--model", str(model), "--output_folder", str(tree / "out")]
        assert main(arguments) == 2
        assert message in capsys.readouterr().err

    def test_shards_cover_the_list(self):
        parts = [shard(list("abcde"), {"RANK": str(rank), "WORLD_SIZE": "3"}) for rank in range(3)]
        assert sorted(sum(parts, [])) == list("abcde") and max(map(len, parts)) == 2
        assert shard(list("abc"), {}) == list("abc")


class TestSeparate:
    def run(self, model, tmp_path, *options):
        arguments = [
            tmp_path / "in",
            "--model",
            model,
            "--output_folder",
            tmp_path / "out",
            "--device",
            "cpu",
            *options,
        ]
        return main(["separate", *map(str, arguments)])

    def test_a_bad_file_is_reported_and_the_rest_is_separated(self, model, tmp_path, capsys, caplog):
        write(tmp_path / "in/a.wav"), write(tmp_path / "in/sub/c.wav")
        (tmp_path / "in/b.wav").write_text("no audio")
        assert self.run(model, tmp_path) == 1
        assert "b.wav: can't be read as audio" in caplog.text
        assert capsys.readouterr().out == f"2 of 3 recordings separated, 1 failed. Output folder: {tmp_path / 'out'}\n"
        assert names(tmp_path / "out") == ["a_spk1.wav", "a_spk2.wav", "sub/c_spk1.wav", "sub/c_spk2.wav"]

    def test_resumes_after_an_interruption(self, model, tmp_path, capsys):
        write(tmp_path / "in/a.wav"), write(tmp_path / "in/b.wav")
        assert self.run(model, tmp_path) == 0
        before = soundfile.read(tmp_path / "out/a_spk1.wav")[0]
        (tmp_path / "out/a_spk1.wav").write_text("done")
        (tmp_path / "out/b_spk2.wav").unlink()
        assert self.run(model, tmp_path) == 0
        assert (
            "1 of 2 recordings separated, 1 were already there (--overwrite separates again, with this "
            in capsys.readouterr().out
        )
        assert (tmp_path / "out/a_spk1.wav").read_text() == "done" and (tmp_path / "out/b_spk2.wav").is_file()
        assert self.run(model, tmp_path) == 0
        assert "recordings [" not in capsys.readouterr().err  # no progress of nothing
        assert self.run(model, tmp_path, "--overwrite") == 0
        assert np.array_equal(soundfile.read(tmp_path / "out/a_spk1.wav")[0], before)

    @pytest.mark.parametrize(("seconds", "rate"), [(0.7, 8000), (0.5, 16000)])
    def test_output_of_another_recording_is_not_taken_for_its_own(self, model, tmp_path, caplog, seconds, rate):
        write(tmp_path / "in/a.wav")
        assert self.run(model, tmp_path) == 0
        before = (tmp_path / "out/a_spk1.wav").read_bytes()
        length, there = soundfile.info(tmp_path / "in/a.wav").frames, soundfile.info(tmp_path / "in/a.wav").samplerate
        soundfile.write(tmp_path / "in/a.wav", 0.1 * np.random.randn(round(seconds * rate)), rate)
        write(tmp_path / "in/b.wav")
        assert self.run(model, tmp_path) == 1
        message = f"it has {length} samples at {there} Hz, not {round(seconds * rate)} at {rate}. Give another --output"
        assert f"a_spk1.wav is there already, and of another recording: {message}" in caplog.text
        assert (tmp_path / "out/a_spk1.wav").read_bytes() == before and (tmp_path / "out/b_spk1.wav").is_file()
        assert self.run(model, tmp_path, "--overwrite") == 0 and self.run(model, tmp_path) == 0

    def test_interrupted_from_the_keyboard(self, model, tmp_path, capsys, monkeypatch):
        write(tmp_path / "in/a.wav")

        def interrupt(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(MossFormerSeparation, "separate_batch", interrupt)
        assert self.run(model, tmp_path) == 130
        assert "the same command resumes" in capsys.readouterr().err and names(tmp_path / "out") == []

    def test_options_arrive(self, model, tmp_path):
        path = write(tmp_path / "in/a.wav", 3 * RATE)
        chunks = ["--chunk_above", "1", "--chunk_seconds", "1", "--chunk_overlap", "0.5"]
        assert self.run(model, tmp_path, "--format", "flac", "--level", "peak", *chunks) == 0
        found = np.stack([soundfile.read(tmp_path / f"out/a_spk{n}.flac")[0] for n in (1, 2)], 1)
        assert np.abs(found).max() == pytest.approx(1, abs=1e-5)
        whole = MossFormerSeparation.from_hparams(model, device="cpu").separate(path, level="peak").numpy()
        assert np.abs(found - whole).max() > 1e-3  # cut

    def test_chunks_that_make_no_sense(self, model, tmp_path, capsys):
        write(tmp_path / "in/a.wav")
        assert self.run(model, tmp_path, "--chunk_overlap", "40") == 2
        assert "chunks of 60.0 s overlap by 40.0 s" in capsys.readouterr().err

    def test_shards(self, model, tmp_path, monkeypatch):
        for name in "abc":
            write(tmp_path / f"in/{name}.wav")
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        assert self.run(model, tmp_path) == 0
        assert names(tmp_path / "out") == ["b_spk1.wav", "b_spk2.wav"]


LIGHT = """
import sys
from mossformer_sb.cli import COMMANDS, main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print([name for name in ("torch", "speechbrain", "matplotlib") if name in sys.modules])
"""


HELPS = [[command, "--help"] for command in COMMANDS]


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["seperate", "x.wav"], [], *HELPS])
def test_a_look_at_the_command_line_imports_nothing_large(words):
    done = subprocess.run([sys.executable, "-c", LIGHT, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_as_a_module():
    for name in ("mossformer_sb", "mossformer_sb.cli"):
        done = subprocess.run([sys.executable, "-m", name, "--version"], cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.startswith("mossformer_sb ") and done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_of_each_command(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0 and f"mossformer-sb {command} " in capsys.readouterr().out


class TestScore:
    @pytest.fixture(autouse=True)
    def threads(self):
        """The command sets their number for its process."""
        before = torch.get_num_threads()
        yield
        torch.set_num_threads(before)

    @pytest.fixture
    def corpus(self, tmp_path):
        for name in ("a", "b"):
            sources = 0.1 * np.random.randn(2, 8000)
            signals = {f"mix/{name}": sources.sum(0), f"s1/{name}": sources[0], f"s2/{name}": sources[1]}
            for key, samples in signals.items():
                path = tmp_path / "tt" / f"{key}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, samples, RATE, subtype="FLOAT")
        return tmp_path / "tt"

    def test_from_separate_to_scores(self, model, corpus, tmp_path, capsys):
        out, scores = str(tmp_path / "out"), tmp_path / "new" / "scores.csv"
        arguments = ["separate", str(corpus / "mix"), "--model", str(model), "--output_folder", out, "--device", "cpu"]
        assert main(arguments) == 0
        assert main(["score", "--estimates", out, "--references", str(corpus), "--output", str(scores)]) == 0
        assert "2 utterances, scores in dB" in capsys.readouterr().out
        assert pd.read_csv(scores)["snt_id"].tolist() == ["a", "b", "avg"]

    def test_report(self, corpus, tmp_path, capsys):
        """The corpus scored as its own estimate, which is no great feat."""
        page = tmp_path / "new" / "page.html"
        options = ["--output", str(tmp_path / "scores.csv"), "--report", str(page), "--corpus", "WHAM!"]
        assert main(["score", "--estimates", str(corpus), "--references", str(corpus), *options]) == 0
        assert "The report is" in capsys.readouterr().out
        text = page.read_text()
        assert text.count("<audio") == 2 * 5 and "published results on WHAM!" in text

    def test_which_files(self, corpus, capsys):
        assert main(["score", "--estimates", str(corpus)]) == 2
        assert "give --estimates and --references, or a --table" in capsys.readouterr().err
        assert main(["score", "--table", "x.csv", "--estimates", str(corpus)]) == 2
        assert "--table lists all files: give it alone" in capsys.readouterr().err


def test_an_option_before_the_command(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--overwrite", "separate", "a.wav"])
    assert error.value.code == 2
    assert "mossformer-sb: error: unrecognized arguments: --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["separate", "a.wav", "--overwite"], "Did you mean --overwrite?"),
        (["evaluate", "model", "--manifst=a.csv", "--manifest", "b"], "Did you mean --manifest?"),
        (["score", "--estimates", "a", "--references", "b", "--zzz"], "unrecognized arguments: --zzz.\n"),
    ],
)
def test_a_mistyped_option(words, hint, capsys):
    with pytest.raises(SystemExit) as error:
        main(words)
    printed = capsys.readouterr().err
    assert error.value.code == 2 and hint in printed and f"mossformer-sb {words[0]}: error: unrecognized" in printed
