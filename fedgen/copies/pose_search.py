"""Which training images is an image most similar to when it may be mirrored, shifted, rotated, zoomed or inverted?
Similarities in a learned metric."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from math import log, radians

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedgen.copies.matching import (
    CHUNK,
    Matches,
    candidates,
    downsampled,
    equalised,
    metric_images,
    mirror_axes,
    pixel_vectors,
)
from fedgen.copies.metric import Metric
from fedgen.copies.registration import centred, identity_transforms, mirrored_transforms, register, warp

COARSE = {2: 12, 3: 8}
FINE = {2: 16, 3: 10}
"""Pixels per side of the coarse comparison with all training images, and of registration and exact comparison."""
_PERTURBATIONS = 6
_PAIRS = 128
"""Pairs of images registered at once: more do not fit into the cache."""
_REFINED = 2
"""Candidates that are registered a second time, with all pixels."""


@dataclass(frozen=True)
class PoseGrid:
    """Poses that are tried with every training image, each in all mirrorings and inverted; registration finds the poses
    in between."""

    shifts: tuple[float, ...] = (0.0,)
    """Along each axis, whose length is 2."""
    zooms: tuple[float, ...] = (1.0,)
    rotations: tuple[float, ...] = ()
    """Degrees, in each plane of two axes."""
    margin: int = 0
    """Pixels of `FINE` on each side that are not compared, since a shift moves them out of the image."""

    def transforms(self, dims: int) -> Float[Tensor, "t p"]:
        identity = identity_transforms(1, dims)[0]
        rows = []
        for shift in product(self.shifts, repeat=dims):
            for zoom in self.zooms:
                row = identity.clone()
                row[:dims], row[dims] = torch.tensor(shift), log(zoom)
                rows.append(row)
            for plane, degrees in product(range(dims + 1, len(identity)), self.rotations):
                row = identity.clone()
                row[:dims], row[plane] = torch.tensor(shift), radians(degrees)
                rows.append(row)
        return torch.stack(rows)


WHOLE_IMAGE_POSES = {
    2: PoseGrid((-0.19, -0.095, 0.0, 0.095, 0.19), (1.0, 1.1, 1 / 1.1), (-7.0, 7.0), margin=2),
    3: PoseGrid((-0.19, 0.0, 0.19), (1.0, 1.1, 1 / 1.1), margin=1),
}


@dataclass(frozen=True)
class PoseSearch:
    """Compares images in any pose: coarsely with all training images, then registered with the best of them."""

    poses: PoseGrid
    ranked: bool
    """Whether pixels are replaced by their ranks (`equalised`)."""
    images: Float[Tensor, "m c *space"]
    patients: Int[Tensor, " m"]
    coarse: Metric
    fine: Metric
    codes: Float[Tensor, "m k"] = field(repr=False)
    fine_codes: Float[Tensor, "m f"] = field(repr=False)

    @staticmethod
    def fit(
        training: Float[Tensor, "m c *space"], patients: Int[Tensor, " m"], poses: PoseGrid, ranked: bool = False
    ) -> PoseSearch:
        """`training` and the images compared with it come from `at_search_size`, or are halves of such images."""
        dims, margin = training.dim() - 2, poses.margin
        images = equalised(training) if ranked else training
        some = metric_images(training)
        shift = 0.06 if dims == 2 else 0.11
        coarse = _fitted_metric(some, ranked, COARSE[dims], 0, 48, (shift, 0.05, 5.0))
        fine = _fitted_metric(some, ranked, FINE[dims], margin, 96, (0.015, 0.01, 1.0))
        numbers = patients.unique(return_inverse=True)[1]
        codes, fine_codes = coarse(pixel_vectors(images, COARSE[dims])), fine(pixel_vectors(images, FINE[dims], margin))
        return PoseSearch(poses, ranked, images, numbers, coarse, fine, codes, fine_codes)

    def __call__(self, images: Float[Tensor, "n c *space"]) -> Matches:
        found = [self._match(part) for part in images.split(CHUNK)]
        return Matches(
            torch.cat([m.similarity for m in found]), torch.cat([m.index for m in found]), found[0].per_patient
        )

    def _match(self, images: Float[Tensor, "n c *space"]) -> Matches:
        pixels = equalised(images) if self.ranked else images
        codes = self._codes_of_all_poses(pixels)
        best = codes[:, 0] @ self.codes.T
        for pose in range(1, codes.shape[1]):
            torch.maximum(best, codes[:, pose] @ self.codes.T, out=best)
        index, per_patient = candidates(best, self.patients)
        poses = torch.einsum("nvk,nck->ncv", codes, self.codes[index]).argmax(-1)
        return Matches(self._registered_similarity(pixels, index, poses), index, per_patient)

    def _codes_of_all_poses(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n v k"]:
        """In the order of shifts, zooms and rotations; within each of mirrorings; each upright, then inverted."""
        dims, rows = images.dim() - 2, []
        for transform in self.poses.transforms(dims):
            small = downsampled(warp(images, transform.expand(len(images), -1)), COARSE[dims])
            for axes in mirror_axes(dims):
                flat = centred(small.flip(axes))
                rows += [flat, -flat]
        return self.coarse(torch.stack(rows, 1))

    def _registered_similarity(
        self, images: Float[Tensor, "n c *space"], index: Int[Tensor, "n k"], poses: Int[Tensor, "n k"]
    ) -> Float[Tensor, "n k"]:
        """Similarities after registration to each candidate; the most similar ones are registered more exactly."""
        # A candidate that stands in two columns is registered once, for the earlier one.
        earlier = (index[:, :, None] == index[:, None]).float().argmax(-1)
        row, column = (earlier == torch.arange(index.shape[1])).nonzero().T
        which = poses[row, column]
        pose, similarity = self._registered(
            images[row], index[row, column], which, self._start(which), FINE[images.dim() - 2]
        )
        found, place = torch.full(index.shape, -1.0), torch.zeros(index.shape, dtype=torch.int64)
        found[row, column], place[row, column] = similarity, torch.arange(len(row))
        best = place.gather(1, found.topk(_REFINED, 1).indices).flatten()
        row, column, which = row[best], column[best], which[best]
        _, exact = self._registered(images[row], index[row, column], which, pose[best], max(images.shape[2:]))
        found[row, column] = torch.maximum(found[row, column], exact)
        return found.gather(1, earlier)

    def _start(self, poses: Int[Tensor, " n"]) -> Float[Tensor, "n p"]:
        """The transforms of poses, as they act on mirrored images."""
        dims = self.images.dim() - 2
        choices = mirror_axes(dims)
        signs = torch.tensor([[-1.0 if axis + 2 in axes else 1.0 for axis in range(dims)] for axes in choices])
        start = self.poses.transforms(dims)[poses // 2 // len(choices)]
        return mirrored_transforms(start, signs[poses // 2 % len(choices)])

    def _registered(
        self,
        images: Float[Tensor, "n c *space"],
        index: Int[Tensor, " n"],
        poses: Int[Tensor, " n"],
        start: Float[Tensor, "n p"],
        side: int,
    ) -> tuple[Float[Tensor, "n p"], Float[Tensor, " n"]]:
        """Transforms that register each image to its training image, found with at most `side` pixels per axis, and the
        similarities afterwards."""
        dims, margin, transforms, similarity = images.dim() - 2, self.poses.margin, [], []
        inner = round(margin * side / FINE[dims])
        for some in torch.arange(len(index)).split(_PAIRS):
            upright, training = _mirrored(images[some], poses[some]), self.images[index[some]]
            transform = register(downsampled(upright, side), downsampled(training, side), start[some], inner)
            codes = self.fine(pixel_vectors(warp(upright, transform), FINE[dims], margin))
            transforms.append(transform)
            similarity.append((codes * self.fine_codes[index[some]]).sum(1))
        return torch.cat(transforms), torch.cat(similarity)


def _mirrored(images: Float[Tensor, "n c *space"], poses: Int[Tensor, " n"]) -> Float[Tensor, "n c *space"]:
    """Mirrored and inverted as the pose of each says."""
    choices, signs = mirror_axes(images.dim() - 2), (1 - 2 * (poses % 2)).tolist()
    which = (poses // 2 % len(choices)).tolist()
    axes = [[axis - 1 for axis in choices[w]] for w in which]
    return torch.stack([sign * image.flip(a) for image, a, sign in zip(images, axes, signs, strict=True)])


def _fitted_metric(
    images: Float[Tensor, "n c *space"],
    ranked: bool,
    side: int,
    margin: int,
    k: int,
    spread: tuple[float, float, float],
) -> Metric:
    """A metric that tolerates shifts, zooms (as logarithms) and rotations (degrees) up to `spread`, and a little
    noise."""
    generator, dims, perturbed = torch.Generator().manual_seed(0), images.dim() - 2, []
    shift, zoom, rotation = spread
    identity = identity_transforms(len(images), dims)
    most = torch.tensor([shift] * dims + [zoom] + [radians(rotation)] * (identity.shape[1] - dims - 1))
    for _ in range(_PERTURBATIONS):
        other = warp(images, (2 * torch.rand(identity.shape, generator=generator) - 1) * most)
        strength = 0.3 * torch.rand(len(images), *[1] * (dims + 1), generator=generator)
        other = (other + strength * torch.randn(other.shape, generator=generator)).clamp(-1, 1)
        perturbed.append(pixel_vectors(equalised(other) if ranked else other, side, margin))
    return Metric.fit(
        pixel_vectors(equalised(images) if ranked else images, side, margin), torch.stack(perturbed, 1), k
    )
