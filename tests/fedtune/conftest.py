"""Toys that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedcore.data.images import Images


@pytest.fixture
def images() -> Callable[..., Images]:
    """(labels, patients, name) to a site's random 8 x 8 images; patients of their own if not given."""

    def make(labels: list[int], patients: list[int] | None = None, name: str = "a") -> Images:
        rng, n = np.random.default_rng(list(name.encode())), len(labels)
        pixels = rng.uniform(-1, 1, (n, 1, 8, 8)).astype(np.float16)
        owner = np.array(range(n) if patients is None else patients, dtype=np.int64)
        return Images(name, pixels, np.full(n, "train"), torch.tensor(labels, dtype=torch.int64), owner)

    return make
