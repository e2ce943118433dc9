"""Seeds that make a run repeatable and leave the caller's generators as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Everything random inside depends on `seed` alone; outside, nothing has changed.

    Covers torch (CPU and every GPU), NumPy's and Python's global generators, because Lightning,
    MONAI and torchvision draw from all of them.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is the point
    with torch.random.fork_rng():
        # Without a GPU, torch.manual_seed would note its call in a list of things to do once there is one: 0.7 ms each.
        (torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed)(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
