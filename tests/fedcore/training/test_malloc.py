from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

_TOUCH = """
import json, resource
from fedcore.training.malloc import keep_large_blocks

kept = keep_large_blocks()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(b"1") * (64 << 20)
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del block
print(json.dumps([kept, pages]))
"""


def touched(**environment: str) -> tuple[bool, int]:
    """Whether large blocks are kept, and the pages that the system gives for a block when one of its size was freed."""
    done = subprocess.run(
        [sys.executable, "-c", _TOUCH], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    kept, pages = json.loads(done.stdout)
    return kept, pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_freed_block_is_reused_without_the_system_unless_the_environment_sets_an_allocator() -> None:
    kept, pages = touched()
    assert kept
    left, fresh = touched(MALLOC_TRIM_THRESHOLD_="131072")
    assert not left
    assert 10 * pages < fresh
