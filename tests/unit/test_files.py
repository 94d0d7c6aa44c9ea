"""Atomic writing: after any error, existing files are unchanged, and no temporary file is left."""

import ast
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_prep import __main__ as data_prep
from mossformer_sb import cli
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import (
    atomic_folder,
    atomic_write,
    atomic_write_all,
    check_output_file,
    expanded,
    make_output_folder,
    write_text,
)

ROOT = Path(__file__).parents[2]
# What else renames, and why.
RENAMING = {
    "mossformer_sb/utils/files.py",  # the one place for write-then-rename
    "mossformer_sb/training/checkpoints.py",  # SpeechBrain writes a checkpoint, into a folder that gets its name later
    "mossformer_sb/training/run_folder.py",  # a backup under a fixed name, so that the next start finds what is left
    "mossformer_sb/sharing/downloads.py",  # what has come so far keeps its name, so that the next start goes on
    "mossformer_sb/sharing/released_cache.py",  # a folder that several steps fill, in a place that is locked
    "data_prep/corpora/prepare.py",  # complete manifests get other names
}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["\ud800", "a\0b"])
def test_a_name_that_no_file_can_have(tmp_path, name):
    for write in (atomic_write, atomic_folder):
        with pytest.raises(InputError, match="no file can have"), write(tmp_path / name / "below"):
            pass
        with pytest.raises(InputError, match="no file can have"), write(tmp_path / name):
            pass
    for check in (check_output_file, make_output_folder, expanded):
        with pytest.raises(InputError, match="no file can have"):
            check(tmp_path / name / "below")


PATHS = [
    "separate a.wav --output_folder",
    "separate --input-list",
    "separate a.wav --model",
    "separate",
    "score --estimates a --references",
    "score --references a --estimates",
    "export trained --output_folder",
    "export trained --output_folder a --notes",
    "export --output_folder a",
    "data_prep wham --data_folder a --output_folder",
    "data_prep wham --output_folder a --data_folder",
    "data_prep custom --output_folder a --csv_file",
]


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "a\0b/c", "a/\ud800"])
@pytest.mark.parametrize("words", PATHS)
def test_programs_refuse_names_that_no_file_can_have(words, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    program, *arguments = [*words.split(), name]
    status = data_prep.main(arguments) if program == "data_prep" else cli.main([program, *arguments])
    assert status == 2 and "no file can have" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x" * 300, f"a/{'x' * 300}/b"])
@pytest.mark.parametrize("words", PATHS)
def test_programs_refuse_names_that_are_too_long(words, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    program, *arguments = [*words.split(), name]
    status = data_prep.main(arguments) if program == "data_prep" else cli.main([program, *arguments])
    assert status in (1, 2) and capsys.readouterr().err


class TestFile:
    def test_an_earlier_file_is_there_until_the_new_one_is_complete(self, tmp_path):
        path = tmp_path / "a.txt"
        write_text(path, "before")
        with atomic_write(path) as temporary:
            temporary.write_text("after")
            assert path.read_text() == "before" and temporary.parent == tmp_path
        assert path.read_text() == "after" and names(tmp_path) == ["a.txt"]

    def test_an_error_changes_nothing(self, tmp_path):
        path = tmp_path / "a.txt"
        write_text(path, "before")
        with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt
        assert path.read_text() == "before" and names(tmp_path) == ["a.txt"]


class TestFiles:
    def test_all_or_none(self, tmp_path):
        paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
        with pytest.raises(ValueError, match="stop"), atomic_write_all(paths) as (first, second):
            first.write_text("1")
            second.write_text("2")
            raise ValueError("stop")
        assert names(tmp_path) == []
        with atomic_write_all(paths) as (first, second):
            first.write_text("1")
            second.write_text("2")
            assert not any(path.exists() for path in paths)
        assert [path.read_text() for path in paths] == ["1", "2"] and names(tmp_path) == ["a.txt", "b.txt"]


class TestFolder:
    def fill(self, path, content):
        with atomic_folder(path) as temporary:
            (temporary / content).touch()

    def test_takes_the_place_of_an_earlier_one_as_a_whole(self, tmp_path):
        path = tmp_path / "new" / "model"
        self.fill(path, "before")
        self.fill(path, "after")
        assert names(path) == ["after"] and names(path.parent) == ["model"]

    def test_an_error_changes_nothing(self, tmp_path):
        path = tmp_path / "model"
        self.fill(path, "before")
        with pytest.raises(ValueError, match="stop"), atomic_folder(path) as temporary:
            (temporary / "half").touch()
            raise ValueError("stop")
        assert names(path) == ["before"] and names(tmp_path) == ["model"]

    def test_another_process_of_the_same_number(self, tmp_path):
        """As in containers: leftovers of one that was killed, and one that writes at the same time."""
        for ending in ("tmp", "old"):
            (tmp_path / f".model.{os.getpid()}.{ending}" / "x").mkdir(parents=True)
        self.fill(tmp_path / "model", "before")
        with atomic_folder(tmp_path / "model") as one, atomic_folder(tmp_path / "model") as other:
            assert one != other
            (one / "one").touch()
            (other / "other").touch()
        assert names(tmp_path / "model") == ["one"]

    def test_below_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=r"can't be created \(Not a directory\). Choose another output folder"):
            self.fill(tmp_path / "file" / "model", "x")

    def test_behind_a_link(self, tmp_path):
        """As to another disk: the link stays."""
        (tmp_path / "disk").mkdir()
        (tmp_path / "link").symlink_to("disk")
        with atomic_folder(tmp_path / "link") as temporary:
            (temporary / "a.txt").write_text("new")
        assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "a.txt").read_text() == "new"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]

    def test_a_mount_point_is_refused_before_the_work(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
        with pytest.raises(InputError, match="is a mount point, which can't be replaced"):
            with atomic_folder(tmp_path):
                raise AssertionError("the work has begun")

    def test_the_earlier_one_is_put_back(self, tmp_path, monkeypatch):
        path = tmp_path / "model"
        self.fill(path, "before")
        replace = os.replace

        def failing(source, target):
            if str(source).endswith(".tmp"):
                raise OSError("no room")
            replace(source, target)

        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="no room"):
            self.fill(path, "after")
        assert names(path) == ["before"] and names(tmp_path) == ["model"]


def renames(tree):
    """Whether a module renames files: ``os.replace``, ``os.rename``, ``shutil.move``, and methods of paths."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of, name = getattr(node.func.value, "id", None), node.func.attr
            if (of, name) in {("os", "replace"), ("os", "rename"), ("os", "renames"), ("shutil", "move")}:
                return True
            # Text and tables have a `replace` of more arguments, and a `rename` with keywords.
            if name in ("replace", "rename") and len(node.args) == 1 and not node.keywords:
                return True
    return False


def test_files_get_their_names_in_one_place():
    folders = ("mossformer_sb", "data_prep", "benchmarks", "examples")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")] + [ROOT / "train.py"]
    found = {
        path.relative_to(ROOT).as_posix() for path in paths if renames(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == RENAMING


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "folder: is a folder; expected a file to write"),
        ("x" * 300, "can't be written .*File name too long"),
        ("a\0b", "no file can have .*null"),
        ("file/x.csv", "can't be written .*Not a directory"),
    ],
)
def test_output_files_are_checked_before_the_work(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        check_output_file(tmp_path / name)
    assert check_output_file(tmp_path / "new" / "x.csv") == tmp_path / "new" / "x.csv"
    assert check_output_file(tmp_path / "file") == tmp_path / "file" and (tmp_path / "new").is_dir()


def test_writers_of_one_folder_do_not_disturb_each_other(tmp_path):
    """As the threads of one process, or processes of equal numbers on several machines."""
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(make_output_folder, [tmp_path / "out"] * 2000)) == {tmp_path / "out"}
    assert list((tmp_path / "out").iterdir()) == []
