"""The packages' imports go one way, from the command line down to the network and the data, without cycles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mossformer_sb"
# From the top to the bottom: a package may import from those of a higher number.
LEVELS = {
    "cli": 0,
    "web": 1,
    "service": 1,
    "inference": 2,
    "training": 2,
    "evaluation": 3,
    "sharing": 4,
    "network": 5,
    "data": 5,
    "utils": 6,
}
# The same of data_prep, whose modules beside the packages are helpers for all; and of those that run it.
DATA_PREP = {"corpora": 0, "demo_corpus": 1, "manifests": 1, "generate": 2}
PROGRAMS = {"__main__", "clips"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, everywhere=True):
    """Modules of ours that a file imports; without those within functions if not everywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            # `from package import module` names a module; `from module import name` doesn't.
            found |= {f"{node.module}.{name.name}" for name in node.names} & NAMES
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == PACKAGE.name}


NAMES = {module_name(path) for path in PACKAGE.rglob("*.py")}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_one_way(path):
    own = LEVELS.get(module_name(path).split(".")[1], 0)
    for name in imports(path):
        package = name.split(".")[1] if "." in name else None
        if package in LEVELS and package != module_name(path).split(".")[1]:
            assert LEVELS[package] > own, f"{module_name(path)} imports {name}"


@pytest.mark.parametrize("folder", ["mossformer_sb", "data_prep", "benchmarks", "tests", "recipes"])
def test_imported_modules_exist(folder):
    """Also those imported for type checking only, which no program runs and mypy takes for other people's."""
    ours = {"mossformer_sb", "data_prep", "benchmarks", "tests"}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.split(".")[0] in ours:
                module = ROOT.joinpath(*node.module.split("."))
                exists = module.is_dir() or module.with_suffix(".py").is_file()
                assert exists, f"{path.relative_to(ROOT)}, line {node.lineno}: there is no module {node.module}"


def test_there_are_no_circular_imports():
    graph = {module_name(path): imports(path, everywhere=False) & NAMES for path in PACKAGE.rglob("*.py")}
    done = set()

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, [*trail, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])


def test_the_package_needs_nothing_that_is_not_installed_with_it():
    """train.py, hparams and data_prep are used from a clone; the package is not."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        names |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        assert not {name.split(".")[0] for name in names} & {"data_prep", "benchmarks", "recipes", "tests"}, path


@pytest.mark.parametrize("path", sorted((ROOT / "data_prep").rglob("*.py")), ids=module_name)
def test_imports_of_data_prep_go_one_way(path):
    """From corpora to manifests and demo_corpus, from these to generate, from all to the helpers."""
    part, *_ = [*module_name(path).split(".")[1:], ""]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    for other in (name.split(".")[1] for name in named if name.startswith("data_prep.")):
        if part in PROGRAMS or other == part:
            continue
        levels = DATA_PREP.get(part, max(DATA_PREP.values()) + 1), DATA_PREP.get(other, max(DATA_PREP.values()) + 1)
        assert levels[0] < levels[1] or other not in DATA_PREP, f"{module_name(path)} imports data_prep.{other}"
