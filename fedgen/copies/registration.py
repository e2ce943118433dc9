"""Registers an image to another: similarity transforms (shift, zoom, rotation) that maximise correlation."""

from __future__ import annotations

from itertools import combinations
from math import radians

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fedcore.augment.geometry import resample, rotation

STEPS = 6
_MAX_TRANSFORM = 0.3, 0.2, radians(15)
"""Of a shift (the side of the image is 2), of the logarithm of a zoom, of a rotation (radians)."""
_MAX_STEP = 0.15
"""In any parameter."""


def centred(images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n d"]:
    """Pixels minus their mean, scaled to length 1: brightness and contrast change nothing."""
    flat = images.flatten(1)
    return normalize(flat - flat.mean(1, keepdim=True), dim=1)


def identity_transforms(n: int, dims: int) -> Float[Tensor, "n p"]:
    """n identity transforms.

    Parameters: `dims` shifts, the logarithm of a zoom (above 0 the content shrinks), an angle (radians) for each plane
    of two axes.
    """
    return torch.zeros(n, dims + 1 + dims * (dims - 1) // 2)


def mirrored_transforms(transforms: Float[Tensor, "n p"], signs: Float[Tensor, "n dims"]) -> Float[Tensor, "n p"]:
    """Transforms T' with mirror(T(image)) = T'(mirror(image)), where mirror flips the axes whose sign is -1."""
    dims = signs.shape[1]
    planes = [signs[:, a] * signs[:, b] for a, b in combinations(range(dims), 2)]
    return transforms * torch.stack([*signs.T, torch.ones(len(transforms)), *planes], 1)


def warp(images: Float[Tensor, "n c *space"], transforms: Float[Tensor, "n p"]) -> Float[Tensor, "n c *space"]:
    """Each image under its own transform. Rotations take each axis as [-1, 1]."""
    dims = images.dim() - 2
    linear = rotation(transforms[:, dims + 1 :], (1,) * dims) * transforms[:, dims].exp()[:, None, None]
    return resample(images, linear, transforms[:, :dims])


def register(
    images: Float[Tensor, "n c *space"],
    targets: Float[Tensor, "n c *space"],
    start: Float[Tensor, "n p"],
    margin: int = 0,
) -> Float[Tensor, "n p"]:
    """Transforms that maximise the normalised correlation of each image with its target, starting from `start`.

    Gauss-Newton steps on the correlation (Evangelidis and Psarakis 2008, doi 10.1109/TPAMI.2008.113), here of
    similarity transforms. Derivatives are those of the target, computed once (Hager and Belhumeur 1998, doi
    10.1109/34.722606); the best of the steps is kept. `margin` pixels of the targets on each side do not count, since a
    shift moves them out of the image. Memory: p times that of the images.
    """
    dims = images.dim() - 2
    limits = start.new_tensor(
        [_MAX_TRANSFORM[0]] * dims + [_MAX_TRANSFORM[1]] + [_MAX_TRANSFORM[2]] * (start.shape[1] - dims - 1)
    )
    target = centred(without_margin(targets, margin))
    inverse = _pseudo_inverse(_jacobian(targets, target, margin))
    current, best, best_correlation = start, start, start.new_full((len(start),), -torch.inf)
    for step in range(STEPS + 1):
        unit = centred(without_margin(warp(images, current), margin))
        correlation = (unit * target).sum(1)
        better = correlation > best_correlation
        best = torch.where(better[:, None], current, best)
        best_correlation = torch.where(better, correlation, best_correlation)
        if step < STEPS:
            change = (inverse @ unit[..., None])[..., 0].clamp(-_MAX_STEP, _MAX_STEP)
            current = (current - change / correlation.clamp_min(0.3)[:, None]).clamp(-limits, limits)
    return best


def without_margin(images: Float[Tensor, "n c *space"], margin: int) -> Float[Tensor, "n c *inner"]:
    for axis in range(2, images.dim()):
        images = images.narrow(axis, margin, images.shape[axis] - 2 * margin)
    return images


def _jacobian(targets: Float[Tensor, "n c *space"], unit: Float[Tensor, "n d"], margin: int) -> Float[Tensor, "n p d"]:
    """Derivatives by each parameter of `unit`, the centred targets without their margin."""
    dims = targets.dim() - 2
    by_axis = [_gradient(targets, axis + 2) for axis in range(dims)]
    coordinates = [_coordinates(size, dims - 1 - axis) for axis, size in enumerate(targets.shape[2:])]
    rotations = [by_axis[a] * coordinates[b] - by_axis[b] * coordinates[a] for a, b in combinations(range(dims), 2)]
    zoom = torch.stack([slope * place for slope, place in zip(by_axis, coordinates, strict=True)]).sum(0)
    raw = torch.stack([without_margin(slope, margin).flatten(1) for slope in (*by_axis, zoom, *rotations)], 1)
    raw -= raw.mean(2, keepdim=True)
    raw -= (raw @ unit[..., None]) * unit[:, None]
    flat = without_margin(targets, margin).flatten(1)
    return raw / (flat - flat.mean(1, keepdim=True)).norm(dim=1).clamp_min(1e-6)[:, None, None]


def _coordinates(size: int, axes_after: int) -> Float[Tensor, "size *ones"]:
    """Of pixels along an axis that spans [-1, 1], with `axes_after` further axes of size 1."""
    return ((2 * torch.arange(size) + 1) / size - 1).view(-1, *[1] * axes_after)


def _gradient(images: Float[Tensor, "n c *space"], axis: int) -> Float[Tensor, "n c *space"]:
    """Central differences along an axis that spans [-1, 1]."""
    size = images.shape[axis]
    wide = torch.cat([images.narrow(axis, 0, 1), images, images.narrow(axis, size - 1, 1)], axis)
    return (wide.narrow(axis, 2, size) - wide.narrow(axis, 0, size)) * (size / 4)


def _pseudo_inverse(jacobian: Float[Tensor, "n p d"]) -> Float[Tensor, "n p d"]:
    """By damped least squares."""
    normal = jacobian @ jacobian.mT
    damping = 1e-3 * normal.diagonal(dim1=1, dim2=2).mean(1) + 1e-9
    found: Tensor = torch.linalg.solve(normal + damping[:, None, None] * torch.eye(normal.shape[1]), jacobian)
    return found
