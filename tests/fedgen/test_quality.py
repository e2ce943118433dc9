from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedgen.quality import coverage, kernel_distance, reach


def features(seed: int, count: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)) + shift


def test_kernel_distance_is_the_papers_sum() -> None:
    real, drawn = features(0, 6), features(1, 5, 0.5)

    def k(x: Tensor, y: Tensor) -> float:
        return (float(x.double() @ y.double()) / 4 + 1) ** 3

    within_real = sum(k(x, y) for i, x in enumerate(real) for j, y in enumerate(real) if i != j) / (6 * 5)
    within_drawn = sum(k(x, y) for i, x in enumerate(drawn) for j, y in enumerate(drawn) if i != j) / (5 * 4)
    between = sum(k(x, y) for x in real for y in drawn) / (6 * 5)
    assert kernel_distance(real, drawn) == pytest.approx(within_real + within_drawn - 2 * between, rel=1e-9)


def test_kernel_distance_has_no_bias() -> None:
    """Of sets of one law it is 0 on average, with few images too; of others it is not."""
    same = [kernel_distance(features(2 * s, 12), features(2 * s + 1, 12)) for s in range(300)]
    mean, error = torch.tensor(same).mean(), torch.tensor(same).std() / 300**0.5
    assert abs(mean) < 3 * error
    assert kernel_distance(features(0, 60), features(1, 60, 1.0)) > 0.5


@pytest.mark.parametrize("k", [1, 3])
def test_coverage_is_the_papers_counts(k: int) -> None:
    real, drawn = features(0, 15), features(1, 12, 0.7)

    def radius(at: int, among: Tensor) -> float:
        return sorted(float((among[at].double() - other.double()).norm()) for other in among)[k]

    def inside(x: Tensor, at: int, among: Tensor) -> bool:
        return float((x.double() - among[at].double()).norm()) <= radius(at, among)

    found = coverage(real, drawn, k)
    hits = [[inside(y, i, real) for i in range(len(real))] for y in drawn]
    assert found["precision"] == pytest.approx(sum(any(row) for row in hits) / len(drawn))
    assert found["density"] == pytest.approx(sum(map(sum, hits)) / (k * len(drawn)))
    assert found["coverage"] == pytest.approx(sum(any(row[i] for row in hits) for i in range(len(real))) / len(real))
    recalled = [any(inside(x, j, drawn) for j in range(len(drawn))) for x in real]
    assert found["recall"] == pytest.approx(sum(recalled) / len(real))


def test_one_law_covers_itself_and_a_mode_that_is_missing_shows_in_recall() -> None:
    same = coverage(features(0, 400), features(1, 400))
    assert same["coverage"] == pytest.approx(1 - 2**-5, abs=0.05)
    assert same["density"] == pytest.approx(1, abs=0.1)
    half = coverage(torch.cat([features(0, 200), features(1, 200, 20.0)]), features(2, 400))
    assert half["precision"] > 0.85
    assert half["recall"] < 0.55
    assert half["coverage"] < 0.55


def test_a_set_of_copies_is_precise_and_has_no_spread() -> None:
    real = features(0, 50)
    found = coverage(real, real[:1].expand(20, 4) + 1e-3 * features(1, 20))
    assert found["precision"] == 1.0
    assert found["recall"] < 0.1


def test_reach_leaves_an_image_itself_out() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert reach(line, 1).tolist() == [1, 1, 2, 4]
    assert reach(line, 3).tolist() == [7, 6, 4, 7]
