"""What the C library and oneDNN keep of the memory that a training step frees."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of mallopt(3)


def reuse_freed_memory() -> None:
    """Keep memory that is freed for what is needed next, in this process from now on.

    A step frees hundreds of megabytes and asks for as much again. Given back to the system, they
    come back as pages that are cleared one by one: a tenth of a step. For glibc; elsewhere nothing
    happens.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, -1)
        mallopt(_MMAP_MAX, 0)


def keep_few_kernels() -> None:
    """Let oneDNN keep the code and the scratch memory of a few products only, from now on.

    It would keep them of about a thousand, to save the time of making them again. oneDNN reads the
    setting once: it must come before the first product of the process, and its children inherit
    it. What the user has set stays.
    """
    for name, kept in (("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16"), ("LRU_CACHE_CAPACITY", "4")):
        os.environ.setdefault(name, kept)
