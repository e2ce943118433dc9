"""Which trained images is an image most like, mirrored, moved, turned, zoomed or inverted? Similarities in a learned
metric."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from math import log, radians

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedgen.copies.matching import CHUNK, Matches, equalised, learned_from, mirrorings, nearest, pixels_of, reduced
from fedgen.copies.metric import Metric
from fedgen.copies.registration import centred, mirrored_transforms, moved, register, transforms

COARSE = {2: 12, 3: 8}
FINE = {2: 16, 3: 10}
"""Pixels a side of what is compared coarsely, and of what is registered and compared exactly."""
_DISGUISES = 6
_PAIRS = 128
"""Images registered at once: more leave the cache."""
_REFINED = 2
"""Candidates that are registered once more, with all pixels."""


@dataclass(frozen=True)
class Search:
    """What is tried out with every trained image; registration finds what lies between.

    Mirrorings and inversion always are.
    """

    shifts: tuple[float, ...] = (0.0,)
    """Along each axis, of which the side is 2."""
    zooms: tuple[float, ...] = (1.0,)
    turns: tuple[float, ...] = ()
    """Degrees, in each plane of two axes."""
    margin: int = 0
    """Pixels of FINE on each side that are not compared, since a shift takes them out of the image."""

    def start(self, dims: int) -> Float[Tensor, "t p"]:
        at_rest = transforms(1, dims)[0]
        rows = []
        for shift in product(self.shifts, repeat=dims):
            for zoom in self.zooms:
                row = at_rest.clone()
                row[:dims], row[dims] = torch.tensor(shift), log(zoom)
                rows.append(row)
            for plane, turn in product(range(dims + 1, len(at_rest)), self.turns):
                row = at_rest.clone()
                row[:dims], row[plane] = torch.tensor(shift), radians(turn)
                rows.append(row)
        return torch.stack(rows)


WHOLE = {
    2: Search((-0.19, -0.095, 0.0, 0.095, 0.19), (1.0, 1.1, 1 / 1.1), (-7.0, 7.0), margin=2),
    3: Search((-0.19, 0.0, 0.19), (1.0, 1.1, 1 / 1.1), margin=1),
}


@dataclass(frozen=True)
class Posed:
    """Compares images in whatever pose they are, by all trained images coarsely, then by the best registered."""

    search: Search
    ranked: bool
    """Whether pixels are their ranks (`equalised`)."""
    images: Float[Tensor, "m c *space"]
    patients: Int[Tensor, " m"]
    coarse: Metric
    fine: Metric
    codes: Float[Tensor, "m k"] = field(repr=False)
    fine_codes: Float[Tensor, "m f"] = field(repr=False)

    @staticmethod
    def of(
        trained: Float[Tensor, "m c *space"], patients: Int[Tensor, " m"], search: Search, ranked: bool = False
    ) -> Posed:
        """`trained` and what is compared with it as `working` makes them, or halves of that."""
        dims, margin = trained.dim() - 2, search.margin
        images = equalised(trained) if ranked else trained
        some = learned_from(trained)
        shift = 0.06 if dims == 2 else 0.11
        coarse = _learned(some, ranked, COARSE[dims], 0, 48, (shift, 0.05, 5.0))
        fine = _learned(some, ranked, FINE[dims], margin, 96, (0.015, 0.01, 1.0))
        whose = patients.unique(return_inverse=True)[1]
        codes, fine_codes = coarse(pixels_of(images, COARSE[dims])), fine(pixels_of(images, FINE[dims], margin))
        return Posed(search, ranked, images, whose, coarse, fine, codes, fine_codes)

    def __call__(self, images: Float[Tensor, "n c *space"]) -> Matches:
        found = [self._match(part) for part in images.split(CHUNK)]
        return Matches(torch.cat([m.similarity for m in found]), torch.cat([m.at for m in found]), found[0].first)

    def _match(self, images: Float[Tensor, "n c *space"]) -> Matches:
        seen = equalised(images) if self.ranked else images
        codes = self._in_every_pose(seen)
        best = codes[:, 0] @ self.codes.T
        for pose in range(1, codes.shape[1]):
            torch.maximum(best, codes[:, pose] @ self.codes.T, out=best)
        at, first = nearest(best, self.patients)
        poses = torch.einsum("nvk,nck->ncv", codes, self.codes[at]).argmax(-1)
        return Matches(self._registered(seen, at, poses), at, first)

    def _in_every_pose(self, seen: Float[Tensor, "n c *space"]) -> Float[Tensor, "n v k"]:
        """By shifts, zooms and turns, of each by mirrorings, of each upright and inverted."""
        dims, rows = seen.dim() - 2, []
        for transform in self.search.start(dims):
            small = reduced(moved(seen, transform.expand(len(seen), -1)), COARSE[dims])
            for axes in mirrorings(dims):
                flat = centred(small.flip(axes))
                rows += [flat, -flat]
        return self.coarse(torch.stack(rows, 1))

    def _registered(
        self, seen: Float[Tensor, "n c *space"], at: Int[Tensor, "n k"], poses: Int[Tensor, "n k"]
    ) -> Float[Tensor, "n k"]:
        """Similarities once each image lies on the trained one; the likest are laid on it more exactly."""
        earlier = (at[:, :, None] == at[:, None]).float().argmax(-1)
        row, column = (earlier == torch.arange(at.shape[1])).nonzero().T
        which = poses[row, column]
        pose, likeness = self._aligned(seen[row], at[row, column], which, self._start(which), FINE[seen.dim() - 2])
        found, place = torch.full(at.shape, -1.0), torch.zeros(at.shape, dtype=torch.int64)
        found[row, column], place[row, column] = likeness, torch.arange(len(row))
        best = place.gather(1, found.topk(_REFINED, 1).indices).flatten()
        row, column, which = row[best], column[best], which[best]
        _, exact = self._aligned(seen[row], at[row, column], which, pose[best], max(seen.shape[2:]))
        found[row, column] = torch.maximum(found[row, column], exact)
        return found.gather(1, earlier)

    def _start(self, poses: Int[Tensor, " n"]) -> Float[Tensor, "n p"]:
        dims = self.images.dim() - 2
        choices = mirrorings(dims)
        signs = torch.tensor([[-1.0 if axis + 2 in axes else 1.0 for axis in range(dims)] for axes in choices])
        start = self.search.start(dims)[poses // 2 // len(choices)]
        return mirrored_transforms(start, signs[poses // 2 % len(choices)])

    def _aligned(
        self,
        images: Float[Tensor, "n c *space"],
        at: Int[Tensor, " n"],
        poses: Int[Tensor, " n"],
        start: Float[Tensor, "n p"],
        side: int,
    ) -> tuple[Float[Tensor, "n p"], Float[Tensor, " n"]]:
        """Transforms on trained images, by pixels of which no axis has more than `side`; similarities then."""
        dims, margin, poses_found, likeness = images.dim() - 2, self.search.margin, [], []
        inner = round(margin * side / FINE[dims])
        for some in torch.arange(len(at)).split(_PAIRS):
            upright, trained = _mirrored(images[some], poses[some]), self.images[at[some]]
            pose = register(reduced(upright, side), reduced(trained, side), start[some], inner)
            codes = self.fine(pixels_of(moved(upright, pose), FINE[dims], margin))
            poses_found.append(pose)
            likeness.append((codes * self.fine_codes[at[some]]).sum(1))
        return torch.cat(poses_found), torch.cat(likeness)


def _mirrored(images: Float[Tensor, "n c *space"], poses: Int[Tensor, " n"]) -> Float[Tensor, "n c *space"]:
    """As the pose of each says; inverted, too."""
    choices, signs = mirrorings(images.dim() - 2), (1 - 2 * (poses % 2)).tolist()
    which = (poses // 2 % len(choices)).tolist()
    axes = [[axis - 1 for axis in choices[w]] for w in which]
    return torch.stack([sign * image.flip(a) for image, a, sign in zip(images, axes, signs, strict=True)])


def _learned(
    images: Float[Tensor, "n c *space"],
    ranked: bool,
    side: int,
    margin: int,
    k: int,
    spread: tuple[float, float, float],
) -> Metric:
    """A metric that forgives shifts, zooms (as logarithms) and turns (degrees) up to `spread`, and a little noise."""
    generator, dims, seen = torch.Generator().manual_seed(0), images.dim() - 2, []
    shift, zoom, turn = spread
    still = transforms(len(images), dims)
    most = torch.tensor([shift] * dims + [zoom] + [radians(turn)] * (still.shape[1] - dims - 1))
    for _ in range(_DISGUISES):
        other = moved(images, (2 * torch.rand(still.shape, generator=generator) - 1) * most)
        strength = 0.3 * torch.rand(len(images), *[1] * (dims + 1), generator=generator)
        other = (other + strength * torch.randn(other.shape, generator=generator)).clamp(-1, 1)
        seen.append(pixels_of(equalised(other) if ranked else other, side, margin))
    return Metric.of(pixels_of(equalised(images) if ranked else images, side, margin), torch.stack(seen, 1), k)
