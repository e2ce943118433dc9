"""Toys that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch

from fedcore.data.dataset import Images


@pytest.fixture
def images() -> Callable[..., Images]:
    """(name, n, labelled) to a site's 8 x 8 images, another set for every name."""

    def make(name: str = "a", n: int = 12, labelled: bool = True) -> Images:
        rng = np.random.default_rng(list(name.encode()))
        labels = torch.arange(n) % 3 if labelled else torch.full((n,), -1)
        pixels = rng.uniform(-1, 1, (n, 1, 8, 8)).astype(np.float16)
        return Images(name, pixels, np.full(n, "train"), labels, np.arange(n))

    return make


@pytest.fixture
def half() -> Callable[[tuple[int, ...]], AbstractContextManager[None]]:
    """bf16 as a visit on a CPU takes it: for pictures; of volumes torch 2.15 gets the gradients wrong there."""
    return lambda space: torch.autocast("cpu", dtype=torch.bfloat16, enabled=len(space) == 2)
