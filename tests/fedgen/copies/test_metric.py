from __future__ import annotations

import torch

from fedgen.copies.metric import Metric


def test_directions_that_perturbations_change_do_not_count() -> None:
    """Images differ in two of six numbers; a perturbation changes two others by as much."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(200, 6)
    images[:, :2] = torch.randn(200, 2, generator=generator)
    change = torch.zeros(200, 8, 6)
    change[..., 2:4] = 3 * torch.randn(200, 8, 2, generator=generator)
    metric = Metric.fit(images, images[:, None] + change, 2)
    assert metric.directions.shape == (6, 2)
    assert torch.allclose(metric(images), metric(images + change[:, 0]), atol=0.05)
    assert torch.allclose(metric(images).norm(dim=1), torch.ones(200), atol=1e-5)


def test_few_images_give_fewer_directions() -> None:
    images = torch.rand(5, 30)
    assert Metric.fit(images, images[:, None] + 0.1, 48).directions.shape == (30, 4)
