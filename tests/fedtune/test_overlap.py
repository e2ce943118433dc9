from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from fedtune.overlap import MEASURES, Sums, image_scores, overlap_scores, summed


def square(low: int, high: int, side: int = 16) -> torch.Tensor:
    mask = torch.zeros(side, side, dtype=torch.int64)
    mask[low:high, low:high] = 1
    return mask


def by_loops(guess: torch.Tensor, mask: torch.Tensor, spacing: tuple[float, float]) -> tuple[float, float]:
    """Dice by counting, and the 95 % Hausdorff distance from all pairs of border pixels, both ways."""
    a, b = guess.numpy() == 1, mask.numpy() == 1
    dice = 2 * (a & b).sum() / (a.sum() + b.sum())

    def border(inside: np.ndarray) -> list[tuple[int, int]]:
        padded = np.pad(inside, 1)
        around = [padded[1 + i : padded.shape[0] - 1 + i, 1 + j : padded.shape[1] - 1 + j]
                  for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0))]  # fmt: skip
        return [tuple(p) for p in np.argwhere(inside & ~np.logical_and.reduce(around))]

    def gaps(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> list[float]:
        return [
            min(float(np.hypot((p[0] - q[0]) * spacing[0], (p[1] - q[1]) * spacing[1])) for q in other) for p in one
        ]

    one, other = border(a), border(b)
    return float(dice), max(np.percentile(gaps(one, other), 95), np.percentile(gaps(other, one), 95))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 0.5)])
def test_scores_of_an_image_are_those_of_loops(spacing: tuple[float, float]) -> None:
    guess, mask = square(3, 9), square(5, 12)
    dice, hd95 = by_loops(guess, mask, spacing)
    found = image_scores(guess, mask, spacing, 2, 1.0)
    assert found[0, 0] == pytest.approx(dice)
    assert found[1, 0] == pytest.approx(hd95)
    assert 0 < float(found[2, 0]) < 1


def test_what_a_missing_structure_counts() -> None:
    nothing, some = square(0, 0), square(3, 9)
    assert image_scores(nothing, nothing, (1.0, 1.0), 2, 1.0).isnan().all()
    for pair in ((nothing, some), (some, nothing)):
        dice, gap, surface = image_scores(*pair, (1.0, 1.0), 2, 1.0)[:, 0].tolist()
        assert (dice, surface) == (0, 0)
        assert np.isnan(gap)
    perfect = image_scores(some, some, (1.0, 1.0), 2, 1.0)[:, 0].tolist()
    assert perfect == [1, 0, 1]


def test_unlabelled_pixels_are_in_neither() -> None:
    guess, mask = square(3, 9), square(3, 9)
    mask[8] = 255
    guess[8] = 1
    assert image_scores(guess, mask, (1.0, 1.0), 2, 1.0)[0, 0] == 1


def test_sums_of_sites_are_those_of_all_images() -> None:
    torch.manual_seed(0)
    values = torch.rand(10, 3, 2, dtype=torch.float64)
    values[[1, 4], :, 0] = torch.nan
    patients = torch.arange(10)
    parts = [summed(values[part], patients[part], 5, 0) for part in (slice(4), slice(4, 10))]
    both = parts[0] + parts[1]
    assert torch.allclose(both.total[0], summed(values, patients, 0, 0).total[0])
    found = overlap_scores(both)
    for at, (name, k) in enumerate(product(MEASURES, range(2))):
        assert found[f"{name}_{k + 1}"].value == pytest.approx(float(values[:, at // 2, k].nanmean()))
    assert found["dice"].value == pytest.approx(float(values[:, 0].nanmean(0).mean()))
    assert found["dice"].low <= found["dice"].high


def test_a_structure_that_no_image_has_is_left_out() -> None:
    sums = Sums(torch.tensor([[[2.0, 0]] * 3]).double(), torch.tensor([[[4, 0]] * 3]).int())
    found = overlap_scores(sums)
    assert found["dice"].value == 0.5
    assert np.isnan(found["dice_2"].value)
