from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from semantoks.model.linear import _has_products

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


_PRODUCTS = """
import sys, torch
from semantoks.train.memory import keep_few_kernels
if sys.argv[1] == "few":
    keep_few_kernels()
def held():
    return next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith("VmRSS"))
x, w = torch.ones(700, 96).bfloat16(), torch.ones(80, 96).bfloat16()
torch.nn.functional.linear(x, w)
before = held()
for n in range(100, 700):
    torch.nn.functional.linear(x[:n], w)
print(held() - before)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not _has_products(),
    reason="oneDNN's bfloat16 products, and a process that tells its memory",
)
def test_few_kernels_are_kept():
    # A training in this process may have set them for its children.
    settings = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    env = {name: value for name, value in os.environ.items() if name not in settings}
    kept = {}
    for how in ("few", "all"):
        command = [sys.executable, "-c", _PRODUCTS, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        kept[how] = int(done.stdout)
    assert kept["few"] < 0.3 * kept["all"], kept
