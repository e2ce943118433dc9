"""DiffAugment: augmentations of real and generated images for the discriminator (Zhao et al. 2020, arXiv 2006.10738).

A discriminator soon memorises a site of some hundred images. Augmentations that also act on generated images, and let
gradients through, prevent that without teaching the generator to reproduce them. In 2D and 3D. The paper's change of
saturation is left out, since most medical images have one channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedgen.diffusion.schedule import per_image


@dataclass(frozen=True)
class Augmentation:
    """Sampled augmentations of n images; each call applies the same ones."""

    brightness: Float[Tensor, " n"]
    """Is added."""
    contrast: Float[Tensor, " n"]
    """Factor of the distance from an image's mean."""
    shift: Int[Tensor, "n dims"]
    """In pixels; pixels from outside are 0, as in the paper's code."""
    cutout_start: Int[Tensor, "n dims"]
    """First pixel of the part that is set to 0; may lie outside."""
    cutout_size: tuple[int, ...]
    """Of that part."""

    def __call__(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        images = images + per_image(self.brightness, images)
        mean = per_image(images.flatten(1).mean(1), images)
        images = images + per_image(self.contrast - 1, images) * (images - mean)
        for axis in range(self.shift.shape[1]):
            images = _shifted(images, self.shift[:, axis], axis + 2)
        return images.masked_fill(self._cutout(images), 0.0)

    def _cutout(self, images: Tensor) -> Bool[Tensor, "n 1 *space"]:
        """Which pixels are set to 0."""
        cutout = torch.ones((), dtype=torch.bool, device=images.device)
        for axis, side in enumerate(self.cutout_size):
            start = per_image(self.cutout_start[:, axis], images)
            pixel = _coordinates(images, axis + 2)
            cutout = cutout & (start <= pixel) & (pixel < start + side)
        return cutout


@dataclass(frozen=True)
class DiffAugment:
    """Strengths of the augmentations; the defaults are the paper's, 0 switches one off."""

    brightness: float = 1.0
    """Width of the interval around 0 of what is added; images lie in [-1, 1]."""
    contrast: float = 1.0
    """Width of the interval around 1 of the factor, in [0, 2]."""
    translation: float = 0.125
    """Largest shift as a fraction of the side, in [0, 1)."""
    cutout: float = 0.5
    """Side of the cutout as a fraction of the image's, in [0, 1); smaller where it may hide the findings."""

    def __post_init__(self) -> None:
        if not self.brightness >= 0 or not 0 <= self.contrast <= 2:
            raise ValueError(
                f"brightness must be 0 or more and contrast lie in [0, 2], got {self.brightness} and {self.contrast}"
            )
        if not 0 <= self.translation < 1 or not 0 <= self.cutout < 1:
            raise ValueError(f"translation and cutout must lie in [0, 1), got {self.translation} and {self.cutout}")

    def sample(self, images: Float[Tensor, "n c *space"]) -> Augmentation:
        """Random augmentations for batches of this shape, one for the i-th image of each.

        Our reading: the paper samples those of real and of generated images independently, from one distribution; one
        for the i-th image of both has the same expected loss, which is a sum over images, with less noise in the
        difference of both.
        """
        n, space = len(images), images.shape[2:]
        sides = tuple(int(side * self.cutout + 0.5) for side in space)
        shifts = [int(side * self.translation + 0.5) for side in space]
        # As in the paper's code: the middle of an even cutout may lie one pixel behind the last.
        starts = [_integers(0, size - side % 2, images) - side // 2 for size, side in zip(space, sides, strict=True)]
        return Augmentation(
            brightness=(torch.rand(n, device=images.device) - 0.5) * self.brightness,
            contrast=1 + (torch.rand(n, device=images.device) - 0.5) * self.contrast,
            shift=torch.stack([_integers(-most, most, images) for most in shifts], 1),
            cutout_start=torch.stack(starts, 1),
            cutout_size=sides,
        )


def _integers(low: int, high: int, images: Tensor) -> Int[Tensor, " n"]:
    return torch.randint(low, high + 1, (len(images),), device=images.device)


def _coordinates(images: Tensor, axis: int) -> Tensor:
    """The indices of the pixels along an axis, in a shape that broadcasts over the images."""
    shape = [images.shape[axis] if d == axis else 1 for d in range(images.dim())]
    return torch.arange(images.shape[axis], device=images.device).view(shape)


def _shifted(images: Tensor, by: Int[Tensor, " n"], axis: int) -> Tensor:
    source = _coordinates(images, axis) - per_image(by, images)
    inside = (source >= 0) & (source < images.shape[axis])
    shifted = images.gather(axis, source.clamp(0, images.shape[axis] - 1).expand_as(images))
    return shifted.masked_fill(~inside, 0.0)
