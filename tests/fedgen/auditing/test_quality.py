from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fedgen.auditing import quality
from fedgen.auditing.quality import DRAWS, Sample, alike, coverage, drawings, kernel_distance, reach


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


class Largest(TorchDispatchMode):
    """The most numbers that any tensor held which was made."""

    most = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            self.most = max(self.most, tensor.numel() if isinstance(tensor, Tensor) else 0)
        return made


def test_figures_do_not_depend_on_the_pairs_in_memory_which_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    real, drawn = features(0, 90), features(1, 70, 0.5)
    whole = coverage(real, drawn) | {"kid": kernel_distance(real, drawn)}
    monkeypatch.setattr(quality, "PAIRS", 640)
    with Largest() as seen:
        parts = coverage(real, drawn) | {"kid": kernel_distance(real, drawn)}
    assert seen.most <= 640
    assert parts == pytest.approx(whole, rel=1e-12)


def test_reach_leaves_an_image_itself_out() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert reach(line, 1).tolist() == [1, 1, 2, 4]
    assert reach(line, 3).tolist() == [7, 6, 4, 7]


def sample(seed: int, count: int, shift: float = 0.0) -> Sample:
    return Sample(features(seed, count) + shift, torch.arange(count) % 2)


@pytest.mark.parametrize(("drawn", "held"), [(300, 40), (40, 300)])
def test_drawn_and_held_out_images_of_one_law_have_the_same_figures_at_whatever_numbers(drawn: int, held: int) -> None:
    """Coverage of 300 images is 0.9 where that of 40 is 0.4, so it must not be told of both."""
    found = alike(sample(0, 200), sample(1, held), sample(2, drawn))
    for name, near in (("precision", 0.12), ("recall", 0.12), ("density", 0.3), ("coverage", 0.12)):
        assert found[name] == pytest.approx(found[f"held_out_{name}"], abs=near), name
    whole = coverage(features(0, 200), features(2, 300))["coverage"]
    assert abs(whole - coverage(features(0, 200), features(1, 40))["coverage"]) > 0.3


def test_a_bad_generator_that_draws_much_does_not_look_better_than_held_out_images() -> None:
    narrow = Sample(features(2, 400) * 0.6, torch.arange(400) % 2)
    found = alike(sample(0, 200), sample(1, 40), narrow)
    assert found["coverage"] < found["held_out_coverage"]


def test_drawings_are_the_same_at_each_call_and_hold_no_image_twice() -> None:
    whole = sample(0, 50)
    first, second = ([part.features for part in drawings(whole, 20)] for _ in range(2))
    assert len(first) == DRAWS
    assert all(torch.equal(a, b) and len(a.unique(dim=0)) == 20 for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    assert [len(part) for part in drawings(whole, 50)] == [50]


def test_too_few_images_and_no_features_give_no_figure() -> None:
    assert alike(sample(0, 9), sample(1, 40), sample(2, 40)) == {}
    assert "kid" not in alike(sample(0, 40), sample(1, 40), sample(2, 9))
    assert "held_out_kid" not in alike(sample(0, 40), sample(1, 9), sample(2, 40))
    none = Sample(torch.empty(40, 0), torch.zeros(40, dtype=torch.int64))
    assert alike(none, none, none) == {}
