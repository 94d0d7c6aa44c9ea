"""The page in a browser: actions of visitors, isolation between them, no requests to other servers, and no files left
behind."""

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mossformer_sb import MossFormerSeparator
from mossformer_sb.sharing.folder import export
from mossformer_sb.web import EXAMPLE
from mossformer_sb.web.server import Settings, running

CHROMIUM, CHROMEDRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
RATE = 8000
LONGEST = 30  # seconds that one step of a page may take on a busy machine

pytest.importorskip("gradio")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM.is_file() and CHROMEDRIVER.is_file()), reason="needs Debian's chromium and chromium-driver"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    return export(tmp_path_factory.mktemp("export") / "model", modules, RATE)


@pytest.fixture(scope="module")
def server(model):
    """A page that takes 20 seconds and 1 MB, in this process."""
    settings = Settings(models=(str(model),), port=0, device="cpu", max_minutes=20 / 60, max_megabytes=1)
    with running(settings) as server:
        yield server
    assert not server.visits.root.exists()


@pytest.fixture(scope="module")
def microphone_file(tmp_path_factory):
    """The looped input of Chromium's microphone: a tone of 440 Hz."""
    path = tmp_path_factory.mktemp("microphone") / "tone.wav"
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * np.arange(48000 * 5) / 48000), 48000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory, microphone_file):
    """A headless Chromium, driven by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "downloads").mkdir()
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    switches = (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1200,1000",
        "autoplay-policy=no-user-gesture-required",
        "use-fake-device-for-media-stream",
        "use-fake-ui-for-media-stream",
        f"use-file-for-fake-audio-capture={microphone_file}",
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"user-data-dir={folder / 'profile'}",
    )
    for switch in switches:
        options.add_argument(f"--{switch}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(CHROMEDRIVER)))
    driver.downloads = folder / "downloads"
    yield driver
    driver.quit()


class Visitor:
    """One tab of the browser, with a visitor's actions."""

    def __init__(self, browser, address):
        browser.switch_to.new_window("tab")
        self.browser, self.tab = browser, browser.current_window_handle
        browser.get(address)
        self.find("#ms-lines button").click()
        self.wait(lambda: "separate_file" in self.code())  # the page is alive

    def show(self):
        self.browser.switch_to.window(self.tab)

    def wait(self, condition):
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = [StaleElementReferenceException]
        return WebDriverWait(self.browser, LONGEST, 0.1, ignored).until(lambda _: condition())

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def find(self, selector):
        return self.wait(lambda: next(iter(self.all(selector)), None))

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def give(self, path):
        """Drop a file, and wait until it has arrived."""
        self.clear()
        self.find("#ms-file input[type=file]").send_keys(str(path))
        self.wait(lambda: f'"{Path(path).name}"' in self.code())

    def clear(self):
        """Remove the uploaded recording."""
        self.run("document.querySelectorAll('#ms-file button[aria-label=Clear]').forEach(button => button.click())")
        self.wait(lambda: '"talk.wav"' in self.code())

    def start(self):
        self.find("#ms-start").click()

    def result(self):
        """Text of what comes out: a result, or a message about what is wrong."""
        self.wait(lambda: self.all(".ms-result, .ms-error"))
        return self.find(".ms-result, .ms-error").text

    def code(self):
        return self.run("return [...document.querySelectorAll('#ms-lines .cm-line')].map(x => x.textContent).join('')")

    def close(self):
        self.show()
        self.browser.close()
        self.browser.switch_to.window(self.browser.window_handles[0])


@pytest.fixture
def visitor(browser, server):
    visitor = Visitor(browser, server.address)
    yield visitor
    visitor.close()


def fetch(address):
    with urllib.request.urlopen(address, timeout=LONGEST) as response:
        return response.read()


@needs_chromium
class TestInTheBrowser:
    def test_a_dropped_file(self, visitor, tmp_path, server):
        """Separated, played, seen, and downloaded, one and all."""
        samples = 0.1 * np.random.randn(2 * RATE)
        soundfile.write(tmp_path / "my talk.wav", samples, RATE)
        visitor.give(tmp_path / "my talk.wav")
        visitor.start()
        text = visitor.result()
        assert "my talk.wav" in text and "2.0 s at 8000 Hz, separated into 2 speakers" in text
        assert [heading.text for heading in visitor.all(".ms-track h3")] == ["Mixture", "Speaker 1", "Speaker 2"]

        # Spectrograms: drawn, of one size, one below the other; described.
        pictures = visitor.all(".ms-image img")
        assert len(pictures) == 3 and all(visitor.run("return arguments[0].naturalWidth", p) > 50 for p in pictures)
        assert len({(p.rect["x"], p.rect["width"], p.rect["height"]) for p in pictures}) == 1
        descriptions = [picture.get_attribute("alt") for picture in pictures]
        assert descriptions[0] == "Spectrogram of the mixture, 0 to 2.0 s and 0 to 4 kHz."
        assert descriptions[1].startswith("Spectrogram of speaker 1, 0 to 2.0 s and 0 to 4 kHz. Speaker 1")
        assert len(visitor.all(".ms-bars[role=img][aria-label]")) == 2

        # One player at a time, and a line follows it.
        mixture, first, _ = visitor.all(".ms-track audio")
        visitor.run("arguments[0].play(); ", mixture)
        visitor.wait(lambda: visitor.run("return arguments[0].currentTime", mixture) > 0.1)
        assert float(visitor.find(".ms-cursor").value_of_css_property("opacity")) > 0.5
        visitor.run("arguments[0].play()", first)
        visitor.wait(lambda: visitor.run("return arguments[0].currentTime", first) > 0)
        assert visitor.run("return [arguments[0].paused, arguments[1].paused]", mixture, first) == [True, False]
        assert visitor.run("return arguments[0].duration", first) == pytest.approx(2.0, abs=0.01)

        # Both kinds of downloads.
        _, one, all_of_them = sorted(visitor.all(".ms-result a[download]"), key=lambda link: "zip" in link.text)
        one.click(), all_of_them.click()
        downloads = visitor.browser.downloads
        visitor.wait(lambda: {"my talk_spk2.wav", "my talk_speakers.zip"} <= {p.name for p in downloads.iterdir()})
        assert soundfile.info(downloads / "my talk_spk2.wav").frames == 2 * RATE
        with zipfile.ZipFile(downloads / "my talk_speakers.zip") as archive:
            assert archive.namelist() == ["my talk_spk1.wav", "my talk_spk2.wav"]
            assert archive.read("my talk_spk2.wav") == (downloads / "my talk_spk2.wav").read_bytes()

    def test_wrong_files(self, visitor, tmp_path):
        """The messages of the command line, in the page; the next file goes through."""
        (tmp_path / "notes.txt").write_text("no audio")
        soundfile.write(tmp_path / "long.flac", np.zeros(21 * RATE), RATE)
        soundfile.write(tmp_path / "large.wav", np.random.randn(600000), RATE)
        soundfile.write(tmp_path / "fine.wav", 0.1 * np.random.randn(RATE), RATE)
        visitor.start()
        assert visitor.result() == "There is no recording yet: drop a file first, or take the example."
        visitor.give(tmp_path / "notes.txt")
        visitor.start()
        visitor.wait(lambda: "notes" in visitor.find(".ms-error").text)
        assert visitor.result().startswith("notes.txt: can't be read as audio")
        visitor.give(tmp_path / "long.flac")
        visitor.start()
        visitor.wait(lambda: "long.flac" in visitor.find(".ms-error").text)
        assert "long.flac: lasts 21 seconds; the maximum is 20 seconds" in visitor.result()
        visitor.clear()
        visitor.find("#ms-file input[type=file]").send_keys(str(tmp_path / "large.wav"))
        visitor.wait(
            lambda: "exceed the maximum allowed size of 976.6 Kb" in visitor.find("[data-testid=toast-text]").text
        )
        visitor.give(tmp_path / "fine.wav")
        visitor.start()
        visitor.wait(lambda: visitor.all(".ms-result"))

    def test_the_microphone(self, visitor):
        """The input of Chromium's microphone is separated."""
        next(tab for tab in visitor.all("button[role=tab]") if "microphone" in tab.text).click()
        visitor.find("#ms-microphone .record-button").click()
        visitor.wait(lambda: visitor.find("#ms-microphone .stop-button").is_displayed())
        visitor.run("window.started = performance.now()")
        visitor.wait(lambda: visitor.run("return performance.now() - window.started") > 1500)
        visitor.find("#ms-microphone .stop-button").click()
        visitor.wait(lambda: ".wav" in visitor.code() and "talk.wav" not in visitor.code())
        visitor.start()
        visitor.wait(lambda: visitor.all(".ms-result"))
        address = visitor.run("return document.querySelector('.ms-track audio').src")
        samples, rate = soundfile.read(io.BytesIO(fetch(address)))
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        assert abs(spectrum.argmax() * rate / len(samples) - 440) < 5

    def test_two_visitors_at_once(self, browser, server, tmp_path):
        """Each gets the own recording; who leaves takes the own files along, and no others."""
        visitors = [Visitor(browser, server.address) for _ in range(2)]
        for number, visitor in enumerate(visitors, start=1):
            visitor.show()
            soundfile.write(tmp_path / f"of visitor {number}.wav", 0.1 * np.random.randn(number * RATE), RATE)
            visitor.give(tmp_path / f"of visitor {number}.wav")
        for visitor in visitors:
            visitor.show()
            visitor.start()
        addresses = []
        for number, visitor in enumerate(visitors, start=1):
            visitor.show()
            text = visitor.result()
            assert f"of visitor {number}.wav\n{number}.0 s at 8000 Hz" in text
            addresses.append(visitor.run("return document.querySelectorAll('.ms-track audio')[1].src"))
            assert f"of%20visitor%20{number}_spk1.wav" in addresses[-1]
        visitors[0].close()
        visitors[1].show()

        def is_gone():
            try:
                return not fetch(addresses[0])
            except urllib.error.HTTPError as error:
                return error.code == 404
            except http.client.IncompleteRead:  # deleted while it was sent
                return False

        visitors[1].wait(is_gone)
        assert len(fetch(addresses[1])) > 2 * RATE * 4
        visitors[1].close()

    def test_settings_are_in_the_shown_lines(self, visitor, model):
        assert f'from_hparams("{model}")' in visitor.code()
        visitor.find("#ms-options button").click()
        format = visitor.find("#ms-options input[aria-label='Format of the files']")
        format.click()
        visitor.find("#ms-options [role=option][aria-label=flac]").click()
        visitor.wait(
            lambda: 'separate_file("talk.wav", "separated", format="flac", return_estimates=False)' in visitor.code()
        )
        assert f"mossformer-sb separate talk.wav --model {model} --format flac" in visitor.code()

    def test_narrow_and_by_keyboard(self, visitor):
        """On a phone nothing is wider than the screen; the example is separated and played without a mouse."""
        from selenium.webdriver.common.keys import Keys

        screen = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        visitor.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        button = visitor.find("#ms-example")
        visitor.run("arguments[0].focus()", button)
        visitor.browser.switch_to.active_element.send_keys(Keys.ENTER)
        visitor.wait(lambda: visitor.all(".ms-result"))
        assert "two_speakers.flac" in visitor.result()
        assert visitor.run("return document.documentElement.scrollWidth <= window.innerWidth")
        unlabelled = visitor.run(
            "return [...document.querySelectorAll('img:not([alt]), audio:not([aria-label])')].map(x => x.outerHTML)"
        )
        assert unlabelled == []
        focused = []
        for _ in range(40):
            visitor.browser.switch_to.active_element.send_keys(Keys.TAB)
            focused.append(visitor.run("return document.activeElement.tagName + document.activeElement.innerText"))
            if focused[-1].startswith("ADownload all"):
                break
        assert focused[-1].startswith("ADownload all"), focused
        visitor.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_nothing_was_requested_from_elsewhere(self, browser, server):
        """All requests of all pages that the tests before opened, as Chromium logs them."""
        events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
        requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        addresses = {request["request"]["url"] for request in requests}
        assert any(address.endswith("_spk1.wav") for address in addresses)
        ours = (server.address, "data:", "blob:", "about:", "chrome")  # the last: Chromium's own pages
        assert [address for address in addresses if not address.startswith(ours)] == []
        blocked = [entry["message"] for entry in browser.get_log("browser") if "Content Security" in entry["message"]]
        assert blocked == []


def test_headers_keep_the_browser_from_other_servers(server):
    with urllib.request.urlopen(server.address, timeout=LONGEST) as response:
        assert "connect-src 'self'" in response.headers["content-security-policy"]
        page = response.read().decode()
    assert "<gradio-app" in page and not re.findall(r"<(?:link|script)[^>]*https?://[^>]*>", page)
    for path, code in [("gradio_api/file=https://example.com/a", 403), ("results/a/b", 404)]:
        with pytest.raises(urllib.error.HTTPError) as error:
            fetch(server.address + path)
        assert error.value.code == code
    request = urllib.request.Request(server.address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=LONGEST)


def test_the_server_fetches_nothing_that_a_visitor_names(server, monkeypatch):
    looked_up, look_up = [], socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **kw: looked_up.append(a[0]) or look_up(*a, **kw))
    config = json.loads(fetch(f"{server.address}config"))
    values = {part["id"]: part["props"].get("value") for part in config["components"]}
    event = next(event for event in config["dependencies"] if event["targets"][0][1] == "load" and event["inputs"])
    data = [values[number] for number in event["inputs"]]
    data[1] = {"path": "https://example.com/talk.wav", "meta": {"_type": "gradio.FileData"}}
    content = {"data": data, "fn_index": event["id"], "session_hash": "visit"}
    with pytest.raises(urllib.error.HTTPError) as error:
        post(f"{server.address}gradio_api/run/predict", content)
    assert error.value.code == 500 and b"Only uploads are accepted" in error.value.read()
    assert "example.com" not in str(looked_up)
    data[1] = None
    assert "separate_file" in post(f"{server.address}gradio_api/run/predict", content)["data"][0]


RECORDER = """
import json, os, socket

def record(kind, address):
    with open(os.environ["CONNECTIONS"], "a") as file:
        file.write(json.dumps([kind, str(address)]) + "\\n")

def wrap(owner, name, address_of):
    inner = getattr(owner, name)
    def outer(*arguments, **options):
        record(name, address_of(arguments))
        return inner(*arguments, **options)
    setattr(owner, name, outer)

for name in ("connect", "connect_ex", "sendto"):
    wrap(socket.socket, name, lambda arguments: arguments[-1])
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    wrap(socket, name, lambda arguments: arguments[0])
record("started", "here")
"""


def test_the_space_runs_alone_connects_to_nobody_and_leaves_nothing(model, tmp_path):
    """The written `app.py`, as a process of its own, from start to SIGTERM."""
    from mossformer_sb.web.space import write_space

    space = write_space(tmp_path / "space", Settings(models=(str(model),), device="cpu"))
    (tmp_path / "temporary").mkdir(), (tmp_path / "recorder").mkdir()
    (tmp_path / "recorder/sitecustomize.py").write_text(RECORDER)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "recorder"), str(Path(__file__).parents[2])]),
        "CONNECTIONS": str(tmp_path / "connections"),
        "TMPDIR": str(tmp_path / "temporary"),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": "0",
    }
    command = [sys.executable, "app.py"]
    process = subprocess.Popen(command, cwd=space, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().strip().removeprefix("The page is at ")
        assert address.startswith("http://127.0.0.1:")
        separated = separate_over_http(address, EXAMPLE)
        assert "two_speakers.flac" in separated and "Speaker 2" in separated
        (root,) = (tmp_path / "temporary").glob("mossformer-sb-web-*")
        assert list(root.glob("results/*/two_speakers_spk2.wav"))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not list((tmp_path / "temporary").glob("mossformer-sb-web-*"))
    found = [json.loads(line) for line in (tmp_path / "connections").read_text().splitlines()]
    assert found[0] == ["started", "here"]
    elsewhere = [entry for entry in found[1:] if "127.0.0.1" not in entry[1] and "localhost" not in entry[1]]
    assert elsewhere == []


def separate_over_http(address, path):
    """What the page's script does at a click on the example: the HTML of the result."""
    config = json.loads(fetch(f"{address}config"))
    texts = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
    visit = {"session_hash": "visit"}
    example = next(
        event for event in config["dependencies"] for target in event["targets"] if texts.get(target[0]) == "ms-example"
    )
    following = next(event for event in config["dependencies"] if example["id"] == event["trigger_after"])
    values = {part["id"]: part["props"].get("value") for part in config["components"]}
    file, kind = post(f"{address}gradio_api/run/predict", {"data": [], "fn_index": example["id"], **visit})["data"]
    data = [values[number] for number in following["inputs"]]
    data[0], data[1] = kind, file
    post(f"{address}gradio_api/queue/join", {"data": data, "fn_index": following["id"], **visit})
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash=visit", timeout=LONGEST) as stream:
        for line in stream:
            message = json.loads(line.decode().removeprefix("data: ").strip() or "{}")
            if message.get("msg") == "process_completed":
                assert message["success"], message
                return "".join(map(str, message["output"]["data"]))


def post(address, content):
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(address, json.dumps(content).encode(), headers)
    with urllib.request.urlopen(request, timeout=LONGEST) as response:
        return json.loads(response.read())
