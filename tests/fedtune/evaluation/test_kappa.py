from __future__ import annotations

from collections.abc import Sequence
from math import isnan

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_cohen_kappa

from fedcore.errors import InputErrors
from fedtune.evaluation.kappa import grade_order, kappas


def matrix(truth: Tensor, predictions: Tensor, k: int) -> Tensor:
    return torch.bincount(truth * k + predictions, minlength=k * k).view(k, k)


def values(confusion: Tensor, grades: Sequence[int]) -> dict[str, float]:
    return {name: float(value) for name, value in kappas(confusion, grades).items()}


@pytest.fixture
def read() -> tuple[Tensor, Tensor]:
    """Grades 0 to 4, and predictions that miss by 1 at most."""
    truth = torch.randint(5, (200,))
    return truth, (truth + torch.randint(-1, 2, (200,))).clamp(0, 4)


def by_loops(truth: list[int], predictions: list[int], power: int) -> float:
    """Observed distance of pairs against that of every truth with every prediction."""
    n = len(truth)
    observed = sum(abs(t - g) ** power for t, g in zip(truth, predictions, strict=True)) / n
    chance = sum(abs(t - g) ** power for t in truth for g in predictions) / n**2
    return 1 - observed / chance


@pytest.mark.parametrize(
    ("name", "weights", "power"), [("kappa_linear", "linear", 1), ("kappa_quadratic", "quadratic", 2)]
)
def test_kappa_equals_loops_and_torchmetrics(read: tuple[Tensor, Tensor], name: str, weights: str, power: int) -> None:
    truth, predictions = read
    found = float(kappas(matrix(truth, predictions, 5), range(5))[name])
    assert found == pytest.approx(by_loops(truth.tolist(), predictions.tolist(), power))
    theirs = multiclass_cohen_kappa(predictions, truth, 5, weights).item()  # type: ignore[arg-type]
    assert found == pytest.approx(theirs, abs=1e-5)


def test_by_hand() -> None:
    """Truth 0 0 1 2, predictions 0 1 1 2: a miss by 1 in 4 pairs, against 14 in 16 by chance."""
    confusion = matrix(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 2]), 3)
    assert float(kappas(confusion, range(3))["kappa_linear"]) == pytest.approx(1 - (1 / 4) / (14 / 16))


def test_kappa_of_perfect_and_random_predictions_and_of_one_grade() -> None:
    assert kappas(torch.diag(torch.tensor([3, 4, 5])), range(3))["kappa_linear"] == 1
    assert kappas(torch.ones(3, 3, dtype=torch.int64), range(3))["kappa_quadratic"] == pytest.approx(0, abs=1e-12)
    assert isnan(kappas(torch.tensor([[9, 0], [0, 0]]), range(2))["kappa_linear"])


def test_grades_are_ranked_as_numbers_and_not_as_words(read: tuple[Tensor, Tensor]) -> None:
    """A manifest sorts 10 before 2."""
    names = ["0", "10", "2", "5", "7"]
    order = grade_order(names)
    assert order == [0, 2, 3, 4, 1]
    confusion = matrix(*read, 5)
    place = torch.tensor(order).argsort()
    assert values(confusion[place][:, place], order) == values(confusion, range(5))


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("G1", "G10", "G2"), [0, 2, 1]),
        (("1 mild", "2 severe", "0 none"), [2, 0, 1]),
        (("-1", "-2", "0.5"), [1, 0, 2]),
        (("grade-2", "grade-1"), [1, 0]),
    ],
)
def test_names_are_ranked_by_the_number_in_them(names: tuple[str, ...], order: list[int]) -> None:
    assert grade_order(names) == order


def test_all_names_without_order_are_in_one_error() -> None:
    with pytest.raises(InputErrors) as error:
        grade_order(["none", "1", "1.0 mild", "nan"])
    assert "'none' has no number" in str(error.value)
    assert "'nan' has no number" in str(error.value)
    assert "'1.0 mild' has the number of '1'" in str(error.value)
    assert "remove ordinal" in str(error.value)


def test_matrices_of_sites_add_up(read: tuple[Tensor, Tensor]) -> None:
    truth, predictions = read
    parts = [matrix(truth[at : at + 50], predictions[at : at + 50], 5) for at in range(0, 200, 50)]
    assert values(sum(parts[1:], parts[0]), range(5)) == values(matrix(truth, predictions, 5), range(5))
