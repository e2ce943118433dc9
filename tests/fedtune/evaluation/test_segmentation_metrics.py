from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from fedtune.evaluation.segmentation_metrics import (
    METRICS,
    count_images,
    image_metrics,
    score_sites,
    sum_by_patient,
    withheld_structures,
)


def square(low: int, high: int, side: int = 16) -> torch.Tensor:
    mask = torch.zeros(side, side, dtype=torch.int64)
    mask[low:high, low:high] = 1
    return mask


def by_loops(predicted: torch.Tensor, mask: torch.Tensor, spacing: tuple[float, float]) -> tuple[float, float]:
    """Dice by counting, and the 95 % Hausdorff distance from all pairs of border pixels, both ways."""
    a, b = predicted.numpy() == 1, mask.numpy() == 1
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
def test_metrics_of_an_image_equal_loops(spacing: tuple[float, float]) -> None:
    predicted, mask = square(3, 9), square(5, 12)
    dice, hd95 = by_loops(predicted, mask, spacing)
    found = image_metrics(predicted, mask, spacing, 2, 1.0)
    assert found[0, 0] == pytest.approx(dice)
    assert found[1, 0] == pytest.approx(hd95)
    assert 0 < float(found[2, 0]) < 1


def test_metrics_of_a_missing_structure() -> None:
    nothing, some = square(0, 0), square(3, 9)
    assert image_metrics(nothing, nothing, (1.0, 1.0), 2, 1.0).isnan().all()
    for pair in ((nothing, some), (some, nothing)):
        dice, gap, surface = image_metrics(*pair, (1.0, 1.0), 2, 1.0)[:, 0].tolist()
        assert (dice, surface) == (0, 0)
        assert np.isnan(gap)
        dice, gap, surface = image_metrics(*pair, (3.0, 4.0), 2, 1.0, "diagonal")[:, 0].tolist()
        assert (dice, surface) == (0, 0)
        assert gap == pytest.approx(16 * 5.0)
    assert image_metrics(nothing, nothing, (3.0, 4.0), 2, 1.0, "diagonal").isnan().all()
    perfect = image_metrics(some, some, (1.0, 1.0), 2, 1.0)[:, 0].tolist()
    assert perfect == [1, 0, 1]


def test_unlabelled_pixels_are_ignored() -> None:
    predicted, mask = square(3, 9), square(3, 9)
    mask[8] = 255
    predicted[8] = 1
    assert image_metrics(predicted, mask, (1.0, 1.0), 2, 1.0)[0, 0] == 1


def scored(n: int, structures: int = 2, per: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (n * per, 3, structures) of n patients who differ, `per` images of each; patients."""
    draw = torch.Generator().manual_seed(seed)
    own = torch.rand(n, 1, 1, 1, generator=draw).double()
    values = 0.5 * own + 0.5 * torch.rand(n, per, 3, structures, generator=draw)
    return values.flatten(0, 1), torch.arange(n).repeat_interleave(per)


def test_means_over_sites_equal_means_over_all_images() -> None:
    values, patients = scored(10)
    values[[1, 4], :, 0] = torch.nan
    found = score_sites([sum_by_patient(values[part], patients[part]) for part in (slice(4), slice(4, 10))])
    for at, (name, k) in enumerate(product(METRICS, range(2))):
        assert found[f"{name}_{k + 1}"].value == pytest.approx(float(values[:, at // 2, k].nanmean()), abs=1e-6)
    assert found["dice"].value == pytest.approx(float(values[:, 0].nanmean(0).mean()), abs=1e-6)
    assert found["dice"].low < found["dice"].value < found["dice"].high


def test_the_interval_is_students() -> None:
    values, patients = scored(12, structures=1)
    dice = values[:, 0, 0].tolist()
    mean = sum(dice) / 12
    half = 2.200985 * (sum((d - mean) ** 2 for d in dice) / 11 / 12) ** 0.5
    found = score_sites([sum_by_patient(values, patients)])["dice"]
    assert (found.value, found.low, found.high) == pytest.approx((mean, mean - half, mean + half), abs=1e-5)


def test_the_pooled_variance_is_an_upper_bound_and_exact_for_equally_many_images() -> None:
    values, patients = scored(24, structures=1, per=3)
    values[36:] *= 0.7
    for kept in (torch.arange(72), torch.cat([torch.arange(3), torch.arange(5, 36), torch.arange(37, 70)])):
        v, p = values[kept, 0, 0], patients[kept]
        mean, expected = v.mean(), 0.0
        for site in (range(12), range(12, 24)):
            d = torch.stack([(v[p == who] - mean).sum() for who in site])
            expected += float(d.var()) * 12
        parts = [sum_by_patient(values[kept[side]], patients[kept[side]]) for side in (p < 12, p >= 12)]
        found = sum(float(part.variance(mean.expand(3, 1))[0, 0]) for part in parts)
        if len(kept) == 72:
            assert found == pytest.approx(expected, rel=1e-4)
        else:
            assert expected < found < 1.5 * expected


def test_copies_of_images_do_not_narrow_an_interval() -> None:
    values, patients = scored(12)
    once = score_sites([sum_by_patient(values, patients)])
    thrice = score_sites([sum_by_patient(values.repeat_interleave(3, 0), patients.repeat_interleave(3))])
    for name, score in once.items():
        assert thrice[name].low == pytest.approx(score.low, abs=1e-5)


def test_correlated_and_independent_errors_of_structures() -> None:
    """If all structures of a patient have equal scores, the mean has the interval of each; if they are independent, the
    mean of four has a narrower one."""
    values, patients = scored(40, structures=1)
    same = sum_by_patient(values.expand(-1, -1, 4), patients)
    assert same.variance_ratio.tolist() == [1.0] * 3
    apart = sum_by_patient(torch.rand(4000, 3, 4).double(), torch.arange(4000))
    assert apart.variance_ratio.tolist() == pytest.approx([0.25] * 3, abs=0.03)
    wide, narrow = (score_sites([sums]) for sums in (same, apart))
    assert wide["dice"] == wide["dice_1"]
    assert narrow["dice"].high - narrow["dice"].low < 0.6 * (narrow["dice_1"].high - narrow["dice_1"].low)


def covered(per: int, structures: int, sites: int, times: int = 200) -> dict[str, float]:
    """How often intervals of `sites` of 12 patients each hold the expected score."""
    hits: dict[str, int] = {}
    for seed in range(times):
        parts = [sum_by_patient(*scored(12, structures, per, seed=sites * seed + at)) for at in range(sites)]
        for name, score in score_sites(parts).items():
            hits[name] = hits.get(name, 0) + (score.low <= 0.5 <= score.high)
    return {name: count / times for name, count in hits.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("per", "structures", "sites"), [(1, 1, 1), (1, 2, 3), (4, 2, 1), (4, 1, 3)])
def test_coverage_of_intervals(per: int, structures: int, sites: int) -> None:
    """Expected scores are 0.5. With 200 repetitions the rate of 95 % errs by 1.5 points."""
    assert all(0.90 <= rate <= 0.99 for rate in covered(per, structures, sites).values())


def test_structures_of_too_few_patients_are_withheld() -> None:
    """Structure 2 is shown by nine patients, in 18 images; a distance of structure 1 exists for eight."""
    values, patients = scored(12, per=2)
    values[18:, :, 1] = torch.nan
    values[16:, 1, 0] = torch.nan
    assert withheld_structures(values, patients, 10).tolist() == [False, True]
    sums = sum_by_patient(values, patients, min_patients=10)
    assert sums.patients.tolist() == [[12, 0], [0, 0], [12, 0]]
    for part in (sums.images, sums.scores, sums.squared_deviations, sums.squared_images):
        assert not part[:, 1].any()
        assert not part[1].any()
    found = score_sites([sums])
    assert found["dice"] == found["dice_1"]
    assert np.isnan(found["dice_2"].value)
    assert np.isnan(found["hd95"].value)
    both = score_sites([sums, sum_by_patient(values[:18], patients[:18])])
    assert both["dice_2"] == score_sites([sum_by_patient(values[:18], patients[:18])])["dice_2"]


def test_count_images() -> None:
    values, patients = scored(6, structures=2)
    values[:4, 1, 0], values[5, :, 1] = torch.nan, torch.nan
    parts = [sum_by_patient(values[part], patients[part]) for part in (slice(2), slice(2, 6))]
    assert count_images(parts) == {
        "dice_images": 11, "hd95_images": 7, "dice_images_1": 6, "dice_images_2": 5, "hd95_images_1": 2,
        "hd95_images_2": 5,
    }  # fmt: skip
    assert count_images([sum_by_patient(values[..., :1], patients)]) == {"dice_images": 6, "hd95_images": 2}


def test_a_single_patient_has_no_interval_and_scores_stay_in_their_range() -> None:
    values, _ = scored(3, structures=1)
    alone = score_sites([sum_by_patient(values, torch.zeros(3, dtype=torch.int64))])["dice"]
    assert alone.value == pytest.approx(float(values[:, 0].mean()), abs=1e-6)
    assert np.isnan(alone.low)
    values[:, 0], values[:, 1] = torch.tensor([[1.0], [1.0], [0.2]]), torch.tensor([[0.0], [0.0], [30.0]])
    found = score_sites([sum_by_patient(values, torch.arange(3))])
    assert found["dice"].high == 1
    assert found["hd95"].low == 0
    assert found["hd95"].high > 30


def test_a_structure_that_no_image_has_is_left_out() -> None:
    values, patients = scored(12)
    values[:, :, 1] = torch.nan
    found = score_sites([sum_by_patient(values, patients)])
    assert found["dice"] == found["dice_1"]
    assert np.isnan(found["dice_2"].value)
