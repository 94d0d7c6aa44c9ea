"""Time of MossFormer by kind of operation: `python -m benchmarks.breakdown`.

PyTorch's profiler adds up the time of each operator of a call. The kinds show what else than matrix multiplications
(matmuls) a call consists of, and so how near it is to its lower bound, the time of its matmuls alone
(`benchmarks.ceiling`).
"""

import argparse
import statistics
import sys
from collections import Counter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.ceiling import SECONDS, TRAINING_FACTOR, products_of, seconds_of
from benchmarks.machine import describe
from benchmarks.separators import build
from benchmarks.speed import PRECISIONS, SAMPLE_RATE, TASKS, Runner
from mossformer_sb.errors import InputError
from mossformer_sb.network.sizes import SIZES
from mossformer_sb.utils.files import write_text

MATMUL, OVERHEAD = "matmuls", "calls, views and allocation"
# Kind → parts of the operators' names. The first kind that fits counts; torch's other operators are in the last one.
KINDS = {
    MATMUL: ("_linear_pointwise", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn_linear"),
    "reordering of weights for oneDNN": ("reorder",),
    "convolutions": ("convolution",),
    "dropout masks": ("aten::random_", "aten::bernoulli", "aten::ge", "aten::native_dropout"),
    "copies and concatenation": ("aten::copy_", "aten::cat", "aten::clone", "aten::index", "aten::constant_pad"),
    "norms": ("norm", "aten::std", "aten::var", "aten::mean"),
    OVERHEAD: (
        *("aten::empty", "aten::as_strided", "aten::view", "aten::slice", "aten::select", "aten::transpose"),
        *("aten::unsqueeze", "aten::squeeze", "aten::unbind", "aten::unflatten", "aten::narrow", "aten::split"),
        *("aten::reshape", "aten::_reshape", "aten::_unsafe_view", "aten::permute", "aten::expand", "aten::resize"),
        *("aten::flatten", "aten::detach", "aten::set_", "aten::alias", "aten::movedim", "aten::unfold"),
    ),
    "elementwise operations and sums": ("aten::",),
}


def kind_of(operator):
    """Kind of an operator; Python functions and autograd's own work are overhead.

    Example
    -------
    >>> kind_of("aten::addmm"), kind_of("aten::mul_"), kind_of("JointAttentionFunctionBackward")
    ('matmuls', 'elementwise operations and sums', 'calls, views and allocation')
    >>> kind_of("aten::t"), kind_of("aten::tanh")
    ('calls, views and allocation', 'elementwise operations and sums')
    """
    if operator == "aten::t":
        return OVERHEAD
    return next((kind for kind, parts in KINDS.items() if any(part in operator for part in parts)), OVERHEAD)


def breakdown(size, seconds, task="inference", precision="fp32", rounds=3, at_least=SECONDS):
    """Time a call, and profile it.

    Arguments
    ---------
    size : str
        One of `mossformer_sb.SIZES`.
    seconds : float
        Length of the mixture, at 8 kHz.
    task : str
        inference, or training: forward, backward and a step of Adam.
    precision : str
        fp32 or bf16.
    rounds : int
        Number of timed calls, after a warm-up; then one is profiled.
    at_least : float
        Seconds for which each matmul is repeated alone.

    Returns
    -------
    wall : float
        Seconds of a call without the profiler, the median.
    ceiling : float
        Seconds of its matmuls alone.
    shares : dict
        Kind → share of the profiled time, the greatest first.

    Example
    -------
    >>> wall, ceiling, shares = breakdown("mini", 0.1, rounds=1, at_least=0)
    >>> round(sum(shares.values()), 6), wall > 0 and ceiling > 0
    (1.0, True)
    """
    torch.manual_seed(0)
    mixture = torch.randn(1, round(seconds * SAMPLE_RATE))
    runner = Runner(build(["ours"], size)["ours"], precision, task, mixture)
    runner.seconds()
    wall = statistics.median(runner.seconds() for _ in range(rounds))
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        runner.seconds()
    times = Counter()
    for event in profiler.key_averages():
        times[kind_of(event.key)] += event.self_cpu_time_total
    factor = TRAINING_FACTOR if task == "training" else 1
    ceiling = factor * seconds_of(products_of(size, mixture.shape[1]), precision, at_least=at_least)
    return wall, ceiling, {kind: time / times.total() for kind, time in times.most_common()}


def main(argv=None):
    """Profile the cases of the command line, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.breakdown", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["S", "L"], help=f"some of {', '.join(SIZES)} (S L)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the mixture (%(default)s)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="(both)")
    parser.add_argument("--precisions", nargs="+", choices=[name for name in PRECISIONS if name != "tf32"],
                        default=["fp32"], help="(fp32)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, help="timed calls (%(default)s)")
    parser.add_argument("--output", type=Path, help="write the table, in Markdown, to this file too")
    arguments = parser.parse_args(argv)
    cases = [(size, task, precision) for size in arguments.sizes for task in arguments.tasks
             for precision in arguments.precisions]  # fmt: skip
    found = {
        f"({size}) {task}, {precision}": breakdown(size, arguments.seconds, task, precision, arguments.rounds)
        for size, task, precision in cases
    }
    text = report(found, arguments.seconds)
    if arguments.output:
        write_text(arguments.output, text)
    print(text, end="")


def report(found, seconds):
    """A table in Markdown: one column for each case.

    Example
    -------
    >>> print(report({"(S) inference, fp32": (1.5, 1.0, {"matmuls": 0.8, "norms": 0.2})}, 4).partition("\\n\\n")[2])
    | | (S) inference, fp32 |
    |---|---|
    | a call | 1.50 s |
    | its matmuls alone | 1.00 s, 67 % |
    | matmuls | 80.0 % |
    | norms | 20.0 % |
    <BLANKLINE>
    """
    kinds = sorted({kind for *_, shares in found.values() for kind in shares},
                   key=lambda kind: -max(shares.get(kind, 0) for *_, shares in found.values()))  # fmt: skip
    rows = [
        ["", *found],
        ["---"] * (len(found) + 1),
        ["a call", *(f"{wall:.2f} s" for wall, _, _ in found.values())],
        ["its matmuls alone", *(f"{alone:.2f} s, {100 * alone / wall:.0f} %" for wall, alone, _ in found.values())],
        *([kind, *(f"{100 * shares.get(kind, 0):.1f} %" for *_, shares in found.values())] for kind in kinds),
    ]
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows]
    lines[1] = "|" + "---|" * (len(found) + 1)
    return f"{seconds:g} s of audio, {describe('cpu', torch.get_num_threads())}\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"Error: {error}")
