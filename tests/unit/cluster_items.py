"""Functions for the workers of a cluster in tests, at the top of a module because they import it."""

import os
import signal
import threading
import time
from pathlib import Path

from mossformer_sb.errors import InputError
from mossformer_sb.utils.cluster import _look
from tests.unit.generate_items import make


def where(item):
    """The item, and the thread and process that had it."""
    return item, os.getpid(), threading.get_ident()


def uneven(item):
    """The item; the first ones take longest."""
    time.sleep(0.05 if item < 3 else 0)
    return item


def fail(item):
    """A message of ours."""
    raise InputError(f"item {item} is wrong. Give another one.")


def die(item):
    """As a process that has no memory left."""
    os.kill(os.getpid(), signal.SIGKILL)


def make_killed_once(marker, item):
    """Samples of a tone; the first process that comes to the eighth one is killed."""
    if item.number == 7 and not Path(marker).exists():
        Path(marker).touch()
        die(item)
    return make(item)


def look_elsewhere(probe, secret, paths):
    """As a worker that has another disk."""
    return _look(f"{probe}.elsewhere", secret, paths)
