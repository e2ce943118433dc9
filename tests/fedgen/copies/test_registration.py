from __future__ import annotations

import pytest
import torch

from fedcore.data.phantom.phantoms import Phantoms
from fedgen.copies.registration import centred, identity_transforms, mirrored_transforms, register, warp, without_margin


@pytest.mark.parametrize("dims", [2, 3])
def test_a_transformed_image_is_registered_back(dims: int) -> None:
    images = next(iter(Phantoms(1, 12, dims, test_fraction=0.0).cohort(24).sites.values())).batch(range(12))
    start = identity_transforms(12, dims)
    away = 0.06 * (2 * torch.rand(start.shape, generator=torch.Generator().manual_seed(0)) - 1)
    other = warp(images, away)
    before = (centred(other) * centred(images)).sum(1)
    found = register(other, images, start)
    after = (centred(warp(other, found)) * centred(images)).sum(1)
    assert (after > before).all()
    assert after.min() > 0.98
    assert (warp(images, start) - images).abs().max() < 1e-5


@pytest.mark.parametrize("dims", [2, 3])
def test_pixels_shifted_out_of_the_image_do_not_count_within_a_margin(dims: int) -> None:
    images = next(iter(Phantoms(1, 8, dims, test_fraction=0.0).cohort(20).sites.values())).batch(range(8))
    away = identity_transforms(8, dims)
    away[:, :dims] = 0.15
    other = images + 0.2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    found = register(warp(other, away), other, identity_transforms(8, dims), 2)
    assert (found + away).abs().max() < 0.03
    assert without_margin(other, 2).shape[2:] == (16,) * dims


def test_a_registered_image_is_not_moved() -> None:
    images = torch.rand(4, 1, 16, 16)
    assert register(images, images, identity_transforms(4, 2)).abs().max() < 1e-3


@pytest.mark.parametrize("dims", [2, 3])
def test_warping_a_mirrored_image_equals_mirroring_a_warped_one(dims: int) -> None:
    images = torch.rand(5, 2, *[12] * dims)
    of = 0.1 * (torch.rand(identity_transforms(5, dims).shape) - 0.5)
    signs = torch.ones(5, dims)
    signs[:, 0] = -1
    assert torch.allclose(warp(images, of).flip(2), warp(images.flip(2), mirrored_transforms(of, signs)), atol=1e-4)


def test_brightness_and_contrast_change_nothing() -> None:
    images = torch.rand(3, 1, 10, 12)
    assert torch.allclose(centred(images), centred(0.3 * images - 0.5), atol=1e-5)
    assert centred(torch.zeros(1, 1, 8, 8)).isfinite().all()
