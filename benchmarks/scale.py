"""How the time of a separation grows with length, batch, threads, blocks and speakers: `python -m benchmarks.scale`.

    python -m benchmarks.scale --output docs/scale.png --budget 140

Each panel varies one of these; the others are as in `BASE`. A point is the median over some calls, after a warm-up
call. Points are saved in a JSON file beside the picture as they are measured. With ``--budget`` the program ends within
this number of seconds, and the same command resumes. The dashed line is the cost in proportion to the first point.
"""

import argparse
import copy
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.machine import describe, device_name
from benchmarks.speed import SAMPLE_RATE
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation import plots
from mossformer_sb.network.separator import MossFormerSeparator
from mossformer_sb.network.sizes import SIZES
from mossformer_sb.utils.files import write_text

BASE = {"seconds": 4.0, "batch": 1, "threads": 1, "blocks": 8, "speakers": 2}
POINTS = {
    "seconds": (1.0, 2.0, 4.0, 10.0, 30.0, 60.0, 180.0, 600.0),
    "batch": (1, 2, 4, 8, 16),
    "threads": (1, 2, 4, 8, 16),
    "blocks": (1, 2, 4, 8, 16, 24),
    "speakers": (1, 2, 3, 4, 5),
}
TITLES = {
    "seconds": "length, seconds",
    "batch": "mixtures at once",
    "threads": "threads",
    "blocks": "blocks",
    "speakers": "speakers",
}


def plan(largest=None, cores=None):
    """Points to measure, the cheapest first.

    Arguments
    ---------
    largest : float, optional
        Seconds of the longest recording. Default: all of `POINTS`.
    cores : int, optional
        Maximum number of threads. Default: the CPUs that this process may use.

    Returns
    -------
    list of (str, dict)
        What is varied, and the case.

    Example
    -------
    >>> [case["threads"] for name, case in plan(cores=2) if name == "threads"]
    [1, 2]
    """
    cores = cores or len(os.sched_getaffinity(0))
    limits = {"threads": cores, "seconds": largest}
    found = [
        (name, {**BASE, name: value})
        for name, values in POINTS.items()
        for value in values
        if limits.get(name) is None or value <= limits[name]
    ]
    return sorted(found, key=lambda point: point[1]["seconds"] * point[1]["batch"])


def measure(case, size, rounds):
    """Seconds of one call of a separator with random weights: the median over some rounds.

    Arguments
    ---------
    case : dict
        As `BASE`.
    size : str
        Size of the network, except for the number of blocks; one of MossFormer's.
    rounds : int

    Returns
    -------
    float
    """
    torch.manual_seed(0)
    torch.set_num_threads(case["threads"])
    separator = MossFormerSeparator.from_size(size, num_spks=case["speakers"])
    blocks = separator.masknet.blocks
    separator.masknet.blocks = torch.nn.ModuleList(
        copy.deepcopy(blocks[number % len(blocks)]) for number in range(case["blocks"])
    )
    separator.eval()  # the new list, too: a module in training mode would exclude the fast implementation
    mixture = 0.1 * torch.randn(case["batch"], round(case["seconds"] * SAMPLE_RATE))
    found = []
    with torch.no_grad():
        separator(mixture)  # at full length: the first use of so much memory can take as long as the call
        for _ in range(rounds):
            start = time.perf_counter()
            separator(mixture)
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def read_points(path, size):
    """Points of earlier runs: {"machine", "size", "points"}, the last a list of dict.

    Raises
    ------
    InputError
        If they are of another machine or size.
    """
    if not path.is_file():
        return {"machine": device_name("cpu"), "size": size, "torch": torch.__version__, "points": []}
    found = json.loads(path.read_text(encoding="utf-8"))
    for key, value in {"machine": device_name("cpu"), "size": size, "torch": torch.__version__}.items():
        if found.get(key) != value:
            raise InputError(
                f"{path}: holds points of {key} {found.get(key)!r}; now it is {value!r}, and one picture shows one of "
                f"them. Give another --output, or delete the file."
            )
    return found


def draw(found, path):
    """Draw the points, one panel per varied quantity, as PNG."""
    by_name = {name: [point for point in found["points"] if point["varied"] == name] for name in POINTS}
    by_name = {name: sorted(points, key=lambda p: p["case"][name]) for name, points in by_name.items() if points}
    figure = plots.new_figure(3.2 * len(by_name), 3.4)
    panels = figure.subplots(1, len(by_name), squeeze=False, sharey=True)[0]
    for panel, (name, points) in zip(panels, by_name.items(), strict=True):
        values, seconds = [p["case"][name] for p in points], [p["seconds"] for p in points]
        panel.plot(values, seconds, "o-")
        slope = -1 if name == "threads" else 1
        panel.plot(values, [seconds[0] * (value / values[0]) ** slope for value in values], "--", color="grey")
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        panel.set_xlabel(TITLES[name])
    panels[0].set_ylabel("seconds of a call")
    figure.suptitle(f"MossFormer, size {found['size']}: {found['machine']}, torch {found['torch']}", fontsize="medium")
    plots.save_png(figure, path, dpi=110)


def table(found):
    """The points as a table in Markdown.

    Example
    -------
    >>> point = {"varied": "batch", "case": {**BASE, "batch": 2}, "seconds": 0.5}
    >>> print(table({"points": [point]}))
    | varied | value | time of a call | for a second of audio |
    |---|---|---|---|
    | mixtures at once | 2 | 0.500 s | 0.0625 s |
    """
    lines = ["| varied | value | time of a call | for a second of audio |", "|---|---|---|---|"]
    for name in POINTS:
        for point in sorted((p for p in found["points"] if p["varied"] == name), key=lambda p: p["case"][name]):
            case, seconds = point["case"], point["seconds"]
            share = seconds / (case["seconds"] * case["batch"])
            lines.append(f"| {TITLES[name]} | {case[name]:g} | {seconds:.3f} s | {share:.4f} s |")
    return "\n".join(lines)


def main(argv=None):
    """Measure the missing points, draw, and print the table."""
    begin = time.perf_counter()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.partition(":")[0])
    parser.add_argument("--output", type=Path, required=True, help="the picture, PNG; points go to .json beside it")
    parser.add_argument("--size", default="small", choices=[s for s in SIZES if not s.startswith("2")], help="(small)")
    parser.add_argument("--largest", type=float, help="seconds of the longest recording (600)")
    parser.add_argument("--rounds", type=int, default=3, help="calls of each point (%(default)s)")
    parser.add_argument("--budget", type=float, help="maximum running time, seconds (no limit)")
    options = parser.parse_args(argv)
    plots.check_plots("the picture of the scale")
    store = options.output.with_suffix(".json")
    found = read_points(store, options.size)
    done = [(point["varied"], point["case"]) for point in found["points"]]
    left = [point for point in plan(options.largest) if point not in done]
    usual, before = _seconds_of_audio(found["points"]), torch.get_num_threads()
    try:
        while left:
            varied, case = left[0]
            rounds = options.rounds if case["seconds"] * case["batch"] < 120 else 1
            expected = (rounds + 1.5) * case["seconds"] * case["batch"] * case["blocks"] / BASE["blocks"] * usual
            if options.budget and time.perf_counter() - begin + expected > options.budget and len(found["points"]):
                break
            seconds = measure(case, options.size, rounds)
            found["points"].append({"varied": varied, "case": case, "seconds": seconds})
            write_text(store, json.dumps(found, indent=1) + "\n")
            usual = _seconds_of_audio(found["points"])
            del left[0]
    finally:
        torch.set_num_threads(before)
    draw(found, options.output)
    print(f"{describe('cpu', BASE['threads'])}\n\n{table(found)}")
    if left:
        print(f"\n{len(left)} points are left: the same command measures them.")
    return 0


def _seconds_of_audio(points):
    """Seconds per second of audio with the usual number of blocks: the median of the measured points."""
    cases = [(point["seconds"], point["case"]) for point in points]
    if not cases:
        return 0.0
    return statistics.median(s * BASE["blocks"] / (c["seconds"] * c["batch"] * c["blocks"]) for s, c in cases)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"Error: {error}")
