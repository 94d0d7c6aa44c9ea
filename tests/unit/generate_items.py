"""Items for tests of the engine, at the top of a module because worker processes import them; and whole trees."""

import argparse
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep import command
from data_prep.generate.engine import Item, Output, Plan, run
from mossformer_sb.errors import InputError

FRAMES = 801


@dataclass(frozen=True)
class Tone(Item):
    """An item whose files hold its number."""

    number: int


def tones(count, dtype="float32"):
    """Items with two files each."""
    return [
        Tone(
            f"tone{i:03d}", tuple(Output(f"tr/{s}/tone{i:03d}.wav", FRAMES + i, 8000, dtype) for s in ("mix", "s1")), i
        )
        for i in range(count)
    ]


def make(item):
    """Samples that differ from file to file."""
    return {
        output.path: (np.arange(output.frames) + 7 * item.number + index).astype(output.dtype)
        for index, output in enumerate(item.outputs)
    }


def make_and_measure(item):
    """Samples, and the number of the item."""
    return make(item), item.number


def make_wrong(item):
    """The wrong file."""
    return {"tr/other.wav": np.zeros(1)}


def make_short(item):
    """Too few samples."""
    return {path: samples[:-1] for path, samples in make(item).items()}


def fail(item):
    """What a damaged recording does."""
    if item.number == 5:
        raise InputError("raw.wav: is damaged.")
    return make(item)


def die(item):
    """What the system does to a process that takes too much memory."""
    if item.number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(item)


def kill_parent(item):
    """Kills the whole run in the middle of it; workers that live on show in what they write."""
    time.sleep(0.01)
    if item.number == 12:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(0.01)
    return make(item)


def make_slowly(item):
    """Leaves time to interrupt the run."""
    time.sleep(0.1)
    return make(item)


def plan(make=make, count=24, parameters=None, items=None):
    """A plan of tones."""
    return Plan("tones", tones(count) if items is None else items, make, parameters or {"seed": 1})


def tree(folder):
    """Every file below a folder, hidden ones too: path → bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def kill_in_write(number):
    """Lets this process be killed in the middle of writing its `number`-th WAV file."""
    from data_prep.generate import engine

    write, count = engine.wavfile.write, [0]

    def write_half(path, sample_rate, samples):
        count[0] += 1
        if count[0] == number:
            write(path, sample_rate, samples[: len(samples) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, sample_rate, samples)

    engine.wavfile.write = write_half


if __name__ == "__main__":
    # As in a terminal: whoever is started in the background of a script inherits that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[2] == "command":
        parser = argparse.ArgumentParser()
        parser.set_defaults(function=lambda: run(plan(make_slowly), sys.argv[1], workers=2))
        sys.exit(command.run(parser, []))
    run(plan({"killed": kill_parent, "slow": make_slowly}[sys.argv[2]]), sys.argv[1], workers=2)
