from __future__ import annotations

import pytest
import torch

from fedcore.data.phantom.phantoms import Phantoms
from fedgen.copies.registration import centred, inside, mirrored_transforms, moved, register, transforms


@pytest.mark.parametrize("dims", [2, 3])
def test_a_moved_image_is_brought_back(dims: int) -> None:
    images = next(iter(Phantoms(1, 12, dims, test_fraction=0.0).cohort(24).sites.values())).batch(range(12))
    start = transforms(12, dims)
    away = 0.06 * (2 * torch.rand(start.shape, generator=torch.Generator().manual_seed(0)) - 1)
    other = moved(images, away)
    before = (centred(other) * centred(images)).sum(1)
    found = register(other, images, start)
    after = (centred(moved(other, found)) * centred(images)).sum(1)
    assert (after > before).all()
    assert after.min() > 0.98
    assert (moved(images, start) - images).abs().max() < 1e-5


@pytest.mark.parametrize("dims", [2, 3])
def test_what_has_left_the_image_does_not_count_within_a_margin(dims: int) -> None:
    images = next(iter(Phantoms(1, 8, dims, test_fraction=0.0).cohort(20).sites.values())).batch(range(8))
    away = transforms(8, dims)
    away[:, :dims] = 0.15
    other = images + 0.2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    found = register(moved(other, away), other, transforms(8, dims), 2)
    assert (found + away).abs().max() < 0.03
    assert inside(other, 2).shape[2:] == (16,) * dims


def test_what_lies_is_left_alone() -> None:
    images = torch.rand(4, 1, 16, 16)
    assert register(images, images, transforms(4, 2)).abs().max() < 1e-3


@pytest.mark.parametrize("dims", [2, 3])
def test_moving_a_mirrored_image_is_mirroring_a_moved_one(dims: int) -> None:
    images = torch.rand(5, 2, *[12] * dims)
    of = 0.1 * (torch.rand(transforms(5, dims).shape) - 0.5)
    signs = torch.ones(5, dims)
    signs[:, 0] = -1
    assert torch.allclose(moved(images, of).flip(2), moved(images.flip(2), mirrored_transforms(of, signs)), atol=1e-4)


def test_brightness_and_contrast_change_nothing() -> None:
    images = torch.rand(3, 1, 10, 12)
    assert torch.allclose(centred(images), centred(0.3 * images - 0.5), atol=1e-5)
    assert centred(torch.zeros(1, 1, 8, 8)).isfinite().all()
