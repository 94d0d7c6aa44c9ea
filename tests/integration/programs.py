"""Running the programs as a user does."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
IN_TURN = """
import json, sys
sys.path.insert(0, sys.argv[1])
from train import main
for arguments in json.loads(sys.argv[2]):
    main(arguments)
"""


def train_in_turn(runs, cwd):
    """Run train.py for each list of arguments, in one process that loads the libraries once.

    Returns
    -------
    subprocess.CompletedProcess
        ``stdout`` has all that was printed.
    """
    words = json.dumps([[*map(str, arguments)] for arguments in runs])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run([sys.executable, "-c", IN_TURN, str(ROOT), words], cwd=cwd, text=True, **pipes)
