"""The process pool of data_prep."""

import signal

import pytest

from data_prep.parallel import process_map


def blocked(_):
    """Whether this process never gets SIGINT, from its start on."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no masks of signals")
@pytest.mark.parametrize("ordered", [True, False])
def test_workers_start_with_sigint_blocked(ordered):
    """Ctrl-C goes to all processes of a terminal: a worker that is still importing would print a traceback, too."""
    with process_map(blocked, workers=2, ordered=ordered) as mapped:
        assert list(mapped(range(4))) == [True] * 4
        assert not blocked(None)
    assert not blocked(None)
