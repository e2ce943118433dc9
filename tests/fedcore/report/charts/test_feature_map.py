"""The map of features: principal components, whatever the galleries hold."""

from __future__ import annotations

import numpy as np
import pytest

from fedcore.report.charts.embedding import HEIGHT, WIDTH, embed, project
from fedcore.report.sections.feature_gallery import Gallery


def gallery(site: str = "a", n: int = 30, d: int = 6, encoder: int = 1, seed: int = 0) -> Gallery:
    rng = np.random.default_rng(seed)
    return Gallery(site, rng.normal(size=(n, d)).astype(np.float32), np.arange(n) % 3 - 1, encoder, ())


def test_projection_equals_the_eigenvectors_of_the_covariance_in_loops() -> None:
    features = np.random.default_rng(1).normal(size=(25, 4)) * [3, 2, 1, 0.5]
    rows = [row / sum(x**2 for x in row) ** 0.5 for row in features]
    mean = sum(rows) / len(rows)
    covariance = sum(np.outer(row - mean, row - mean) for row in rows)
    values, vectors = np.linalg.eigh(covariance)
    found = project(features)
    assert found is not None
    positions, shares = found
    for axis in (0, 1):
        ours, theirs = positions[:, axis], np.array([(row - mean) @ vectors[:, -1 - axis] for row in rows])
        assert np.allclose(np.abs(ours), np.abs(theirs))
        assert ours[np.abs(ours).argmax()] > 0
        assert shares[axis] == pytest.approx(values[-1 - axis] / values.sum())


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
    positions, shares = found
    assert sum(shares) == pytest.approx(1.0)
    assert np.linalg.norm(positions[3] - positions[9]) == pytest.approx(np.linalg.norm(circle[3] - circle[9]))


def test_features_of_one_dimension_or_two_images_lie_on_a_line() -> None:
    found = project(np.array([[1.0], [-1.0], [2.0]]))
    assert found is not None
    assert found[1] == (1.0, 0.0)
    assert (found[0][:, 1] == 0).all()


def test_points_lie_in_the_panel_and_keep_site_and_class() -> None:
    found = embed([gallery("a"), gallery("b", seed=1)], ("one", "two"), [])
    assert found is not None
    assert found.height <= HEIGHT
    assert all(0 <= point.x <= WIDTH and 0 <= point.y <= found.height for point in found.points)
    assert sorted({point.site for point in found.points}) == ["a", "b"]
    assert found.labels == ((0, "one"), (1, "two"), (-1, "unlabelled"))
    assert not found.several
    assert {point.title for point in found.points if point.label == 0} == {"a, one", "b, one"}


def test_it_is_the_same_each_time() -> None:
    assert embed([gallery()], (), []) == embed([gallery()], (), [])


def test_encoders_of_their_own_are_told_of() -> None:
    found = embed([gallery("a"), gallery("b", encoder=2)], (), [])
    assert found is not None
    assert found.several


def test_many_images_are_thinned_evenly_over_sites() -> None:
    found = embed([gallery(f"s{n}", n=200, seed=n) for n in range(50)], (), [])
    assert found is not None
    assert len(found.points) == 1000
    assert len({point.site for point in found.points}) == 50


def test_what_cannot_be_drawn_is_a_gap_or_nothing() -> None:
    gaps: list[str] = []
    same = Gallery("a", np.ones((9, 4), np.float32), np.zeros(9, np.int64), 1, ())
    assert embed([same], (), gaps) is None
    assert gaps == ["The features of all images are the same: there is nothing to draw of them."]
    assert embed([gallery(n=2)], (), []) is None
    assert embed([gallery(n=0)], (), []) is None
    assert embed([], (), []) is None


def test_features_of_another_length_are_left_out_with_a_gap() -> None:
    gaps: list[str] = []
    found = embed([gallery("a"), gallery("b", d=3), gallery("c")], (), gaps)
    assert found is not None
    assert {point.site for point in found.points} == {"a", "c"}
    assert gaps == ["The features of b have another length than those of the other sites, and are not drawn."]
