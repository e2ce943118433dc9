"""Makes glibc keep large blocks of memory between training steps, instead of returning them to the system in each step.

For each block above 32 MB, or less, glibc requests new memory from the system, which fills it with zeros page by page:
a tenth of the training time where outputs of layers are that large. Torch caches blocks of a GPU, but not of a CPU
(benchmarks/malloc.py).
"""

from __future__ import annotations

import ctypes
import os
import platform

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Parameters of `mallopt` (malloc.h)."""
LARGE = 1 << 30
"""Bytes: blocks up to this size are kept, and up to this much free memory at the end of the heap."""
_LARGEST_BEFORE_2_35 = 1 << 25
"""Bytes: glibc before 2.35 rejects a larger MMAP_THRESHOLD."""
_CHOSEN_BY_USER = (
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "LD_PRELOAD",
)


def keep_large_blocks() -> bool:
    """Sets glibc's thresholds for the rest of the process; returns whether it accepted them.

    Does nothing with another C library, or where the environment sets an allocator or its options. The process then
    holds its peak memory longer; the peak grows by the free memory between blocks in use.
    """
    if platform.libc_ver()[0] != "glibc" or any(map(os.environ.get, _CHOSEN_BY_USER)):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    kept = mallopt(MMAP_THRESHOLD, LARGE) or mallopt(MMAP_THRESHOLD, _LARGEST_BEFORE_2_35)
    return bool(kept and mallopt(TRIM_THRESHOLD, LARGE))
