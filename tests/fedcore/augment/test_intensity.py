from __future__ import annotations

import torch

from fedcore.augment.intensity import gamma_, rescale_
from tests.fedcore.augment.images import random_images


def test_gamma_contrast_and_brightness_equal_their_formulas_sample_by_sample() -> None:
    images = random_images(3, 2, 4, 5)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = -1.0, 1.0  # black stays black and white white
    gamma, contrast, brightness = (
        torch.tensor([0.7, 1.0, 1.5]),
        torch.tensor([1.3, 1, 0.6]),
        torch.tensor([0.1, 0, -1]),
    )
    bent, rescaled = images.clone(), images.clone()
    gamma_(bent, gamma)
    rescale_(rescaled, contrast, brightness)
    for i, x in enumerate(images):
        torch.testing.assert_close(bent[i], 2 * ((x + 1) / 2) ** gamma[i] - 1, atol=1e-6, rtol=0)
        expected = contrast[i] * (x - x.mean()) + x.mean() + brightness[i]
        torch.testing.assert_close(rescaled[i], expected, atol=1e-6, rtol=0)


def test_gamma_accepts_values_just_outside_the_range() -> None:
    """Half precision and interpolation leave values like -1.0000001, whose power would be NaN."""
    images = torch.full((1, 1, 4, 4), -1.001)
    gamma_(images, torch.full((1,), 0.5))
    assert (images == -1).all()
