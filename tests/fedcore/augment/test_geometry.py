from __future__ import annotations

from itertools import product
from math import pi

import pytest
import torch
import torch.nn.functional as F

from fedcore.augment.blur import blur
from fedcore.augment.geometry import resample, rotation, window_sides
from tests.fedcore.augment.images import random_images


@pytest.mark.parametrize(
    ("space", "mode", "start"),
    [
        ((12, 16), "bilinear", (1 / 4, 1 / 4)),
        ((8, 12), "bilinear", (0, 1 / 2)),
        ((8, 12, 16), "trilinear", (1 / 4, 0, 1 / 2)),
    ],
)
def test_a_known_crop_equals_interpolate(space: tuple[int, ...], mode: str, start: tuple[float, ...]) -> None:
    """Half of each axis; but for the rim, where interpolate sees no voxel beyond the slice."""
    images, dims = random_images(2, 3, *space), len(space)
    begins = [int(part * size) for part, size in zip(start, space, strict=True)]
    half = images[(..., *(slice(b, b + size // 2) for b, size in zip(begins, space, strict=True)))]
    expected = F.interpolate(half, size=space, mode=mode, align_corners=False)
    centre = 2 * torch.tensor(start).float() - 0.5
    view = resample(images, torch.eye(dims).expand(2, -1, -1) / 2, centre.expand(2, -1))
    inside = (..., *[slice(1, -1)] * dims)
    torch.testing.assert_close(view[inside], expected[inside], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_crop_window_fits_into_the_image_and_has_the_given_volume(dims: int) -> None:
    part, stretch = torch.rand(500) * 0.95 + 0.05, torch.randn(500, dims - 1)
    sides = window_sides(part, stretch)
    torch.testing.assert_close(sides.prod(1), part)
    assert sides.max() <= 1 + 1e-6
    part, stretch = part * 0.5, stretch.clamp(-0.1, 0.1)  # small enough that nothing is lessened
    sides = window_sides(part, stretch)
    torch.testing.assert_close((sides[:, 1:] / sides[:, :1]).log(), stretch, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("space", "planes"), [((5, 9), 1), ((4, 6, 7), 3)])
def test_a_rotation_is_the_exponential_of_its_skew_matrix(space: tuple[int, ...], planes: int) -> None:
    angles = torch.cat([torch.zeros(1, planes), torch.rand(20, planes) * 2 * pi - pi])
    row, column = torch.triu_indices(len(space), len(space), 1)
    skew = torch.zeros(len(angles), len(space), len(space))
    skew[:, row, column] = angles
    sides = torch.tensor(space).float()
    expected = torch.linalg.matrix_exp(skew - skew.mT) * (sides / sides[:, None])
    torch.testing.assert_close(rotation(angles, space), expected, atol=1e-5, rtol=0)


def test_resampling_equals_a_loop_over_pixels() -> None:
    """Bilinear by hand, any linear map, rows before columns, border repeated."""
    generator = torch.Generator().manual_seed(1)
    images = random_images(2, 1, 5, 7)
    linear, centre = (
        torch.randn(2, 2, 2, generator=generator) * 0.5,
        torch.randn(2, 2, generator=generator) * 0.2,
    )
    view = resample(images, linear, centre)
    sides = torch.tensor([5.0, 7.0])

    for i, row, column in product(range(2), range(5), range(7)):
        x = (2 * torch.tensor([row, column]) + 1) / sides - 1
        place = ((linear[i] @ x + centre[i] + 1) * sides - 1) / 2
        r, c = torch.minimum(place.clamp_min(0), sides - 1).tolist()
        expected = sum(
            (1 - abs(r - a)) * (1 - abs(c - b)) * images[i, 0, a, b].item()
            for a, b in product(range(5), range(7))
            if abs(r - a) < 1 and abs(c - b) < 1
        )
        assert view[i, 0, row, column].item() == pytest.approx(expected, abs=1e-5)


def test_a_right_angle_equals_rot90_in_an_image_and_in_each_plane_of_a_volume() -> None:
    picture = random_images(1, 1, 7, 7)
    rotated = resample(picture, rotation(torch.tensor([[pi / 2]]), (7, 7)), torch.zeros(1, 2))
    torch.testing.assert_close(rotated, picture.rot90(1, (-2, -1)), atol=1e-4, rtol=0)
    volume = random_images(1, 1, 5, 5, 5)
    for plane, axes in enumerate([(2, 3), (2, 4), (3, 4)]):
        angles = torch.eye(3)[plane : plane + 1] * pi / 2
        rotated = resample(volume, rotation(angles, (5, 5, 5)), torch.zeros(1, 3))
        torch.testing.assert_close(rotated, volume.rot90(1, axes), atol=1e-4, rtol=0)


def test_a_rotation_is_rigid_in_voxels() -> None:
    """R = S T S^-1 is a rotation, whatever the sides S: R R' = 1, det R = 1."""
    for space in [(6, 10), (4, 9, 5)]:
        sides = torch.tensor(space, dtype=torch.float32)
        planes = len(space) * (len(space) - 1) // 2
        rigid = rotation(torch.rand(20, planes) - 0.5, space) * (sides[:, None] / sides)
        torch.testing.assert_close(rigid @ rigid.mT, torch.eye(len(space)).expand_as(rigid), atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.linalg.det(rigid), torch.ones(20))


def test_an_image_equals_a_volume_of_one_slice() -> None:
    picture = random_images(3, 2, 6, 8)
    volume = picture[:, :, None]
    angles, centre, sigma = torch.rand(3, 1), torch.rand(3, 2) * 0.3, torch.rand(3) + 0.1
    flat = resample(picture, rotation(angles, (6, 8)) * 0.7, centre)
    # The third plane is the one of the last two axes; the slice itself keeps its thickness.
    deep = rotation(F.pad(angles, (2, 0)), (1, 6, 8)) * torch.tensor([1, 0.7, 0.7])
    solid = resample(volume, deep, F.pad(centre, (1, 0)))
    torch.testing.assert_close(solid[:, :, 0], flat, atol=1e-5, rtol=0)
    torch.testing.assert_close(blur(volume, sigma, 4)[:, :, 0], blur(picture, sigma, 4))
