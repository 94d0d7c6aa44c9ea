"""The notebook runs from top to bottom; the site builds, from all pages and docstrings, without a warning."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# At the end of the notebook, among its own variables: what its text says.
CHECKS = """
assert estimates.shape == (64000, 2) and estimates.abs().max() > 0.01
assert brain.losses[0] - brain.losses[-1] > 10 and sum(brain.losses[-10:]) / 10 < 0
assert type(brain.modules["masknet"]) is mossformer_sb.MossFormerMaskNet
assert {"config.json", "model.safetensors"} <= {path.name for path in exported.iterdir()}
loaded, trained = (dict(modules["masknet"].named_parameters()) for modules in (mine.mods, brain.modules))
torch.testing.assert_close(loaded, trained)
"""


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    for needed in ("ipykernel", "matplotlib"):
        pytest.importorskip(needed)
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # which nobody could compare
    notebook.cells.append(nbformat.v4.new_code_cell(CHECKS))
    client = nbclient.NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}})
    manager = client.create_kernel_manager()
    manager.kernel_spec.argv[0] = sys.executable
    client.execute()
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 1


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """In a copy, since the pages of the API are generated beside the others."""
    for needed in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(needed)
    unneeded = shutil.ignore_patterns("__pycache__", "_build", "generated")
    for folder in ("docs", "examples", "mossformer_sb", "recipes"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=unneeded)
    for path in (*ROOT.glob("*.md"), ROOT / "LICENSE", ROOT / "CITATION.cff"):
        shutil.copy(path, tmp_path)
    command = [sys.executable, "-m", "sphinx", "-b", "dummy", "-W", "--keep-going", "-q", "-D", "nb_execution_mode=off"]
    built = subprocess.run([*command, "-c", "docs", ".", "site"], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
