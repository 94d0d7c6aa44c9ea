"""The tool for mutation testing: every change is made, made alone, and the same for the same seed."""

import ast
import csv

import pytest

from tests.mutation.run import ROOT, TARGETS, VERDICTS, draw, mutate, places

CODE = '''
if TYPE_CHECKING:
    import x

def f(a: int | None, b=3):
    """Not 1 of these."""
    if a < b and not a:
        print(a, b)
    c = a + 2
    return g(c, b) if c is None else -c
'''


def test_every_place_gives_another_program():
    tree = ast.parse(CODE)
    programs = [ast.unparse(ast.fix_missing_locations(mutate(tree, *place)[0])) for place in places(tree)]
    assert len(programs) == len(set(programs)) and ast.unparse(tree) not in programs
    expected = ["a <= b", "a < b or", "and a:", "print(b, a)", "a - 2", "a + 3", "g(b, c)", "c is not None", "+c"]
    for change in expected:
        assert sum(change in program for program in programs) >= 1, change
    assert all("Not 1 of these." in program for program in programs)


def test_mutants_depend_only_on_the_seed():
    assert draw(20, 1) == draw(20, 1) != draw(20, 2)
    assert {mutant[0] for mutant in draw(500, 1)} == set(TARGETS)


def test_a_change_keeps_its_name_when_lines_move():
    trees = ast.parse(CODE), ast.parse("import x\n\n" + CODE)
    names = [[mutate(tree, *place)[1] for place in places(tree)] for tree in trees]
    assert sorted(names[0]) == sorted(names[1]) and len(set(names[0])) == len(names[0])
    assert {"f | c = a + 2: a + 2 -> a + 3", "f | default of b: 3 -> 4", "f | print(a, b): removed"} <= set(names[0])
    assert not any("None ->" in name or "TYPE_CHECKING" in name for name in names[0])


with open(VERDICTS, encoding="utf-8", newline="") as file:
    JUDGED = sorted({row["module"] for row in csv.DictReader(file)})


@pytest.mark.parametrize("module", JUDGED)
def test_verdicts_are_about_the_present_code(module):
    with open(VERDICTS, encoding="utf-8", newline="") as file:
        judged = {row["change"] for row in csv.DictReader(file) if row["module"] == module}
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    statements = {ast.unparse(node).splitlines()[0] for node in ast.walk(tree) if isinstance(node, ast.stmt)}
    named = [change.split(" | ", 1)[1] for change in judged]
    assert all(any(name.startswith(f"{line}: ") for line in statements) for name in named if "default of" not in name)
