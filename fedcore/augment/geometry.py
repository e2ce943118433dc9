"""Crop windows, rotations and the resampling that applies them, in 2D and 3D."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from math import pi
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def window_sides(part: Float[Tensor, " n"], stretch: Float[Tensor, "n later"]) -> Float[Tensor, "n d"]:
    """Sides of a crop window, as fractions of the image's sides: prod(sides) = part and sides <= 1.

    `stretch` holds the logarithms of the later axes' sides relative to the first. Where the window would not fit into
    the image, it is reduced; torchvision draws again, which a batch cannot do.
    """
    stretch = F.pad(stretch, (1, 0))
    stretch = stretch - stretch.mean(1, keepdim=True)
    room = -part.log()[:, None] / stretch.shape[1]
    reduction = room / stretch.amax(1, keepdim=True).clamp_min(1e-12)
    return (stretch * reduction.clamp_max(1) - room).exp()


def rotation(angles: Float[Tensor, "n planes"], space: tuple[int, ...]) -> Float[Tensor, "n d d"]:
    """Rotation matrices from one angle (radians) per plane of two axes: exp of the skew matrix of the angles.

    In 2D and 3D by Rodrigues' formula, I + sin(a) / a K + (1 - cos(a)) / a^2 K^2. Rigid in voxels: R becomes S^-1 R S
    with S the image's sides, since `resample` maps each side to [-1, 1].
    """
    dims = len(space)
    skew = (angles[:, :, None, None] * constant(_planes(dims), angles.device)).sum(1)
    angle = angles.norm(dim=1)[:, None, None]
    squared = (skew[:, :, :, None] * skew[:, None, :, :]).sum(2)
    # torch's sinc(x) is sin(pi x) / (pi x), and 1 at 0; (1 - cos a) / a^2 is half the square of sin(a/2) / (a/2).
    matrix = constant(_identity(dims), angles.device) + (angle / pi).sinc() * skew
    matrix = matrix + 0.5 * (angle / (2 * pi)).sinc() ** 2 * squared
    sides = constant(space, angles.device)
    return matrix * (sides / sides[:, None])


def resample(
    images: Float[Tensor, "n c *space"], linear: Float[Tensor, "n d d"], centre: Float[Tensor, "n d"],
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> Float[Tensor, "n c *space"]:  # fmt: skip
    """view(x) = image(linear x + centre), x in [-1, 1] along each axis (in the order of `space`), interpolated
    linearly.

    No antialiasing: a window no larger than the image magnifies, and a rotation keeps the distance between samples.
    Outside the image, the nearest voxel is repeated: scans end in background, and reflection takes up to twice as
    long.
    """
    # torch has the last axis first. Summing one-dimensional terms takes a tenth of the time of F.affine_grid, which in
    # 2D takes as long as grid_sample itself.
    linear, centre = linear.flip(1), centre.flip(1)
    dims = linear.shape[1]
    grid = centre.view(-1, dims, *[1] * dims)
    for axis, size in enumerate(images.shape[2:]):
        steps = (2 * torch.arange(size, device=images.device) + 1) / size - 1
        term = linear[:, :, axis, None] * steps
        grid = grid + term.view(*term.shape[:2], *[size if a == axis else 1 for a in range(dims)])
    return F.grid_sample(images, grid.movedim(1, -1), mode=mode, padding_mode="border", align_corners=False)


Numbers = tuple[Any, ...]


@cache
def constant(numbers: Numbers, device: torch.device) -> Tensor:
    """A tensor of (nested) numbers, copied to each device once: a copy in every step would wait for the GPU."""
    return torch.tensor(numbers, dtype=torch.float32, device=device)


@cache
def _identity(dims: int) -> Numbers:
    return tuple(tuple(float(row == column) for column in range(dims)) for row in range(dims))


@cache
def _planes(dims: int) -> Numbers:
    """For each plane of two axes the skew matrix that generates its rotation: 1 above the diagonal, -1 below."""
    return tuple(
        tuple(tuple(float((i, j) == pair) - float((j, i) == pair) for j in range(dims)) for i in range(dims))
        for pair in combinations(range(dims), 2)
    )
