"""What continuous integration checks, and that the files of the repository pass it."""

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mossformer_sb"
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
SKIPPED = {".git", ".venv", ".venv-lowest", "results", "build", "dist", "__pycache__", ".pytest_cache", ".ruff_cache"}


def text_files():
    for path in ROOT.rglob("*"):
        if path.suffix in (".py", ".yaml", ".yml", ".cfg", ".toml", ".csv", ".md") and path.is_file():
            if not SKIPPED & set(path.relative_to(ROOT).parts) and ".egg-info" not in str(path):
                yield path


@pytest.fixture(scope="module")
def metadata():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_no_blanks_at_the_ends_of_lines_and_one_newline_at_the_end_of_files():
    bad = []
    for path in text_files():
        text = path.read_bytes().decode()
        blanks = path.suffix != ".md" and re.search(r"[ \t]+$", text, re.MULTILINE)
        if blanks or "\r" in text or (text and (not text.endswith("\n") or text.endswith("\n\n"))):
            bad.append(path.relative_to(ROOT).as_posix())
    assert bad == []


def test_lint_and_tests_run():
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    assert commands == ["make lint", "make test"]
    steps = [step.get("run", "") for job in YAML().load(WORKFLOW)["jobs"].values() for step in job["steps"]]
    assert set(commands) < set(steps)


def test_workflow_has_every_python_and_the_ends_of_torch(metadata):
    matrix = YAML().load(WORKFLOW)["jobs"]["test"]["strategy"]["matrix"]
    classifiers = re.findall(r"Python :: (3\.\d+)", metadata["metadata"]["classifiers"])
    assert list(matrix["python"]) == classifiers and list(matrix["torch"]) == ["lowest", "highest"]
    command = next(line for line in WORKFLOW.read_text().splitlines() if line.lstrip().startswith("lowest=$(")).strip()
    found = subprocess.run(["bash", "-c", f"{command}; echo $lowest"], cwd=ROOT, capture_output=True, text=True)
    assert f"torch>={found.stdout.strip()}," in metadata["options"]["install_requires"]


def test_torch_and_torchaudio_have_one_range(metadata):
    """So that the newest of each is a pair: they can't be loaded otherwise."""
    lines = metadata["options"]["install_requires"].split("\n")
    ranges = {line.partition(">=")[0]: line.partition(">=")[2] for line in lines if line.startswith("torch")}
    assert set(ranges) == {"torch", "torchaudio"} and len(set(ranges.values())) == 1


def imported_packages(folder):
    """Top-level names that the modules below a folder import from elsewhere."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            yield from {name.split(".")[0] for name in names} - {*sys.stdlib_module_names, PACKAGE.name}


def test_every_requirement_has_a_lowest_version(metadata):
    """From these `make test-lowest` takes its versions."""
    lines = metadata["options"]["install_requires"].split("\n")
    versions = {line.split(">=")[0] for line in lines if re.match(r"[\w.-]+>=[\d.]+(,|$)", line)}
    names = {re.match(r"[\w.-]+", line)[0] for line in lines if line and not line.startswith("#")}
    assert versions == names and {"torch", "speechbrain", "hyperpyyaml"} <= names


def test_every_package_that_is_imported_is_required(metadata):
    """Not only by another requirement, which may drop it."""
    called = {
        "fastapi_offline": "fastapi-offline",
        "ruamel": "ruamel.yaml",
        "silero_vad": "silero-vad",
        "yaml": "pyyaml",
    }
    lines = [metadata["options"]["install_requires"], *metadata["options.extras_require"].values()]
    asked_for = set(re.findall(r"^([\w.-]+)[<>=]", "\n".join(lines), re.MULTILINE))
    assert {called.get(name, name) for name in imported_packages(PACKAGE)} <= asked_for
