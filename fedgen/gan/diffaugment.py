"""DiffAugment: a critic sees real and drawn images changed at random (Zhao et al. 2020, arXiv 2006.10738).

A site of some hundred images is soon known by heart; changes that act on drawn images as well, and let gradients
through, keep a critic from it without teaching the painter to draw them. In 2D and 3D. The paper's change of
saturation is left out, since most medical images have one channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedgen.diffusion.schedule import over


@dataclass(frozen=True)
class Look:
    """The changes of n images, drawn once and made alike wherever they are called."""

    brightness: Float[Tensor, " n"]
    """Is added."""
    contrast: Float[Tensor, " n"]
    """Factor of the distance from an image's mean."""
    shift: Int[Tensor, "n dims"]
    """Pixels; what comes in is 0, as in the paper's code."""
    hole: Int[Tensor, "n dims"]
    """First pixel of the part that is 0; may lie outside."""
    sides: tuple[int, ...]
    """Of that part."""

    def __call__(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        images = images + over(self.brightness, images)
        mean = over(images.flatten(1).mean(1), images)
        images = images + over(self.contrast - 1, images) * (images - mean)
        for axis in range(self.shift.shape[1]):
            images = _shifted(images, self.shift[:, axis], axis + 2)
        return images.masked_fill(self._cut(images), 0.0)

    def _cut(self, images: Tensor) -> Bool[Tensor, "n 1 *space"]:
        """Where the hole is."""
        cut = torch.ones((), dtype=torch.bool, device=images.device)
        for axis, side in enumerate(self.sides):
            first = over(self.hole[:, axis], images)
            at = _places(images, axis + 2)
            cut = cut & (first <= at) & (at < first + side)
        return cut


@dataclass(frozen=True)
class DiffAugment:
    """How strong the changes are; the defaults are the paper's, 0 leaves one out."""

    brightness: float = 1.0
    """Width of the interval around 0 of what is added; images lie in [-1, 1]."""
    contrast: float = 1.0
    """Width of the interval around 1 of the factor, in [0, 2]."""
    translation: float = 0.125
    """Largest shift as a part of the side, in [0, 1)."""
    cutout: float = 0.5
    """Side of the hole as a part of the image's, in [0, 1); findings that it may hide want a smaller one."""

    def __post_init__(self) -> None:
        if not self.brightness >= 0 or not 0 <= self.contrast <= 2:
            raise ValueError(
                f"brightness must be 0 or more and contrast lie in [0, 2], got {self.brightness} and {self.contrast}"
            )
        if not 0 <= self.translation < 1 or not 0 <= self.cutout < 1:
            raise ValueError(f"translation and cutout must lie in [0, 1), got {self.translation} and {self.cutout}")

    def draw(self, images: Float[Tensor, "n c *space"]) -> Look:
        """One change for the i-th image of every batch of such images.

        Our reading: the paper draws real and drawn images' changes apart, from one law; one for the i-th of both has
        the same expected loss, which is a sum over images, with less noise in their difference.
        """
        n, space = len(images), images.shape[2:]
        sides = tuple(int(side * self.cutout + 0.5) for side in space)
        shifts = [int(side * self.translation + 0.5) for side in space]
        # As in the paper's code: the middle of an even hole may lie one pixel behind the last.
        holes = [_integers(0, size - side % 2, images) - side // 2 for size, side in zip(space, sides, strict=True)]
        return Look(
            brightness=(torch.rand(n, device=images.device) - 0.5) * self.brightness,
            contrast=1 + (torch.rand(n, device=images.device) - 0.5) * self.contrast,
            shift=torch.stack([_integers(-most, most, images) for most in shifts], 1),
            hole=torch.stack(holes, 1),
            sides=sides,
        )


def _integers(low: int, high: int, images: Tensor) -> Int[Tensor, " n"]:
    return torch.randint(low, high + 1, (len(images),), device=images.device)


def _places(images: Tensor, axis: int) -> Tensor:
    """The numbers of the pixels along an axis, in its direction."""
    shape = [images.shape[axis] if d == axis else 1 for d in range(images.dim())]
    return torch.arange(images.shape[axis], device=images.device).view(shape)


def _shifted(images: Tensor, by: Int[Tensor, " n"], axis: int) -> Tensor:
    source = _places(images, axis) - over(by, images)
    inside = (source >= 0) & (source < images.shape[axis])
    taken = images.gather(axis, source.clamp(0, images.shape[axis] - 1).expand_as(images))
    return taken.masked_fill(~inside, 0.0)
