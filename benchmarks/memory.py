"""Time and peak memory of a training step, by network, length and batch: `python -m benchmarks.memory`.

Each case runs in its own process, since the peak is that of a process: forward, loss, backward and a step of Adam on
noise. Memory is torch's allocation on a GPU; on a CPU, the process's whole resident set, including some hundred
megabytes of libraries.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from mossformer_sb.errors import InputError
from mossformer_sb.network.separator import MossFormerSeparator
from mossformer_sb.network.sizes import SIZES, get_size
from mossformer_sb.training.epoch_stats import peak_memory
from mossformer_sb.training.losses import pit_si_snr_loss
from mossformer_sb.utils.files import write_text

ROOT = Path(__file__).parents[1]
SAMPLE_RATE = 8000  # Hz
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def measure(size, seconds, batch, device="cpu", threads=None, steps=3, precision="fp32"):
    """Time some training steps, after an untimed warm-up step.

    Arguments
    ---------
    size : str
        One of `mossformer_sb.SIZES`.
    seconds : float
        Length of the mixtures, at 8 kHz.
    batch : int
        Batch size.
    device : str
        As torch writes it.
    threads : int, optional
        On a CPU; default: torch's choice.
    steps : int
        Number of timed steps.
    precision : str
        fp32, or bf16 by autocast.

    Returns
    -------
    dict
        The measurements: ``step_seconds``, the median, and ``peak_gb`` (10^9 bytes); with the case, ``parameters`` in
        millions, and the machine.

    Example
    -------
    >>> measure("mini", seconds=0.1, batch=1, steps=1)["parameters"]
    0.63
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    separator = MossFormerSeparator.from_size(size).to(device)
    optimizer = torch.optim.Adam(separator.parameters(), lr=1e-4)
    sources = 0.1 * torch.randn(batch, round(seconds * SAMPLE_RATE), 2, device=device)
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        dtype = PRECISIONS[precision]
        with torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype is not None):
            loss = pit_si_snr_loss(separator(sources.sum(-1)), sources).losses.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for the GPU
        times.append(time.perf_counter() - start)
    return {
        "size": size,
        "seconds": seconds,
        "batch": batch,
        "precision": precision,
        "parameters": round(sum(p.numel() for p in separator.parameters()) / 1e6, 2),
        "step_seconds": statistics.median(times[1:]),
        "peak_gb": peak_memory(device) / 1e9,
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def measure_apart(**case):
    """`measure` in its own process; None if it ran out of memory."""
    command = [sys.executable, "-m", "benchmarks.memory", "--one", json.dumps(case)]
    # PyTorch's libraries read the number of threads once, when they are loaded.
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(case["threads"])} if case.get("threads") else {})}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    killed = done.returncode == -9 or "OutOfMemoryError" in done.stderr or "can't allocate memory" in done.stderr
    if not killed:
        raise RuntimeError(f"The case {case} failed:\n{done.stderr}")
    return None


def table(rows):
    """The rows as a table in Markdown.

    Example
    -------
    >>> row = {"size": "S", "parameters": 10.8, "seconds": 2.0, "batch": 1, "step_seconds": 3.21, "peak_gb": 2.345}
    >>> print(table([row, {"size": "L", "seconds": 4.0, "batch": 8}]))
    | network | seconds | batch | time of a step | peak memory |
    |---|---|---|---|---|
    | S, 10.8 M | 2 | 1 | 3.21 s | 2.35 GB |
    | L | 4 | 8 | out of memory | out of memory |
    """
    lines = ["| network | seconds | batch | time of a step | peak memory |", "|---|---|---|---|---|"]
    for row in rows:
        network, time_, peak = row["size"], "out of memory", "out of memory"
        if "peak_gb" in row:
            network += f", {row['parameters']:g} M"
            time_, peak = f"{row['step_seconds']:.2f} s", f"{row['peak_gb']:.2f} GB"
        lines.append(f"| {network} | {row['seconds']:g} | {row['batch']} | {time_} | {peak} |")
    return "\n".join(lines)


def main(argv=None):
    """Measure the cases of the command line, and print the table.

    Arguments
    ---------
    argv : list of str, optional
        The words after the program's name. Default: those of this program.
    """
    arguments = _parser().parse_args(argv)
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return
    for size in arguments.sizes:
        get_size(size)
    cases = [
        {"size": size, "seconds": seconds, "batch": batch}
        for size in arguments.sizes
        for seconds in arguments.seconds
        for batch in arguments.batches
    ]
    common = {name: getattr(arguments, name) for name in ("device", "threads", "steps", "precision")}
    rows = [{**case, **(measure_apart(**case, **common) or {})} for case in tqdm(cases, unit="case", disable=None)]
    if arguments.json:
        write_text(arguments.json, json.dumps(rows, indent=1))
    print(table(rows))
    measured = next((row for row in rows if "peak_gb" in row), None)
    if measured:
        threads = f", {measured['threads']} threads" if measured["device"] == "cpu" else ""
        print(f"\n{measured['device']}{threads}, {arguments.precision}, torch {measured['torch']}")


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help="networks: some of %(default)s")
    parser.add_argument("--seconds", nargs="+", type=float, default=[2.0, 4.0], help="lengths (%(default)s)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2], help="batch sizes (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s")
    parser.add_argument("--threads", type=int, help="on a CPU (torch's choice)")
    parser.add_argument("--steps", type=int, default=3, help="number of timed steps (%(default)s)")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32", help="%(choices)s")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a case, as JSON: for its own process
    return parser


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"Error: {error}")
