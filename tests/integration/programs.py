"""Running the programs as a user does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.forked import Program, run

ROOT = Path(__file__).parents[2]
WHAM = ROOT / "hparams" / "mossformer_wham.yaml"
SMALL = ["--model_size", "mini", "--segment", "0.8", "--batch_size", "4", "--lr", "0.002", "--num_workers", "1"]
SMALL += ["--device", "cpu", "--noprogressbar"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": ""}
IN_TURN = """
import json, sys
sys.path.insert(0, sys.argv[1])
from train import main
for arguments in json.loads(sys.argv[2]):
    main(arguments)
"""

NODES = {
    "encoder": "!new:speechbrain.lobes.models.dual_path.Encoder {kernel_size: 16, out_channels: 8}",
    "masknet": "!new:mossformer_sb.MossFormerMaskNet {in_channels: 8, out_channels: 8, num_blocks: 1, group_size: 32, "
    "query_key_dim: 8, dropout: 0.0}",
    "decoder": "!new:speechbrain.lobes.models.dual_path.Decoder {in_channels: 8, out_channels: 1, kernel_size: 16, "
    "stride: 8, bias: False}",
}


def write_tiny_experiment(path):
    """The experiment for WHAM! with networks of 2000 parameters."""
    text = WHAM.read_text()
    for name, node in NODES.items():
        text, count = re.subn(rf"(?m)^{name}: .*\n(?:    .*\n)+", f"{name}: {node}\n", text)
        assert count == 1
    path.write_text(text)
    return path


def command(*arguments, script=ROOT / "train.py"):
    return [sys.executable, str(script), *map(str, arguments)]


def start_training(*arguments, cwd):
    """Start train.py in another folder than the repository; a `Program`."""
    return Program([ROOT / "train.py", *arguments], cwd, ENVIRONMENT)


def train(*arguments, cwd):
    """Run train.py to its end, in another folder than the repository. ``stdout`` has all that was printed."""
    return start_training(*arguments, cwd=cwd).wait()


def train_anew(*arguments, cwd):
    """The same by an interpreter of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command(*arguments), cwd=cwd, env=ENVIRONMENT, text=True, **pipes)


def train_in_turn(runs, cwd):
    """Run train.py for each list of arguments, in one process that loads the libraries once.

    Returns
    -------
    subprocess.CompletedProcess
        ``stdout`` has all that was printed.
    """
    words = json.dumps([[*map(str, arguments)] for arguments in runs])
    return run(["-c", IN_TURN, ROOT, words], cwd, ENVIRONMENT)


def contents(folder):
    """Relative path of each file and folder to its bytes, None for a folder."""
    paths = sorted(Path(folder).rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in paths}


REFUSED_IN_TURN = """
import json, sys
sys.path.insert(0, sys.argv[1])
from mossformer_sb.errors import InputError
from tests.integration.programs import contents
from train import main
for arguments in json.loads(sys.argv[2]):
    before = contents(".")
    try:
        main(arguments)
        message = "accepted"
    except InputError as error:
        message = str(error)
    except Exception as error:
        message = f"a traceback, {error!r}"
    after = contents(".")
    changed = sorted(name for name in {*before, *after} if before.get(name, "") != after.get(name, ""))
    print("RESULT " + json.dumps([message, changed]))
"""


def refused_in_turn(runs, cwd):
    """Run train.py for each list of arguments, in one process.

    Returns
    -------
    list of [str, list of str]
        For each, the message of the `InputError`, and what the run changed in the folder.
    """
    words = json.dumps([[*map(str, arguments)] for arguments in runs])
    done = run(["-c", REFUSED_IN_TURN, ROOT, words], cwd, ENVIRONMENT)
    assert done.returncode == 0, done.stdout
    return [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
