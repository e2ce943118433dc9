"""Dice, 95 % Hausdorff distance and surface Dice of masks, with bootstrap intervals, from sums that add up over sites.

A site sends sums over its images and how many images they are of, for each structure, never an image's own score. Row 0
counts the site as it is, the others bootstrap draws of its patients; the sums of rows over sites are a bootstrap
stratified by site.

An image counts for a structure where its mask or the guess shows it. Dice and surface Dice are 0 where only one of them
does; a distance then does not exist, and that image is left out of its mean: read it beside Dice.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from fedcore.data.decode import UNLABELED
from fedtune.counts import multiplicities
from fedtune.scores import Score, interval

MEASURES = ("dice", "hd95", "surface_dice")


@dataclass(frozen=True)
class Sums:
    """Of one site or several: r rows, measures in the order of MEASURES, structures without background."""

    total: Float[Tensor, "r 3 k"]
    images: Int[Tensor, "r 3 k"]

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.total + other.total, self.images + other.images)


def dice_by_structure(
    guess: Int64[Tensor, "*space"], mask: Int64[Tensor, "*space"], structures: int
) -> Float[Tensor, " k"]:
    """Of one image, NaN where neither side shows the structure; else as `image_scores`."""
    known = mask != UNLABELED
    guessed, true = (one_hot(side * known, structures).flatten(0, -2)[:, 1:] for side in (guess, mask))
    shown = (guessed.sum(0) + true.sum(0)).double()
    return torch.where(shown > 0, 2 * (guessed * true).sum(0) / shown, torch.nan)


def image_scores(
    guess: Int64[Tensor, "*space"], mask: Int64[Tensor, "*space"], spacing: Sequence[float], structures: int,
    tolerance: float,
) -> Float[Tensor, "3 k"]:  # fmt: skip
    """MEASURES of each structure of one image, NaN where they do not exist; unlabelled pixels are in neither.

    Args:
        guess: Class numbers.
        mask: Class numbers, 255 where unlabelled.
        spacing: Of pixels along each axis, in mm.
        structures: Class numbers, background included.
        tolerance: Distance in mm up to which surfaces agree (Nikolov et al. 2021, arXiv 1809.04430).
    """
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    known = mask != UNLABELED
    sides = [one_hot(side * known, structures).movedim(-1, 0)[None] for side in (guess, mask)]
    inside = [side[0, 1:].flatten(1).sum(1).double() for side in sides]
    shown = inside[0] + inside[1]
    dice = dice_by_structure(guess, mask, structures)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of structures that one side or both lack
        gap = compute_hausdorff_distance(*sides, percentile=95, spacing=list(spacing))[0].double()
        surface = compute_surface_dice(*sides, [tolerance] * (structures - 1), spacing=list(spacing))[0].double()
    whole = (inside[0] > 0) & (inside[1] > 0)
    gap = torch.where(whole, gap, torch.nan)
    surface = torch.where(whole, surface, torch.where(shown > 0, 0.0, torch.nan))
    return torch.stack([dice, gap, surface])


def summed(values: Float[Tensor, "n 3 k"], patients: Int[Tensor, " n"], draws: int, seed: int) -> Sums:
    """Over one site's images; patients are drawn with replacement, all images of a patient together."""
    times = multiplicities(patients, draws, seed).double()
    exists = ~values.isnan()
    total = torch.einsum("rn,nmk->rmk", times, values.nan_to_num())
    return Sums(total, torch.einsum("rn,nmk->rmk", times, exists.double()).round().int())


def overlap_scores(sums: Sums) -> dict[str, Score]:
    """Of each measure its mean over structures, then, where there are several, that of each structure."""
    means = torch.where(sums.images > 0, sums.total / sums.images.clamp_min(1), torch.nan)
    found = {name: interval(means[:, at].nanmean(1)) for at, name in enumerate(MEASURES)}
    if means.shape[2] > 1:
        for k in range(means.shape[2]):
            found |= {f"{name}_{k + 1}": interval(means[:, at, k]) for at, name in enumerate(MEASURES)}
    return found
