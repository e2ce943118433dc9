"""Seeds that make a run repeatable and leave the caller's generators as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from fedcore.errors import InputError


def require_seed(seed: int) -> None:
    """Raises InputError for a seed that not every generator takes."""
    if not 0 <= seed < 2**63:
        raise InputError(f"a seed must be at least 0 and less than 2^63, got {seed}")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Everything random inside depends on `seed` alone; outside, nothing has changed.

    Covers torch (CPU and every GPU), NumPy's and Python's global generators, because Lightning,
    MONAI and torchvision draw from all of them.
    """
    require_seed(seed)
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
