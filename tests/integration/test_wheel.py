"""The wheel holds only `mossformer_sb`, and works without the rest of the clone."""

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FROM_THE_CLONE = ("benchmarks", "data_prep", "hparams", "recipes", "tests", "train")
MODEL = "pretrained/mossformer-small-8k"
MODEL_FILES = ("README.md", "config.json", "model.safetensors")

PROBE = """
import importlib.metadata, importlib.util, json, sys

names = json.loads(sys.argv[1])
found = {name: importlib.util.find_spec(name) is not None for name in names}
report = {"found": found, "editable": [str(finder) for finder in sys.meta_path if "editable" in str(finder).lower()]}
if found["mossformer_sb"]:
    import mossformer_sb

    report["file"] = mossformer_sb.__file__
    report["version"] = mossformer_sb.__version__
    report["metadata"] = importlib.metadata.version("mossformer_sb")
print(json.dumps(report))
"""


def run(*command, cwd):
    """Run a command and return what it writes; a failure shows everything it wrote."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def probe(python, cwd):
    """What a fresh interpreter, away from the clone and deaf to the environment (-I), finds and imports."""
    names = json.dumps(["mossformer_sb", "torch", "data_prep", "recipes"])
    return json.loads(run(python, "-I", "-c", PROBE, names, cwd=cwd).splitlines()[-1])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy, so that the clone gets no `build` folder."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    shutil.copytree(ROOT / "mossformer_sb", tree / "mossformer_sb", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / name, tree)
    # A model, in the place of the one that comes with the package.
    model = tree / "mossformer_sb" / MODEL
    model.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        (model / name).touch()
    # The neighbours, all as packages: none may enter, also when somebody gives one an __init__.py.
    for name in FROM_THE_CLONE:
        (tree / name).mkdir()
        (tree / name / "__init__.py").touch()
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, tree, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_the_package_alone(wheel):
    name, version = wheel.name.split("-")[:2]
    with zipfile.ZipFile(wheel) as archive:
        members = set(archive.namelist())

    assert name == "mossformer_sb"
    assert {member.split("/")[0] for member in members} == {"mossformer_sb", f"mossformer_sb-{version}.dist-info"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mossformer_sb").rglob("*.py")}
    assert "mossformer_sb/__init__.py" in modules
    assert modules <= members
    assert "mossformer_sb/evaluation/report.html.j2" in members
    assert {f"mossformer_sb/web/{name}" for name in ("page.css", "page.js", "two_speakers.flac")} <= members
    assert {f"mossformer_sb/{MODEL}/{name}" for name in MODEL_FILES} <= members
    assert any(member.endswith("/LICENSE") for member in members)


def test_wheel_works_in_a_clean_environment(wheel, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site_packages = Path(run(python, "-I", "-c", purelib, cwd=tmp_path).strip())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    # The dependencies come from the environment of the tests. A .pth file adds a folder but doesn't read that folder's
    # own .pth files, so an editable installation there stays out of sight: shown first, without the wheel.
    paths = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site_packages / "dependencies.pth").write_text("\n".join(paths) + "\n")
    before = probe(python, elsewhere)
    assert before["found"] == {"mossformer_sb": False, "torch": True, "data_prep": False, "recipes": False}
    assert before["editable"] == []

    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site_packages)
    after = probe(python, elsewhere)
    assert after["found"] == {"mossformer_sb": True, "torch": True, "data_prep": False, "recipes": False}
    assert Path(after["file"]).resolve().is_relative_to(site_packages.resolve())
    assert after["version"] == after["metadata"] == wheel.name.split("-")[1]
