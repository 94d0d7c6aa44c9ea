"""The HTTP service: what it answers, what it refuses, and that nothing is left behind."""

import base64
import contextlib
import errno
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
import torch

from mossformer_sb import MossFormerSeparator
from mossformer_sb.cli import main
from mossformer_sb.data.audio_writing import NotWritten
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi_offline")

from mossformer_sb.inference.serving import Limits  # noqa: E402
from mossformer_sb.service.app import _as_json, create_app  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    return export(tmp_path_factory.mktemp("service") / "model", modules, 8000)


@pytest.fixture(scope="module")
def model(folder):
    return MossFormerSeparation.from_hparams(folder, device="cpu")


def audio(seconds=0.5, format="WAV"):
    buffer = io.BytesIO()
    samples = 0.1 * np.random.default_rng(0).standard_normal(round(8000 * seconds))
    soundfile.write(buffer, samples, 8000, format=format)
    return buffer.getvalue()


class Service:
    """A service in a thread of its own, on a free port."""

    def __init__(self, model, **limits):
        self.app = create_app(model, Limits(**limits))
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="critical"))

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        wait_until(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()

    def ask(self, method, path, body=None, **headers):
        """Status, headers, content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def send(self, body, path="/separate", **headers):
        return self.ask("POST", path, body, **headers)


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def service(model):
    with Service(model, megabytes=0.5, minutes=0.05, upload_seconds=1) as service:
        yield service


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where the service keeps its files; it is empty at the end of each test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    wait_until(lambda: not list(folder.iterdir()))


def form(content, field="file", filename="talk.wav"):
    head = f'--edge\r\nContent-Disposition: form-data; name="{field}"; filename="{filename}"\r\n\r\n'.encode()
    return head + content + b"\r\n--edge--\r\n", {"Content_Type": "multipart/form-data; boundary=edge"}


class TestAnswers:
    def test_zip(self, service, model, tmp_path):
        (tmp_path / "talk.wav").write_bytes(audio())
        expected = model.separate_file(
            tmp_path / "talk.wav", tmp_path / "out", "flac", level="peak", return_estimates=False
        )
        status, headers, content = service.send(audio(), "/separate?name=talk&level=peak&format=flac")
        assert status == 200 and headers["content-type"] == "application/zip" and "talk.zip" in str(headers)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.namelist() == ["talk_spk1.flac", "talk_spk2.flac"]
            assert [archive.read(name) for name in archive.namelist()] == [path.read_bytes() for path in expected]

    def test_json_from_a_form(self, service):
        body, headers = form(audio(), filename="C:\\calls\\Ünï 1.wav")
        status, _, content = service.send(body, "/separate?answer=json", **headers)
        tracks = json.loads(content)["tracks"]
        assert status == 200 and [track["name"] for track in tracks] == ["Ünï 1_spk1.wav", "Ünï 1_spk2.wav"]
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(tracks[1]["content"])))
        assert samples.shape == (4000,) and rate == 8000 and np.abs(samples).max() > 0

    def test_json_is_written_in_blocks(self, tmp_path):
        tracks = [tmp_path / f"Ünï {number}.wav" for number in (1, 2)]
        for track, size in zip(tracks, (3 * 2**17 + 1, 0), strict=True):
            track.write_bytes(np.random.default_rng(0).bytes(size))
        expected = [{"name": path.name, "content": base64.b64encode(path.read_bytes()).decode()} for path in tracks]
        written = _as_json(tracks, tmp_path, "wav").read_text(encoding="utf-8")
        assert written == json.dumps({"format": "wav", "tracks": expected}, ensure_ascii=False, separators=(",", ":"))

    @pytest.mark.parametrize("name", ["../../evil", "a/b", "\x00", "..", "x" * 500])
    def test_names_stay_in_the_archive(self, service, name):
        status, _, content = service.send(audio(), f"/separate?name={quote(name)}")
        (first, _) = zipfile.ZipFile(io.BytesIO(content)).namelist()
        assert status == 200 and re.fullmatch(r"[\w .()+-]{1,60}_spk1\.wav", first) and not first.startswith(".")

    def test_health(self, service):
        status, _, content = service.ask("GET", "/health")
        found = json.loads(content)
        assert status == 200 and found["status"] == "ok" and found["speakers"] == 2 and found["sample_rate"] == 8000
        assert found["busy"] == 0 and found["places"] == 17

    def test_description_comes_from_here(self, service):
        """The page names no address on another machine."""
        status, _, page = service.ask("GET", "/docs")
        assert status == 200 and b"swagger" in page and b"//" not in page.replace(b"://127.0.0.1", b"")
        for address in re.findall(rb'(?:src|href)="([^"]+)"', page):
            assert service.ask("GET", address.decode())[0] == 200
        assert "/separate" in json.loads(service.ask("GET", "/openapi.json")[2])["paths"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "path", "status", "message"),
        [
            (b"", "/separate", 400, "the request has no body: send an audio file"),
            (b"no audio", "/separate?name=talk", 422, "talk: can't be read as audio"),
            (audio(0.002), "/separate?name=short", 422, "short: has 16 samples at the model's 8000 Hz"),
            (audio(4, "FLAC"), "/separate", 413, "lasts 4 seconds; the maximum is 3 seconds"),
            (b"\0" * 600_000, "/separate", 413, "the request is larger than 0.5 MB"),
            (iter([b"\0" * 100_000] * 6), "/separate", 413, "the request is larger than 0.5 MB"),
            (audio(), "/separate?format=aac", 422, "format"),
            (audio(), "/separate?fromat=flac", 422, "unknown parameter fromat: the parameters are answer, channel, "),
            (audio(), "/separate?channel=3", 422, "has no channel 3"),
        ],
    )
    def test_messages(self, service, body, path, status, message):
        found, _, content = service.send(body, path)
        assert found == status and message in content.decode() and "mossformer-sb-" not in content.decode()

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"--edge\r\nnothing of a form", "the form can't be read"),
            (form(audio(), field="audio")[0], "the form has no file field named 'file'"),
            (form(b"")[0], "the request has no body"),
        ],
    )
    def test_forms(self, service, body, message):
        status, _, content = service.send(body, Content_Type="multipart/form-data; boundary=edge")
        assert status == 400 and message in content.decode()

    def test_a_form_without_a_boundary(self, service):
        status, _, content = service.send(b"x", Content_Type="multipart/form-data")
        assert status == 400 and "the form can't be read" in content.decode()

    def test_a_client_that_stops_sending(self, service):
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(b"POST /separate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
            client.settimeout(20)
            assert b"408" in client.recv(1000)

    def test_a_client_that_never_ends(self, model):
        with Service(model, upload_minutes=0.5 / 60) as service:
            with socket.create_connection(("127.0.0.1", service.port)) as client:
                client.sendall(b"POST /separate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
                client.settimeout(0.05)
                answer = b""
                for _ in range(200):
                    with contextlib.suppress(OSError):  # one byte at a time, also after the answer
                        client.sendall(b"a")
                    with contextlib.suppress(TimeoutError):
                        answer += client.recv(1000)
                    if b"408" in answer and b"maximum" in answer:
                        break
                else:
                    pytest.fail(f"the upload went on: {answer!r}")
            wait_until(lambda: service.app.state.turns.taken == 0)

    @pytest.mark.parametrize("stage", ["receive", "_separate", "_as_json", "_as_zip"])
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), 507),
            (NotWritten("talk_spk1.wav: can't be written (System error)."), 507),
            (MemoryError(), 503),
        ],
    )
    def test_a_fault_of_the_server(self, service, monkeypatch, stage, error, status):
        def fails(*_):
            raise error

        async def fails_later(*_):
            raise error

        monkeypatch.setattr(f"mossformer_sb.service.app.{stage}", fails_later if stage == "receive" else fails)
        answer = "zip" if stage == "_as_zip" else "json"
        found, _, content = service.send(audio(0.1), f"/separate?answer={answer}")
        assert found == status and b"Try again later" in content

    def test_tracks_that_do_not_fit_the_disk(self, service, monkeypatch):
        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        body = audio(0.1)
        monkeypatch.setattr("mossformer_sb.data.audio_writing.soundfile.SoundFile", full)
        assert service.send(body)[0] == 507

    def test_a_length_that_is_only_known_after_reading(self, service, monkeypatch):
        monkeypatch.setattr("mossformer_sb.inference.serving.Recording", lambda path: Unknown())
        assert service.send(audio())[0] == 413


class Unknown:
    """A recording of four seconds whose header does not say so."""

    sample_rate, num_samples = 8000, None

    def blocks(self):
        return iter([np.zeros(8000)] * 4)


class Slow:
    """A model that waits until it may go on, and counts what it begins."""

    def __init__(self, model):
        self.model, self.hparams = model, model.hparams
        self.begun, self.go = 0, threading.Event()

    def separate_file(self, *arguments, **options):
        self.begun += 1
        assert self.go.wait(60)
        return self.model.separate_file(*arguments, **options)


class TestLoad:
    def test_more_than_can_wait(self, model):
        slow, found = Slow(model), []
        with Service(slow, waiting=1) as service:
            clients = [threading.Thread(target=lambda: found.append(service.send(audio())[0])) for _ in range(2)]
            for client in clients:
                client.start()
            wait_until(lambda: service.app.state.turns.taken == 2 and slow.begun == 1)
            status, headers, content = service.send(audio())
            assert status == 429 and int(headers["retry-after"]) > 0 and b"Try again later" in content
            slow.go.set()
            for client in clients:
                client.join()
            assert found == [200, 200] and service.send(audio())[0] == 200

    def test_a_client_that_goes_while_it_waits(self, model):
        """What has not begun is not begun."""
        slow, found = Slow(model), []
        with Service(slow, waiting=1) as service:
            client = threading.Thread(target=lambda: found.append(service.send(audio())[0]))
            client.start()
            wait_until(lambda: slow.begun == 1)
            with socket.create_connection(("127.0.0.1", service.port)) as gone:
                body = audio()
                gone.sendall(
                    f"POST /separate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
                )
                wait_until(lambda: service.app.state.turns.taken == 2)
            wait_until(lambda: service.app.state.turns.taken == 1)
            slow.go.set()
            client.join()
            assert found == [200] and slow.begun == 1

    def test_a_client_that_goes_in_the_middle_of_its_body(self, service, temporary):
        with socket.create_connection(("127.0.0.1", service.port)) as gone:
            gone.sendall(b"POST /separate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
            wait_until(lambda: service.app.state.turns.taken == 1)
        wait_until(lambda: service.app.state.turns.taken == 0)

    def test_a_client_that_does_not_take_its_answer(self, model, temporary):
        with Service(model) as service:
            body = audio(60)
            client = socket.create_connection(("127.0.0.1", service.port))
            client.sendall(f"POST /separate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            assert client.recv(15) == b"HTTP/1.1 200 OK"
            assert list(temporary.iterdir())
            client.close()
            wait_until(lambda: not list(temporary.iterdir()) and service.app.state.turns.taken == 0)


class TestCommand:
    def test_sigterm_lets_the_accepted_finish(self, folder, tmp_path):
        command = [sys.executable, "-m", "mossformer_sb.cli", "serve", "--model", str(folder), "--port", "0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if "Uvicorn running" in line:
                    break
            port = int(re.search(r"127\.0\.0\.1:(\d+)", lines[-1]).group(1))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            connection.request("POST", "/separate", audio(20))
            wait_until(lambda: json.loads(health(port))["busy"] == 1)
            process.send_signal(signal.SIGTERM)
            answer = connection.getresponse()
            assert answer.status == 200
            assert len(zipfile.ZipFile(io.BytesIO(answer.read())).namelist()) == 2
            connection.close()
            process.stderr.read()
            assert process.wait(60) in (0, -signal.SIGTERM)

    def test_a_port_that_is_taken(self, folder, capsys):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            assert main(["serve", "--model", str(folder), "--port", port, "--device", "cpu"]) == 2
        assert f"can't listen on 127.0.0.1:{port}" in capsys.readouterr().err

    def test_wrong_limits(self, capsys):
        assert main(["serve", "--max_minutes", "0"]) == 2
        assert "max_minutes must be greater than 0; found 0.0" in capsys.readouterr().err
        assert main(["serve", "--max_waiting", "-1"]) == 2
        assert "max_waiting must be 0 or more" in capsys.readouterr().err
        assert main(["serve", "--max_megabytes", "inf"]) == 2
        assert "max_megabytes must be a finite number; found inf" in capsys.readouterr().err

    @pytest.mark.parametrize("port", ["70000", "-1"])
    def test_a_port_that_is_none(self, port, capsys):
        assert main(["serve", "--port", port]) == 2
        assert f"port must be from 0 (any free one) to 65535; found {port}" in capsys.readouterr().err

    def test_without_its_packages(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "uvicorn", None)
        assert main(["serve"]) == 2
        assert "pip install 'mossformer_sb[serve]'" in capsys.readouterr().err


def health(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/health")
        return connection.getresponse().read()
