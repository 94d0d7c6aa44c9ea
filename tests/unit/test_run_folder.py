"""The files that a run writes about itself, and their removal if it does not begin."""

import logging
import os
import subprocess
import sys

import pytest
import speechbrain as sb

from mossformer_sb import InputError
from mossformer_sb.sharing.record import TrainingRecord
from mossformer_sb.training.run_folder import BACKUP, RunFolder
from tests.integration.programs import contents

YAML = """\
output_folder: out
save_folder: !ref <output_folder>/save
manifest_folder: !ref <output_folder>/manifests
lr: 0.1
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Makes a `RunFolder` in a folder of its own; what it does to the logging is undone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(YAML)
    (tmp_path / "program.py").write_text("print()\n")
    monkeypatch.setattr(sb.utils.logger, "get_environment_description", lambda: "a machine\n")
    root = logging.getLogger()
    before = list(root.handlers), root.level
    yield lambda **overrides: RunFolder("x.yaml", overrides, "program.py")
    root.handlers[:], level = before
    root.setLevel(level)


def prepare(folder, **files):
    manifests = folder / "manifests"
    manifests.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (manifests / name.replace("__", ".")).write_text(text)


def test_a_run_that_does_not_begin_leaves_nothing(run, tmp_path):
    before = contents(tmp_path)
    with pytest.raises(InputError), run() as folder:
        prepare(folder.folder, tr__csv="a", tr__json="b")
        logging.getLogger("data_prep").info("preparing")
        raise InputError("no")
    assert contents(tmp_path) == before


HOLDER = """\
import fcntl, os, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="no locks")
def test_two_runs_do_not_write_the_same_checkpoints(run, tmp_path):
    lock = tmp_path / "out" / "save" / ".lock"
    lock.parent.mkdir(parents=True)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(InputError, match="out/save: another run is using this folder of checkpoints"), run():
        pass
    other.kill()
    other.communicate()
    with run() as folder:
        folder.stage_begins(sb.Stage.TRAIN)
        assert lock.is_file()  # left behind by the killed one, and taken over
    assert not lock.exists()


def test_files_for_the_next_start_are_kept(run, tmp_path):
    with pytest.raises(InputError), run() as folder:
        prepare(folder.folder, tr__csv="a", mixing_speech__csv="b", mixing_speech__sha256="c", x_problems__csv="d")
        raise InputError("no")
    kept = {name for name, content in contents(tmp_path / "out").items() if content is not None}
    assert kept == {"manifests/mixing_speech.csv", "manifests/mixing_speech.sha256", "manifests/x_problems.csv"}


def test_settings_are_of_the_training_that_began(run, tmp_path):
    with run(lr=0.2) as folder:
        folder.record = TrainingRecord(command="one", data="train a, valid b, test c")
        prepare(folder.folder, tr__csv="one")
        logging.getLogger("data_prep").info("preparing")
        assert not (tmp_path / "out" / "hyperparams.yaml").exists() and not (tmp_path / "out" / "log.txt").exists()
        folder.stage_begins(sb.Stage.TRAIN)
        (tmp_path / "x.yaml").write_text(YAML.replace("0.1", "0.9"))  # too late for this run
        folder.stage_begins(sb.Stage.VALID)
    out = tmp_path / "out"
    text = (out / "hyperparams.yaml").read_text()
    assert "lr: 0.2" in text and "save_folder: out/save" in text and "x.yaml" in text.splitlines()[1]
    assert (out / "program.py").read_text() == "print()\n" and (out / "env.log").read_text() == "a machine\n"
    assert "preparing" in (out / "log.txt").read_text() and TrainingRecord.read(out).command == "one"
    assert sorted(path.name for path in (out / "manifests").iterdir()) == ["tr.csv"]
    before = contents(out)
    with run(lr=0.3) as folder:
        folder.record = TrainingRecord(command="two")
        prepare(folder.folder, tr__csv="two", tt__csv="two")
        folder.stage_begins(sb.Stage.TEST)
    after = contents(out)
    assert after.pop("log.txt").startswith(before.pop("log.txt")) and after == before


def test_a_run_that_was_killed_before_it_began(run, tmp_path):
    prepare(tmp_path / "out", tr__csv="one")
    killed = run()
    killed.__enter__()
    prepare(tmp_path / "out", tr__csv="two", tr__partial="three")
    assert (tmp_path / "out" / BACKUP).is_dir()
    with run() as folder:
        assert (tmp_path / "out" / "manifests" / "tr.csv").read_text() == "one"
        folder.stage_begins(sb.Stage.TEST)
    files = {name: text for name, text in contents(tmp_path / "out").items() if name.startswith("manifests/")}
    assert files == {"manifests/tr.csv": b"one", "manifests/tr.partial": b"three"}
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_manifests_elsewhere_are_left_alone(run, tmp_path):
    """Other runs may be using them."""
    with pytest.raises(InputError), run(manifest_folder=str(tmp_path / "shared")):
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared" / "tr.csv").write_text("a")
        raise InputError("no")
    assert (tmp_path / "shared" / "tr.csv").read_text() == "a" and not (tmp_path / "out").exists()


class TestManifestsInTheOutputFolder:
    """Results of an evaluation are tables in the same folder, and must not be taken for manifests."""

    def begin(self, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "train.csv").write_text("train 1")
        (out / "test.csv").write_text("test 1")
        (out / "test_results.csv").write_text("results 1")
        return out

    def evaluate(self, run, out):
        """Like an evaluation of train.py, which has another test set."""
        folder = run(manifest_folder=str(out))
        folder.__enter__()
        (out / "test.csv").write_text("test 2")
        (out / "test.json").write_text("{}")
        folder.prepared()
        folder.stage_begins(sb.Stage.TEST)
        (out / "test_results.csv").write_text("results 2")
        (out / "test_manifest.csv").write_text("test 2")
        return folder

    def check(self, out):
        files = {name: text for name, text in contents(out).items() if name.endswith((".csv", ".json"))}
        assert files == {
            "train.csv": b"train 1",
            "test.csv": b"test 1",
            "test_results.csv": b"results 2",
            "test_manifest.csv": b"test 2",
        }

    def test_an_evaluation(self, run, tmp_path):
        out = self.begin(tmp_path)
        self.evaluate(run, out).__exit__(None, None, None)
        self.check(out)
        assert not (out / BACKUP).exists()

    def test_one_that_was_killed(self, run, tmp_path):
        """The next run restores the manifests, but no results. It can't know which manifests were new."""
        out = self.begin(tmp_path)
        self.evaluate(run, out)
        (out / "test.json").unlink()
        with run(manifest_folder=str(out)):
            pass
        self.check(out)

    @pytest.mark.parametrize("killed", [True, False])
    def test_measurements_of_other_recordings_are_not_kept(self, run, tmp_path, killed):
        """The table is that of before again, and the array beside it of the recordings of the refused run."""
        out = self.begin(tmp_path)
        names = {"mixing_noise": "energies", "mixing_speech": "pitch"}
        for table, kind in names.items():
            for name in (f"{table}.csv", f"{table}.sha256", f"{table}.{kind}.sha256", f"{table}.{kind}.npy"):
                (out / name).write_text("of noise 1" if table == "mixing_noise" else "of speech 1")
        folder = run(manifest_folder=str(out))
        folder.__enter__()
        for ending in ("csv", "sha256", "energies.sha256", "energies.npy"):
            (out / f"mixing_noise.{ending}").write_text("of noise 2")
        if killed:
            folder = run(manifest_folder=str(out))
            folder.__enter__()
        folder.__exit__(None, None, None)
        left = {path.name: path.read_text() for path in out.glob("mixing_*")}
        assert {name: text for name, text in left.items() if "noise" in name} == dict.fromkeys(
            ["mixing_noise.csv", "mixing_noise.sha256"], "of noise 1"
        )
        assert left["mixing_speech.pitch.npy"] == left["mixing_speech.pitch.sha256"] == "of speech 1"

    def test_a_preparation_that_fails(self, run, tmp_path):
        out = self.begin(tmp_path)
        before = contents(out)
        with pytest.raises(InputError), run(manifest_folder=str(out)):
            (out / "test.csv").write_text("test 2")
            (out / "valid.csv").write_text("valid 2")
            raise InputError("no")
        assert contents(out) == before


def test_the_log_has_no_debug_messages_of_drawing(run, tmp_path):
    with run() as folder:
        folder.stage_begins(sb.Stage.TEST)
        logging.getLogger("matplotlib.font_manager").debug("a font")
        logging.getLogger("matplotlib").warning("a warning")
        logging.getLogger("mossformer_sb").debug("ours")
    text = (tmp_path / "out" / "log.txt").read_text()
    assert "a warning" in text and "ours" in text and "a font" not in text


@pytest.mark.parametrize("output_folder", ["x.yaml", "x.yaml/out", "/proc/xx", "/proc/xx/deep"])
def test_a_folder_that_cannot_be_written(run, tmp_path, output_folder):
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"output_folder '{output_folder}' can't be written .*: give another one"):
        run(output_folder=output_folder).__enter__()
    assert contents(tmp_path) == before


def test_no_such_log_config(run):
    with pytest.raises(InputError, match="log_config 'none.yaml': there is no such file"):
        RunFolder("x.yaml", {}, "program.py", log_config="none.yaml")


def test_runs_of_one_process_log_into_their_own_folders(run, tmp_path):
    """As in a notebook: each line once, in the folder of its run, and none of what comes between runs."""
    for name in ("one", "two"):
        with run(output_folder=name) as folder:
            folder.stage_begins(sb.Stage.TRAIN)
            logging.getLogger("train").info("this is run %s", name)
        logging.getLogger("notebook").info("something else")
    for name, other in (("one", "two"), ("two", "one")):
        text = (tmp_path / name / "log.txt").read_text()
        assert text.count(f"this is run {name}") == 1
        assert f"run {other}" not in text and "something else" not in text


def test_the_log_has_the_error_that_ended_the_run(run, tmp_path):
    with pytest.raises(KeyboardInterrupt), run() as folder:
        folder.stage_begins(sb.Stage.TRAIN)
        raise KeyboardInterrupt
    assert "The run was ended by\nTraceback" in (tmp_path / "out" / "log.txt").read_text()
