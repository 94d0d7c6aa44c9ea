"""Time and memory of several separators: `python -m benchmarks.speed`.

Ours, the authors' network with the same weights, whose outputs are compared, and SpeechBrain's SepFormer and
Conv-TasNet run in one process and in alternation; each as PyTorch runs it or in another way, see `benchmarks.rivals`. A
case is a size of MossFormer, a length and a task: inference or a training step (forward, backward and a step of Adam).
Cases that can't run are skipped, with the reason. The share of the ceiling is the time of the matrix multiplications
alone (`benchmarks.ceiling`), divided by the whole time. The ratio is the median over the rounds of the time of the
first network in fp32, divided by the time of the same round here: above 1 is faster. Memory on a CPU is the increase of
a new process's resident set during the call; on a GPU it is torch's allocation.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.ceiling import TRAINING_FACTOR, allow_tf32, products_of, seconds_of
from benchmarks.machine import describe, device_name
from benchmarks.rivals import EAGER, WAYS, LeftOut, precisions_of, prepare, split_name
from benchmarks.separators import NETWORKS, build
from benchmarks.speed_tables import draw, report
from mossformer_sb.errors import InputError
from mossformer_sb.network.separator import num_frames
from mossformer_sb.network.sizes import SIZES, build_masknet, get_size
from mossformer_sb.utils.files import write_text

ROOT = Path(__file__).parents[1]
SAMPLE_RATE = 8000  # Hz
PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16}
MOSSFORMERS = ("ours", "reference")
TASKS = ("inference", "training")
# cpu: CPU time of this process, for machines with other load; with one thread.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
MEMORY_CASE = ("network", "size", "seconds", "task", "precision")  # keys of a row on which its memory depends


class Runner:
    """One network in one precision, ready to run.

    Arguments
    ---------
    separator : torch.nn.Module or callable
        [B, T] → [B, T, S]; a callable that is not a module supports only inference.
    precision : str
        fp32; tf32, on NVIDIA GPUs; or bf16 by autocast. Other engines set their own.
    task : str
        inference, or training.
    mixture : torch.Tensor
        [B, T].
    clock : str
        Of `CLOCKS`.
    """

    def __init__(self, separator, precision, task, mixture, clock="wall"):
        self.separator = separator
        self.is_module = isinstance(separator, torch.nn.Module)
        self.dtype = PRECISIONS[precision] if self.is_module else None
        self.mixture = mixture
        self.training = task == "training"
        self.tf32 = precision == "tf32"
        self.now = CLOCKS[clock]
        self.optimizer = torch.optim.Adam(separator.parameters(), lr=1e-9) if self.training else None

    def estimates(self):
        """Separate without gradient: [B, T, S]."""
        if self.is_module:
            self.separator.eval()
        with torch.no_grad():
            return self._forward().float()

    def seconds(self):
        """Run the task once, and return how long it took."""
        if self.is_module:
            self.separator.train(self.training)
        _wait(self.mixture.device)
        start = self.now()
        if self.training:
            self._forward().float().square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        else:
            with torch.no_grad():
                self._forward()
        _wait(self.mixture.device)
        return self.now() - start

    def _forward(self):
        allow_tf32(self.tf32)
        with torch.autocast(self.mixture.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            return self.separator(self.mixture)


def measure(
    size,
    seconds,
    task,
    networks=NETWORKS,
    precisions=("fp32",),
    device="cpu",
    rounds=3,
    batch=1,
    clock="wall",
    models=None,
    left_out=None,
):
    """Run the networks in alternation.

    Arguments
    ---------
    size : str
        One of `mossformer_sb.SIZES`.
    seconds : float
        Length of the mixtures, at 8 kHz.
    task : str
        inference, or training.
    networks : list of str
        Some of `benchmarks.separators.NETWORKS`, with a way of `benchmarks.rivals.WAYS` or not; the first is the
        reference of the ratios.
    precisions : list of str
        Some of `PRECISIONS`.
    device : str
        As torch writes it.
    rounds : int
        Rounds of each, after an untimed warm-up round.
    batch : int
        Batch size.
    clock : str
        Of `CLOCKS`.
    models : Path, optional
        Folder that keeps exported models for later runs. Default: a temporary folder.
    left_out : list, optional
        Gets a line for each skipped case.

    Returns
    -------
    list of dict
        For each network in each precision: the case, ``seconds_per_call``, ``real_time_factor`` (seconds per second
        of audio), ``ratio``; ``si_snr``, in dB, of the estimates against its own in fp32; and for MossFormer ``error``,
        the greatest difference from the first network in fp32, as a share of its peak, ``deviation``, the power of the
        difference in dB under its own, and ``flops`` per second.

    Raises
    ------
    InputError
        If a network, a way or a size is not known.

    Example
    -------
    >>> rows = measure("mini", seconds=0.1, task="inference", networks=["ours"], rounds=1)
    >>> rows[0]["network"], rows[0]["ratio"], rows[0]["error"]
    ('ours', 1.0, 0.0)
    """
    torch.manual_seed(0)
    torch.compiler.reset()  # drops the graphs of other cases, whose number is limited
    named = {name: split_name(name) for name in networks}
    separators = build(list(dict.fromkeys(network for network, _ in named.values())), size)
    separators = {name: separator.to(device) for name, separator in separators.items()}
    mixture = 0.1 * torch.randn(batch, round(seconds * SAMPLE_RATE), device=device)
    case = {"size": size, "seconds": seconds, "task": task, "batch": batch}
    case |= {"device": device_name(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    runners, rows, exact, first = {}, [], {}, None
    with tempfile.TemporaryDirectory() as scratch:
        for name, (network, way) in named.items():
            for precision in precisions_of(way, precisions):
                try:
                    ready = prepare(separators[network], way, precision, task, mixture, models or scratch)
                    runner = Runner(ready, precision, task, mixture, clock)
                    found = runner.estimates()
                except LeftOut as reason:
                    (left_out if left_out is not None else []).append(f"{name}, {precision}: {reason}")
                    continue
                runners[name, precision] = runner
                first = found if first is None else first
                rows.append({**case, "network": name, "precision": precision})
                rows[-1] |= {} if network not in MOSSFORMERS else _difference(found, first)
                rows[-1]["si_snr"] = None if precision == "fp32" else _si_snr(found, exact.get(network, found))
                exact.setdefault(network, found)
        times = _time_in_rounds(runners, rounds)
    if not rows:
        return []
    base = next(iter(times.values()))
    operations = operations_of(size, mixture.shape[1]) * batch * (TRAINING_FACTOR if task == "training" else 1)
    for row, found in zip(rows, times.values(), strict=True):
        row["seconds_per_call"] = statistics.median(found)
        row["real_time_factor"] = row["seconds_per_call"] / (seconds * batch)
        row["ratio"] = statistics.median(a / b for a, b in zip(base, found, strict=True))
        if named[row["network"]][0] in MOSSFORMERS:
            row["flops"] = operations / row["seconds_per_call"]
    return rows


def _time_in_rounds(runners, rounds):
    """Seconds of each runner in each round, after an untimed round."""
    times = {key: [] for key in runners}
    for number in range(rounds + 1):
        for key, runner in runners.items():
            seconds = runner.seconds()
            if number:
                times[key].append(seconds)
    return times


def _difference(found, expected):
    """Difference of estimates from others: as a share of their peak, and in dB."""
    difference = (found - expected).double()
    power = difference.square().sum().item()
    decibels = 10 * math.log10(expected.double().square().sum().item() / power) if power else math.inf
    return {"error": (difference.abs().max() / expected.abs().max()).item(), "deviation": decibels}


def operations_of(size, num_samples):
    """Operations of MossFormer's mask net for a mixture, each multiply-add counted as two; without running it."""
    config = get_size(size)
    kernel = config.encoder_kernel_size
    frames = num_frames(num_samples, kernel, kernel // 2)
    with torch.device("meta"):
        masknet, encoded = build_masknet(size).eval(), torch.rand(1, config.channels, frames)
    with FlopCounterMode(display=False) as counter:
        masknet(encoded)
    return counter.get_total_flops()


def add_ceilings(rows, device="cpu"):
    """Add the seconds of the matrix multiplications alone to each row of a MossFormer, as ``ceiling``.

    Arguments
    ---------
    rows : list of dict
        From `measure`, of one device and number of threads.
    device : str
        As torch writes it.
    """
    known = {}
    for row in rows:
        if "flops" not in row:
            continue
        case = row["size"], round(row["seconds"] * SAMPLE_RATE), row["batch"]
        key = *case, row["precision"]
        if key not in known:
            known[key] = seconds_of(products_of(*case), row["precision"], device)
        row["ceiling"] = known[key] * (TRAINING_FACTOR if row["task"] == "training" else 1)


def memory(network, size, seconds, task, precision, device="cpu", batch=1):
    """Bytes that one call allocates; on a CPU, run this in a new process."""
    (separator,) = build([network], size).values()
    mixture = 0.1 * torch.randn(batch, round(seconds * SAMPLE_RATE), device=device)
    separator = separator.to(device)
    Runner(separator, precision, task, mixture[:, : SAMPLE_RATE // 4]).seconds()  # loads libraries once
    runner = Runner(separator, precision, task, mixture)
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        runner.seconds()
        return torch.cuda.max_memory_allocated(device) - before
    before = _reset_peak()
    runner.seconds()
    return _resident("VmHWM") - before


def _reset_peak():
    """Reset the peak of the resident set where Linux supports it; the resident set, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    return _resident("VmRSS")


def _resident(which):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(which))


def memory_apart(**case):
    """`memory` in its own process; None if it ran out of memory."""
    command = [sys.executable, "-m", "benchmarks.speed", "--one", json.dumps(case)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode == -9 or "OutOfMemoryError" in done.stderr or "can't allocate memory" in done.stderr:
        return None
    raise RuntimeError(f"The case {case} failed:\n{done.stderr}")


def _si_snr(found, expected):
    """Mean SI-SNR in dB of [B, T, S] against [B, T, S]."""
    found, expected = (x.double() - x.double().mean(1, keepdim=True) for x in (found, expected))
    projected = (found * expected).sum(1, keepdim=True) / expected.square().sum(1, keepdim=True) * expected
    return (10 * torch.log10(projected.square().sum(1) / (found - projected).square().sum(1))).mean().item()


def _wait(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def main(argv=None):
    """Measure the cases of the command line, and print the table.

    Arguments
    ---------
    argv : list of str, optional
        The words after the program's name. Default: those of this program.
    """
    arguments = _parser().parse_args(argv)
    if arguments.one:
        print(json.dumps(memory(**json.loads(arguments.one))))
        return
    rows, left_out, before = [], [], torch.get_num_threads()
    for threads in arguments.threads or [before]:
        torch.set_num_threads(threads)
        rows += _measure_all(arguments, left_out)
    torch.set_num_threads(before)
    if arguments.json:
        write_text(arguments.json, json.dumps(rows, indent=1) + "\n")
    if arguments.png:
        draw(rows, arguments.png)
    text = report(rows, left_out)
    if arguments.output:
        write_text(arguments.output, text)
    print(text, end="")


def _measure_all(arguments, left_out):
    """Rows of all cases, with the threads that torch has now."""
    common = {"device": arguments.device, "batch": arguments.batch}
    cases = [
        (size, length, task) for size in arguments.sizes for length in arguments.seconds for task in arguments.tasks
    ]
    options = {"rounds": arguments.rounds, "clock": arguments.clock, "models": arguments.models, "left_out": left_out}
    rows = []
    for case in tqdm(cases, unit="case", disable=None):
        rows += measure(*case, arguments.networks, arguments.precisions, **options, **common)
    add_ceilings(rows, arguments.device)
    for row in tqdm(rows, "Memory", unit="case", disable=None) if arguments.memory else ():
        if split_name(row["network"])[1] == EAGER and row["precision"] in ("fp32", "bf16"):
            row["memory"] = memory_apart(**{key: row[key] for key in MEMORY_CASE}, **common)
    for row in rows:
        row["machine"] = describe(arguments.device, row["threads"])
    return rows


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["S", "M", "L"], help=f"some of {', '.join(SIZES)} (S M L)")
    parser.add_argument("--seconds", nargs="+", type=float, default=[4.0, 16.0, 60.0], help="lengths (%(default)s)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="(both)")
    parser.add_argument("--networks", nargs="+", default=["reference", "ours", "sepformer", "convtasnet"],
                        help="the first is what the others are compared with; NAME+WAY runs it in another way: "
                        f"{', '.join(WAYS)} (%(default)s)")  # fmt: skip
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=["fp32"], help="(fp32)")
    parser.add_argument("--batch", type=int, default=1, help="mixtures of a call (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s")
    parser.add_argument("--threads", type=int, nargs="+", help="CPU threads, one after the other (torch's choice)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each network (%(default)s)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall",
                        help="cpu: CPU time, under other load; with --threads 1 (%(default)s)")  # fmt: skip
    parser.add_argument("--memory", action="store_true", help="measure memory, too, each case in a process of its own")
    parser.add_argument("--models", type=Path, help="folder that keeps exported models (a temporary one)")
    parser.add_argument("--output", type=Path, help="write the tables, in Markdown, to this file too")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--png", type=Path, help="draw the ratios into this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a case, as JSON: to measure memory in its own process
    return parser


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"Error: {error}")
