"""How images are reduced for copy detection, and the training images that are most similar to each: shared by
`fedgen.copies.pose_search` and `fedgen.copies.noise_search`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from fedgen.copies.registration import centred, without_margin

SEARCH_SIDE = {2: 32, 3: 16}
"""Pixels per side of the images that are searched, by number of spatial dimensions; finer details are not compared."""
CANDIDATES = 8
"""Patients, and images, whose exact similarity is computed."""
METRIC_IMAGES = 500
"""Training images that a metric is fitted to, at most."""
_RANKED_AT_ONCE = 1024
"""Images ranked at once: ranks take ten times the memory of the images."""
CHUNK = 64
"""Images searched at once: the memory of a search is this times the number of training images times 8 bytes."""


@dataclass(frozen=True)
class Matches:
    """The training images that are most similar to each of n images: first one per patient, then any."""

    similarity: Float[Tensor, "n c"]
    """1 for the same image, about 0 for two unrelated ones."""
    index: Int[Tensor, "n c"]
    """Indices of training images."""
    per_patient: int
    """How many of the first columns hold one image per patient."""


def at_search_size(images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *small"]:
    """Images at the resolution of the search."""
    return downsampled(images, SEARCH_SIDE[images.dim() - 2])


def downsampled(images: Float[Tensor, "n c *space"], side: int) -> Float[Tensor, "n c *small"]:
    """Area means, so that no axis is longer than `side` pixels."""
    return interpolate(images.float(), [min(side, n) for n in images.shape[2:]], mode="area")


def equalised(images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
    """Each pixel's rank in its image and channel, in [-1, 1], equal in any window; equal pixels share a mean rank."""
    return torch.cat([_ranks(part) for part in images.split(_RANKED_AT_ONCE)])


def _ranks(images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
    flat = images.flatten(2)
    ranked, order = flat.sort(-1)
    last = flat.shape[-1] - 1
    places = torch.arange(last + 1).expand_as(flat)
    # The first and the last place of equal pixels: only places where a new value begins, or a value ends, are kept.
    differs = ranked.diff(dim=-1) != 0
    first = places.masked_fill(~F.pad(differs, (1, 0), value=True), 0).cummax(-1).values
    final = places.masked_fill(~F.pad(differs, (0, 1), value=True), last).flip(-1).cummin(-1).values.flip(-1)
    ranks = (first + final - last) / (last + 1)
    return torch.empty_like(flat).scatter_(-1, order, ranks).view(images.shape)


def mirror_axes(dims: int) -> list[list[int]]:
    """Axes to mirror along: all 2^dims choices."""
    return [[axis + 2 for axis in range(dims) if flags[axis]] for flags in product((False, True), repeat=dims)]


def candidates(similarity: Float[Tensor, "n m"], patients: Int[Tensor, " m"]) -> tuple[Int[Tensor, "n c"], int]:
    """Indices of the most similar image of each of the most similar patients, then of the most similar images, and the
    number of the former.

    `patients` are numbers from 0.
    """
    count = int(patients.max()) + 1
    by_patient = torch.full((len(similarity), count), -torch.inf)
    by_patient = by_patient.scatter_reduce(1, patients.expand_as(similarity), similarity, "amax")
    chosen = by_patient.topk(min(CANDIDATES, count), 1).indices
    one_each = [similarity.masked_fill(patients != patient[:, None], -torch.inf).argmax(1) for patient in chosen.T]
    any_image = similarity.topk(min(CANDIDATES, similarity.shape[1]), 1).indices
    return torch.cat([torch.stack(one_each, 1), any_image], 1), len(one_each)


def metric_images(images: Float[Tensor, "m c *space"]) -> Float[Tensor, "k c *space"]:
    """A random subset of the training images, at most `METRIC_IMAGES`; the same at each call."""
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:METRIC_IMAGES]]


def pixel_vectors(images: Float[Tensor, "n c *space"], side: int, margin: int = 0) -> Float[Tensor, "n d"]:
    """Pixels of the downsampled images without `margin` pixels on each side; brightness and contrast change nothing."""
    return centred(without_margin(downsampled(images, side), margin))
