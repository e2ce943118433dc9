from __future__ import annotations

import pytest
import torch

from fedcore.messages.int8 import from_int8, to_int8

SHAPES = [(5, 7), (4, 3, 3, 3), (6, 2, 1, 3, 3), (3, 1)]


def random(shape: tuple[int, ...]) -> torch.Tensor:
    """Rows of very different sizes."""
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return rows * 10.0 ** torch.arange(-len(rows), 0).view(-1, *[1] * (len(shape) - 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_number_is_off_by_more_than_half_a_step_of_its_own_row(shape: tuple[int, ...]) -> None:
    rows = random(shape)
    levels, step = to_int8(rows)
    assert (levels.shape, levels.dtype, step.shape) == (rows.shape, torch.int8, rows.shape[:1])
    off = (from_int8(levels, step) - rows).abs().flatten(1)
    assert (off <= step[:, None] * 0.50001).all()
    assert levels.abs().max() == 127


@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_rounded_is_not_rounded_again(shape: tuple[int, ...]) -> None:
    once = from_int8(*to_int8(random(shape)))
    torch.testing.assert_close(from_int8(*to_int8(once)), once, rtol=1e-6, atol=0)


def test_by_hand() -> None:
    levels, step = to_int8(torch.tensor([[1.27, -0.64, 0.004], [0.0, 0.0, 0.0], [1e-30, -1e-30, 0.0]]))
    assert levels.tolist() == [[127, -64, 0], [0, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(step[0], torch.tensor(0.01))
    assert from_int8(levels, step).isfinite().all()
