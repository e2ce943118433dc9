"""Smooth fields and blur, compared with loops and their properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedcore.data.phantom.smooth import blur, upsample


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_blur_equals_the_loop_and_keeps_a_constant() -> None:
    x = torch.rand(1, 6, generator=generator())
    weights = [[np.exp(-0.5 * ((i - j) / 1.2) ** 2) for j in range(6)] for i in range(6)]
    loop = [sum(w * float(v) for w, v in zip(row, x[0], strict=True)) / sum(row) for row in weights]
    assert blur(x, 1.2)[0].tolist() == pytest.approx(loop, rel=1e-5)
    assert torch.allclose(blur(torch.ones(2, 5, 6, 7), 0.9), torch.ones(2, 5, 6, 7))


def test_fields_have_unit_variance_and_one_shape_at_every_size() -> None:
    knots = torch.randn(20_000, 4, 4, generator=generator())
    assert torch.allclose(upsample(knots, (6, 5)).var(0), torch.ones(6, 5), atol=0.06)
    fine = upsample(knots[:4], (12, 12))
    coarse = upsample(knots[:4], (4, 4))  # a pixel of 4 has its centre at the middle one of three
    assert torch.allclose(fine[:, 1::3, 1::3], coarse, atol=1e-5)
