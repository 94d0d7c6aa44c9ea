"""Type hints: every public name has them completely, and py.typed marks the package."""

import importlib
import inspect
from pathlib import Path

import pytest

# Of the extras serve and web, which the lowest versions are not tested with.
for package in ("fastapi", "gradio"):
    pytest.importorskip(package)

PACKAGE = Path(__file__).parents[2] / "mossformer_sb"
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if "\n__all__ = " in path.read_text(encoding="utf-8")
]


def public_callables():
    """Functions and classes of the package that some ``__all__`` names."""
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and getattr(value, "__module__", "").startswith("mossformer_sb"):
                yield f"{module.__name__}.{name}", value


def signatures(value):
    """The function itself, or the constructor and the public methods that a class defines."""
    if not inspect.isclass(value):
        return {"": value}
    found = {name: getattr(value, name) for name in vars(value) if not name.startswith("_") or name == "__init__"}
    properties = {name: part.fget for name, part in vars(value).items() if isinstance(part, property)}
    return {name: part for name, part in {**found, **properties}.items() if inspect.isroutine(part)}


CASES = dict(public_callables())


def test_there_are_public_names():
    assert {"mossformer_sb.MossFormerSeparation", "mossformer_sb.build_masknet", "mossformer_sb.sharing.export"} <= {
        *CASES
    }


@pytest.mark.parametrize("name", sorted(CASES))
def test_annotations_are_complete(name):
    for method, function in signatures(CASES[name]).items():
        signature = inspect.signature(function)
        missing = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
        ]
        assert not missing, f"{name}.{method}: {missing}"
        assert signature.return_annotation is not signature.empty, f"{name}.{method}: no type of what it returns"
