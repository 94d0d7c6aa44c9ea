"""Time and memory of several separators: `python -m benchmarks.speed`.

In one process and in alternation: ours, the authors' network with the same weights, whose outputs are compared, and
SpeechBrain's SepFormer and Conv-TasNet. A case is a size of MossFormer, a length and a task, inference or a training
step (forward, backward and a step of Adam). The ratio is the median over the rounds of the time that the first network
in fp32 took, divided by the time of the same round here: above 1 is faster than it. Memory on a CPU is the increase of
a new process's resident set during the call; on a GPU it is torch's allocation.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.separators import NETWORKS, build
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation import plots
from mossformer_sb.network.fast.matmul import linear
from mossformer_sb.network.separator import num_frames
from mossformer_sb.network.sizes import SIZES, build_masknet, get_size
from mossformer_sb.utils.files import write_text

ROOT = Path(__file__).parents[1]
SAMPLE_RATE = 8000  # Hz
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
TASKS = ("inference", "training")
# processor: CPU time of this process, for machines with other load; with one thread.
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
MEMORY_CASE = ("network", "size", "seconds", "task", "precision")  # keys of a row on which its memory depends


class Runner:
    """One network in one precision, ready to run.

    Arguments
    ---------
    separator : torch.nn.Module
        [B, T] → [B, T, S].
    precision : str
        fp32, or bf16 by autocast.
    task : str
        inference, or training.
    mixture : torch.Tensor
        [B, T].
    clock : str
        Of `CLOCKS`.
    """

    def __init__(self, separator, precision, task, mixture, clock="wall"):
        self.separator = separator
        self.dtype = PRECISIONS[precision]
        self.mixture = mixture
        self.training = task == "training"
        self.now = CLOCKS[clock]
        self.optimizer = torch.optim.Adam(separator.parameters(), lr=1e-9) if self.training else None

    def estimates(self):
        """Separate without gradient: [B, T, S]."""
        self.separator.eval()
        with torch.no_grad():
            return self._forward().float()

    def seconds(self):
        """Run the task once, and return how long it took."""
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
        with torch.autocast(self.mixture.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            return self.separator(self.mixture)


def measure(
    size, seconds, task, networks=NETWORKS, precisions=("fp32",), device="cpu", rounds=3, batch=1, clock="wall"
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
        Some of `benchmarks.separators.NETWORKS`; the first is the reference of the ratios.
    precisions : list of str
        Some of fp32 and bf16.
    device : str
        As torch writes it.
    rounds : int
        Rounds of each, after one that warms up and isn't timed.
    batch : int
        How many mixtures.
    clock : str
        Of `CLOCKS`.

    Returns
    -------
    list of dict
        For each network in each precision: the case, ``seconds_per_call``, ``real_time_factor`` (seconds a second of
        audio), ``ratio``; ``error``, the greatest difference from the first network in fp32, as a share of its peak;
        ``si_snr``, in dB, of the estimates against its own in fp32; and for MossFormer ``flops`` a second.

    Raises
    ------
    InputError
        If a network or a size is not known.

    Example
    -------
    >>> rows = measure("mini", seconds=0.1, task="inference", networks=["ours"], rounds=1)
    >>> rows[0]["network"], rows[0]["ratio"], rows[0]["error"]
    ('ours', 1.0, 0.0)
    """
    torch.manual_seed(0)
    separators = {name: separator.to(device) for name, separator in build(list(networks), size).items()}
    mixture = 0.1 * torch.randn(batch, round(seconds * SAMPLE_RATE), device=device)
    runners, rows, first = {}, [], None
    for name, separator in separators.items():
        exact = None
        for precision in sorted(precisions, reverse=True):  # fp32 first
            runners[name, precision] = runner = Runner(separator, precision, task, mixture, clock)
            found = runner.estimates()
            exact = found if exact is None else exact
            first = found if first is None else first
            row = {"size": size, "seconds": seconds, "task": task, "batch": batch}
            row.update(network=name, precision=precision, device=_device_name(device))
            row.update(threads=torch.get_num_threads(), torch=torch.__version__)
            row["si_snr"] = None if precision == "fp32" else _si_snr(found, exact)
            if name in ("ours", "reference"):
                row["error"] = ((found - first).abs().max() / first.abs().max()).item()
            rows.append(row)
    times = {key: [] for key in runners}
    for turn in range(rounds + 1):
        for key, runner in runners.items():
            took = runner.seconds()
            if turn:
                times[key].append(took)
    base = next(iter(times.values()))
    operations = operations_of(size, mixture.shape[1]) * batch * (3 if task == "training" else 1)
    for row, found in zip(rows, times.values(), strict=True):
        row["seconds_per_call"] = statistics.median(found)
        row["real_time_factor"] = row["seconds_per_call"] / (seconds * batch)
        row["ratio"] = statistics.median(a / b for a, b in zip(base, found, strict=True))
        if row["network"] in ("ours", "reference"):
            row["flops"] = operations / row["seconds_per_call"]
    return rows


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


def ceiling(precision, device="cpu", rounds=5):
    """Operations a second of the machine's fastest matmul of the network's kind, 4000 × 512 times 512 × 2048."""
    dtype = PRECISIONS[precision] or torch.float32
    x, weight = torch.randn(4000, 512, dtype=dtype, device=device), torch.randn(2048, 512, dtype=dtype, device=device)
    found = []
    for _ in range(rounds + 1):
        for function in (torch.nn.functional.linear, linear):
            _wait(device)
            start = time.perf_counter()
            with torch.no_grad():
                function(x, weight)
            _wait(device)
            found.append(2 * 4000 * 512 * 2048 / (time.perf_counter() - start))
    return max(found)


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


def _device_name(device):
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu"


def table(rows, ceilings):
    """The rows as a table in Markdown.

    Example
    -------
    >>> row = {"size": "S", "task": "inference", "seconds": 4.0, "network": "ours", "precision": "fp32"}
    >>> row.update(seconds_per_call=0.5, real_time_factor=0.125, ratio=3.0, flops=1e11, error=2e-6, memory=2.5e8)
    >>> print(table([row], {"fp32": 2e11}))
    | size | task | audio | network | time | real-time factor | ratio | of ceiling | memory | agreement |
    |---|---|---|---|---|---|---|---|---|---|
    | S | inference | 4 s | ours, fp32 | 0.50 s | 0.125 | 3.00 | 50 % | 0.25 GB | 2e-06 |
    """
    lines = ["| size | task | audio | network | time | real-time factor | ratio | of ceiling | memory | agreement |"]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        share = f"{100 * row['flops'] / ceilings[row['precision']]:.0f} %" if "flops" in row else ""
        taken = f"{row['memory'] / 1e9:.2f} GB" if row.get("memory") is not None else ""
        agreement = f"{row['error']:.0e}" if "error" in row else ""
        if row.get("si_snr") is not None:
            agreement = f"{row['si_snr']:.0f} dB"
        cells = [row["size"], row["task"], f"{row['seconds']:g} s", f"{row['network']}, {row['precision']}"]
        cells += [f"{row['seconds_per_call']:.2f} s", f"{row['real_time_factor']:.3f}", f"{row['ratio']:.2f}"]
        lines.append(f"| {' | '.join([*cells, share, taken, agreement])} |".replace("|  |", "| |"))
    return "\n".join(lines)


def draw(rows, path):
    """Bars of the ratios, a panel a case, as PNG."""
    try:
        figure = plots.new_figure(7, 1)
    except ImportError as error:
        raise InputError(
            'matplotlib, which draws --png, is not installed: pip install "mossformer_sb[report]", or remove --png.'
        ) from error
    cases = {}
    for row in rows:
        cases.setdefault(f"{row['size']}, {row['task']}, {row['seconds']:g} s", []).append(row)
    figure.set_figheight(1 + sum(0.6 + 0.3 * len(case) for case in cases.values()))
    panels = figure.subplots(len(cases), squeeze=False, sharex=True)[:, 0]
    for panel, (name, case) in zip(panels, cases.items(), strict=True):
        labels = [f"{row['network']}, {row['precision']}" for row in case]
        panel.barh(labels, [row["ratio"] for row in case])
        panel.invert_yaxis()
        panel.set_title(name, loc="left", fontsize="medium")
    panels[-1].set_xlabel(f"times as fast as {rows[0]['network']} in {rows[0]['precision']}")
    plots.save_png(figure, path, dpi=150)


def main(argv=None):
    """Measure the cases of the command line, and print the table.

    Arguments
    ---------
    argv : list of str, optional
        The words after the program's name. Default: those of this program.
    """
    arguments = _parser().parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(memory(**json.loads(arguments.one))))
        return
    common = {"device": arguments.device, "batch": arguments.batch}
    cases = [
        (size, length, task) for size in arguments.sizes for length in arguments.seconds for task in arguments.tasks
    ]
    ceilings = {precision: ceiling(precision, arguments.device) for precision in arguments.precisions}
    rows = []
    for case in tqdm(cases, unit="case", disable=None):
        rows += measure(
            *case, arguments.networks, arguments.precisions, rounds=arguments.rounds, clock=arguments.clock, **common
        )
    for row in tqdm(rows, "Memory", unit="case", disable=None) if arguments.memory else ():
        row["memory"] = memory_apart(**{key: row[key] for key in MEMORY_CASE}, **common)
    for row in rows:
        row["ceiling"] = ceilings[row["precision"]]
    if arguments.json:
        write_text(arguments.json, json.dumps(rows, indent=1) + "\n")
    if arguments.png:
        draw(rows, arguments.png)
    print(table(rows, ceilings))
    speeds = ", ".join(f"{found / 1e9:.0f} GFLOP/s in {precision}" for precision, found in ceilings.items())
    threads = f", {torch.get_num_threads()} threads" if _device_name(arguments.device) == "cpu" else ""
    print(f"\n{_device_name(arguments.device)}{threads}, torch {torch.__version__}; ceiling: {speeds}")


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["S", "M", "L"], help=f"some of {', '.join(SIZES)} (S M L)")
    parser.add_argument("--seconds", nargs="+", type=float, default=[4.0, 16.0, 60.0], help="lengths (%(default)s)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="(both)")
    parser.add_argument("--networks", nargs="+", default=["reference", "ours", "sepformer", "convtasnet"],
                        help="the first is the reference of the ratios (%(default)s)")  # fmt: skip
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=["fp32"], help="(fp32)")
    parser.add_argument("--batch", type=int, default=1, help="mixtures of a call (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s")
    parser.add_argument("--threads", type=int, help="on a CPU (torch's choice)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each network (%(default)s)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall",
                        help="processor: where others work too, with --threads 1 (%(default)s)")  # fmt: skip
    parser.add_argument("--memory", action="store_true", help="also measure memory, each case in its own process")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--png", type=Path, help="draw the ratios into this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a case, as JSON: to measure memory in its own process
    return parser


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"Error: {error}")
