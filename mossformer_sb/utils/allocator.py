"""Settings of the C library's memory allocator, for a process that repeatedly allocates the same large tensors."""

from __future__ import annotations

import ctypes
import platform

# Parameters of mallopt(3), from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_MOST_KEPT = 2**31 - 1  # bytes; mallopt's argument is an int
_GROWTH = 64 * 2**20  # bytes by which the heap grows


def keep_freed_memory() -> bool:
    """Let the C library keep up to 2 GB of freed memory for later allocations.

    By default glibc returns each large tensor's memory to the system when it is freed, and gets new pages for the next
    one, which the system fills with zeros before the first write. A training step on a CPU does so some hundred times.
    The setting affects the process until its end, so only programs may call this, not libraries.

    Returns
    -------
    bool
        Whether it was set: False without an effect with other C libraries, as on macOS and Windows.

    Example
    -------
    >>> keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _MOST_KEPT), mallopt(_TOP_PAD, _GROWTH)])
