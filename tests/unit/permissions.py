"""Files and folders without read permission, also for root."""

import contextlib
import ctypes
import os
import sys

import pytest

OVERRIDE = (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, which let root read everything
VERSION = 0x20080522  # of Linux's interface to capabilities


@contextlib.contextmanager
def closed(path):
    """Context: a file or folder may not be read, and what lies in it neither.

    Root may read everything; so it gives that up meanwhile, for this thread and those that it starts.
    """
    mode = os.stat(path).st_mode
    with _without_override() if os.geteuid() == 0 else contextlib.nullcontext():
        os.chmod(path, 0)
        try:
            yield
        finally:
            os.chmod(path, mode)


@contextlib.contextmanager
def _without_override():
    if sys.platform != "linux":
        pytest.skip("only Linux lets root give up reading everything")
    libc = ctypes.CDLL(None, use_errno=True)
    header, held = (ctypes.c_uint32 * 2)(VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, held):
        pytest.skip("capabilities can't be read")
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~OVERRIDE  # of those in effect; it stays permitted to take them back
    if libc.capset(header, fewer):
        pytest.skip("capabilities can't be given up")
    try:
        yield
    finally:
        libc.capset(header, held)


@contextlib.contextmanager
def read_only(folder):
    """Context: nothing may be written in a folder or below it."""
    modes = {path: os.stat(path).st_mode for path, _, _ in os.walk(folder)}
    with _without_override() if os.geteuid() == 0 else contextlib.nullcontext():
        for path in modes:
            os.chmod(path, 0o555)
        try:
            yield
        finally:
            for path, mode in modes.items():
                os.chmod(path, mode)
