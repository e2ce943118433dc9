"""Dice, 95 % Hausdorff distance and surface Dice of masks, with intervals, from sums that add up over sites.

A site sends, for each measure and structure, sums over its patients and how many these are, never an image's own score
and no bootstrap draw, which could be solved for it. What fewer than `least` patients have is withheld: the sums and
sums of squares of one or two patients would be their scores.

An image counts for a structure where its mask or the guess shows it. Dice and surface Dice are 0 where only one of them
does; a distance then does not exist. Either that image is left out of the mean distance, which is then better the more
is missed, so that `measured` says of how many images it is; or the image's diagonal counts, the longest distance there.

A mean over images is a ratio of sums over patients, whose variance is that of s_p - mean n_p, s_p being the sum of
patient p's scores and n_p their number (Cochran 1977, sec. 6.3). Sites are strata: their variances are added. A site
sends sum (s_p - mean n_p)^2 about its own mean. About the mean of all sites the server takes the most that it can be,
which is exact where patients have equally many images: for more it would need sum s_p n_p, and that and sum s_p give
away a patient who alone has many images. Of the mean over structures the server knows that deviations add up at most;
the site sends what part of that it is.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Int64, Shaped
from torch import Tensor
from torch.nn.functional import one_hot

from fedcore.data.io.class_numbers import UNLABELED
from fedcore.messages.message import STATISTICS, Message
from fedtune.evaluation.intervals import student, two_digits
from fedtune.evaluation.scores import Score

MEASURES = ("dice", "hd95", "surface_dice")
Missed = Literal["omit", "diagonal"]


@dataclass(frozen=True)
class Sums(Message):
    """Of one site: measures in the order of MEASURES, structures without background; 0 where nothing is sent.

    Of patient p's images n_p have the score; s_p is its sum over them.
    """

    patients: Int[Tensor, "3 k"] = field(metadata=STATISTICS)
    """p with n_p > 0."""
    images: Int[Tensor, "3 k"] = field(metadata=STATISTICS)
    """sum n_p"""
    total: Float[Tensor, "3 k"] = field(metadata=STATISTICS)
    """sum s_p"""
    squares: Float[Tensor, "3 k"] = field(metadata=STATISTICS)
    """sum (s_p - mean n_p)^2, mean being that of the site: sum s_p / sum n_p"""
    sizes: Int[Tensor, "3 k"] = field(metadata=STATISTICS)
    """sum n_p^2"""
    together: Float[Tensor, "3"] = field(metadata=STATISTICS)
    """Of each measure, the variance of its mean over structures over that of structures that err together, to two
    digits in [0, 1]."""

    def variance(self, mean: Float[Tensor, "3 k"]) -> Float[Tensor, "3 k"]:
        """Of sum (s_p - mean n_p) over patients of this site, at most; of one patient its square."""
        m, total, images = self.patients.double(), self.total.double(), self.images.double()
        away = (total / images.clamp_min(1) - mean).abs()
        unequal = (self.sizes - images**2 / m.clamp_min(1)).clamp_min(0).sqrt()
        squares = (self.squares.double().sqrt() + away * unequal) ** 2
        return torch.where(m > 1, squares * m / (m - 1).clamp_min(1), (total - mean * images) ** 2)


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
    tolerance: float, missed: Missed = "omit",
) -> Float[Tensor, "3 k"]:  # fmt: skip
    """MEASURES of each structure of one image, NaN where they do not exist; unlabelled pixels are in neither.

    Args:
        guess: Class numbers.
        mask: Class numbers, 255 where unlabelled.
        spacing: Of pixels along each axis, in mm.
        structures: Class numbers, background included.
        tolerance: Distance in mm up to which surfaces agree (Nikolov et al. 2021, arXiv 1809.04430).
        missed: What the distance is where one side alone shows the structure: none, or the image's diagonal in mm.
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
    longest = math.hypot(*(side * mm for side, mm in zip(mask.shape, spacing, strict=True)))
    gap = torch.where(whole, gap, torch.where(shown > 0, longest if missed == "diagonal" else torch.nan, torch.nan))
    surface = torch.where(whole, surface, torch.where(shown > 0, 0.0, torch.nan))
    return torch.stack([dice, gap, surface])


def summed(values: Float[Tensor, "n 3 k"], patients: Int[Tensor, " n"], least: int = 1) -> Sums:
    """Over one site's images; a structure's measure that fewer than `least` patients have is left at 0."""
    distinct, owner = patients.unique(return_inverse=True)

    def by_patient(part: Shaped[Tensor, "n 3 k"]) -> Float[Tensor, "m 3 k"]:
        return torch.zeros(len(distinct), *part.shape[1:], dtype=torch.float64).index_add_(0, owner, part.double())

    n, s = by_patient(~values.isnan()), by_patient(values.nan_to_num())
    n, s = (part * ((n > 0).sum(0) >= least) for part in (n, s))
    deviations = s - s.sum(0) / n.sum(0).clamp_min(1) * n
    # Single precision says less of any patient.
    return Sums(
        patients=(n > 0).sum(0).int(), images=n.sum(0).int(), total=s.sum(0).float(),
        squares=(deviations**2).sum(0).float(), sizes=(n**2).sum(0).int(), together=_together(n, deviations),
    )  # fmt: skip


def few(values: Float[Tensor, "n 3 k"], patients: Int[Tensor, " n"], least: int) -> Bool[Tensor, " k"]:
    """The structures that some patients show, in a mask or a guess, but fewer than `least`."""
    shown = [len(patients[~column.isnan()].unique()) for column in values[:, 0].unbind(1)]
    return torch.tensor([0 < count < least for count in shown])


def overlap_scores(sites: Sequence[Sums]) -> dict[str, Score]:
    """Of each measure its mean over structures, then, where there are several, that of each structure.

    With Student's 95 % intervals, cut where no score lies.
    """
    total, images = _added([s.total for s in sites]), _added([s.images for s in sites])
    mean, exists = torch.where(images > 0, total / images.clamp_min(1), torch.nan), images > 0
    freedom = _added([(s.patients - 1).clamp_min(0) for s in sites])
    by_site = [torch.where(s.patients > 0, s.variance(mean), 0.0) / images.clamp_min(1) ** 2 for s in sites]
    of_mean = _added([_of_mean(v, exists) * s.together for v, s in zip(by_site, sites, strict=True)])
    least = torch.where(exists, freedom, torch.inf).amin(1)
    found = {name: _score(name, mean[at].nanmean(), of_mean[at], least[at]) for at, name in enumerate(MEASURES)}
    variance, k = _added(by_site), mean.shape[1]
    return found | {
        f"{name}_{j + 1}": _score(name, mean[at, j], variance[at, j], freedom[at, j])
        for j in range(k if k > 1 else 0)
        for at, name in enumerate(MEASURES)
    }


def measured(sites: Sequence[Sums]) -> dict[str, int]:
    """`dice_images` and `hd95_images`: images behind these scores, each counted once for each structure that it shows;
    then, where there are several structures, `dice_images_1`, `hd95_images_1` ... of each.
    """
    images = sum(site.images for site in sites)
    assert isinstance(images, Tensor), "there is a site"
    found = {f"{name}_images": images[MEASURES.index(name)] for name in ("dice", "hd95")}
    several = images.shape[1] > 1
    return {name: int(by_structure.sum()) for name, by_structure in found.items()} | {
        f"{name}_{j}": int(count)
        for name, by_structure in found.items()
        for j, count in enumerate(by_structure if several else [], 1)
    }


def _added(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.double() for part in parts]).sum(0)


def _of_mean(variance: Float[Tensor, "3 k"], exists: Bool[Tensor, "3 k"]) -> Float[Tensor, "3"]:
    """The variance of a mean over structures whose deviations add up."""
    return (torch.where(exists, variance, 0.0).sqrt().sum(1) / exists.sum(1).clamp_min(1)) ** 2


def _together(n: Float[Tensor, "m 3 k"], deviations: Float[Tensor, "m 3 k"]) -> Float[Tensor, "3"]:
    """`Sums.together`, from each patient's number of scores and what their sum is above the mean."""
    m, images = (n > 0).sum(0), n.sum(0)
    variance = deviations.square().sum(0) * m / (m - 1).clamp_min(1) / images.clamp_min(1) ** 2
    most = _of_mean(variance, images > 0)
    of_mean = (deviations / images.clamp_min(1)).sum(2) / (images > 0).sum(1).clamp_min(1)
    shown = (n > 0).any(2).sum(0)
    truly = of_mean.square().sum(0) * shown / (shown - 1).clamp_min(1)
    parts = [float(part / whole) if whole > 0 else 1.0 for part, whole in zip(truly, most, strict=True)]
    return torch.tensor([two_digits(min(part, 1.0)) for part in parts])


def _score(name: str, mean: Tensor, variance: Tensor, freedom: Tensor) -> Score:
    if not freedom or mean.isnan():
        return Score(float(mean), math.nan, math.nan)
    half = student(int(freedom)) * math.sqrt(float(variance))
    most = math.inf if name == "hd95" else 1.0
    return Score(float(mean), max(float(mean) - half, 0.0), min(float(mean) + half, most))
