"""Random views of images, made in batches on the images' device, in 2D and 3D by one code.

One resampling does crop, mirror and rotation; then blur, gamma, contrast, brightness and noise. Every sample
draws its own parameters. Colour is left alone: grey CT, MR and X-ray have no hue, and solarising breaks the
order of intensities on which their reading rests.

Why not a library: on one CPU thread the same changes take kornia 2.2 to 2.4 times as long (1.7 times with a
looser crop), and it has no resized crop, blur or intensity changes for volumes. MONAI has them, but an image
at a time: 2.5 to 4.2 times as long in 3D, 8 to 41 times in 2D. lightly's views are 8-bit RGB pictures in 2D,
3.5 to 6.3 times as long, without gamma and noise (benchmarks/speed/views.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import ceil, log, pi, radians
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from fedcore.errors import InputError, InputErrors


@dataclass(frozen=True)
class Views:
    """Makes `count` random views of each image; the `views:` section of a recipe.

    Draws from torch's global generator of the images' device and, which images are blurred, from that of the CPU: fork
    and seed both to repeat the views (`fedcore.seeds`). Nothing here waits for a GPU.
    Voxels should be isotropic: a rotation is rigid in voxels, not in mm.
    """

    count: int = 2
    """Views of each image."""
    crop: tuple[float, float] = (0.2, 1.0)
    """Least and greatest part of the area (volume) that a view shows. Small lesions want a greater least."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Stretch of the later axes against the first, relative to the image's own shape; drawn log-uniformly."""
    flip: float | tuple[float, ...] = 0.5
    """Probability of mirroring: of 2D images along the last axis (columns: left to right of a picture, and of the
    patient in axial and coronal slices), of volumes along each axis. 0 where the side of the body matters. Several
    numbers are one an axis: [0.5, 0, 0] mirrors volumes of NIfTI and DICOM, whose arrays are (x, y, z), left to right
    alone."""
    rotate: float = 10.0
    """Greatest rotation in degrees, either way; a volume turns by a vector of three such angles. With 180, a
    picture takes every pose."""
    gamma: float = 0.3
    """Gamma lies in [exp(-gamma), exp(gamma)], log-uniformly."""
    contrast: float = 0.4
    """Contrast about the sample's mean lies in [1 - contrast, 1 + contrast]: a CT's window width."""
    brightness: float = 0.2
    """Shift of the intensities in [-1, 1] lies in [-brightness, brightness]: a CT's window level."""
    blur: tuple[float, float] = (0.1, 1.0)
    """Least and greatest sigma of the Gaussian blur, in voxels of the view. SimCLR's 2 is for 224 x 224."""
    blur_probability: float = 0.5
    """Probability of blurring a view at all."""
    noise: float = 0.05
    """Greatest standard deviation of the Gaussian noise added to intensities in [-1, 1]."""
    invert: float = 0.0
    """Probability of making bright what is dark and dark what is bright; for sites whose stains, sequences or films
    differ in which of them shows what is looked for."""

    def __post_init__(self) -> None:
        """Raises InputErrors: every field that is out of its range."""
        laws = [
            ("count", "be at least 1", self.count >= 1),
            ("crop", "hold 0 < least <= greatest <= 1", 0 < self.crop[0] <= self.crop[1] <= 1),
            ("aspect", "hold 0 < least <= greatest", 0 < self.aspect[0] <= self.aspect[1]),
            ("flip", "lie in [0, 1]", all(0 <= chance <= 1 for chance in _several(self.flip))),
            ("rotate", "lie in [0, 180] degrees", 0 <= self.rotate <= 180),
            ("gamma", "be at least 0", self.gamma >= 0),
            ("contrast", "lie in [0, 1]", 0 <= self.contrast <= 1),
            ("brightness", "lie in [0, 2]", 0 <= self.brightness <= 2),
            ("blur", "hold 0 < least <= greatest", 0 < self.blur[0] <= self.blur[1]),
            ("blur_probability", "lie in [0, 1]", 0 <= self.blur_probability <= 1),
            ("noise", "be at least 0", self.noise >= 0),
            ("invert", "lie in [0, 1]", 0 <= self.invert <= 1),
        ]
        faults = [f"{name} must {law}, got {getattr(self, name)}" for name, law, holds in laws if not holds]
        if faults:
            raise InputErrors("views", faults)

    def flips(self, dims: int) -> tuple[float, ...]:
        """Probability of mirroring along each axis.

        Raises:
            InputError: There are several, but not one an axis.
        """
        several = _several(self.flip)
        if len(several) == 1:
            return (0.0, *several) if dims == 2 else several * dims
        if len(several) != dims:
            raise InputError(f"views.flip must be one number or {dims}, one an axis, got {len(several)}")
        return several

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n c *space"]) -> list[Float[Tensor, "n c *space"]]:
        """`count` views in [-1, 1] of images in [-1, 1], of their shape and dtype."""
        # Mixed precision is for the network: sampling positions in bfloat16 would be half a pixel off at 128 pixels.
        with torch.autocast(images.device.type, enabled=False):
            return [self._view(images.float()).to(images.dtype) for _ in range(self.count)]

    @torch.no_grad()
    def paired(
        self, images: Float[Tensor, "n c *space"], masks: Int64[Tensor, "n *space"]
    ) -> tuple[Float[Tensor, "n c *space"], Int64[Tensor, "n *space"]]:
        """One view of each image, and its mask of class numbers cropped, mirrored and turned alike."""
        with torch.autocast(images.device.type, enabled=False):
            window = self._window(len(images), images.ndim - 2, images.device, images.shape[2:])
            view = self._look(resample(images.float(), *window)).to(images.dtype)
            return view, resample(masks[:, None].float(), *window, mode="nearest")[:, 0].to(masks.dtype)

    def _view(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        window = self._window(len(images), images.ndim - 2, images.device, images.shape[2:])
        return self._look(resample(images, *window))

    def _look(self, view: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        """Other intensities, in place: fresh memory of this size costs as much as a pass over it."""
        n, device = len(view), view.device
        if self.invert > 0:
            view.mul_(per_sample(1 - 2 * (torch.rand(n, device=device) < self.invert).to(view.dtype), view))
        # Drawn by the CPU, which must know how many there are.
        drawn = (torch.rand(n) < self.blur_probability).nonzero()[:, 0].to(device, non_blocking=True)
        view[drawn] = blur(view[drawn], uniform(*self.blur, (n,), device)[drawn], reach=ceil(4 * self.blur[1]))
        if self.gamma > 0:  # the power is a tenth of a view's time
            bend_(view, uniform(-self.gamma, self.gamma, (n,), device).exp())
        rescale_(
            view,
            contrast=uniform(1 - self.contrast, 1 + self.contrast, (n,), device),
            brightness=uniform(-self.brightness, self.brightness, (n,), device),
        )
        if self.noise > 0:  # normal numbers are a fifth
            view.addcmul_(torch.randn_like(view), per_sample(uniform(0.0, self.noise, (n,), device), view))
        return view.clamp_(-1, 1)

    def _window(
        self, n: int, dims: int, device: torch.device, space: tuple[int, ...]
    ) -> tuple[Float[Tensor, "n d d"], Float[Tensor, "n d"]]:
        sides = window_sides(
            uniform(*self.crop, (n,), device),
            uniform(log(self.aspect[0]), log(self.aspect[1]), (n, dims - 1), device),
        )
        centre = uniform(-1.0, 1.0, (n, dims), device) * (1 - sides)
        mirrored = torch.rand(n, dims, device=device) < _constant(self.flips(dims), device)
        angles = uniform(-radians(self.rotate), radians(self.rotate), (n, dims * (dims - 1) // 2), device)
        return turn(angles, space) * torch.where(mirrored, -sides, sides)[:, None], centre


def _several(numbers: float | tuple[float, ...]) -> tuple[float, ...]:
    return numbers if isinstance(numbers, tuple) else (numbers,)


def uniform(low: float, high: float, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform float32 numbers in [low, high), from the device's global generator."""
    return torch.empty(shape, device=device).uniform_(low, high)


def per_sample(values: Float[Tensor, " n"], images: Float[Tensor, "n c *space"]) -> Tensor:
    """The values, shaped to broadcast over the samples' channels and voxels."""
    return values.view(-1, *[1] * (images.ndim - 1))


def window_sides(part: Float[Tensor, " n"], stretch: Float[Tensor, "n later"]) -> Float[Tensor, "n d"]:
    """Sides of a window, as parts of the image's sides: prod(sides) = part and sides <= 1.

    `stretch` holds the logarithms of the later axes' sides against the first one's; it is lessened where the
    window would not fit, instead of torchvision's drawing anew, which a batch cannot do.
    """
    stretch = F.pad(stretch, (1, 0))
    stretch = stretch - stretch.mean(1, keepdim=True)
    room = -part.log()[:, None] / stretch.shape[1]
    fits = room / stretch.amax(1, keepdim=True).clamp_min(1e-12)
    return (stretch * fits.clamp_max(1) - room).exp()


def turn(angles: Float[Tensor, "n planes"], space: tuple[int, ...]) -> Float[Tensor, "n d d"]:
    """Rotations by one angle (radians) a plane of two axes, exp of the skew matrix that holds the angles.

    In 2D and 3D by Rodrigues' formula. Rigid in voxels: R becomes S^-1 R S, with S the image's sides, since `resample`
    counts each as [-1, 1].
    """
    dims = len(space)
    skew = (angles[:, :, None, None] * _constant(_planes(dims), angles.device)).sum(1)
    angle = angles.norm(dim=1)[:, None, None]
    twice = (skew[:, :, :, None] * skew[:, None, :, :]).sum(2)
    # sinc(x) is sin(pi x) / (pi x), and 1 at 0.
    rotation = _constant(_identity(dims), angles.device) + (angle / pi).sinc() * skew
    rotation = rotation + 0.5 * (angle / (2 * pi)).sinc() ** 2 * twice
    sides = _constant(space, angles.device)
    return rotation * (sides / sides[:, None])


Numbers = tuple[Any, ...]


@cache
def _constant(numbers: Numbers, device: torch.device) -> Tensor:
    """Numbers, however nested, on a device where each are copied once: a copy would wait for a GPU."""
    return torch.tensor(numbers, dtype=torch.float32, device=device)


@cache
def _identity(dims: int) -> Numbers:
    return tuple(tuple(float(row == column) for column in range(dims)) for row in range(dims))


@cache
def _planes(dims: int) -> Numbers:
    """Of each plane of two axes the skew matrix by which it turns: 1 above the diagonal, -1 below."""
    return tuple(
        tuple(tuple(float((i, j) == pair) - float((j, i) == pair) for j in range(dims)) for i in range(dims))
        for pair in combinations(range(dims), 2)
    )


def resample(
    images: Float[Tensor, "n c *space"], linear: Float[Tensor, "n d d"], centre: Float[Tensor, "n d"],
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> Float[Tensor, "n c *space"]:  # fmt: skip
    """view(x) = image(linear x + centre), x in [-1, 1] along each axis (in the order of `space`), linearly.

    No antialias: a window no greater than the image magnifies, and turning it keeps the distance of samples.
    Beyond the border the nearest voxel counts: scans end in background, and reflection takes up to twice as
    long.
    """
    # torch wants the last axis first. Sums of one-dimensional terms make the grid in a tenth of the time
    # of F.affine_grid, which in 2D takes as long as grid_sample itself.
    linear, centre = linear.flip(1), centre.flip(1)
    dims = linear.shape[1]
    grid = centre.view(-1, dims, *[1] * dims)
    for axis, size in enumerate(images.shape[2:]):
        steps = (2 * torch.arange(size, device=images.device) + 1) / size - 1
        term = linear[:, :, axis, None] * steps
        grid = grid + term.view(*term.shape[:2], *[size if a == axis else 1 for a in range(dims)])
    return F.grid_sample(images, grid.movedim(1, -1), mode=mode, padding_mode="border", align_corners=False)


def blur_weights(sigma: Float[Tensor, " n"], size: int, reach: int) -> Float[Tensor, "offsets n size"]:
    """Gaussian weights of the voxels -reach to reach away from each of `size` voxels.

    They sum to 1 over the offsets, at the border too: what lies beyond it weighs 0.
    """
    offset = torch.arange(-reach, reach + 1, device=sigma.device)[:, None, None]
    place = torch.arange(size, device=sigma.device) + offset
    fade = offset**2 * (-0.5 / sigma**2)[:, None]
    return torch.where((place < 0) | (place >= size), -torch.inf, fade).softmax(0)


def blur(images: Float[Tensor, "n c *space"], sigma: Float[Tensor, " n"], reach: int) -> Float[Tensor, "n c *space"]:
    """Gaussian blur by each sample's sigma (voxels), cut off beyond `reach` voxels: 4 sigma leave out 3e-6.

    Each axis in turn is a sum of shifted images: a third of the time of a matrix product at 128 x 128, and in
    volumes, unlike grouped convolutions, no slower.
    """
    for axis, size in enumerate(images.shape[2:], 2):
        later = images.ndim - 1 - axis
        weights = blur_weights(sigma, size, reach)
        weights = weights.view(*weights.shape[:2], *[1] * (axis - 1), size, *[1] * later)
        padded = F.pad(images, [0, 0] * later + [reach, reach])
        images = padded.narrow(axis, 0, size) * weights[0]
        for offset in range(1, 2 * reach + 1):
            images.addcmul_(padded.narrow(axis, offset, size), weights[offset])
    return images


def bend_(images: Float[Tensor, "n c *space"], gamma: Float[Tensor, " n"]) -> None:
    """Each sample's intensities u = (x + 1) / 2 to its gamma, in place: x in [-1, 1] becomes 2 u^gamma - 1."""
    u = images.mul_(0.5).add_(0.5).clamp_(0, 1)
    # The exponential of a logarithm takes two thirds of the time of `pow`; u = 0 gives 0 by way of -inf.
    u.log2_().mul_(per_sample(gamma, images)).exp2_().mul_(2).sub_(1)


def rescale_(
    images: Float[Tensor, "n c *space"], contrast: Float[Tensor, " n"], brightness: Float[Tensor, " n"]
) -> None:
    """Each sample's contrast and brightness, in place, not clamped: contrast (x - mean(x)) + mean(x) + brightness."""
    shift = images.flatten(1).mean(1) * (1 - contrast) + brightness
    images.mul_(per_sample(contrast, images)).add_(per_sample(shift, images))
