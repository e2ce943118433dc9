"""Which trained images is an image most like, whatever was done to it? Similarities in a learned metric.

`Posed` lets it be mirrored, moved, turned, zoomed and inverted; `Noisy` lets it be noisy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from math import log, radians

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from fedgen.metric import Metric
from fedgen.registration import centred, mirrored_transforms, moved, register, transforms

WORKING = {2: 32, 3: 16}
"""Pixels a side, by spatial dimensions, of what is kept of an image; what is finer is not looked at."""
COARSE = {2: 12, 3: 8}
FINE = {2: 16, 3: 10}
ALIGNED = {2: 16, 3: 10}
SMOOTH = {2: 16, 3: 8}
"""What is compared coarsely, exactly, and of noisy images."""
CANDIDATES = 8
"""Patients, and images, of which the exact similarity is asked."""
_LEARNED = 500
"""Trained images that a metric is learned from."""
_DISGUISES = 6
_CHUNK = 64
"""Images searched at once: the memory of a search is this times the trained images times 8 bytes."""
_PAIRS = 128
_SIGNAL = 0.5
"""Where noise is more than this part of what is compared, no more of it is made up for: everything would be alike."""


@dataclass(frozen=True)
class Matches:
    """The trained images that are most like each of n images: first one a patient, then any."""

    similarity: Float[Tensor, "n c"]
    """1 for the same image, about 0 for any two."""
    at: Int[Tensor, "n c"]
    """Places of trained images."""
    first: int
    """How many are of one patient each."""


def working(images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *small"]:
    """What is kept of images, to be compared."""
    return reduced(images, WORKING[images.dim() - 2])


def reduced(images: Float[Tensor, "n c *space"], side: int) -> Float[Tensor, "n c *small"]:
    """The mean of the pixels that fall together where no axis is longer than `side`."""
    return interpolate(images.float(), [min(side, n) for n in images.shape[2:]], mode="area")


def equalised(images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
    """Each pixel's rank in its image and channel, in [-1, 1], of equal ones the middle: the same in any window."""
    flat = images.flatten(2)
    ranked, order = flat.sort(-1)
    last = flat.shape[-1] - 1
    places = torch.arange(last + 1).expand_as(flat)
    # Of equal pixels the first and the last place: what is left of a place where a new value begins, or ends.
    differs = ranked.diff(dim=-1) != 0
    first = places.masked_fill(~F.pad(differs, (1, 0), value=True), 0).cummax(-1).values
    final = places.masked_fill(~F.pad(differs, (0, 1), value=True), last).flip(-1).cummin(-1).values.flip(-1)
    ranks = (first + final - last) / (last + 1)
    return torch.empty_like(flat).scatter_(-1, order, ranks).view(images.shape)


def mirrorings(dims: int) -> list[list[int]]:
    """Axes to mirror along: all 2^dims choices."""
    return [[axis + 2 for axis in range(dims) if flags[axis]] for flags in product((False, True), repeat=dims)]


def nearest(likeness: Float[Tensor, "n m"], patients: Int[Tensor, " m"]) -> tuple[Int[Tensor, "n c"], int]:
    """Places of the likest image of each of the likest patients, then of the likest images; how many are the first.

    `patients` are numbers from 0.
    """
    count = int(patients.max()) + 1
    of = torch.full((len(likeness), count), -torch.inf)
    of = of.scatter_reduce(1, patients.expand_as(likeness), likeness, "amax")
    who = of.topk(min(CANDIDATES, count), 1).indices
    one_each = [likeness.masked_fill(patients != whose[:, None], -torch.inf).argmax(1) for whose in who.T]
    any_of = likeness.topk(min(CANDIDATES, likeness.shape[1]), 1).indices
    return torch.cat([torch.stack(one_each, 1), any_of], 1), len(one_each)


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
        some = _some(trained)
        shift = 0.06 if dims == 2 else 0.11
        coarse = _learned(some, ranked, COARSE[dims], 0, 48, (shift, 0.05, 5.0))
        fine = _learned(some, ranked, FINE[dims], margin, 96, (0.015, 0.01, 1.0))
        whose = patients.unique(return_inverse=True)[1]
        codes, fine_codes = coarse(_seen(images, COARSE[dims])), fine(_seen(images, FINE[dims], margin))
        return Posed(search, ranked, images, whose, coarse, fine, codes, fine_codes)

    def __call__(self, images: Float[Tensor, "n c *space"]) -> Matches:
        found = [self._match(part) for part in images.split(_CHUNK)]
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
        """Similarities once each image lies on the trained one."""
        images = seen.repeat_interleave(at.shape[1], 0)
        parts = zip(images.split(_PAIRS), at.flatten().split(_PAIRS), poses.flatten().split(_PAIRS), strict=True)
        return torch.cat([self._exact(*part) for part in parts]).view(at.shape)

    def _exact(
        self, images: Float[Tensor, "n c *space"], at: Int[Tensor, " n"], poses: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        dims = images.dim() - 2
        choices = mirrorings(dims)
        which, sign = poses // 2 % len(choices), 1.0 - 2.0 * (poses % 2)
        start = self.search.start(dims)[poses // 2 // len(choices)]
        mirrored = torch.stack(
            [image.flip([a - 1 for a in choices[w]]) for image, w in zip(images, which.tolist(), strict=True)]
        )
        mirrored = mirrored * sign.view(-1, *[1] * (dims + 1))
        signs = torch.tensor([[-1.0 if axis + 2 in axes else 1.0 for axis in range(dims)] for axes in choices])
        side = ALIGNED[dims]
        pose = register(
            reduced(mirrored, side), reduced(self.images[at], side), mirrored_transforms(start, signs[which])
        )
        codes = self.fine(_seen(moved(mirrored, pose), FINE[dims], self.search.margin))
        return (codes * self.fine_codes[at]).sum(1)


@dataclass(frozen=True)
class Noisy:
    """Compares images of which one may be noisy; mirrored, but in no other pose.

    Noise lessens a correlation by a factor that its size tells (attenuation, Spearman 1904, doi 10.2307/1412159), and
    similarities are divided by that.
    """

    patients: Int[Tensor, " m"]
    metric: Metric
    codes: Float[Tensor, "m k"] = field(repr=False)
    usual: float
    """Variance of the trained images' own noise, which the metric knows."""

    @staticmethod
    def of(trained: Float[Tensor, "m c *space"], patients: Int[Tensor, " m"]) -> Noisy:
        """As `Posed.of`."""
        dims = trained.dim() - 2
        some, generator = _some(trained), torch.Generator().manual_seed(0)
        seen = [
            _seen((image + 0.5 * torch.randn(image.shape, generator=generator)).clamp(-1, 1), SMOOTH[dims])
            for image in [some] * _DISGUISES
        ]
        metric = Metric.of(_seen(some, SMOOTH[dims]), torch.stack(seen, 1), 64)
        whose = patients.unique(return_inverse=True)[1]
        return Noisy(whose, metric, metric(_seen(trained, SMOOTH[dims])), float(noise(some).median()))

    def __call__(self, images: Float[Tensor, "n c *space"]) -> Matches:
        found = [self._match(part) for part in images.split(_CHUNK)]
        return Matches(torch.cat([m.similarity for m in found]), torch.cat([m.at for m in found]), found[0].first)

    def _match(self, images: Float[Tensor, "n c *space"]) -> Matches:
        dims = images.dim() - 2
        small = reduced(images, SMOOTH[dims])
        extra = (noise(images) - self.usual).clamp_min(0) * (small[0, 0].numel() / images[0, 0].numel())
        flat = small.flatten(1)
        part = extra / (flat - flat.mean(1, keepdim=True)).square().sum(1).clamp_min(1e-9)
        best: Tensor | None = None
        for axes in mirrorings(dims):
            raw = self.metric.raw(centred(small.flip(axes)))
            of_noise = part * self.metric.directions.square().sum() / raw.square().sum(1).clamp_min(1e-9)
            likeness = normalize(raw, dim=1) @ self.codes.T / (1 - of_noise).clamp_min(_SIGNAL).sqrt()[:, None]
            best = likeness if best is None else torch.maximum(best, likeness)
        assert best is not None
        at, first = nearest(best, self.patients)
        return Matches(best.gather(1, at).clamp_max(1), at, first)


def noise(images: Float[Tensor, "n c *space"]) -> Float[Tensor, " n"]:
    """Variance of what is white in each image, by second differences along every axis (Immerkaer 1996, doi
    10.1006/cviu.1996.0060). Anatomy adds to it a little."""
    left = images
    for axis in range(2, images.dim()):
        size = left.shape[axis]
        before, here, after = (left.narrow(axis, start, size - 2) for start in range(3))
        left = before - 2 * here + after
    return left.square().flatten(1).mean(1) / 6 ** (images.dim() - 2)


def _some(images: Float[Tensor, "m c *space"]) -> Float[Tensor, "k c *space"]:
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:_LEARNED]]


def _seen(images: Float[Tensor, "n c *space"], side: int, margin: int = 0) -> Float[Tensor, "n d"]:
    small = reduced(images, side)
    for axis in range(2, small.dim()):
        small = small.narrow(axis, margin, small.shape[axis] - 2 * margin)
    return centred(small)


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
        seen.append(_seen(equalised(other) if ranked else other, side, margin))
    return Metric.of(_seen(equalised(images) if ranked else images, side, margin), torch.stack(seen, 1), k)
