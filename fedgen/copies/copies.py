"""Is a synthetic image a copy of a training image: closer to a training image than any image of another patient?

Held-out images of the same site, which go through the same search, show how close images are without copying.

Found are copies as they are, mirrored along any axes, shifted by up to a tenth of the side, rotated by up to 10
degrees, zoomed by up to a tenth, inverted, in another window or gamma, or with noise, and images of which one half is a
copy. docs/results.md holds how many of each. Copies of the kinds in `UNDETECTED` may pass, and a datasheet lists them.

Without a column `patient` in the manifest, near-equal images of one patient count as images of several patients, and
copies of them are detected less well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fedgen.copies.matching import Matches, candidates
from fedgen.copies.noise_search import NOISE_LEVELS, NoiseSearch, with_noise
from fedgen.copies.pose_search import WHOLE_IMAGE_POSES, PoseGrid, PoseSearch

NEIGHBOURS = 5
UNDETECTED = (
    "rotations above 10 degrees, zooms and shifts above a tenth of the side, stretching and bending",
    "a part smaller than a half, or a half that was not cut in the middle",
    "a half that is also rotated, zoomed or noisy; strong noise together with a rotation, a zoom or a shift",
    "noise with a standard deviation above about 0.8 (black and white are -1 and 1)",
    "an average of several patients",
    "details finer than a thirty-second of the side (of volumes, a sixteenth)",
)
"""Copies that the search may miss."""
MIN_HELD_OUT = 20
"""Held-out images below which no figure is given: their spread sets the limit."""
MAX_LIMIT, MIN_LIMIT = 0.55, 0.42
"""Range of a limit on distance ratios, whatever the held-out images are."""
MAX_LIMIT_OF_HALVES = 0.45
"""Halves of unrelated images are more similar by chance, and copied halves are closer."""
DUPLICATE = 0.4
"""A held-out image below this distance ratio is a duplicate of a training image and is not used to set the limit."""
HALVES = "halves"
"""How names of comparisons of halves begin."""
NOISY = [f"noise {sd}" for sd in NOISE_LEVELS]
"""Names of the comparisons of noisy images."""
_CHUNK = 256


@dataclass(frozen=True)
class NearestTraining:
    """The nearest training image of each of n images."""

    ratio: Float[Tensor, " n"]
    """Distance ratio in [0, 1], see `nearest_training`; near 0 the image is a copy."""
    index: Int[Tensor, " n"]
    """Of the training image."""


def nearest_training(matches: Matches, patients: Int[Tensor, " m"]) -> NearestTraining:
    """Distance ratio: the distance to the nearest training image over the mean distance to the nearest images of
    `NEIGHBOURS` other patients.

    The ratio (after Carlini et al. 2023, arXiv 2301.13188) accounts for images in dense regions, where every image is
    near; taking other patients accounts for several nearly equal images of one patient. Distances are those of
    vectors of length 1.
    """
    most, column = matches.similarity.max(1)
    index = matches.index.gather(1, column[:, None])
    one_each = matches.similarity[:, : matches.per_patient]
    same_patient = patients[matches.index[:, : matches.per_patient]] == patients[index]
    others = one_each.masked_fill(same_patient, -1)
    around = _distance(others.topk(NEIGHBOURS, 1).values).mean(1)
    return NearestTraining((_distance(most) / around.clamp_min(1e-6)).clamp_max(1), index[:, 0])


def _distance(similarity: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    return (2 - 2 * similarity).clamp_min(0).sqrt()


@dataclass(frozen=True)
class PixelComparisons:
    """The comparisons of pixels: whole images, their ranks, noisy images, and halves along each axis."""

    patients: Int[Tensor, " m"]
    whole: Mapping[str, PoseSearch]
    noisy: NoiseSearch
    halves: Mapping[int, PoseSearch]
    """By axis: of the first halves of all images, then of their last halves."""

    @staticmethod
    def fit(training: Float[Tensor, "m c *space"], patients: Int[Tensor, " m"]) -> PixelComparisons:
        """`training` comes from `fedgen.copies.matching.at_search_size`, and holds more than `NEIGHBOURS` patients."""
        poses = WHOLE_IMAGE_POSES[training.dim() - 2]
        whole = {
            "pixels": PoseSearch.fit(training, patients, poses),
            "ranks": PoseSearch.fit(training, patients, poses, ranked=True),
        }
        twice = torch.cat([patients, patients])
        halves = {
            axis: PoseSearch.fit(torch.cat(_halves(training, axis)), twice, PoseGrid())
            for axis in range(2, training.dim())
        }
        return PixelComparisons(patients, whole, NoiseSearch.fit(training, patients), halves)

    def __call__(self, images: Float[Tensor, "n c *space"]) -> dict[str, NearestTraining]:
        """Of images to be judged, by name of the comparison; each counts only at its own one of `NOISE_LEVELS`."""
        found, level = nearest_training(self.noisy(images), self.patients), self.noisy.level(images)
        levels = [
            NearestTraining(found.ratio.masked_fill(level != v, 1), found.index) for v in range(len(NOISE_LEVELS))
        ]
        return self._in_any_pose(images) | dict(zip(NOISY, levels, strict=True))

    def held_out(self, images: Float[Tensor, "n c *space"]) -> dict[str, NearestTraining]:
        """Of images that set the limits, with as much noise as the images to be judged by them."""
        levels = [nearest_training(self.noisy(with_noise(images, sd)), self.patients) for sd in NOISE_LEVELS]
        return self._in_any_pose(images) | dict(zip(NOISY, levels, strict=True))

    def _in_any_pose(self, images: Float[Tensor, "n c *space"]) -> dict[str, NearestTraining]:
        found = {name: nearest_training(search(images), self.patients) for name, search in self.whole.items()}
        twice = torch.cat([self.patients, self.patients])
        for axis, search in self.halves.items():
            one = closest([nearest_training(search(half), twice) for half in _halves(images, axis)])
            found[f"{HALVES} of axis {axis - 2}"] = NearestTraining(one.ratio, one.index % len(self.patients))
        return found


def _halves(images: Float[Tensor, "n c *space"], axis: int) -> list[Float[Tensor, "n c *half"]]:
    size = images.shape[axis]
    return [images.narrow(axis, 0, size // 2), images.narrow(axis, size - size // 2, size // 2)]


def closest(comparisons: Sequence[NearestTraining]) -> NearestTraining:
    """For each image the comparison with the smallest distance ratio."""
    least = torch.stack([one.ratio for one in comparisons]).min(0)
    index = torch.stack([one.index for one in comparisons]).gather(0, least.indices[None])[0]
    return NearestTraining(least.values, index)


def nearest_by_features(
    features: Float[Tensor, "n d"], training: Float[Tensor, "m d"], patients: Int[Tensor, " m"]
) -> NearestTraining:
    """By the angle between features."""
    reference, numbers = normalize(training, dim=1), patients.unique(return_inverse=True)[1]
    parts = []
    for part in features.split(_CHUNK):
        similarity = normalize(part, dim=1) @ reference.T
        index, per_patient = candidates(similarity, numbers)
        parts.append(nearest_training(Matches(similarity.gather(1, index), index, per_patient), patients))
    return NearestTraining(torch.cat([one.ratio for one in parts]), torch.cat([one.index for one in parts]))


@dataclass(frozen=True)
class DetectedCopies:
    """Which of n synthetic images are copies, by pixels or by features."""

    is_copy: Bool[Tensor, " n"]
    limit: float
    """Of the distance ratio."""
    held_out_fraction: float
    """Part of the held-out images below the limit. Well above 0, training and held-out images share patients or hold
    duplicates."""


def limit_of(held_out: Float[Tensor, " h"], deviations: float = 5.0, highest: float = MAX_LIMIT) -> float:
    """Distance ratio below which an image is a copy: far below the ratios of other patients' images.

    Far: `deviations` times the lower spread of the held-out images (median to 16 % quantile) below their median, on a
    log scale. Their minimum would not do: of a perfect generator one image in h + 1 lies below the smallest of h
    values. Held-out images that are duplicates themselves (`DUPLICATE`) are removed first, else many of them would hide
    all copies. The result lies between `MIN_LIMIT` and `highest`.
    """
    log = held_out[held_out >= DUPLICATE].log()
    if not len(log):
        return MIN_LIMIT
    median, low = log.median(), log.quantile(0.16)
    return min(highest, max(MIN_LIMIT, float((median - deviations * (median - low)).exp())))


def detect_copies(
    synthetic: Float[Tensor, " n"], held_out: Float[Tensor, " h"], deviations: float = 5.0
) -> DetectedCopies:
    """Synthetic images whose distance ratio is below the limit of the held-out images (`limit_of`).

    Args:
        synthetic: Distance ratios of the synthetic images.
        held_out: Distance ratios of the held-out images, by the same comparison.
        deviations: With more of them fewer images are copies.
    """
    limit = limit_of(held_out, deviations)
    return DetectedCopies(synthetic < limit, limit, float((held_out < limit).double().mean()))


def detect_copies_by_any(
    synthetic: Mapping[str, NearestTraining], held_out: Mapping[str, NearestTraining], deviations: float = 5.0
) -> tuple[NearestTraining, NearestTraining, DetectedCopies]:
    """Several comparisons as one: an image is a copy if any comparison says so.

    Each comparison has its own limit, and ratios are scaled so that all limits equal that of the first comparison.
    `synthetic` and `held_out` come from `PixelComparisons` and its `held_out`; the result of the held-out images
    ignores the comparisons for which noise was added to them.
    """
    limits = {
        name: limit_of(one.ratio, deviations, MAX_LIMIT_OF_HALVES if name.startswith(HALVES) else MAX_LIMIT)
        for name, one in held_out.items()
    }
    common = next(iter(limits.values()))
    without_noise = [name for name in limits if name not in NOISY[1:]]
    images, others = (
        closest([_scaled(comparisons[name], common / limits[name]) for name in names])
        for comparisons, names in ((synthetic, list(limits)), (held_out, without_noise))
    )
    fraction = float((others.ratio < common).double().mean())
    return images, others, DetectedCopies(images.ratio < common, common, fraction)


def _scaled(one: NearestTraining, factor: float) -> NearestTraining:
    return NearestTraining((one.ratio * factor).clamp_max(1), one.index)
