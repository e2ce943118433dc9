"""Large blocks of memory stay with the process between steps, instead of going back to the system at each of them.

glibc asks the system anew for every block above 32 MB, or less, and the system fills it with zeros, page by page: a
tenth of the time of a training whose layers answer with such blocks. Torch keeps blocks of a GPU by itself, those of a
CPU it does not (benchmarks/speed/malloc.py).
"""

from __future__ import annotations

import ctypes
import os
import platform

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""What `mallopt` calls them (malloc.h)."""
LARGE = 1 << 30
"""Bytes. Blocks up to this size are kept, and that much free memory at the end of the heap."""
_LARGEST_BEFORE_2_35 = 1 << 25
"""Bytes; an older glibc refuses a greater MMAP_THRESHOLD."""
_CHOSEN_BY_USER = (
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "LD_PRELOAD",
)


def keep_large_blocks() -> bool:
    """Tells glibc to keep them, for the rest of the process; whether it does.

    Nothing is done where the C library is another one, or where the environment chooses an allocator or its settings.
    The process then holds its peak of memory longer; the peak itself grows by what lies between blocks in use.
    """
    if platform.libc_ver()[0] != "glibc" or any(map(os.environ.get, _CHOSEN_BY_USER)):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    kept = mallopt(MMAP_THRESHOLD, LARGE) or mallopt(MMAP_THRESHOLD, _LARGEST_BEFORE_2_35)
    return bool(kept and mallopt(TRIM_THRESHOLD, LARGE))
