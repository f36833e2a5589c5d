"""Memory that a command frees and takes again."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_memory"]

SETTINGS = {-3: 2**30, -1: 2**31 - 1}
"""Of `mallopt`: M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, in bytes, near the most that an int holds."""
CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_memory() -> bool:
    """Have glibc keep freed memory for the next tensor; whether it now does.

    By default it hands blocks of more than 32 MB back to the system at once, and activations of some images are larger:
    every pass is then given fresh pages, which must be zeroed, and takes half as long again (`benchmarks/memory.py`).
    The process stays as large as it was at its largest. For a process of our own: a program that uses the library
    decides for itself.

    Nothing is done with another C library, or where the user has chosen an allocator or its settings.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in CHOSEN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and min(mallopt(name, value) for name, value in SETTINGS.items()) == 1
