from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from fedcore.errors import InputError
from fedcore.seeds import seeded


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_everything_inside_depends_on_the_seed_alone() -> None:
    with seeded(7):
        first = draw()
    draw()
    with seeded(7):
        assert draw() == first
    with seeded(8):
        assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_the_caller_draws_as_if_nothing_had_happened() -> None:
    with seeded(1):
        expected = [draw(), draw()]
    with seeded(1):
        first = draw()
        with seeded(2):
            draw()
        assert [first, draw()] == expected


def test_the_caller_is_spared_when_the_inside_fails() -> None:
    with seeded(1):
        expected = draw()
    with seeded(1):
        with pytest.raises(ZeroDivisionError), seeded(2):
            _ = draw()[0] / 0
        assert draw() == expected


def test_a_seed_may_be_as_large_as_torch_takes() -> None:
    with seeded(2**40 + 3):
        first = draw()
    with seeded(2**40 + 3):
        assert draw() == first


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_a_seed_that_not_every_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(InputError, match=f"a seed must be at least 0 and less than 2\\^63, got {seed}"), seeded(seed):
        pass
    with seeded(2**63 - 1):
        draw()
