from __future__ import annotations

from math import ceil, exp

import pytest
import torch
import torch.nn.functional as F

from fedcore.augment.blur import blur, blur_weights
from tests.fedcore.augment.images import random_images


def test_blur_weights_sum_to_one_inside_the_image_and_a_tiny_sigma_is_the_identity() -> None:
    weights = blur_weights(torch.tensor([0.01, 0.5, 1.0, 30.0]), size=9, reach=4)
    torch.testing.assert_close(weights.sum(0), torch.ones(4, 9))
    assert weights[0, :, 3].max() == 0  # four voxels before the fourth there is none
    assert weights[0, 3, 4] > 0
    torch.testing.assert_close(weights[:, 0], F.one_hot(torch.tensor(4), 9).float()[:, None].expand(9, 9))


@pytest.mark.parametrize("space", [(6, 5), (3, 4, 5)])
@pytest.mark.parametrize("sigma", [(0.1, 1.0), (0.6, 1.4)])
def test_blur_equals_a_loop_over_pairs_of_voxels(space: tuple[int, ...], sigma: tuple[float, float]) -> None:
    images = random_images(2, 2, *space)
    blurred = blur(images, torch.tensor(sigma), reach=ceil(4 * sigma[1]))  # further than the image is wide
    places = list(torch.cartesian_prod(*(torch.arange(size) for size in space)))
    for i in range(2):
        for here in places:
            weights = [exp(-((here - there) ** 2).sum().item() / (2 * sigma[i] ** 2)) for there in places]
            near = torch.tensor(weights).view(space) / sum(weights)
            expected = (images[i] * near).flatten(1).sum(1)
            torch.testing.assert_close(blurred[(i, slice(None), *here)], expected, atol=1e-5, rtol=0)


def test_a_blur_cut_off_at_four_sigma_equals_one_that_is_not() -> None:
    images, sigma = random_images(4, 1, 32, 24), torch.tensor([0.1, 0.4, 0.9, 1.0])
    torch.testing.assert_close(blur(images, sigma, reach=4), blur(images, sigma, reach=32), atol=1e-5, rtol=0)
