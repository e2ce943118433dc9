"""The map of features: principal components of any galleries."""

from __future__ import annotations

import numpy as np
import pytest

from fedcore.report.charts.feature_map import HEIGHT, WIDTH, feature_map, project
from fedcore.report.sections.feature_gallery import SiteFeatures


def features_of(site: str = "a", n: int = 30, d: int = 6, encoder: int = 1, seed: int = 0) -> SiteFeatures:
    rng = np.random.default_rng(seed)
    return SiteFeatures(site, rng.normal(size=(n, d)).astype(np.float32), np.arange(n) % 3 - 1, encoder, ())


def test_projection_equals_the_eigenvectors_of_the_covariance_in_loops() -> None:
    features = np.random.default_rng(1).normal(size=(25, 4)) * [3, 2, 1, 0.5]
    rows = [row / sum(x**2 for x in row) ** 0.5 for row in features]
    mean = sum(rows) / len(rows)
    covariance = sum(np.outer(row - mean, row - mean) for row in rows)
    values, vectors = np.linalg.eigh(covariance)
    found = project(features)
    assert found is not None
    positions, variance = found
    for axis in (0, 1):
        ours, theirs = positions[:, axis], np.array([(row - mean) @ vectors[:, -1 - axis] for row in rows])
        assert np.allclose(np.abs(ours), np.abs(theirs))
        assert ours[np.abs(ours).argmax()] > 0
        assert variance[axis] == pytest.approx(values[-1 - axis] / values.sum())


def test_rotated_features_give_the_same_picture() -> None:
    rng = np.random.default_rng(2)
    features, (turn, _) = rng.normal(size=(40, 5)), np.linalg.qr(rng.normal(size=(5, 5)))
    one, other = project(features), project(7 * features @ turn)
    assert one is not None
    assert other is not None
    assert np.allclose(one[0], other[0])
    assert one[1] == pytest.approx(other[1])


def test_two_dimensions_keep_their_distances() -> None:
    angles = np.linspace(0, 3, 12)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = project(circle)
    assert found is not None
    positions, variance = found
    assert sum(variance) == pytest.approx(1.0)
    assert np.linalg.norm(positions[3] - positions[9]) == pytest.approx(np.linalg.norm(circle[3] - circle[9]))


def test_features_of_one_dimension_or_two_images_lie_on_a_line() -> None:
    found = project(np.array([[1.0], [-1.0], [2.0]]))
    assert found is not None
    assert found[1] == (1.0, 0.0)
    assert (found[0][:, 1] == 0).all()


def test_points_lie_in_the_panel_and_keep_site_and_class() -> None:
    found = feature_map([features_of("a"), features_of("b", seed=1)], ("one", "two"), [])
    assert found is not None
    assert found.height <= HEIGHT
    assert all(0 <= point.x <= WIDTH and 0 <= point.y <= found.height for point in found.points)
    assert sorted({point.site for point in found.points}) == ["a", "b"]
    assert found.labels == ((0, "one"), (1, "two"), (-1, "unlabelled"))
    assert not found.several
    assert {point.title for point in found.points if point.label == 0} == {"a, one", "b, one"}


def test_the_map_is_deterministic() -> None:
    assert feature_map([features_of()], (), []) == feature_map([features_of()], (), [])


def test_different_encoders_are_noticed() -> None:
    found = feature_map([features_of("a"), features_of("b", encoder=2)], (), [])
    assert found is not None
    assert found.several


def test_many_images_are_thinned_evenly_over_sites() -> None:
    found = feature_map([features_of(f"s{n}", n=200, seed=n) for n in range(50)], (), [])
    assert found is not None
    assert len(found.points) == 1000
    assert len({point.site for point in found.points}) == 50


def test_features_without_a_map_are_a_gap_or_nothing() -> None:
    gaps: list[str] = []
    same = SiteFeatures("a", np.ones((9, 4), np.float32), np.zeros(9, np.int64), 1, ())
    assert feature_map([same], (), gaps) is None
    assert gaps == ["The features of all images are the same, so there is no map of them."]
    assert feature_map([features_of(n=2)], (), []) is None
    assert feature_map([features_of(n=0)], (), []) is None
    assert feature_map([], (), []) is None


def test_features_of_another_length_are_left_out_with_a_gap() -> None:
    gaps: list[str] = []
    found = feature_map([features_of("a"), features_of("b", d=3), features_of("c")], (), gaps)
    assert found is not None
    assert {point.site for point in found.points} == {"a", "c"}
    assert gaps == ["The features of b have another length than those of the other sites and are not shown."]
