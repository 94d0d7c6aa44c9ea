"""Running a program as a process of its own without loading the libraries anew.

A server process imports what takes long, once for each pytest worker, and forks for each program (`multiprocessing`'s
forkserver). A program has a folder, environment and output of its own, and can be killed. What is about the interpreter
itself is for `subprocess`: which modules are imported, hash seeds, torchrun.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What programs import, or begin to import when an optimizer is made (torch._dynamo) or a curve drawn.
LIBRARIES = [
    "torch",
    "torch._dynamo",
    "torchaudio",
    "speechbrain.core",
    "speechbrain.inference.separation",
    "hyperpyyaml",
    "pandas",
    "soundfile",
    "scipy.signal",
    "scipy.stats",
    "matplotlib.pyplot",
]


def preload():
    """Let the server of this process import the libraries when it starts."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.set_forkserver_preload(LIBRARIES)


class Program:
    """A program that is running.

    Arguments
    ---------
    words : iterable
        What would come after ``python``: a script, ``-m`` and a module, or ``-c`` and code; then its arguments.
    cwd : Path
        Its folder.
    env : dict, optional
        Its environment, that of the caller by default.
    """

    def __init__(self, words, cwd, env=None):
        # Those who can't fork start an interpreter.
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        self._output = tempfile.NamedTemporaryFile(suffix=".txt")  # deleted with the program at the latest
        self.words = [*map(str, words)]
        environment = dict(os.environ if env is None else env)
        self._process = context.Process(target=_run, args=(self.words, str(cwd), environment, self._output.name))
        self._process.start()

    def poll(self):
        """Its exit code; None while it runs."""
        return self._process.exitcode

    def output(self):
        """What it has printed so far."""
        return Path(self._output.name).read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout=None):
        """Wait for its end.

        Arguments
        ---------
        timeout : float, optional
            Seconds, after which it is killed.

        Returns
        -------
        subprocess.CompletedProcess
            ``stdout`` has all that was printed.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.words, timeout, self.output())
        printed = self.output()
        self._output.close()
        return subprocess.CompletedProcess(self.words, self._process.exitcode, printed)

    def kill(self):
        """Kill it, as SIGKILL does; data loaders' processes notice by themselves."""
        self._process.kill()
        self._process.join()


def run(words, cwd, env=None, timeout=None):
    """Run a program to its end; see `Program` for the arguments and `Program.wait` for what is returned."""
    return Program(words, cwd, env).wait(timeout)


def _run(words, cwd, environment, output):
    """In the new process: become the program."""
    multiprocessing.set_start_method(None, force=True)  # its data loaders start their processes as usual
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    handle = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
    first, *others = words
    folders = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*folders, *(path for path in sys.path if path and Path(path) != ROOT)]
    if first in ("-c", "-m"):
        sys.path.insert(0, cwd)
        content, *others = others
        sys.argv = [first, *others]
    else:
        sys.path.insert(0, str(Path(first).parent))
        sys.argv = words
    if first == "-c":
        exec(compile(content, "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        runpy.run_module(content, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(first, run_name="__main__")
