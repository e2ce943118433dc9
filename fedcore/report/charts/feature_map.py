"""Map of the features of all sites: principal components in two dimensions, by site and by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fedcore.report.sections.feature_gallery import SiteFeatures, class_name

WIDTH, HEIGHT = 420.0, 330.0  # the height at most
_EDGE = 14.0
_POINTS = 1000  # over all sites; each is drawn twice, and an SVD of them takes a second or two


@dataclass(frozen=True)
class MapPoint:
    """An image; `label` is a class index, or -1 without a label."""

    x: float
    y: float
    site: str
    label: int
    title: str


@dataclass(frozen=True)
class FeatureMap:
    """`variance` is the explained fraction of the variance along x and y; `several`: sites have different encoders."""

    points: tuple[MapPoint, ...]
    height: float
    variance: tuple[float, float]
    labels: tuple[tuple[int, str], ...]
    several: bool


def feature_map(galleries: Sequence[SiteFeatures], classes: Sequence[str], gaps: list[str]) -> FeatureMap | None:
    """None with fewer than three images, or if all features are the same."""
    shown = _comparable(galleries, gaps)
    sampled = [(gallery, _evenly(len(gallery.labels), max(2, _POINTS // len(shown)))) for gallery in shown]
    if sum(len(places) for _, places in sampled) < 3:
        return None
    projected = project(np.concatenate([gallery.features[places] for gallery, places in sampled]))
    if projected is None:
        gaps.append("The features of all images are the same, so there is no map of them.")
        return None
    positions, shares = projected
    owners = [(gallery.site, int(gallery.labels[at])) for gallery, places in sampled for at in places]
    places, height = _fit(positions)
    points = [
        MapPoint(x, y, site, max(label, -1), f"{site}, {class_name(label, classes)}")
        for (x, y), (site, label) in zip(places, owners, strict=True)
    ]
    labels = sorted({point.label for point in points}, key=lambda label: (label < 0, label))
    named = tuple((label, class_name(label, classes)) for label in labels)
    several = len({gallery.encoder for gallery in shown}) > 1
    return FeatureMap(_shuffled(points), height, shares, named, several)


def project(
    features: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n 2"], tuple[float, float]] | None:
    """Principal components of the normalised features and their fractions of the variance; None if that is 0.

    The sign of an axis, which the SVD does not determine, is chosen so that its largest coordinate is positive.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(lengths, 1e-12)
    centred = unit - unit.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    variance = values.astype(np.float64) ** 2
    if variance.sum() <= 1e-9 * len(features):
        return None
    axes = np.zeros((len(features), 2))
    axes[:, : left.shape[1]] = (left * values)[:, :2]
    signs = np.sign(axes[np.abs(axes).argmax(0), [0, 1]])
    shares = [float(part) for part in (*variance[:2] / variance.sum(), 0.0)]
    return axes * np.where(signs == 0, 1, signs), (shares[0], shares[1])


def _comparable(galleries: Sequence[SiteFeatures], gaps: list[str]) -> list[SiteFeatures]:
    """Those with features, of the length that most sites have."""
    filled = [gallery for gallery in galleries if len(gallery.labels)]
    lengths = [gallery.features.shape[1] for gallery in filled]
    usual = max(lengths, key=lengths.count, default=0)
    gaps += [
        f"The features of {gallery.site} have another length than those of the other sites and are not shown."
        for gallery in filled
        if gallery.features.shape[1] != usual
    ]
    return [gallery for gallery in filled if gallery.features.shape[1] == usual]


def _evenly(count: int, most: int) -> list[int]:
    return [int(at) for at in np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))]


def _fit(positions: Float[np.ndarray, "n 2"]) -> tuple[list[tuple[float, float]], float]:
    """Positions in a panel and its height, on one scale in x and y so that distances stay true."""
    low, high = positions.min(0), positions.max(0)
    room = np.array([WIDTH, HEIGHT]) - 2 * _EDGE
    scale = float((room / np.maximum(high - low, 1e-9)).min())
    height = round(float(high[1] - low[1]) * scale + 2 * _EDGE, 1)
    moved = (positions - (low + high) / 2) * [scale, -scale] + [WIDTH / 2, height / 2]
    return [(round(float(x), 1), round(float(y), 1)) for x, y in moved], height


def _shuffled(points: Sequence[MapPoint]) -> tuple[MapPoint, ...]:
    """In a fixed random order, so that no site covers the others."""
    order = np.random.default_rng(0).permutation(len(points))
    return tuple(points[at] for at in order)
