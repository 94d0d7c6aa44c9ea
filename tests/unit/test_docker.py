"""The Dockerfile's files exist, and its steps are ones that `docker/run_steps.py` can run."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run_steps():
    spec = importlib.util.spec_from_file_location("run_steps", ROOT / "docker" / "run_steps.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_steps(run_steps):
    found = run_steps.steps("# a comment\nFROM x\nRUN a \\\n    && b\n\nCMD c\n")
    assert found == [("FROM", "x"), ("RUN", "a && b"), ("CMD", "c")]


def test_copied_files_exist_and_are_not_ignored(run_steps):
    ignored = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [
        source
        for keyword, rest in run_steps.steps(run_steps.DOCKERFILE.read_text())
        if keyword == "COPY"
        for source in rest.split()[:-1]
    ]
    assert "mossformer_sb" in copied
    for source in copied:
        assert (ROOT / source).exists() and f"!{source}" in ignored, source


def test_steps_are_run(run_steps, tmp_path, monkeypatch):
    """But for the creation of the environment."""
    monkeypatch.setattr(run_steps.venv, "create", lambda *_, **__: None)
    image = run_steps.Image(tmp_path, {"WHO": "you"})
    for keyword, rest in run_steps.steps(
        'ARG WHO=me\nENV A=1 B=two\nWORKDIR /app\nCOPY LICENSE ./\nCOPY docker sub\nRUN echo "$WHO$B" > out\n'
        'ENTRYPOINT ["a", "b"]'
    ):
        image.run(keyword, rest)
    app = tmp_path / "app"
    assert (
        (app / "out").read_text() == "youtwo\n" and (app / "LICENSE").is_file() and (app / "sub/Dockerfile").is_file()
    )
    assert image.entry == ["a", "b"]
    with pytest.raises(SystemExit, match="ADD is not known here"):
        image.run("ADD", "a b")
