"""Memory that is freed stays with the process, where the C library is glibc."""

import platform
import subprocess
import sys

import pytest

# Page faults of tensors that are allocated, written and freed again and again. In a process of its own, since the
# setting is the whole process's.
PROGRAM = """
import resource, sys, torch
from mossformer_sb.utils.allocator import keep_freed_memory

def faults(megabytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(megabytes * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults(64)
assert keep_freed_memory()
faults(64)
print(usual, faults(64))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_tensors_get_the_memory_of_those_before():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    usual, kept = map(int, result.stdout.split())
    assert usual > 20 * 16  # with huge pages of 2 MB each tensor takes 32
    assert kept < usual / 10
