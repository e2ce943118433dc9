from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.segmentation.patches import random_patches


def scene(space: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Each pixel tells its place; one pixel of each image is of a structure."""
    places = torch.arange(torch.Size(space).numel()).view(space)
    masks = torch.zeros(3, *space, dtype=torch.int64)
    for at, mask in enumerate(masks):
        mask.view(-1)[7 * at] = 1
    return places.expand(3, 1, *space).float(), masks


@given(st.integers(0, 1000), st.sampled_from([((9, 7), (4, 7)), ((6, 5, 8), (3, 5, 2))]))
def test_image_and_mask_have_the_same_patch(seed: int, sizes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    images, masks = scene(sizes[0])
    torch.manual_seed(seed)
    pixels, cut = random_patches(images, masks, sizes[1], 0.5)
    assert pixels.shape == (3, 1, *sizes[1])
    for at in range(3):
        places = pixels[at, 0].long()
        assert torch.equal(masks[at].view(-1)[places], cut[at])


def test_patches_have_the_structure_with_the_set_probability() -> None:
    images, masks = scene((32, 32))
    torch.manual_seed(0)
    always = [random_patches(images, masks, (8, 8), 1.0)[1].flatten(1).any(1) for _ in range(50)]
    assert torch.stack(always).all()
    never = torch.stack([random_patches(images, masks, (8, 8), 0.0)[1].flatten(1).any(1) for _ in range(200)])
    assert never.float().mean() < 0.2


def test_small_and_large_structures_are_equally_frequent() -> None:
    masks = torch.zeros(1, 24, 24, dtype=torch.int64)
    masks[0, :, 12:], masks[0, 0, 0], masks[0, 1] = 1, 2, 255  # 264 pixels, one pixel, and what nobody marked
    torch.manual_seed(0)
    cuts = torch.stack([random_patches(masks[:, None].float(), masks, (5, 5), 1.0)[1][0] for _ in range(400)])
    centred = {k: int((cuts == k).flatten(1).any(1).sum()) for k in (1, 2)}
    assert centred[1] + centred[2] == 400
    assert abs(centred[2] - 200) < 40  # four deviations of 400 fair coins; one draw over pixels would show it twice


def test_without_structures_every_place_occurs() -> None:
    images, masks = scene((4, 4))
    masks[:] = 0
    masks[0] = 255
    torch.manual_seed(0)
    corners = {int(random_patches(images, masks, (3, 3), 1.0)[0][0, 0, 0, 0]) for _ in range(100)}
    assert corners == {0, 1, 4, 5}


@pytest.mark.parametrize("foreground", [0.0, 1.0])
def test_a_patch_as_large_as_the_image_is_the_image(foreground: float) -> None:
    images, masks = scene((5, 6))
    pixels, cut = random_patches(images, masks, (5, 6), foreground)
    assert pixels is images
    assert cut is masks
