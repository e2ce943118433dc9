"""Intervals from counts have the coverage of 95 %."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isnan, nan, sqrt

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedtune.evaluation.classification import SiteCounts, score_sites
from fedtune.evaluation.counts import CellIndices, Counts, cell_indices, multilabel_cell_indices
from fedtune.evaluation.intervals import (
    design_effects,
    patient_variance,
    score_gradients,
    student_quantile,
    variance_bound,
    wilson_interval,
)
from fedtune.evaluation.scores import compute_scores
from fedtune.evaluation.scores_file import round_outward


def predictions(
    patients: int, k: int = 2, per: int = 1, correlation: float = 0.0, skill: float = 1.5, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and patients; `correlation` is that of the logits of a patient's images."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(patients) % k
    own = skill * one_hot(labels, k) + sqrt(correlation) * torch.randn(patients, k, generator=draw)
    each = sqrt(1 - correlation) * torch.randn(patients * per, k, generator=draw)
    logits, owner = own.repeat_interleave(per, 0) + each, torch.arange(patients).repeat_interleave(per)
    return logits, labels.repeat_interleave(per), owner


def cells_of(logits: Tensor, labels: Tensor, multilabel: bool) -> CellIndices:
    k = logits.shape[1]
    return multilabel_cell_indices(logits - 0.75, one_hot(labels, k)) if multilabel else cell_indices(logits, labels)


def counts_of_site(
    logits: Tensor, labels: Tensor, owner: Tensor, grades: Sequence[int] = (), multilabel: bool = False
) -> SiteCounts:
    found, k = cells_of(logits, labels, multilabel), logits.shape[1]
    effects = torch.tensor(design_effects(found, owner, grades))
    return SiteCounts(found.count(), effects, torch.tensor(len(owner.unique())), torch.zeros(k, dtype=torch.bool))


def with_images(counts: Counts, at: int, more: float) -> Counts:
    """With `more` images in a cell of the confusion matrix."""
    confusion = counts.confusion.double().flatten()
    confusion[at] += more
    return Counts(confusion.view_as(counts.confusion), counts.histogram, counts.reliability)


def test_gradients_equal_finite_differences() -> None:
    counts = cell_indices(*predictions(30, 3)[:2]).count()
    for name, (value, (confusion, _)) in score_gradients(counts, range(3)).items():
        assert value == pytest.approx(float(compute_scores(counts, range(3))[name]))
        for at in range(9):
            ends = [float(compute_scores(with_images(counts, at, more), range(3))[name]) for more in (-1e-4, 1e-4)]
            assert float(confusion[0, at]) == pytest.approx((ends[1] - ends[0]) / 2e-4, abs=1e-6)


def test_the_variance_of_a_recall_is_binomial() -> None:
    """40 images of each of two classes, 30 and 36 right: 1/4 (p q / 40 + p q / 40), 1/79 more for the sample."""
    counts = cell_indices(10.0 * one_hot(torch.tensor([0] * 30 + [1] * 14 + [0] * 0 + [1] * 36), 2),
                   torch.tensor([0] * 40 + [1] * 40)).count()  # fmt: skip
    expected = (0.75 * 0.25 + 1.0 * 0.0) / 40 / 4 * 80 / 79
    assert variance_bound(counts, score_gradients(counts)["balanced_accuracy"][1]) == pytest.approx(expected)


def test_the_patient_variance_equals_the_jackknife() -> None:
    """The jackknife by loops; both are estimates, so they agree as far as 60 patients are many."""
    logits, labels, owner = predictions(60, 3, per=3, correlation=0.5)
    found = cell_indices(logits, labels)
    for name, (_, gradients) in score_gradients(found.count(), range(3)).items():
        without = [
            float(compute_scores(cell_indices(logits[owner != p], labels[owner != p]).count(), range(3))[name])
            for p in range(60)
        ]
        jackknife = torch.tensor(without).double().var(unbiased=False).item() * 59
        assert patient_variance(found, owner, gradients) == pytest.approx(jackknife, rel=0.1), name


def test_one_image_per_patient_has_design_effect_one() -> None:
    """Of two classes the AUROC of one is that of the other, so tables do err together."""
    assert design_effects(cell_indices(*predictions(40)[:2]), torch.arange(40), range(2)) == [1.0] * 5


def test_copies_of_images_do_not_narrow_an_interval() -> None:
    logits, labels, owner = predictions(60)
    once = score_sites([counts_of_site(logits, labels, owner)])
    five = score_sites([counts_of_site(*(part.repeat_interleave(5, 0) for part in (logits, labels, owner)))])
    for name in ("auroc", "balanced_accuracy", "f1"):
        assert five[name].value == pytest.approx(once[name].value)
        assert five[name].low == pytest.approx(once[name].low, abs=0.01), name


def test_an_interval_narrows_with_patients() -> None:
    widths = []
    for patients in (50, 800):
        score = score_sites([counts_of_site(*predictions(patients))])["balanced_accuracy"]
        assert score.low < score.value < score.high
        widths.append(score.high - score.low)
    assert 3 < widths[0] / widths[1] < 5  # the root of 16 is 4


def test_a_perfect_score_has_an_interval() -> None:
    """The rule of three: of 40 patients none is missed, so at most 3 in 40 are, roughly."""
    labels = torch.arange(40) % 4
    found = score_sites([counts_of_site(20.0 * one_hot(labels, 4), labels, torch.arange(40), range(4))], range(4))
    for name in ("auroc", "balanced_accuracy", "f1"):
        assert (found[name].value, found[name].high) == (1, 1)
        assert 0.88 < found[name].low < 0.93
    assert 0.76 < found["kappa_linear"].low < 0.86


def test_sites_of_one_class_each_have_a_pooled_interval() -> None:
    logits, labels, owner = predictions(60)
    apart = [counts_of_site(logits[labels == c], labels[labels == c], owner[labels == c]) for c in (0, 1)]
    assert isnan(score_sites(apart[:1])["auroc"].value)
    assert isnan(score_sites(apart[:1])["auroc"].low)
    pooled, together = (
        score_sites(apart)["auroc"],
        score_sites([counts_of_site(logits, labels, owner)])["auroc"],
    )
    assert pooled.value == pytest.approx(together.value)
    assert pooled.low == pytest.approx(together.low, abs=0.01)


def coverage(
    patients: int, k: int, per: int, correlation: float, sites: int = 1, multilabel: bool = False, times: int = 200
) -> dict[str, float]:
    """How often intervals hold the scores of very many patients."""
    grades = () if multilabel else range(k)
    logits, labels, _ = predictions(30000, k, 1, correlation, seed=999)
    truth = {
        name: float(value)
        for name, value in compute_scores(cells_of(logits, labels, multilabel).count(), grades).items()
    }
    hits = dict.fromkeys(truth, 0)
    for seed in range(times):
        parts = [
            counts_of_site(*predictions(patients, k, per, correlation, seed=sites * seed + at), grades, multilabel)
            for at in range(sites)
        ]
        found = score_sites(parts, grades)
        hits = {name: count + (found[name].low <= truth[name] <= found[name].high) for name, count in hits.items()}
    return {name: count / times for name, count in hits.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patients", "k", "per", "correlation", "sites", "multilabel"),
    [
        (40, 2, 1, 0.0, 1, False),
        (24, 2, 4, 0.7, 1, False),
        (15, 3, 4, 0.5, 2, False),
        (60, 3, 1, 0.0, 1, True),
        (60, 3, 3, 0.5, 1, True),
    ],
)
def test_coverage_of_intervals(
    patients: int, k: int, per: int, correlation: float, sites: int, multilabel: bool
) -> None:
    """With 200 repetitions the rate of 95 % errs by 1.5 points."""
    rates = coverage(patients, k, per, correlation, sites, multilabel)
    assert all(0.90 <= rate <= 0.99 for rate in rates.values()), rates


def test_images_taken_for_patients_would_narrow_intervals() -> None:
    """The purpose of the design effect: without it, intervals of correlated images are too narrow."""
    logits, labels, owner = predictions(24, per=8, correlation=0.9)
    by_patient, by_image = (
        score_sites([counts_of_site(logits, labels, o)])["auroc"] for o in (owner, torch.arange(len(owner)))
    )
    assert by_patient.high - by_patient.low > 1.7 * (by_image.high - by_image.low)


def test_student_quantiles_and_wilson_intervals() -> None:
    assert student_quantile(9) == pytest.approx(2.262157)
    assert student_quantile(10**6) == pytest.approx(1.959964, abs=1e-4)
    assert all(student_quantile(a) > student_quantile(b) for a, b in pairwise((1, 2, 5, 30)))
    score = wilson_interval(0.5, 0.25 / 10**6, 1e6, 10**6)
    assert (score.low, score.high) == pytest.approx((0.49902, 0.50098), abs=1e-5)
    assert isnan(wilson_interval(nan, nan, 0.0, 0).low)
    for value in (0.0, 0.3, 1.0):
        score = wilson_interval(value, 0.01, 30.0, 30)
        assert 0 <= score.low <= value <= score.high <= 1
    score = wilson_interval(-0.2, 0.001, 1000.0, 1000, lowest=-1.0)
    assert (score.low, score.high) == pytest.approx((-0.26, -0.14), abs=0.005)


@pytest.mark.parametrize("seed", range(8))
def test_a_score_lies_in_its_interval_as_it_is_printed(seed: int) -> None:
    """Of random counts, small and one-sided ones too, down to one image and up to thousands."""
    draws = torch.Generator().manual_seed(seed)
    for size in (1, 2, 3, 10, 4000):
        truth = torch.randint(0, 3, (size,), generator=draws) * (seed > 1)
        logits = torch.randn(size, 3, generator=draws) + 4 * (seed % 3) * one_hot(truth, 3)
        site = counts_of_site(logits, truth, torch.arange(size) // (1 + seed % 2), range(3))
        for name, score in score_sites([site], range(3)).items():
            if not isnan(score.low):
                low, high = round_outward(score.low, score.high)
                assert low - 1e-9 <= score.low <= score.value <= score.high <= high + 1e-9, name
                assert low <= round(score.value, 3) <= high, name
