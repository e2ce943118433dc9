"""Membership inference: does a synthetic set show whether an image was trained on?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fedgen.copies.matching import downsampled
from fedgen.copies.registration import centred

MIN_HELD_OUT_FOR_TPR = 100
"""Held-out images below which no rate at 1 % false alarms is given: a hundredth of them is less than one image."""
SIDE = 16
_CHUNK = 1024


@dataclass(frozen=True)
class MembershipAttack:
    """How well the synthetic set separates training images from held-out ones; guessing gives 0.5 and 0.01."""

    auc: float
    tpr_at_1_percent_fpr: float
    """Part of the training images that are identified where 1 % of the held-out images are taken for training images
    (Carlini et al. 2021, arXiv 2112.03570)."""


def pixel_vectors(images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n d"]:
    """Pixels as the attack compares them: downsampled; brightness and contrast change nothing."""
    return centred(downsampled(images, SIDE))


def feature_vectors(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Features as the attack compares them: of length 1."""
    return normalize(features, dim=1)


def membership_attack(
    synthetic: Float[Tensor, "n d"], training: Float[Tensor, "m d"], held_out: Float[Tensor, "h d"]
) -> MembershipAttack:
    """The distance attack of Chen et al. 2020 (arXiv 1909.03935): an image is taken for a training image if the
    synthetic set comes near it. The attacker has the synthetic set alone, which is what a release contains."""
    inside, outside = (_nearest_distances(images, synthetic) for images in (training, held_out))
    ranked = outside.sort().values
    # Held-out images that are nearer than a training image; ties count half.
    nearer = (torch.searchsorted(ranked, inside) + torch.searchsorted(ranked, inside, right=True)).double() / 2
    limit = ranked[int(0.01 * len(ranked))]
    return MembershipAttack(1 - float(nearer.mean()) / len(ranked), float((inside < limit).double().mean()))


def worst(attacks: Iterable[MembershipAttack]) -> MembershipAttack:
    """The result of an attacker who uses the better attack for each figure."""
    found = list(attacks)
    return MembershipAttack(max(one.auc for one in found), max(one.tpr_at_1_percent_fpr for one in found))


def _nearest_distances(images: Float[Tensor, "n d"], synthetic: Float[Tensor, "k d"]) -> Float[Tensor, " n"]:
    """To the nearest synthetic image."""
    return torch.cat([torch.cdist(part, synthetic).min(1).values for part in images.split(_CHUNK)])
