"""Mutation testing: break the code in many small ways, and see whether a test fails each time.

    python -m tests.mutation.run --mutants 300 --seed 1 --output results/mutation.jsonl
    python -m tests.mutation.run --report results/mutation.jsonl

Mutants are drawn by seed from all places where an operator, a comparison, a constant, a condition or a statement can be
changed, in the modules of `TARGETS`; each is run against the tests of its module, in a copy of the repository. A run
that was interrupted resumes. Not a part of the test suite: 300 mutants take hours.

A survivor is either a hole in the tests or an equivalent mutant, which no test can distinguish from the original.
`verdicts.csv` beside this file has a person's decision, with the reason.
"""

import argparse
import ast
import copy
import csv
import functools
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

from tqdm import tqdm

from tests import forked

ROOT = Path(__file__).resolve().parents[2]
VERDICTS = Path(__file__).with_name("verdicts.csv")
COPIED = (
    "mossformer_sb",
    "data_prep",
    "benchmarks",
    "tests",
    "hparams",
    "examples",
    "recipes",
    "pyproject.toml",
    "setup.cfg",
)
LONGEST = 240  # seconds of CPU that the tests of one mutant may take; longer counts as killed, as an endless loop would
WAITING = 1200  # seconds of wall time, for a test that hangs; far more than LONGEST, since the machine may be busy
UNITS = "tests/unit/"
# pytest within the limit; for `forked`, so that not every mutant loads the libraries anew.
PROGRAM = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({LONGEST}, {LONGEST}))
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""
# Module → tests, the quickest first.
TARGETS = {
    "mossformer_sb/network/attention.py": ("test_attention", "test_custom_backward", "test_masknet"),
    "mossformer_sb/network/layers.py": ("test_masknet", "test_depthwise", "test_precision", "test_fast_mossformer2"),
    "mossformer_sb/network/block.py": ("test_masknet", "test_fast"),
    "mossformer_sb/network/masknet.py": ("test_masknet", "test_separator", "test_fast", "test_module_use"),
    "mossformer_sb/network/separator.py": ("test_separator", "test_module_use", "test_hub_model"),
    "mossformer_sb/network/fast/backward.py": ("test_custom_backward", "test_properties"),
    "mossformer_sb/network/fast/depthwise.py": (
        "test_depthwise",
        "test_custom_backward",
        "test_fast_mossformer2",
        "test_tiled",
    ),
    "mossformer_sb/network/fast/matmul.py": ("test_matmul", "test_tiled", "test_module_use"),
    "mossformer_sb/network/fast/tiled.py": ("test_tiled", "test_properties"),
    "mossformer_sb/network/fast/tiled_block.py": ("test_tiled", "test_properties"),
    "mossformer_sb/network/workarounds.py": ("test_workarounds",),
    "mossformer_sb/evaluation/si_snr.py": ("test_si_snr", "test_losses_properties"),
    "mossformer_sb/training/losses.py": ("test_losses", "test_losses_properties"),
    "mossformer_sb/training/step.py": (
        "test_brain",
        "test_resume",
        "test_optimizers",
        "test_step_syncs",
        "test_budget",
    ),
    "mossformer_sb/data/dynamic_mixing.py": ("test_dynamic_mixing", "test_dynamic_mixing_properties"),
}

SWAPS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.USub: ast.UAdd,
}


def places(tree):
    """Where a tree can be changed: (kind, number of the node in the order of `ast.walk`, detail)."""
    strings, types = _docstrings(tree), _types(tree)
    for number, node in enumerate(ast.walk(tree)):
        if node in types:
            continue
        if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in SWAPS:
            yield "operator", number, None
        elif isinstance(node, ast.UnaryOp):
            yield "operator" if type(node.op) in SWAPS else "unary", number, None
        elif isinstance(node, ast.BoolOp):
            yield "operator", number, None
        elif isinstance(node, ast.Compare):
            yield from (("comparison", number, index) for index in range(len(node.ops)))
        elif isinstance(node, ast.Constant) and node not in strings and type(node.value) in (int, float, bool):
            yield "constant", number, None
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            yield "condition", number, None
        elif isinstance(node, ast.Expr | ast.Assign | ast.AugAssign | ast.Raise) and not _is_string(node):
            yield "statement", number, None
        elif isinstance(node, ast.Call) and len(node.args) >= 2:
            yield "arguments", number, None


def mutate(tree, kind, number, detail):
    """A copy of a tree with one change, and what was changed, in words that stay when lines move."""
    tree = copy.deepcopy(tree)
    node = next(node for index, node in enumerate(ast.walk(tree)) if index == number)
    path = _path(tree, node)
    context = next((step for step in reversed(path[:-1]) if isinstance(step, ast.expr)), path[-2])
    shown = context if isinstance(context, ast.expr) else node
    place, before = _place(path), ast.unparse(shown)
    if kind == "operator":
        node.op = SWAPS[type(node.op)]()
    elif kind == "unary":  # `not x` becomes `x`, `~x` becomes `x`
        _replace(tree, node, node.operand)
        shown = node.operand if shown is node else shown
    elif kind == "comparison":
        node.ops[detail] = SWAPS[type(node.ops[detail])]()
    elif kind == "constant":
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    elif kind == "condition":
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif kind == "arguments":
        node.args[0], node.args[1] = node.args[1], node.args[0]
    else:
        _replace(tree, node, ast.Pass())
        return tree, f"{place}: removed"
    return tree, f"{place}: {before.splitlines()[0]} -> {ast.unparse(shown).splitlines()[0]}"


def _replace(tree, old, new):
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list) and any(item is old for item in value):
                value[next(index for index, item in enumerate(value) if item is old)] = new


def _place(path):
    """Where the last node of a path is: function, and first line of the statement, or name of the argument."""
    scope = ".".join(step.name for step in path if isinstance(step, ast.FunctionDef | ast.ClassDef))
    statement = next(step for step in reversed(path) if isinstance(step, ast.stmt))
    if isinstance(statement, ast.FunctionDef):
        return f"{scope} | default of {_argument(statement.args, path)}"
    return f"{scope} | {ast.unparse(statement).splitlines()[0]}"


def _argument(arguments, path):
    positional = arguments.posonlyargs + arguments.args
    defaults = [*zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True)]
    defaults += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return next((argument.arg for argument, default in defaults if default in path), "none")


def _path(tree, node):
    """The nodes from the root of a tree to one of its nodes."""
    if tree is node:
        return [tree]
    for child in ast.iter_child_nodes(tree):
        if below := _path(child, node):
            return [tree, *below]
    return []


def _types(tree):
    """The nodes of annotations and of imports for them, which aren't evaluated."""
    roots = [getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns")]
    roots += [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {node for root in roots if root is not None for node in ast.walk(root)}


def _docstrings(tree):
    return {node.value for node in ast.walk(tree) if _is_string(node)}


def _is_string(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def draw(count, seed):
    """The mutants: list of (module, kind, number, detail), the same for the same seed and code."""
    everything = [
        (module, *place)
        for module in TARGETS
        for place in sorted(places(ast.parse((ROOT / module).read_text(encoding="utf-8"))), key=str)
    ]
    return random.Random(seed).sample(everything, min(count, len(everything)))


def run_tests(folder, module):
    """Whether the tests of a module pass in a copy of the repository, and how long they took in seconds."""
    start = time.monotonic()
    files = [f"{UNITS}{name}.py" for name in TARGETS[module]]
    words = ("-c", PROGRAM, "-x", "-q", "-p", "no:cacheprovider", *files)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        passed = forked.run(words, folder, environment, WAITING).returncode == 0
    except subprocess.TimeoutExpired:
        passed = False
    return passed, time.monotonic() - start


def run(count, seed, output, jobs=1):
    """Run the mutants that the output doesn't list yet, some at a time; append one line of JSON for each."""
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    done = {_key(json.loads(line)["mutant"]) for line in output.read_text().splitlines()} if output.is_file() else set()
    mutants = [mutant for mutant in draw(count, seed) if _key(mutant) not in done]
    with tempfile.TemporaryDirectory() as folder, ThreadPool(jobs) as pool:
        copies = queue.SimpleQueue()  # those that nobody is working in
        for job in range(jobs):
            copies.put(_copy_repository(Path(folder) / str(job)))
        if not done:
            check = functools.partial(_check_unchanged, copies)
            list(pool.imap_unordered(check, sorted({mutant[0] for mutant in mutants})))
        rows = pool.imap_unordered(functools.partial(_run_mutant, copies), mutants)
        for row in tqdm(rows, total=len(mutants), unit="mutant", disable=None):
            with open(output, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def _copy_repository(folder):
    folder.mkdir()
    for name in COPIED:
        copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copied(ROOT / name, folder / name)
    return folder


def _check_unchanged(copies, module):
    folder = copies.get()
    passed, _ = run_tests(folder, module)
    copies.put(folder)
    if not passed:
        raise SystemExit(f"The tests of {module} fail without a mutation: {', '.join(TARGETS[module])}.")


def _run_mutant(copies, mutant):
    folder, module = copies.get(), mutant[0]
    source = (ROOT / module).read_text(encoding="utf-8")
    tree, change = mutate(ast.parse(source), *mutant[1:])
    (folder / module).write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
    try:
        passed, seconds = run_tests(folder, module)
    finally:
        (folder / module).write_text(source, encoding="utf-8")
        copies.put(folder)
    return {"mutant": mutant, "change": change, "survived": passed, "seconds": round(seconds, 1)}


def _key(mutant):
    return tuple(map(str, mutant))


def report(output):
    """How many were killed, survived, or are equivalent by `verdicts.csv`; the survivors, one a line."""
    rows = [json.loads(line) for line in Path(output).read_text(encoding="utf-8").splitlines()]
    with open(VERDICTS, encoding="utf-8", newline="") as file:
        verdicts = {(row["module"], row["change"]): row for row in csv.DictReader(file)}
    survivors = [row for row in rows if row["survived"]]
    equivalent = [row for row in survivors if verdicts.get(_name(row), {}).get("verdict") == "equivalent"]
    killed = len(rows) - len(survivors)
    lines = [
        f"{len(rows)} mutants: {killed} killed, {len(survivors)} survived, {len(equivalent)} of these equivalent; "
        f"{killed / max(1, len(rows) - len(equivalent)):.1%} of those that are not equivalent killed"
    ]
    for row in survivors:
        verdict = verdicts.get(_name(row), {"verdict": "not judged", "reason": ""})
        lines.append(f"{row['mutant'][0]}: {row['change']}: {verdict['verdict']} {verdict['reason']}".rstrip())
    return "\n".join(lines)


def _name(row):
    return row["mutant"][0], row["change"]


def main(arguments=None):
    """Runs mutants, or reports."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.run", description=__doc__.split("\n\n")[0])
    parser.add_argument("--mutants", type=int, default=300, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice (default: %(default)s)")
    parser.add_argument("--output", default="results/mutation.jsonl", help="where results go (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time (default: %(default)s)")
    parser.add_argument("--report", metavar="FILE", help="sum up a file of results instead")
    options = parser.parse_args(arguments)
    if options.report:
        sys.stdout.write(report(options.report) + "\n")
    else:
        os.environ["OMP_NUM_THREADS"] = "1"  # for the server that loads torch
        forked.preload()
        run(options.mutants, options.seed, options.output, options.jobs)


if __name__ == "__main__":
    main()
