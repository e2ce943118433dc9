"""Procedural anatomy: a body, organs, vessels and a finding, as materials in [0, 1] with a mask, 2D or 3D.

Shapes are signed distances evaluated on a grid that a smooth random field bends, so that ellipsoids become
organs. All random numbers are standard normals of `PatientNormals`, so that images of one patient are similar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from fedcore.data.phantom.smooth import upsample

# In alphabetical order, as a manifest sorts its classes: the index is the label.
FINDINGS = ("clear", "ring", "round", "spiculated")
_CLEAR, _RING, _ROUND, _SPICULATED = range(len(FINDINGS))
_SPIKES = 9


class Organ(NamedTuple):
    """An ellipsoid of the template body; lengths in half fields of view, the third axis shared."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    material: float


_ORGANS = (
    Organ(centre=(-0.08, -0.36), radii=(0.42, 0.24), material=0.16),  # two lungs,
    Organ(centre=(-0.08, 0.36), radii=(0.42, 0.24), material=0.16),
    Organ(centre=(0.05, 0.06), radii=(0.24, 0.20), material=0.6),  # a heart
    Organ(centre=(0.52, 0.0), radii=(0.13, 0.13), material=0.9),  # and a vertebra
)


@dataclass(frozen=True)
class PatientNormals:
    """Standard normals for images; those of one patient share 85 % of the variance."""

    patients: Int64[Tensor, " n"]
    generator: torch.Generator

    def normal(self, *shape: int) -> Float[Tensor, "n *_"]:
        """(n, *shape)."""
        patient = self.patients - self.patients.min()
        shared = torch.randn(int(patient.max()) + 1, *shape, generator=self.generator)
        own = torch.randn(len(patient), *shape, generator=self.generator)
        return math.sqrt(0.85) * shared[patient] + math.sqrt(0.15) * own

    def bounded(self, *shape: int) -> Float[Tensor, "n *_"]:
        """(n, *shape) in (-1, 1), with a standard deviation of about 0.6."""
        return torch.tanh(self.normal(*shape))

    def field(self, space: Sequence[int], knots: int) -> Float[Tensor, "n *_"]:
        """A smooth field of unit variance with `knots` bumps per axis."""
        return upsample(self.normal(*[knots] * len(space)), space)


def make_images(
    labels: Int64[Tensor, " n"],
    patients: Int64[Tensor, " n"],
    space: Sequence[int],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "n *_"], UInt8[Tensor, "n *_"]]:
    """Materials in [0, 1] and masks (0 air, 1 body, 2 finding) of images with the findings `labels`.

    A pixel whose centre is within one pixel of a finding counts as finding, so that no finding is missed.
    """
    normals, pixel = PatientNormals(patients, generator), 1 / min(space)
    points = _bent_grid(normals, space)
    size = 1 + 0.12 * normals.bounded(len(space))
    body = _inside(_ellipsoid(points, torch.zeros_like(size), 0.8 * size), pixel)
    tissue = _tissue(points, size, normals, pixel)
    filled, outline = _finding(labels, points, size, normals)
    material = _per_image(0.86 + 0.08 * normals.bounded(), filled)
    image = body * torch.lerp(tissue, material, _inside(filled, pixel))
    mask = (body > 0.5).to(torch.uint8)
    return image.clamp(0, 1), mask + mask * (outline < pixel)


def _bent_grid(normals: PatientNormals, space: Sequence[int]) -> Float[Tensor, "n d *_"]:
    """Coordinates of the pixel centres in [-1, 1], moved by a smooth random field."""
    axes = [(torch.arange(size) + 0.5) / size * 2 - 1 for size in space]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return grid + 0.06 * torch.stack([normals.field(space, knots=4) for _ in space], dim=1)


def _tissue(
    points: Float[Tensor, "n d *space"], size: Float[Tensor, "n d"], normals: PatientNormals, pixel: float
) -> Float[Tensor, "n *space"]:
    """Mottled soft tissue with organs and vessels; vessels are where a random field crosses zero."""
    space = points.shape[2:]
    tissue = 0.4 + 0.05 * normals.field(space, knots=14)
    for organ in _ORGANS:
        extra = (0.0,) * (len(space) - 2)
        centre = torch.tensor(organ.centre + extra) * size + 0.06 * normals.bounded(len(space))
        radii = torch.tensor((*organ.radii, *(max(organ.radii) for _ in extra)))
        radii = radii * size * (1 + 0.2 * normals.bounded(len(space)))
        material = _per_image(organ.material + 0.08 * normals.bounded(), tissue)
        tissue = torch.lerp(tissue, material, 0.9 * _inside(_ellipsoid(points, centre, radii), pixel))
    vessels = torch.exp(-(normals.field(space, knots=7) / 0.12).square())
    return torch.lerp(tissue, torch.tensor(0.65), 0.7 * vessels)


def _finding(
    labels: Int64[Tensor, " n"],
    points: Float[Tensor, "n d *space"],
    size: Float[Tensor, "n d"],
    normals: PatientNormals,
) -> tuple[Float[Tensor, "n *space"], Float[Tensor, "n *space"]]:
    """Signed distances to the filled shape and to the outline (they differ for a ring); inf if clear."""
    away = normals.normal(size.shape[1])
    centre = 0.5 * size * away / torch.sqrt(1 + away.square().sum(1, keepdim=True))
    offset = points - _per_image(centre, points)
    rho = _length(offset)
    radius = _per_image(0.2 + 0.04 * normals.bounded(), rho)
    ball, ring = rho - radius, (rho - 0.8 * radius).abs() - 0.25 * radius
    star = torch.minimum(rho - 0.6 * radius, _spikes(offset, 1.5 * radius, normals))
    label = _per_image(labels, rho)
    filled = torch.full_like(rho, torch.inf)
    for finding, shape in ((_RING, ring), (_ROUND, ball), (_SPICULATED, star)):
        filled = torch.where(label == finding, shape, filled)
    return filled, torch.where(label == _RING, ball, filled)


def _spikes(
    offset: Float[Tensor, "n d *space"], length: Float[Tensor, "n *_"], normals: PatientNormals
) -> Float[Tensor, "n *space"]:
    """Distance to needles from the origin in random directions, thick at their roots."""
    nearest = torch.full_like(offset[:, 0], torch.inf)
    for _ in range(_SPIKES):
        direction = torch.nn.functional.normalize(normals.normal(offset.shape[1]), dim=1)
        along = (offset * _per_image(direction, offset)).sum(1).clamp(min=0).minimum(length)
        off_axis = _length(offset - along[:, None] * _per_image(direction, offset))
        nearest = torch.minimum(nearest, off_axis - 0.13 * (length - along))
    return nearest


def _ellipsoid(
    points: Float[Tensor, "n d *space"], centre: Float[Tensor, "n d"], radii: Float[Tensor, "n d"]
) -> Float[Tensor, "n *space"]:
    """Signed distance to an ellipsoid, negative inside; exact for a ball, else an approximation near the surface."""
    scaled = (points - _per_image(centre, points)) / _per_image(radii, points)
    return (_length(scaled) - 1) * _per_image(radii.amin(1), points[:, 0])


def _length(vectors: Float[Tensor, "n d *space"]) -> Float[Tensor, "n *space"]:
    """Norm over axis 1; `Tensor.norm` takes ten times as long over an axis that is not the last."""
    return vectors.square().sum(dim=1).sqrt()


def _inside(distance: Float[Tensor, "n *space"], pixel: float) -> Float[Tensor, "n *space"]:
    """Occupancy in [0, 1]: a step that is smooth over the pixel at the surface."""
    return torch.sigmoid(-distance / (0.5 * pixel))


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    """View (n, ...) so that it broadcasts over the trailing axes of `like`."""
    return values.reshape(*values.shape, *[1] * (like.ndim - values.ndim))
