from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fedgen.auditing import quality
from fedgen.auditing.quality import (
    SUBSETS,
    FeatureSet,
    kernel_distance,
    kth_neighbour_distances,
    prdc,
    quality_metrics,
    random_subsets,
)


def features(seed: int, count: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_kernel_distance_is_the_papers_sum() -> None:
    real, synthetic = features(0, 6), features(1, 5, 0.5)

    def k(x: Tensor, y: Tensor) -> float:
        return (float(x.double() @ y.double()) / 4 + 1) ** 3

    within_real = sum(k(x, y) for i, x in enumerate(real) for j, y in enumerate(real) if i != j) / (6 * 5)
    pairs = [(x, y) for i, x in enumerate(synthetic) for j, y in enumerate(synthetic) if i != j]
    within_synthetic = sum(k(x, y) for x, y in pairs) / (5 * 4)
    between = sum(k(x, y) for x in real for y in synthetic) / (6 * 5)
    assert kernel_distance(real, synthetic) == pytest.approx(within_real + within_synthetic - 2 * between, rel=1e-9)


def test_the_kernel_distance_has_no_bias() -> None:
    """For sets of one distribution it is 0 on average, with few images too; for others it is not."""
    same = [kernel_distance(features(2 * s, 12), features(2 * s + 1, 12)) for s in range(300)]
    mean, error = torch.tensor(same).mean(), torch.tensor(same).std() / 300**0.5
    assert abs(mean) < 3 * error
    assert kernel_distance(features(0, 60), features(1, 60, 1.0)) > 0.5


@pytest.mark.parametrize("k", [1, 3])
def test_prdc_is_the_papers_counts(k: int) -> None:
    real, synthetic = features(0, 15), features(1, 12, 0.7)

    def radius(at: int, among: Tensor) -> float:
        return sorted(float((among[at].double() - other.double()).norm()) for other in among)[k]

    def inside(x: Tensor, at: int, among: Tensor) -> bool:
        return float((x.double() - among[at].double()).norm()) <= radius(at, among)

    found = prdc(real, synthetic, k)
    hits = [[inside(y, i, real) for i in range(len(real))] for y in synthetic]
    assert found["precision"] == pytest.approx(sum(any(row) for row in hits) / len(synthetic))
    assert found["density"] == pytest.approx(sum(map(sum, hits)) / (k * len(synthetic)))
    assert found["coverage"] == pytest.approx(sum(any(row[i] for row in hits) for i in range(len(real))) / len(real))
    recalled = [any(inside(x, j, synthetic) for j in range(len(synthetic))) for x in real]
    assert found["recall"] == pytest.approx(sum(recalled) / len(real))


def test_one_distribution_covers_itself_and_a_missing_mode_lowers_recall() -> None:
    same = prdc(features(0, 400), features(1, 400))
    assert same["coverage"] == pytest.approx(1 - 2**-5, abs=0.05)
    assert same["density"] == pytest.approx(1, abs=0.1)
    half = prdc(torch.cat([features(0, 200), features(1, 200, 20.0)]), features(2, 400))
    assert half["precision"] > 0.85
    assert half["recall"] < 0.55
    assert half["coverage"] < 0.55


def test_a_set_of_copies_has_precision_but_no_recall() -> None:
    real = features(0, 50)
    found = prdc(real, real[:1].expand(20, 4) + 1e-3 * features(1, 20))
    assert found["precision"] == 1.0
    assert found["recall"] < 0.1


class Largest(TorchDispatchMode):
    """The size of the largest tensor that was created."""

    most = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            self.most = max(self.most, tensor.numel() if isinstance(tensor, Tensor) else 0)
        return made


def test_figures_do_not_depend_on_the_pairs_in_memory_and_these_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    real, synthetic = features(0, 90), features(1, 70, 0.5)
    whole = prdc(real, synthetic) | {"kid": kernel_distance(real, synthetic)}
    monkeypatch.setattr(quality, "MAX_PAIRS", 640)
    with Largest() as seen:
        parts = prdc(real, synthetic) | {"kid": kernel_distance(real, synthetic)}
    assert seen.most <= 640
    assert parts == pytest.approx(whole, rel=1e-12)


def test_an_image_is_not_its_own_neighbour() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert kth_neighbour_distances(line, 1).tolist() == [1, 1, 2, 4]
    assert kth_neighbour_distances(line, 3).tolist() == [7, 6, 4, 7]


def feature_set(seed: int, count: int, shift: float = 0.0) -> FeatureSet:
    return FeatureSet(features(seed, count) + shift, torch.arange(count) % 2)


@pytest.mark.parametrize(("synthetic", "held_out"), [(300, 40), (40, 300)])
def test_synthetic_and_held_out_images_of_one_distribution_have_equal_figures_at_any_numbers(
    synthetic: int, held_out: int
) -> None:
    """Coverage of 300 images is 0.9 and that of 40 is 0.4, so the two must not be compared."""
    found = quality_metrics(feature_set(0, 200), feature_set(1, held_out), feature_set(2, synthetic))
    for name, near in (("precision", 0.12), ("recall", 0.12), ("density", 0.3), ("coverage", 0.12)):
        assert found[name] == pytest.approx(found[f"held_out_{name}"], abs=near), name
    whole = prdc(features(0, 200), features(2, 300))["coverage"]
    assert abs(whole - prdc(features(0, 200), features(1, 40))["coverage"]) > 0.3


def test_many_images_of_a_bad_generator_do_not_score_better_than_held_out_images() -> None:
    narrow = FeatureSet(features(2, 400) * 0.6, torch.arange(400) % 2)
    found = quality_metrics(feature_set(0, 200), feature_set(1, 40), narrow)
    assert found["coverage"] < found["held_out_coverage"]


def test_random_subsets_are_the_same_at_each_call_and_hold_no_image_twice() -> None:
    whole = feature_set(0, 50)
    first, second = ([part.features for part in random_subsets(whole, 20)] for _ in range(2))
    assert len(first) == SUBSETS
    assert all(torch.equal(a, b) and len(a.unique(dim=0)) == 20 for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    assert [len(part) for part in random_subsets(whole, 50)] == [50]


def test_too_few_images_and_no_features_give_no_figure() -> None:
    assert quality_metrics(feature_set(0, 9), feature_set(1, 40), feature_set(2, 40)) == {}
    assert "kid" not in quality_metrics(feature_set(0, 40), feature_set(1, 40), feature_set(2, 9))
    assert "held_out_kid" not in quality_metrics(feature_set(0, 40), feature_set(1, 9), feature_set(2, 40))
    none = FeatureSet(torch.empty(40, 0), torch.zeros(40, dtype=torch.int64))
    assert quality_metrics(none, none, none) == {}
