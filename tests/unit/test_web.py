"""The page's parts without a browser: limits, messages, temporary files, taking turns, pictures, and the Space."""

import importlib.util
import io
import shutil
import subprocess
import sys
import threading
import time
import types
import typing
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from ruamel.yaml import YAML

from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.cli import main
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.inference.serving import Limits
from mossformer_sb.sharing.folder import export
from mossformer_sb.web import EXAMPLE
from mossformer_sb.web.models import Models
from mossformer_sb.web.result_html import error_html, result_html, ticks
from mossformer_sb.web.separating import (
    Cancelled,
    Options,
    Progress,
    command_line,
    python_lines,
    separate_recording,
)
from mossformer_sb.web.server import Settings
from mossformer_sb.web.space import _unique_names, write_space
from mossformer_sb.web.spectrogram import COLUMNS, ROWS, png, power_spectrogram
from mossformer_sb.web.timeline import active_times, frame_powers, speaking_times
from mossformer_sb.web.visits import Visits

RATE = 8000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    return export(tmp_path_factory.mktemp("export") / "model", modules, RATE)


@pytest.fixture(scope="module")
def models(model):
    return Models([model], device="cpu")


@pytest.fixture
def talk(tmp_path):
    path = tmp_path / "talk.wav"
    soundfile.write(path, 0.1 * np.random.randn(RATE, 2), RATE)
    return path


def separate(path, folder, models, progress=None, max_seconds=60.0, **options):
    folder.mkdir(exist_ok=True)
    label = models.labels[0]
    limits = Limits(minutes=max_seconds / 60)
    return separate_recording(path, folder, models, label, Options(**options), progress or Progress(), limits)


class TestSeparating:
    def test_what_a_visitor_gets(self, talk, tmp_path, models, model):
        result = separate(talk, tmp_path / "token", models, format="flac", level="peak")
        assert (result.name, result.seconds, result.sample_rate, result.model_rate) == ("talk.wav", 1.0, RATE, RATE)
        assert [track.name for track in result.tracks] == ["Mixture", "Speaker 1", "Speaker 2"]
        files = {path.name for path in (tmp_path / "token").iterdir()}
        speakers = ["talk_spk1.flac", "talk_spk2.flac"]
        assert files == {"mixture.wav", "talk_speakers.zip", *speakers}
        with zipfile.ZipFile(tmp_path / "token" / result.archive) as archive:
            assert archive.namelist() == speakers
            assert archive.read(speakers[0]) == (tmp_path / "token" / speakers[0]).read_bytes()
        mixture = soundfile.read(tmp_path / "token/mixture.wav", dtype="float32")[0]
        np.testing.assert_allclose(mixture, soundfile.read(talk)[0].mean(1), atol=1e-6)

    @pytest.mark.parametrize("options", [{}, {"format": "flac", "level": "peak", "channel": 1}])
    def test_the_shown_lines_do_the_same(self, talk, tmp_path, monkeypatch, models, model, options):
        separate(talk, tmp_path / "token", models, **options)
        (expected,) = (tmp_path / "token").glob("talk_spk2.*")
        monkeypatch.chdir(tmp_path)
        found = tmp_path / "separated" / expected.name
        exec(python_lines(str(model), "talk.wav", Options(**options)), {})
        assert np.array_equal(soundfile.read(found)[0], soundfile.read(expected)[0])
        found.unlink()
        words = command_line(str(model), "talk.wav", Options(**options)).split()
        assert words[0] == "mossformer-sb" and main(words[1:]) == 0
        assert np.array_equal(soundfile.read(found)[0], soundfile.read(expected)[0])

    def test_a_name_that_looks_like_an_option(self):
        assert command_line(None, "-x.wav", Options()) == "mossformer-sb separate ./-x.wav"

    @pytest.mark.parametrize("content", [b"no audio", b""])
    def test_the_messages_are_those_of_the_command_line(self, tmp_path, models, model, content, monkeypatch, caplog):
        (tmp_path / "bad.wav").write_bytes(content)
        with pytest.raises(InputError) as error:
            separate(tmp_path / "bad.wav", tmp_path / "token", models)
        monkeypatch.chdir(tmp_path)
        assert main(["separate", "bad.wav", "--model", str(model), "--device", "cpu"]) == 1
        (told,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert str(error.value).startswith("bad.wav: ")
        assert told.replace(f"{tmp_path}/", "") == f"failed: {error.value}"
        assert not list((tmp_path / "token").iterdir())

    def test_a_channel_that_is_not_there(self, talk, tmp_path, models):
        with pytest.raises(InputError, match="^talk.wav: has no channel 2"):
            separate(talk, tmp_path / "token", models, channel=2)

    def test_options_that_are_not_known(self):
        with pytest.raises(InputError, match="format 'exe' is not known"):
            Options(format="exe")
        with pytest.raises(InputError, match="level 'loud' is not known"):
            Options(level="loud")

    def test_too_long(self, talk, tmp_path, models):
        assert Limits(minutes=1 / 60).check_length(talk) == 1.0
        with pytest.raises(InputError, match="^talk.wav: lasts 1 seconds; the maximum is 0.5 seconds. Cut it"):
            separate(talk, tmp_path / "token", models, max_seconds=0.5)
        assert not list((tmp_path / "token").iterdir())

    def test_progress_and_stop(self, tmp_path, models, monkeypatch):
        """Parts of a long recording are reported; a stop between them ends the work and leaves nothing."""
        path = tmp_path / "long.wav"
        soundfile.write(path, 0.1 * np.random.randn(150 * RATE), RATE)
        calls = []
        monkeypatch.setattr(
            MossFormerSeparation, "separate_batch", lambda self, mix: calls.append(0) or torch.stack([mix, mix], 2)
        )

        class StopAtHalf(Progress):
            def separated(self, num_done, num_samples):
                super().separated(num_done, num_samples)
                self.cancelled = self.fraction > 0.3

        progress = StopAtHalf()
        with pytest.raises(Cancelled):
            separate(path, tmp_path / "token", models, progress, max_seconds=300.0)
        assert progress.stage == "Separating" and 0.3 < progress.fraction < 0.9 and len(calls) == 2
        assert not list((tmp_path / "token").iterdir())
        progress = Progress()
        separate(path, tmp_path / "token", models, progress, max_seconds=300.0)
        assert len(calls) > 4

    def test_silence(self, tmp_path, models):
        soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
        result = separate(tmp_path / "silence.wav", tmp_path / "token", models)
        assert [track.times for track in result.tracks] == [None, [], []]
        assert "Speaker 1 is silent." in result_html(result)


class TestPage:
    @pytest.fixture
    def page(self, tmp_path, models):
        pytest.importorskip("gradio")
        from mossformer_sb.web.page import Page

        visits = Visits(parent=tmp_path)
        yield Page(models, visits, Limits(minutes=2))
        visits.close()

    def events(self, page, path):
        visit = types.SimpleNamespace(session_hash="visit")
        return page.separate("file", path, None, page.models.labels[0], "wav", "mixture", -1, visit)

    def test_from_the_click_to_the_result(self, page, talk):
        *_, (shown, start, stop) = self.events(page, talk)
        assert "Speaker 2" in shown and start["interactive"] and not stop["visible"]
        (folder,) = page.visits.results.iterdir()
        assert page.visits.find(folder.name, "talk_spk2.wav") and f"results/{folder.name}/talk_spk2.wav" in shown

    def test_a_separation_that_takes_long_is_not_swept(self, page, talk, monkeypatch):
        def sweep(self, mix):
            page.visits.keep_seconds = -1.0  # older than now is what was made now
            page.visits.sweep()
            return torch.stack([mix, mix], 2)

        monkeypatch.setattr(MossFormerSeparation, "separate_batch", sweep)
        *_, (shown, _, _) = self.events(page, talk)
        assert "Speaker 2" in shown

    def test_who_leaves_stops_the_work(self, page, tmp_path, monkeypatch):
        path, started, go_on = tmp_path / "long.wav", threading.Event(), threading.Event()
        soundfile.write(path, 0.1 * np.random.randn(62 * RATE), RATE)

        def slow(self, mix):
            started.set()
            go_on.wait(10)
            return torch.stack([mix, mix], 2)

        monkeypatch.setattr(MossFormerSeparation, "separate_batch", slow)
        events = self.events(page, path)
        assert "ms-status" in next(events)[0]
        assert started.wait(10) and list(page.visits.results.iterdir())
        events.close()
        go_on.set()
        for thread in threading.enumerate():
            if thread.name == "separation":
                thread.join(10)
        assert not list(page.visits.results.iterdir())

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (torch.OutOfMemoryError("no room"), "talk.wav: no room"),
            (
                ZeroDivisionError("bug"),
                "This failed because of a bug in the program; its traceback is in the terminal.",
            ),
        ],
    )
    def test_errors_are_shown_and_leave_nothing(self, page, talk, monkeypatch, caplog, error, message):
        def fail(self, mix):
            raise error

        monkeypatch.setattr(MossFormerSeparation, "separate_batch", fail)
        *_, (shown, start, stop) = self.events(page, talk)
        assert message in shown and "ms-error" in shown and start["interactive"] and not stop["visible"]
        assert not list(page.visits.results.iterdir())
        assert ("ZeroDivisionError: bug" in caplog.text) is isinstance(error, ZeroDivisionError)

    def test_an_upload_that_is_gone(self, page, tmp_path):
        ((shown, _, _),) = self.events(page, tmp_path / "gone.wav")
        assert "gone.wav: has expired" in shown


class TestModels:
    def test_without_any(self, monkeypatch, tmp_path):
        monkeypatch.setattr("mossformer_sb.pretrained.FOLDER", tmp_path)
        with pytest.raises(InputError, match="no model is given"):
            Models()

    def test_the_packages_own_comes_last(self, monkeypatch, tmp_path, model):
        (tmp_path / "mossformer-small-8k").mkdir()
        (tmp_path / "mossformer-small-8k" / "config.json").touch()
        monkeypatch.setattr("mossformer_sb.pretrained.FOLDER", tmp_path)
        found = Models([model])
        assert found.labels == ["model", "mossformer-small-8k, of the package"]
        assert found.source(found.labels[1]) is None and found.public_name(found.labels[0]) == "model"

    def test_what_is_not_in_the_list(self, model):
        with pytest.raises(InputError, match="model '/etc' is not known here: choose one of model"):
            Models([model]).source("/etc")
        assert Models([model], any_model=True).source(" /etc ") == "/etc"
        with pytest.raises(InputError, match="no model is chosen"):
            Models([model], any_model=True).source(None)

    def test_released_ones_are_offered_on_this_machine_alone(self, monkeypatch, model):
        released = types.ModuleType("mossformer_sb.sharing.released")
        released.RELEASED = {"big-model": types.SimpleNamespace(megabytes=670)}
        monkeypatch.setitem(sys.modules, released.__name__, released)
        assert Models([model]).labels[0] == Models([model]).local_labels[0] == "model"
        assert not any("big-model" in label for label in Models([model]).labels)
        found = Models([model], any_model=True)
        label = "big-model, released (670 MB, downloaded once)"
        assert label in found.labels and label not in found.local_labels and found.source(label) == "big-model"

    def test_loaded_once(self, models):
        assert models.load(models.labels[0]) is models.load(models.labels[0])

    def test_one_at_a_time_in_order(self, models):
        label, order, waits = models.labels[0], [], []
        running, everybody = threading.Semaphore(1), threading.Event()

        def visit(number):
            with models.turn(label, waits.append):
                assert running.acquire(blocking=False)  # nobody else is inside
                everybody.wait(10)
                order.append(number)
                running.release()

        threads = [threading.Thread(target=visit, args=(number,)) for number in range(3)]
        for number, thread in enumerate(threads):
            thread.start()
            while len(waits) < number:  # until the one before is in the queue
                time.sleep(0.01)
        everybody.set()
        for thread in threads:
            thread.join()
        assert order == [0, 1, 2] and set(waits) == {1, 2}

    def test_who_leaves_while_waiting_is_out(self, models):
        label = models.labels[0]

        def leave(_):
            raise Cancelled

        with models.turn(label):
            with pytest.raises(Cancelled), models.turn(label, leave):
                pass
        with models.turn(label):
            pass


class TestVisits:
    @pytest.fixture
    def visits(self, tmp_path):
        visits = Visits(parent=tmp_path)
        yield visits
        visits.close()
        assert not visits.root.exists()

    def upload(self, visits, name):
        folder = visits.new_upload_folder()
        (folder / name).touch()
        return folder / name

    def test_a_new_result_takes_the_place_of_the_last(self, visits):
        first, other = visits.new_result("a"), visits.new_result("b")
        second = visits.new_result("a")
        assert not first.exists() and second.exists() and other.exists()
        visits.end("a")
        assert not second.exists() and other.exists()

    def test_uploads_end_with_the_last_visit_that_has_them(self, visits):
        shared, own = self.upload(visits, "x.wav"), self.upload(visits, "y.wav")
        visits.keep_uploads("a", [shared, own])
        visits.keep_uploads("b", [shared])
        visits.end("a")
        assert shared.exists() and not own.parent.exists()
        visits.keep_uploads("b", [])
        assert not shared.parent.exists()

    def test_files_elsewhere_are_not_touched(self, visits, tmp_path):
        with pytest.raises(ValueError):
            visits.keep_uploads("a", [tmp_path / "mine.wav"])

    def test_old_files(self, tmp_path):
        visits = Visits(keep_seconds=0.1, parent=tmp_path)
        old, upload = visits.new_result("a"), self.upload(visits, "x.wav")
        time.sleep(0.2)
        new = visits.new_result("b")
        visits.sweep()
        assert not old.exists() and not upload.exists() and new.exists()
        visits.close()

    def test_those_of_a_separation_that_waits_are_not_old(self, tmp_path):
        visits = Visits(keep_seconds=0.2, parent=tmp_path)
        folder, upload = visits.new_result("a"), self.upload(visits, "x.wav")
        with visits.in_use(upload, folder):
            time.sleep(0.3)
            visits.sweep()
            assert folder.exists() and upload.exists()
        visits.sweep()
        assert folder.exists() and upload.exists()
        time.sleep(0.3)
        visits.sweep()
        assert not folder.exists() and not upload.exists()
        visits.close()

    @pytest.mark.parametrize(
        ("token", "name"), [("..", "secret"), ("{}", "../../secret"), ("{}", "\0"), ("", "secret"), ("{}", "absent")]
    )
    def test_only_files_of_results_are_found(self, visits, token, name):
        folder = visits.new_result("a")
        (visits.root / "secret").touch(), (folder / "talk.wav").touch()
        assert visits.find(folder.name, "talk.wav") == folder / "talk.wav"
        assert visits.find(token.format(folder.name), name) is None


class TestPictures:
    @pytest.mark.parametrize("rate", [8000, 44100])
    @pytest.mark.parametrize("seconds", [0.001, 0.5, 40])
    def test_a_tone_is_where_it_belongs_at_any_length(self, rate, seconds):
        num_samples = int(seconds * rate)
        signal = np.sin(2 * np.pi * 1000 * np.arange(num_samples) / rate).astype(np.float32)
        blocks = np.array_split(signal, max(1, num_samples // 50000))
        power, highest = power_spectrogram(blocks, num_samples, rate)
        assert highest == min(rate / 2, 8000) and power.shape[1] <= COLUMNS and power.shape[0] <= ROWS
        if seconds >= 0.5:
            rows = power.argmax(0)
            found = (rows + 0.5) / len(power) * highest
            assert np.abs(found - 1000).max() < 2 * highest / len(power)
            assert power.max(0).min() > 0.5 * power.max()  # in all columns

    def test_time_runs_to_the_right_and_frequency_upwards(self):
        signal = np.concatenate((np.zeros(RATE), np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE)))
        power, _ = power_spectrogram([signal], len(signal), RATE)
        from matplotlib.image import imread

        picture = imread(io.BytesIO(png(power, power.max())))[..., :3].sum(2)
        top_left, low_right = picture[: len(picture) // 2], picture[len(picture) // 2 :, picture.shape[1] // 2 :]
        assert low_right.max() > 2.5 and top_left[:, : picture.shape[1] // 3].max() < 0.1

    def test_who_speaks_when(self):
        """Traces of the other speaker don't count, short pauses do not cut, clicks are no speech."""
        rng = np.random.default_rng(0)
        first, second = np.zeros((2, 5 * RATE))
        first[: 2 * RATE] = rng.standard_normal(2 * RATE)
        first[RATE : RATE + 1600] = 0  # 0.2 s
        second[3 * RATE :] = rng.standard_normal(2 * RATE)
        second += 0.03 * first
        first[int(2.5 * RATE) : int(2.5 * RATE) + 320] = 1.0  # 0.04 s
        powers = np.stack([frame_powers([signal], RATE) for signal in (first, second)], axis=1)
        assert speaking_times(powers) == [[(0.0, 2.0)], [(3.0, 5.0)]]

    def test_a_detector_of_speech_is_used_where_there_is_one(self, tmp_path, monkeypatch):
        activity = types.ModuleType("mossformer_sb.inference.activity")

        class ActivityDetector:
            def __init__(self, num_spks, sample_rate, analysed_rate):
                self.arguments = num_spks, sample_rate, analysed_rate

            def segments(self, blocks, meter):
                blocks = np.concatenate(list(blocks))
                assert self.arguments == (2, 16000, RATE) and meter.num_samples == len(blocks) == 150000
                return [[(0.0, float(column.max()))] for column in blocks.T]

        activity.ActivityDetector = ActivityDetector
        monkeypatch.setitem(sys.modules, activity.__name__, activity)
        paths = [tmp_path / name for name in ("mixture.wav", "one.wav", "two.flac")]
        for path, value in zip(paths, (0.75, 0.25, 0.5), strict=True):
            soundfile.write(path, np.full(150000, value), 16000)
        assert active_times(paths[1:], paths[0], RATE) == [[(0.0, 0.25)], [(0.0, 0.5)]]

    def test_ticks_are_few_and_within(self):
        for end in (0.001, 0.3, 1, 7.99, 60, 3600):
            found = ticks(end)
            assert found[0] == 0 and found[-1] <= end and 2 <= len(found) <= 7


@pytest.mark.parametrize("action", ["separate", "take_example", "keep", "leave"])
def test_gradio_passes_the_request(action):
    """It evaluates all annotations of an action, and passes no request if a name in them is unknown at runtime."""
    gradio = pytest.importorskip("gradio")
    from mossformer_sb.web.page import Page

    assert typing.get_type_hints(getattr(Page, action))["request"] is gradio.Request


def test_names_of_files_are_text_in_the_page(tmp_path, models):
    path = tmp_path / "<img src=x onerror=alert(1)> & ${1}.wav"
    soundfile.write(path, 0.1 * np.random.randn(RATE), RATE)
    shown = result_html(separate(path, tmp_path / "token", models))
    assert "<img src=x" not in shown and "&lt;img src=x onerror=alert(1)&gt; &amp; ${1}.wav" in shown
    assert "%3Cimg%20src%3Dx" in shown
    assert "<b>" not in error_html("<b>")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "port must be from 0"),
        (["--max_minutes", "0"], "max_minutes must be greater than 0"),
        (["--host", "no.such.host.invalid"], "can't listen on no.such.host.invalid, port 7860"),
        (["--model", "no/such/folder"], "no/such/folder"),
    ],
)
def test_wrong_options(model, capsys, options, message):
    pytest.importorskip("gradio")
    assert main(["web", *([] if "--model" in options else ["--model", str(model)]), "--device", "cpu", *options]) == 2
    assert message in capsys.readouterr().err


def test_without_the_extra(model, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gradio" else find(name))
    assert main(["web", "--model", str(model)]) == 2
    assert "needs gradio, which is not installed: pip install 'mossformer_sb[web]'" in capsys.readouterr().err


def test_who_can_reach_it():
    for host, local in [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("box", False)]:
        assert Settings(host=host).is_local is local and Settings(host=host).any_model is local
        assert not Settings(host=host, listed_only=True).any_model


class TestSpace:
    def test_its_files(self, model, tmp_path, capsys):
        pytest.importorskip("gradio")
        folder = tmp_path / "space"
        options = ["--model", str(model), "--space", str(folder), "--max_minutes", "3", "--device", "cpu"]
        assert main(["web", *options]) == 0
        assert sorted(path.name for path in folder.iterdir()) == ["README.md", "app.py", "model", "requirements.txt"]
        header = YAML(typ="safe").load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
        assert header["sdk"] == "gradio" and header["app_file"] == "app.py" and header["sdk_version"][0] == "6"
        assert "mossformer_sb[web]==" in (folder / "requirements.txt").read_text()
        code = (folder / "app.py").read_text()
        names = {"__file__": str(folder / "app.py"), "__name__": "app"}
        exec(compile(code, "app.py", "exec"), names)
        settings = names["settings"]
        assert (settings.models, settings.host, settings.port) == ((str(folder / "model"),), "0.0.0.0", 7860)
        assert settings.max_minutes == 3
        assert names_in(folder / "model") == ["README.md", "config.json", "model.safetensors"]
        assert main(["web", *options]) == 2
        assert "exists, and is not empty" in capsys.readouterr().err

    def test_the_output_folder_of_a_training(self, model, tmp_path):
        """Its checkpoints, logs and audio stay here."""
        pytest.importorskip("gradio")
        training = tmp_path / "demo"
        shutil.copytree(model, training / "export")
        (training / "hyperparams.yaml").write_text(f"output_folder: {training}\nsave_folder: {training}/save\n")
        for name in ("save/model.ckpt", "train_log.txt", "test_manifest.csv", "export/examples/mixture.wav"):
            (training / name).parent.mkdir(exist_ok=True)
            (training / name).touch()
        settings = Settings(models=(str(training),), device="cpu", max_minutes=float("inf"))
        write_space(tmp_path / "space", settings)
        assert names_in(tmp_path / "space/demo") == ["README.md", "config.json", "model.safetensors"]
        assert Models([tmp_path / "space/demo"], device="cpu").load("demo").hparams.num_spks == 2
        assert 'max_minutes=float("inf"),' in (tmp_path / "space/app.py").read_text()


def test_a_space_in_the_home_folder(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "thesis.txt").touch()
    with pytest.raises(InputError, match="keep: exists, and is not empty"):
        write_space("~/keep", Settings(models=(str(model),), device="cpu"))
    assert names_in(tmp_path / "keep") == ["thesis.txt"]


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom mossformer_sb.cli import main\n"
        "try: main(['web', '--help'])\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "--space" in done.stdout and done.stdout.endswith("False\n")


def test_the_example_is_a_recording():
    assert Limits(minutes=10 / 60).check_length(Path(EXAMPLE)) == 8.0


def test_models_of_one_name_have_folders_of_their_own():
    sources = ["a/m", "b/m-3", "c/m", "d/m", "e/m-2"]
    names = _unique_names(sources)
    assert list(names) == sources and len(set(names.values())) == 5
