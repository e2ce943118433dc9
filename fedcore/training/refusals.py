"""Errors of torch during training that a site may report: they become a `Refused` that says what may help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedcore.errors import Refused


@contextmanager
def gpu_memory_refused(advice: str) -> Iterator[None]:
    """Out of GPU memory becomes a Refused that ends with `advice`."""
    try:
        yield
    except torch.OutOfMemoryError:
        free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
        in_use = f"{(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB in use"
        raise Refused(f"out of GPU memory ({in_use}) {advice}") from None


@contextmanager
def single_values_refused() -> Iterator[None]:
    """Batch norm with one value per channel, as for a site's only image, becomes a Refused."""
    try:
        yield
    except ValueError as e:
        if "more than 1 value per channel" not in str(e):
            raise
        raise Refused(
            "batch norm needs more than one value per channel, but the network reduced one image to one pixel; "
            "add images to the site, raise data.size, or set norm: group where the network has it"
        ) from None
