from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedgen.auditing.membership import MembershipAttack, feature_vectors, membership_attack, pixel_vectors, worst


def points(seed: int, count: int) -> Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


def test_the_auc_is_the_share_of_pairs() -> None:
    synthetic, training, held_out = points(0, 20), points(1, 15), points(2, 12)

    def nearest(x: Tensor) -> float:
        return min(float((x - other).norm()) for other in synthetic)

    wins = sum((nearest(t) < nearest(h)) + 0.5 * (nearest(t) == nearest(h)) for t in training for h in held_out)
    assert membership_attack(synthetic, training, held_out).auc == pytest.approx(wins / (15 * 12), abs=1e-6)


def test_another_set_of_one_distribution_gives_guesses_and_copies_give_members_away() -> None:
    training, held_out = points(1, 400), points(2, 400)
    guess = membership_attack(points(0, 400), training, held_out)
    assert guess.auc == pytest.approx(0.5, abs=0.07)
    assert guess.tpr_at_1_percent_fpr < 0.05
    copied = membership_attack(training + 0.01 * points(3, 400), training, held_out)
    assert copied.auc > 0.99
    assert copied.tpr_at_1_percent_fpr > 0.99


def test_the_limit_gives_one_percent_of_false_alarms() -> None:
    """With held-out images at distances 1 to 200, two of them are below the limit."""
    held_out, synthetic = torch.arange(1.0, 201.0)[:, None], torch.zeros(1, 1)
    assert membership_attack(synthetic, torch.tensor([[2.5], [3.5]]), held_out).tpr_at_1_percent_fpr == 0.5


def test_the_worse_attack_counts_for_each_figure() -> None:
    assert worst([MembershipAttack(0.7, 0.02), MembershipAttack(0.6, 0.2)]) == MembershipAttack(0.7, 0.2)


def test_compared_vectors_have_length_one_and_ignore_the_window() -> None:
    images, features = torch.rand(3, 1, 40, 48), points(0, 3)
    assert pixel_vectors(images).shape == (3, 256)
    assert torch.allclose(pixel_vectors(images), pixel_vectors(0.3 * images - 0.5), atol=1e-5)
    assert torch.allclose(feature_vectors(features), feature_vectors(5 * features))
