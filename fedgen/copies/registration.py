"""Moves, turns and zooms an image until it lies on another: similarity transforms that maximise correlation."""

from __future__ import annotations

from itertools import combinations
from math import radians

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fedcore.augment.geometry import resample, rotation

STEPS = 6
_FURTHEST = 0.3, 0.2, radians(15)
"""Of a shift (the image's side is 2), of the logarithm of a zoom, of a turn."""
_LONGEST = 0.15
"""Step, in any of them."""


def centred(images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n d"]:
    """Pixels less their mean, of length 1: brightness and contrast change nothing."""
    flat = images.flatten(1)
    return normalize(flat - flat.mean(1, keepdim=True), dim=1)


def transforms(n: int, dims: int) -> Float[Tensor, "n p"]:
    """n transforms that change nothing.

    Parameters: `dims` shifts, the logarithm of a zoom (above 0: what is seen shrinks), an angle (radians) for each
    plane of two axes.
    """
    return torch.zeros(n, dims + 1 + dims * (dims - 1) // 2)


def mirrored_transforms(of: Float[Tensor, "n p"], signs: Float[Tensor, "n dims"]) -> Float[Tensor, "n p"]:
    """The transforms that do to mirrored images what `of` do before they are mirrored along axes whose sign is -1."""
    dims = signs.shape[1]
    planes = [signs[:, a] * signs[:, b] for a, b in combinations(range(dims), 2)]
    return of * torch.stack([*signs.T, torch.ones(len(of)), *planes], 1)


def moved(images: Float[Tensor, "n c *space"], transforms: Float[Tensor, "n p"]) -> Float[Tensor, "n c *space"]:
    """The images by a transform each. A turn counts each axis as [-1, 1]."""
    dims = images.dim() - 2
    linear = rotation(transforms[:, dims + 1 :], (1,) * dims) * transforms[:, dims].exp()[:, None, None]
    return resample(images, linear, transforms[:, :dims])


def register(
    images: Float[Tensor, "n c *space"],
    targets: Float[Tensor, "n c *space"],
    start: Float[Tensor, "n p"],
    margin: int = 0,
) -> Float[Tensor, "n p"]:
    """Transforms that bring each image nearest to its target by normalised correlation, from `start` on.

    Gauss-Newton steps on the correlation (Evangelidis and Psarakis 2008, doi 10.1109/TPAMI.2008.113), here of
    similarity transforms. Slopes are those of the target, taken once (Hager and Belhumeur 1998, doi 10.1109/34.722606);
    of the steps the best is kept. `margin` pixels of the targets on each side do not count, since a shift takes what
    should lie there out of the image. Memory: p times that of the images.
    """
    dims = images.dim() - 2
    limits = start.new_tensor([_FURTHEST[0]] * dims + [_FURTHEST[1]] + [_FURTHEST[2]] * (start.shape[1] - dims - 1))
    aim = centred(inside(targets, margin))
    inverse = _inverse(_slopes(targets, aim, margin))
    now, best, reached = start, start, start.new_full((len(start),), -torch.inf)
    for step in range(STEPS + 1):
        unit = centred(inside(moved(images, now), margin))
        likeness = (unit * aim).sum(1)
        better = likeness > reached
        best, reached = torch.where(better[:, None], now, best), torch.where(better, likeness, reached)
        if step < STEPS:
            change = (inverse @ unit[..., None])[..., 0].clamp(-_LONGEST, _LONGEST)
            now = (now - change / likeness.clamp_min(0.3)[:, None]).clamp(-limits, limits)
    return best


def inside(images: Float[Tensor, "n c *space"], margin: int) -> Float[Tensor, "n c *inner"]:
    for axis in range(2, images.dim()):
        images = images.narrow(axis, margin, images.shape[axis] - 2 * margin)
    return images


def _slopes(targets: Float[Tensor, "n c *space"], unit: Float[Tensor, "n d"], margin: int) -> Float[Tensor, "n p d"]:
    """Derivative of `unit`, the inside of `targets`, centred, by each parameter."""
    dims = targets.dim() - 2
    by_axis = [_gradient(targets, axis + 2) for axis in range(dims)]
    places = [_places(size, dims - 1 - axis) for axis, size in enumerate(targets.shape[2:])]
    turns = [by_axis[a] * places[b] - by_axis[b] * places[a] for a, b in combinations(range(dims), 2)]
    zoom = torch.stack([slope * place for slope, place in zip(by_axis, places, strict=True)]).sum(0)
    raw = torch.stack([inside(slope, margin).flatten(1) for slope in (*by_axis, zoom, *turns)], 1)
    raw -= raw.mean(2, keepdim=True)
    raw -= (raw @ unit[..., None]) * unit[:, None]
    flat = inside(targets, margin).flatten(1)
    return raw / (flat - flat.mean(1, keepdim=True)).norm(dim=1).clamp_min(1e-6)[:, None, None]


def _places(size: int, after: int) -> Float[Tensor, "size *ones"]:
    """Of pixels along an axis, which is [-1, 1]; `after` axes follow it."""
    return ((2 * torch.arange(size) + 1) / size - 1).view(-1, *[1] * after)


def _gradient(images: Float[Tensor, "n c *space"], axis: int) -> Float[Tensor, "n c *space"]:
    """Central differences, where the axis is [-1, 1]."""
    size = images.shape[axis]
    wide = torch.cat([images.narrow(axis, 0, 1), images, images.narrow(axis, size - 1, 1)], axis)
    return (wide.narrow(axis, 2, size) - wide.narrow(axis, 0, size)) * (size / 4)


def _inverse(slopes: Float[Tensor, "n p d"]) -> Float[Tensor, "n p d"]:
    """By least squares, damped."""
    normal = slopes @ slopes.mT
    damping = 1e-3 * normal.diagonal(dim1=1, dim2=2).mean(1) + 1e-9
    found: Tensor = torch.linalg.solve(normal + damping[:, None, None] * torch.eye(normal.shape[1]), slopes)
    return found
