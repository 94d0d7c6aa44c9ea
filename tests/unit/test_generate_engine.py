"""The tree is the same for any number of interruptions and processes; errors come before the work."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple

import numpy as np
import pytest
import soundfile

from data_prep.__main__ import main as prepare_main
from data_prep.generate import engine
from data_prep.generate.__main__ import main as generate_main
from data_prep.generate.engine import Amount, Item, Output, Plan, differences, run, write_wav
from mossformer_sb.errors import InputError
from tests.forked import run as run_program
from tests.unit.generate_items import FRAMES, die, fail, make_and_measure, make_short, make_wrong, plan, tones, tree
from tests.unit.permissions import closed, read_only

NUM_ITEMS = 24
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


@pytest.fixture
def whole(tmp_path):
    """What an uninterrupted run in this process writes."""
    run(plan(), tmp_path / "whole", workers=1)
    return tree(tmp_path / "whole")


def fails(*parts, make_plan=plan, folder, workers=1, **options):
    with pytest.raises(InputError) as caught:
        run(make_plan(**options), folder, workers)
    for part in parts:
        assert part in str(caught.value)
    return str(caught.value)


# What is written


@pytest.mark.parametrize("dtype, subtype, scale", [("int16", "PCM_16", 2**15), ("float32", "FLOAT", 1)])
def test_files(tmp_path, dtype, subtype, scale):
    assert run(plan(items=tones(2, dtype)), tmp_path, workers=1).files == 4
    path = tmp_path / "tr" / "s1" / "tone001.wav"
    info = soundfile.info(path)
    assert (info.subtype, info.samplerate, info.channels, info.frames) == (subtype, 8000, 1, FRAMES + 1)
    samples, _ = soundfile.read(path)
    np.testing.assert_array_equal(samples * scale, np.arange(FRAMES + 1) + 8)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_planned_size_is_that_of_the_file(tmp_path, dtype, channels):
    output = Output("a.wav", 7, 16000, dtype, channels)
    write_wav(tmp_path / "a.wav", np.zeros(output.shape, dtype), 16000)
    assert os.path.getsize(tmp_path / "a.wav") == output.num_bytes
    assert soundfile.info(tmp_path / "a.wav").channels == channels


def test_number_of_workers_changes_nothing(tmp_path, whole):
    run(plan(), tmp_path / "two", workers=2)
    assert tree(tmp_path / "two") == whole
    assert len(whole) == 2 * NUM_ITEMS + 1 and "tones.json" in whole


def test_dry_run_reports_the_amount_and_writes_nothing(tmp_path, caplog):
    caplog.set_level("INFO")
    frames = 2 * sum(FRAMES + i for i in range(NUM_ITEMS))
    expected = Amount(2 * NUM_ITEMS, frames / 8000, 2 * NUM_ITEMS * 58 + 4 * frames)
    assert run(plan(), tmp_path / "out", dry_run=True) == pytest.approx(expected)
    assert not (tmp_path / "out").exists()
    assert "would write 48 files, 0.00 hours, 0.00 GB" in caplog.text
    assert run(plan(), tmp_path / "out", workers=1) == pytest.approx(expected)
    size = sum(os.path.getsize(path) for path in (tmp_path / "out" / "tr").rglob("*.wav"))
    assert size == expected.num_bytes


# Killed and started again


def test_killed_with_workers_and_started_again(tmp_path, whole):
    command = [sys.executable, "-m", "tests.unit.generate_items", str(tmp_path / "out"), "killed"]
    killed = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    killed.communicate(timeout=120)  # until its workers, who hold the other end, are dead too
    assert killed.returncode == -9
    interrupted = tree(tmp_path / "out")
    assert "tr/mix/tone000.wav" in interrupted and len(interrupted.keys() & whole.keys()) < len(whole)
    for name in interrupted.keys() & whole.keys():
        assert interrupted[name] == whole[name]  # what has its name is whole
    run(plan(), tmp_path / "out", workers=2)
    assert tree(tmp_path / "out") == whole


def test_interrupted_and_started_again(tmp_path, whole):
    """Ctrl-C goes to all processes of the terminal; only the parent tells of it."""
    command = [sys.executable, "-m", "tests.unit.generate_items", str(tmp_path / "out"), "slow"]
    run_slowly = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while run_slowly.poll() is None and not [*(tmp_path / "out").rglob("tone*.wav")]:
        time.sleep(0.01)
    os.killpg(run_slowly.pid, signal.SIGINT)
    _, printed = run_slowly.communicate(timeout=120)
    assert run_slowly.returncode == -signal.SIGINT
    assert printed.count("Traceback") == 1 and printed.rstrip().endswith("KeyboardInterrupt"), printed
    interrupted = tree(tmp_path / "out")
    assert len(interrupted.keys() & whole.keys()) < len(whole)
    run(plan(), tmp_path / "out", workers=2)
    assert tree(tmp_path / "out") == whole


@pytest.mark.parametrize("number", [1, 2, 7, 48])
def test_killed_in_the_middle_of_a_file(tmp_path, whole, number):
    code = (
        "from tests.unit.generate_items import kill_in_write, plan, run; "
        f"kill_in_write({number}); run(plan(), {str(tmp_path / 'out')!r}, workers=1)"
    )
    assert run_program(["-c", code], ROOT).returncode == -9
    interrupted = tree(tmp_path / "out")
    assert sum(name.endswith(".tmp") for name in interrupted) == 1
    assert len(interrupted) == number + 1  # whole files, the half one, and the parameters
    assert run(plan(), tmp_path / "out", workers=1).files == 48 - 2 * ((number - 1) // 2)
    assert tree(tmp_path / "out") == whole


def test_whole_items_are_not_made_again(tmp_path, whole):
    run(plan(), tmp_path / "out", workers=1)
    lost, cut, kept = (tmp_path / "out" / "tr" / "mix" / f"tone{i:03d}.wav" for i in (3, 4, 5))
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    before = kept.stat().st_mtime_ns, lost.with_name("tone006.wav").stat().st_ino
    assert run(plan(), tmp_path / "out", workers=1).files == 4  # both files of two items
    assert (kept.stat().st_mtime_ns, lost.with_name("tone006.wav").stat().st_ino) == before
    assert tree(tmp_path / "out") == whole
    assert run(plan(), tmp_path / "out", workers=2).files == 0


def test_leftovers_are_removed(tmp_path, whole):
    run(plan(), tmp_path / "out", workers=1)
    for folder in ("", "tr/mix", "tr/s1"):
        (tmp_path / "out" / folder / ".tone003.wav.4711.tmp").write_bytes(b"RIFF")
    run(plan(), tmp_path / "out", workers=1)
    assert tree(tmp_path / "out") == whole


def test_two_runs_at_once_are_one_after_the_other(tmp_path, whole, caplog):
    """The second would take the first one's unfinished files for leftovers, and delete them."""
    second = threading.Thread(target=run, args=(plan(), tmp_path / "out", 1))
    (tmp_path / "out").mkdir()
    with engine.alone(tmp_path / "out"):
        second.start()
        second.join(0.5)
        assert second.is_alive() and tree(tmp_path / "out") == {}
        (tmp_path / "out" / ".tone003.wav.4711.tmp").write_bytes(b"RIFF")
        second.join(0.2)
        assert list(tree(tmp_path / "out")) == [".tone003.wav.4711.tmp"]
    second.join(60)
    assert tree(tmp_path / "out") == whole
    assert "another process generates into this folder; waiting for its end" in caplog.text


# Trees that were made otherwise


def test_other_parameters_are_not_continued(tmp_path, whole):
    run(plan(), tmp_path / "out", workers=1)
    fails("was generated with seed 1; requested is seed 2", folder=tmp_path / "out", parameters={"seed": 2})
    assert tree(tmp_path / "out") == whole


def test_a_tree_may_be_completed(tmp_path):
    run(plan(items=tones(2), parameters={"seed": 1, "tr": "x"}), tmp_path, workers=1)
    run(plan(items=tones(4), parameters={"seed": 1, "cv": (1, 2)}), tmp_path, workers=1)
    fails("tr 'x'", folder=tmp_path, parameters={"tr": "z", "cv": [1, 2]})
    fails("cv [1, 2]", folder=tmp_path, parameters={"tr": "x", "cv": [1]})
    assert len(tree(tmp_path)) == 9


def test_files_of_unknown_origin(tmp_path):
    run(plan(), tmp_path, workers=1)
    (tmp_path / "tones.json").unlink()
    fails("holds tr/mix/tone000.wav, but no tones.json", folder=tmp_path)


@pytest.mark.parametrize("text", ["", "{", "3", "[1]"])
def test_damaged_record(tmp_path, text):
    (tmp_path / "tones.json").write_text(text)
    fails(f"{tmp_path / 'tones.json'}: can't be read", "needed the parameters", folder=tmp_path)


# Refused


def test_two_items_with_one_file(tmp_path):
    twice = [*tones(2), Item("again", tones(2)[1].outputs)]
    fails(
        "two mixtures have the same name", "tr/mix/tone001.wav", "'tone001' and 'again'", folder=tmp_path, items=twice
    )
    assert not tree(tmp_path)


@pytest.mark.parametrize("path", ["../a.wav", "tr/../../a.wav", "/a.wav", "..\\a.wav"])
def test_names_that_lead_out_of_the_folder(tmp_path, path):
    items = [Item("a", (Output(path, 1, 8000, "int16"),))]
    fails("outside the corpus", "'a' would write", folder=tmp_path, items=items)


def test_full_disk(tmp_path, monkeypatch):
    needed = run(plan(), tmp_path / "out", dry_run=True)
    usage = namedtuple("usage", "total used free")
    room = needed.num_bytes + 4096 * needed.files
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, room - 1))
    fails("its disk has 0.00 GB free, and 0.00 GB are needed", "Free disk space", folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, room))
    assert run(plan(), tmp_path / "out", workers=1) == needed


def test_existing_files_need_no_disk_space(tmp_path, monkeypatch):
    run(plan(), tmp_path, workers=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("usage", "free")(0))
    assert run(plan(), tmp_path, workers=1).files == 0


def test_a_finished_tree_may_lie_where_nothing_can_be_written(tmp_path, whole):
    run(plan(), tmp_path / "out", workers=1)
    with read_only(tmp_path / "out"):
        assert run(plan(), tmp_path / "out", workers=1).files == 0
        fails("can't be written", folder=tmp_path / "out", parameters={"seed": 1, "another": 2})
        fails("can't be written", folder=tmp_path / "out", count=25)
    assert tree(tmp_path / "out") == whole


def test_a_closed_folder_in_the_tree(tmp_path, whole):
    run(plan(), tmp_path / "out", workers=1)
    with closed(tmp_path / "out/tr/s1"):
        fails(f"can't be read (Permission denied): '{tmp_path / 'out/tr/s1'}'", folder=tmp_path / "out")
    with closed(tmp_path / "out/tones.json"):
        fails(f"can't be read (Permission denied): '{tmp_path / 'out/tones.json'}'", folder=tmp_path / "out")
    assert tree(tmp_path / "out") == whole


def test_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails("output_folder is empty: give a folder. A shell variable may be unset.", folder="")
    assert not tree(tmp_path)


def test_checksums_are_not_shown():
    found, asked = {"a.csv": 64 * "0", "seed": 1, "b.csv": 64 * "1"}, {"a.csv": 64 * "2", "seed": 2, "b.csv": 64 * "3"}
    text = "other versions of these: a.csv, b.csv; and with seed 1; requested is seed 2"
    assert differences(found, asked, ["a.csv", "b.csv", "seed"]) == text


@pytest.mark.parametrize("workers", [1, 2])
def test_measurements_are_passed_on(tmp_path, whole, workers):
    collected = {}
    measured = Plan("tones", tones(24), make_and_measure, {"seed": 1}, collected.__setitem__)
    run(measured, tmp_path / "out", workers)
    assert collected == {f"tr/mix/tone{i:03d}.wav": i for i in range(24)}
    assert tree(tmp_path / "out") == whole
    collected.clear()
    (tmp_path / "out/tr/s1/tone007.wav").unlink()
    run(measured, tmp_path / "out", workers)
    assert collected == {"tr/mix/tone007.wav": 7}


def test_interrupted_command(tmp_path, whole):
    """Ctrl-C gives one line, and the shell's status."""
    command = [sys.executable, "-m", "tests.unit.generate_items", str(tmp_path / "out"), "command"]
    run_slowly = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while run_slowly.poll() is None and len([*(tmp_path / "out").rglob("tone*.wav")]) < 20:  # all workers run
        time.sleep(0.01)
    os.killpg(run_slowly.pid, signal.SIGINT)
    _, printed = run_slowly.communicate(timeout=120)
    assert run_slowly.returncode == 130
    assert "Traceback" not in printed
    # joblib's resource tracker, another process, may find a semaphore removed that a worker was about to remove.
    ours = [line for line in printed.splitlines() if "resource_tracker" not in line]
    assert ours[-1] == "Interrupted. Finished files are kept: run the same command again to resume."
    run(plan(), tmp_path / "out", workers=2)
    assert tree(tmp_path / "out") == whole


@pytest.mark.parametrize("main", [generate_main, prepare_main])
def test_options_without_a_value(main, tmp_path, monkeypatch, capsys):
    """What a variable of the shell that is not set gives: it would mean the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = "--metadata_folder=x" if main is generate_main else "--data_folder=x"
    extra = ["--wsj0_folder", "x"] if main is generate_main else []
    assert main(["wsj0mix", folder, *extra, "--output_folder", ""]) == 2
    assert capsys.readouterr().err == (
        "--output_folder is empty: give a value, or remove the option. A shell variable may be unset.\n"
    )
    assert not tree(tmp_path)


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    fails("can't be written", "out", folder=tmp_path / "out")


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(engine.Path, "touch", refuse)  # root may write anywhere
    fails("can't be written", "Permission denied", folder=tmp_path / "out")


def test_disk_that_fills_up(tmp_path, monkeypatch):
    def fill(path, *_):
        with open(path, "wb") as stream:
            stream.write(b"RIFF")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine.wavfile, "write", fill)
    fails("tone000.wav", "No space left on device", "start again to resume", folder=tmp_path)
    assert [*tree(tmp_path)] == ["tones.json"]


@pytest.mark.parametrize("workers", [0, -1])
def test_workers(tmp_path, workers):
    fails(f"workers is {workers}", folder=tmp_path, workers=workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_input_errors_come_through(tmp_path, workers):
    assert fails("raw.wav: is damaged.", folder=tmp_path, make=fail, workers=workers) == "raw.wav: is damaged."
    assert "tr/mix/tone005.wav" not in tree(tmp_path)


def test_worker_that_is_killed(tmp_path, whole):
    fails("worker process was killed", "fewer than 2 workers", folder=tmp_path / "out", make=die, workers=2)
    run(plan(), tmp_path / "out", workers=1)
    assert tree(tmp_path / "out") == whole


@pytest.mark.parametrize("wrong", [make_wrong, make_short])
def test_unplanned_output_is_a_bug(tmp_path, wrong):
    with pytest.raises(RuntimeError, match="planned"):
        run(plan(wrong), tmp_path, workers=1)
