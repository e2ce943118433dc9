"""Smooth random fields and blur in any number of dimensions, as one matrix product per axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def along_axes(x: Float[Tensor, "n *_"], matrices: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, "n *_"]:
    """Multiply axis i + 1 of `x` by `matrices[i]` (out, in): a separable linear map."""
    for axis, matrix in enumerate(matrices, start=1):
        x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return x


def upsample(knots: Float[Tensor, "n *_"], space: Sequence[int]) -> Float[Tensor, "n *_"]:
    """Interpolate values on a coarse grid of knots over `space` with Gaussian bumps one knot wide.

    Standard normal knots give a field of unit variance at every pixel, and the same field at every `space`.
    """
    return along_axes(knots, [_bumps(size, cells) for size, cells in zip(space, knots.shape[1:], strict=True)])


def blur(x: Float[Tensor, "n *space"], sigma: float) -> Float[Tensor, "n *space"]:
    """Gaussian blur of `sigma` pixels; at the border the weights inside the image are renormalised."""
    return along_axes(x, [_gaussian(size, sigma) for size in x.shape[1:]])


def _bumps(size: int, cells: int) -> Float[Tensor, "size cells"]:
    pixels = (torch.arange(size) + 0.5) / size * cells
    bumps = torch.exp(-0.5 * (pixels[:, None] - torch.arange(cells) - 0.5).square())
    return bumps / bumps.square().sum(dim=1, keepdim=True).sqrt()


def _gaussian(size: int, sigma: float) -> Float[Tensor, "size size"]:
    steps = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((steps[:, None] - steps) / sigma).square())
    return weights / weights.sum(dim=1, keepdim=True)
