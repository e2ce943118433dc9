"""Can somebody who holds an image tell from a drawn set whether it was trained on?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fedgen.copies.matching import reduced
from fedgen.copies.registration import centred

LEAST = 100
"""Held-out images below which no rate at 1 % is given: a hundredth of them is less than one image."""
SIDE = 16
_CHUNK = 1024


@dataclass(frozen=True)
class Membership:
    """How well the drawn set tells trained images from held-out ones; 0.5 and 0.01 are guessing."""

    auc: float
    tpr_at_1_percent: float
    """Trained images recognised where 1 % of the held-out are taken for trained (Carlini et al. 2021, arXiv
    2112.03570)."""


def by_pixels(images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n d"]:
    """What an attacker compares: pixels of reduced images, in whatever brightness and contrast."""
    return centred(reduced(images, SIDE))


def by_features(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return normalize(features, dim=1)


def membership(drawn: Float[Tensor, "n d"], trained: Float[Tensor, "m d"], held: Float[Tensor, "h d"]) -> Membership:
    """Guesses that an image was trained on if the drawn set comes near it (the distance attack of Chen et al. 2020,
    arXiv 1909.03935). The attacker knows the drawn set alone, which is what a release hands out."""
    inside, outside = (_distances(images, drawn) for images in (trained, held))
    ranked = outside.sort().values
    # Held-out images that are farther than a trained one, ties by half.
    nearer = (torch.searchsorted(ranked, inside) + torch.searchsorted(ranked, inside, right=True)).double() / 2
    limit = ranked[int(0.01 * len(ranked))]
    return Membership(1 - float(nearer.mean()) / len(ranked), float((inside < limit).double().mean()))


def worst(found: Iterable[Membership]) -> Membership:
    """What an attacker reaches who takes the better way for each figure."""
    ways = list(found)
    return Membership(max(way.auc for way in ways), max(way.tpr_at_1_percent for way in ways))


def _distances(images: Float[Tensor, "n d"], drawn: Float[Tensor, "k d"]) -> Float[Tensor, " n"]:
    """To the nearest drawn image."""
    return torch.cat([torch.cdist(part, drawn).min(1).values for part in images.split(_CHUNK)])
