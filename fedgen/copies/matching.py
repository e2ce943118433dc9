"""What is compared of images, and the trained ones that are most like each: what `fedgen.copies.pose_search` and
`fedgen.copies.noise_search` share."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from fedgen.copies.registration import centred, inside

WORKING = {2: 32, 3: 16}
"""Pixels a side, by spatial dimensions, of what is kept of an image; what is finer is not looked at."""
CANDIDATES = 8
"""Patients, and images, of which the exact similarity is asked."""
LEARNED = 500
"""Trained images that a metric is learned from."""
_RANKED = 1024
"""Images ranked at once: ranks take ten times the memory of the images."""
CHUNK = 64
"""Images searched at once: the memory of a search is this times the trained images times 8 bytes."""


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
    return torch.cat([_ranks(part) for part in images.split(_RANKED)])


def _ranks(images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
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


def learned_from(images: Float[Tensor, "m c *space"]) -> Float[Tensor, "k c *space"]:
    """Some of the trained images, at most `LEARNED`."""
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:LEARNED]]


def pixels_of(images: Float[Tensor, "n c *space"], side: int, margin: int = 0) -> Float[Tensor, "n d"]:
    """Pixels of the reduced images, less `margin` of them on each side, in whatever brightness and contrast."""
    return centred(inside(reduced(images, side), margin))
