"""Dice, 95 % Hausdorff distance (HD95) and surface Dice of masks, with intervals, from sums that add up over sites.

A site sends, for each metric and structure, sums over its patients and their number. It sends no score of an image and
no bootstrap draw, which could be solved for one. Sums that fewer than `min_patients` patients contribute to are
withheld: the sums and sums of squares of one or two patients would reveal their scores.

An image counts for a structure if its mask or the prediction has it. Dice and surface Dice are 0 where only one of them
has it; the distance is then undefined. Either such an image is left out of the mean distance, which is then better the
more is missed, so `count_images` reports the number of images; or the distance is the diagonal of the image, the
longest possible one.

A mean over images is a ratio of sums over patients, whose variance is that of s_p - mean n_p, with s_p the sum of
patient p's scores and n_p their number (Cochran 1977, sec. 6.3). Sites are strata: their variances are added. A site
sends sum (s_p - mean n_p)^2 about its own mean. About the mean of all sites the server computes an upper bound, which
is exact where all patients have equally many images: the exact value would need sum s_p n_p, and that and sum s_p
reveal the score of a patient who alone has many images. For the mean over structures the server has the upper bound of
fully correlated errors; the site sends the ratio of the true variance to it.
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

from fedcore.data.mask_classes import UNLABELED
from fedcore.messages.message import Message
from fedcore.messages.reveals import STATISTICS
from fedtune.evaluation.intervals import student_quantile, two_digits
from fedtune.evaluation.scores import Score

METRICS = ("dice", "hd95", "surface_dice")
MissingStructure = Literal["omit", "diagonal"]


@dataclass(frozen=True)
class MetricSums(Message):
    """Sums of one site: rows are METRICS, columns structures without background; 0 where nothing is sent.

    n_p of patient p's images have the score; s_p is its sum over them.
    """

    patients: Int[Tensor, "3 k"] = field(metadata=STATISTICS)
    """Number of patients with n_p > 0."""
    images: Int[Tensor, "3 k"] = field(metadata=STATISTICS)
    """sum n_p"""
    scores: Float[Tensor, "3 k"] = field(metadata=STATISTICS)
    """sum s_p"""
    squared_deviations: Float[Tensor, "3 k"] = field(metadata=STATISTICS)
    """sum (s_p - mean n_p)^2, where mean is that of the site: sum s_p / sum n_p"""
    squared_images: Int[Tensor, "3 k"] = field(metadata=STATISTICS)
    """sum n_p^2"""
    variance_ratio: Float[Tensor, "3"] = field(metadata=STATISTICS)
    """For each metric, the variance of its mean over structures divided by that of structures with fully correlated
    errors, to two digits, in [0, 1]."""

    def variance(self, mean: Float[Tensor, "3 k"]) -> Float[Tensor, "3 k"]:
        """Upper bound of the variance of sum (s_p - mean n_p) over this site's patients; for one patient its square."""
        m, scores, images = self.patients.double(), self.scores.double(), self.images.double()
        difference = (scores / images.clamp_min(1) - mean).abs()
        spread = (self.squared_images - images**2 / m.clamp_min(1)).clamp_min(0).sqrt()
        squares = (self.squared_deviations.double().sqrt() + difference * spread) ** 2
        return torch.where(m > 1, squares * m / (m - 1).clamp_min(1), (scores - mean * images) ** 2)


def dice_by_structure(
    predicted: Int64[Tensor, "*space"], mask: Int64[Tensor, "*space"], num_classes: int
) -> Float[Tensor, " k"]:
    """The Dice of one image as in `image_metrics`, NaN where neither mask has the structure."""
    known = mask != UNLABELED
    prediction, truth = (one_hot(part * known, num_classes).flatten(0, -2)[:, 1:] for part in (predicted, mask))
    total = (prediction.sum(0) + truth.sum(0)).double()
    return torch.where(total > 0, 2 * (prediction * truth).sum(0) / total, torch.nan)


def image_metrics(
    predicted: Int64[Tensor, "*space"], mask: Int64[Tensor, "*space"], spacing: Sequence[float], num_classes: int,
    tolerance: float, missing: MissingStructure = "omit",
) -> Float[Tensor, "3 k"]:  # fmt: skip
    """METRICS of each structure of one image, NaN where undefined; unlabelled pixels are ignored.

    Args:
        predicted: Class numbers.
        mask: Class numbers, 255 where unlabelled.
        spacing: Distance of pixels along each axis, in mm.
        num_classes: Classes, background included.
        tolerance: Distance in mm up to which surfaces agree (Nikolov et al. 2021, arXiv 1809.04430).
        missing: The distance where only one of both has the structure: undefined (omit), or the image's diagonal in mm.
    """
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    known = mask != UNLABELED
    both = [one_hot(part * known, num_classes).movedim(-1, 0)[None] for part in (predicted, mask)]
    pixels = [part[0, 1:].flatten(1).sum(1).double() for part in both]
    in_one, in_both = pixels[0] + pixels[1] > 0, (pixels[0] > 0) & (pixels[1] > 0)
    dice = dice_by_structure(predicted, mask, num_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of structures that one or both lack
        hd95 = compute_hausdorff_distance(*both, percentile=95, spacing=list(spacing))[0].double()
        surface = compute_surface_dice(*both, [tolerance] * (num_classes - 1), spacing=list(spacing))[0].double()
    diagonal = math.hypot(*(side * mm for side, mm in zip(mask.shape, spacing, strict=True)))
    instead = torch.where(in_one, diagonal if missing == "diagonal" else torch.nan, torch.nan)
    hd95 = torch.where(in_both, hd95, instead)
    surface = torch.where(in_both, surface, torch.where(in_one, 0.0, torch.nan))
    return torch.stack([dice, hd95, surface])


def sum_by_patient(values: Float[Tensor, "n 3 k"], patients: Int[Tensor, " n"], min_patients: int = 1) -> MetricSums:
    """The sums over one site's images; 0 where fewer than `min_patients` patients have a structure's metric."""
    distinct, owner = patients.unique(return_inverse=True)

    def sums(part: Shaped[Tensor, "n 3 k"]) -> Float[Tensor, "m 3 k"]:
        return torch.zeros(len(distinct), *part.shape[1:], dtype=torch.float64).index_add_(0, owner, part.double())

    n, s = sums(~values.isnan()), sums(values.nan_to_num())
    n, s = (part * ((n > 0).sum(0) >= min_patients) for part in (n, s))
    deviations = s - s.sum(0) / n.sum(0).clamp_min(1) * n
    # Single precision reveals less of any patient.
    return MetricSums(
        patients=(n > 0).sum(0).int(), images=n.sum(0).int(), scores=s.sum(0).float(),
        squared_deviations=(deviations**2).sum(0).float(), squared_images=(n**2).sum(0).int(),
        variance_ratio=_variance_ratio(n, deviations),
    )  # fmt: skip


def withheld_structures(
    values: Float[Tensor, "n 3 k"], patients: Int[Tensor, " n"], min_patients: int
) -> Bool[Tensor, " k"]:
    """The structures that some patients have, in a mask or a prediction, but fewer than `min_patients`."""
    counts = [len(patients[~column.isnan()].unique()) for column in values[:, 0].unbind(1)]
    return torch.tensor([0 < count < min_patients for count in counts])


def score_sites(sites: Sequence[MetricSums]) -> dict[str, Score]:
    """The mean of each metric over structures, then, if there are several, that of each structure.

    With Student's 95 % intervals, cut to the range of the score.
    """
    scores, images = _added([s.scores for s in sites]), _added([s.images for s in sites])
    mean, exists = torch.where(images > 0, scores / images.clamp_min(1), torch.nan), images > 0
    freedom = _added([(s.patients - 1).clamp_min(0) for s in sites])
    by_site = [torch.where(s.patients > 0, s.variance(mean), 0.0) / images.clamp_min(1) ** 2 for s in sites]
    of_mean = _added([_bound_of_mean(v, exists) * s.variance_ratio for v, s in zip(by_site, sites, strict=True)])
    least_freedom = torch.where(exists, freedom, torch.inf).amin(1)
    found = {name: _score(name, mean[at].nanmean(), of_mean[at], least_freedom[at]) for at, name in enumerate(METRICS)}
    variance, k = _added(by_site), mean.shape[1]
    return found | {
        f"{name}_{j + 1}": _score(name, mean[at, j], variance[at, j], freedom[at, j])
        for j in range(k if k > 1 else 0)
        for at, name in enumerate(METRICS)
    }


def count_images(sites: Sequence[MetricSums]) -> dict[str, int]:
    """`dice_images` and `hd95_images`: number of images behind these scores, each counted once per structure it has;
    then, if there are several structures, `dice_images_1`, `hd95_images_1` ... of each.
    """
    images = sum(site.images for site in sites)
    assert isinstance(images, Tensor), "there is a site"
    found = {f"{name}_images": images[METRICS.index(name)] for name in ("dice", "hd95")}
    several = images.shape[1] > 1
    return {name: int(by_structure.sum()) for name, by_structure in found.items()} | {
        f"{name}_{j}": int(count)
        for name, by_structure in found.items()
        for j, count in enumerate(by_structure if several else [], 1)
    }


def _added(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.double() for part in parts]).sum(0)


def _bound_of_mean(variance: Float[Tensor, "3 k"], exists: Bool[Tensor, "3 k"]) -> Float[Tensor, "3"]:
    """The variance of a mean over structures with fully correlated errors."""
    return (torch.where(exists, variance, 0.0).sqrt().sum(1) / exists.sum(1).clamp_min(1)) ** 2


def _variance_ratio(n: Float[Tensor, "m 3 k"], deviations: Float[Tensor, "m 3 k"]) -> Float[Tensor, "3"]:
    """`MetricSums.variance_ratio`, from each patient's number of scores and the deviation of their sum."""
    m, images = (n > 0).sum(0), n.sum(0)
    variance = deviations.square().sum(0) * m / (m - 1).clamp_min(1) / images.clamp_min(1) ** 2
    bounds = _bound_of_mean(variance, images > 0)
    of_mean = (deviations / images.clamp_min(1)).sum(2) / (images > 0).sum(1).clamp_min(1)
    patients = (n > 0).any(2).sum(0)
    true = of_mean.square().sum(0) * patients / (patients - 1).clamp_min(1)
    ratios = [float(value / bound) if bound > 0 else 1.0 for value, bound in zip(true, bounds, strict=True)]
    return torch.tensor([two_digits(min(ratio, 1.0)) for ratio in ratios])


def _score(name: str, mean: Tensor, variance: Tensor, freedom: Tensor) -> Score:
    if not freedom or mean.isnan():
        return Score(float(mean), math.nan, math.nan)
    half = student_quantile(int(freedom)) * math.sqrt(float(variance))
    highest = math.inf if name == "hd95" else 1.0
    return Score(float(mean), max(float(mean) - half, 0.0), min(float(mean) + half, highest))
