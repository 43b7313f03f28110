from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_STEPS = """
import resource, sys, torch
from semantoks.train.memory import reuse_freed_memory
if sys.argv[1] == "reuse":
    reuse_freed_memory()
def cleared():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(size << 18) for size in range(4, 40)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*[cleared() for _ in range(6)])
"""


def cleared(how: str) -> list[int]:
    """Return how many pages the system clears in each of several steps."""
    command = [sys.executable, "-c", _STEPS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(n) for n in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
def test_freed_memory_is_used_again():
    first, *_, last = cleared("reuse")
    assert last < 0.02 * first
    assert cleared("as ever")[-1] > 0.5 * first, "otherwise there is nothing to choose"
