from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedgen.auditing.membership import Membership, by_features, by_pixels, membership, worst


def points(seed: int, count: int) -> Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


def test_membership_is_the_share_of_pairs() -> None:
    drawn, trained, held = points(0, 20), points(1, 15), points(2, 12)

    def nearest(x: Tensor) -> float:
        return min(float((x - other).norm()) for other in drawn)

    wins = sum((nearest(t) < nearest(h)) + 0.5 * (nearest(t) == nearest(h)) for t in trained for h in held)
    assert membership(drawn, trained, held).auc == pytest.approx(wins / (15 * 12), abs=1e-6)


def test_membership_of_another_law_is_a_guess_and_of_a_copy_is_none() -> None:
    trained, held = points(1, 400), points(2, 400)
    guess = membership(points(0, 400), trained, held)
    assert guess.auc == pytest.approx(0.5, abs=0.07)
    assert guess.tpr_at_1_percent < 0.05
    copied = membership(trained + 0.01 * points(3, 400), trained, held)
    assert copied.auc > 0.99
    assert copied.tpr_at_1_percent > 0.99


def test_one_percent_of_false_alarms() -> None:
    """With held-out images at distances 1 to 200, the limit leaves two of them below it."""
    held, drawn = torch.arange(1.0, 201.0)[:, None], torch.zeros(1, 1)
    assert membership(drawn, torch.tensor([[2.5], [3.5]]), held).tpr_at_1_percent == 0.5


def test_the_worse_way_counts_for_each_figure() -> None:
    assert worst([Membership(0.7, 0.02), Membership(0.6, 0.2)]) == Membership(0.7, 0.2)


def test_what_is_compared_has_length_one_and_no_window() -> None:
    images, features = torch.rand(3, 1, 40, 48), points(0, 3)
    assert by_pixels(images).shape == (3, 256)
    assert torch.allclose(by_pixels(images), by_pixels(0.3 * images - 0.5), atol=1e-5)
    assert torch.allclose(by_features(features), by_features(5 * features))
