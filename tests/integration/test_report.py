"""The report in a real browser: no error, every image shown, every player with its audio."""

import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch

from mossformer_sb import InputError
from mossformer_sb.evaluation.examples import LONGEST_EXAMPLE, Example, pick_examples
from mossformer_sb.evaluation.published import PUBLISHED
from mossformer_sb.evaluation.report import write_report

RATE = 8000
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PROBE = """
<script>
const errors = [];
window.addEventListener("error", event => errors.push(String(event.message || event.target.src).slice(0, 99)), true);
window.addEventListener("load", async () => {
  const players = [...document.querySelectorAll("audio")];
  const wait = player => new Promise(done => {
    if (player.readyState >= 1) return done();
    player.addEventListener("loadedmetadata", done); player.addEventListener("error", done);
  });
  await Promise.all(players.map(wait));
  const pictures = [...document.images].map(image => [image.complete, image.naturalWidth, image.naturalHeight]);
  const result = {errors, pictures, durations: players.map(player => player.duration)};
  const element = document.createElement("pre");
  element.id = "probe";
  element.textContent = JSON.stringify(result);
  document.body.append(element);
});
</script>
"""


def scores(number=30):
    rng = np.random.default_rng(0)
    rows = {
        name: rng.normal(mean, 2, number) for name, mean in (("sdr", 9), ("sdr_i", 8.5), ("si-snr", 8), ("si-snr_i", 8))
    }
    frame = pd.DataFrame({"snt_id": [f"u{index:02}" for index in range(number)], **rows})
    average = pd.DataFrame([{"snt_id": "avg", **frame.mean(numeric_only=True)}])
    return pd.concat([frame, average], ignore_index=True)


def examples(table):
    sources = 0.1 * torch.randn(6000, 2)
    return [
        Example.of(f"{title}: <{name}>", sources.sum(1), sources, sources.flip(1) + 0.05 * torch.randn(6000, 2), RATE)
        for title, name in pick_examples(table).items()
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    torch.manual_seed(0)
    table = scores()
    epochs = pd.DataFrame(
        {"epoch": [1, 2, 3], "train_si-snr": [1, 4, 5], "valid_si-snr": [2, 3, 4], "lr": [0.1, 0.1, 0.05]}
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(path, table, examples(table), "A <title>", "WHAM!", {"Data": "a & b", "Epoch": None}, epochs)


def test_holds_everything_itself(page):
    text = page.read_text()
    sources = re.findall(r'(?:src|href)="([^"]{5})', text)
    assert set(sources) == {"data:"} and "<script" not in text and "http" not in re.sub(r'"data:[^"]*"', "", text)


def test_numbers_against_the_published(page):
    text = page.read_text()
    for name, value in PUBLISHED["WHAM!"].items():
        assert f'<td>{name}</td><td class="number">{value:.1f}</td>' in text
    mean = scores()["si-snr_i"].iloc[-1]
    assert f'<td>this model</td><td class="number">{mean:.1f}</td>' in text
    assert f'<td>SI-SNRi</td><td class="number">{mean:.2f}</td>' in text
    assert "A &lt;title&gt;" in text and "a &amp; b" in text and "Epoch" not in text


def test_other_corpora_have_nothing_to_compare_with(tmp_path):
    text = write_report(tmp_path / "x.html", scores()).read_text()
    assert "published results" not in text and "Training" not in text


def test_nothing_to_report(tmp_path):
    with pytest.raises(InputError, match="there is nothing to report: no utterance has scores"):
        write_report(tmp_path / "x.html", scores().iloc[-1:])
    assert list(tmp_path.iterdir()) == []


def test_absent_package(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package matplotlib, .*pip install 'mossformer_sb\[report\]'"):
        write_report(tmp_path / "x.html", scores())


def test_long_examples_are_cut():
    sources = torch.randn(20 * RATE, 2)
    example = Example.of("long", sources.sum(1), sources, sources, RATE)
    assert len(example.mixture) == len(example.sources) == len(example.estimates) == LONGEST_EXAMPLE * RATE


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_in_a_browser(page, tmp_path):
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</head>", f"{PROBE}</head>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([BROWSER, *options, probed.as_uri()], capture_output=True, text=True, timeout=120)
    found = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout)[1])
    assert found["errors"] == [] and "CONSOLE" not in done.stderr
    assert len(found["pictures"]) == 2 + 3 * 5
    assert all(complete and width > 100 and height > 50 for complete, width, height in found["pictures"])
    assert found["durations"] == [pytest.approx(6000 / RATE)] * 15
