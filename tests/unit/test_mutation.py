"""The tool for mutation testing: every change is made, made alone, and the same for the same seed."""

import ast

from tests.mutation.run import TARGETS, draw, mutate, places

CODE = '''
def f(a, b):
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
