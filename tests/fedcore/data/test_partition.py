from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.data.manifest.row import Row
from fedcore.data.partition import ByColumn, Dirichlet, Partition, Pooled, Quantity
from fedcore.errors import InputError


def cohort(patients: int, *, images: int = 2, labels: str = "abcd", test: float = 0.3, seed: int = 0) -> list[Row]:
    """Patients of one to `images` images; label and split are random for each patient."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        split = "test" if rng.random() < test else "train"
        label = rng.choice(list(labels))
        for _ in range(rng.integers(1, images + 1)):
            number = len(rows) + 2
            rows.append(Row(number, Path(f"{number}"), "one", split, str(label), None, f"p{patient}"))
    return rows


partitions = st.one_of(
    st.builds(Dirichlet, st.floats(0.05, 50), st.integers(1, 6), st.just(1)),
    st.builds(Quantity, st.integers(1, 6), st.floats(0.05, 50)),
)


@settings(deadline=None, max_examples=60)
@given(partitions, st.integers(20, 80), st.integers(0, 5))
def test_patients_stay_whole_and_no_site_is_empty(partition: Partition, patients: int, seed: int) -> None:
    rows = cohort(patients, seed=seed)
    names = partition(rows, seed)
    homes: dict[str, set[str]] = {}
    for row, name in zip(rows, names, strict=True):
        homes.setdefault(row.patient, set()).add(name)
    assert all(len(home) == 1 for home in homes.values())
    assert set(names) == {f"site_{number + 1}" for number in range(partition.sites)}
    assert names == partition(rows, seed)


def test_pooled_has_one_site() -> None:
    assert Pooled()(cohort(5), 0) == ["all"] * len(cohort(5))


def mixes(rows: list[Row], names: list[str], split: str) -> np.ndarray:
    """(sites, labels) fractions."""
    counts = Counter((name, row.label) for row, name in zip(rows, names, strict=True) if row.split == split)
    table = np.array([[counts[name, label] for label in "abcd"] for name in sorted(set(names))], float)
    return table / table.sum(axis=1, keepdims=True)


def test_small_alpha_skews_labels_and_large_alpha_does_not() -> None:
    rows = cohort(800, images=1)
    skew = {alpha: np.ptp(mixes(rows, Dirichlet(alpha)(rows, 0), "train"), axis=0).mean() for alpha in (0.1, 1000.0)}
    assert skew[0.1] > 0.4
    assert skew[1000.0] < 0.15


def test_train_and_test_images_of_a_site_have_equal_distributions() -> None:
    rows = cohort(2000, images=1)
    names = Dirichlet(0.5)(rows, 1)
    train, test = mixes(rows, names, "train"), mixes(rows, names, "test")
    assert np.abs(train - test).mean() < 0.07 < np.abs(train - test[[1, 2, 3, 0]]).mean()


def test_dirichlet_sites_are_equally_large_and_quantity_ones_are_not() -> None:
    rows = cohort(400, images=1)
    equal = Counter(Dirichlet(0.1)(rows, 0)).values()
    assert max(equal) - min(equal) <= 2
    skewed = Counter(Quantity(beta=0.3)(rows, 0)).values()
    assert max(skewed) > 2 * min(skewed)
    even = Counter(Quantity(beta=1e6)(rows, 0)).values()
    assert max(even) - min(even) <= 4


def test_rows_without_label_are_a_class() -> None:
    rows = cohort(200)
    unlabelled = [replace(row, label=None) if row.label == "a" else row for row in rows]
    assert Dirichlet(0.2)(unlabelled, 0) == Dirichlet(0.2)(rows, 0)


def test_by_column_keeps_the_sites() -> None:
    assert set(ByColumn()(cohort(5), 0)) == {"one"}


@pytest.mark.parametrize(
    ("partition", "text"),
    [
        (Dirichlet(sites=0), "Dirichlet: sites must be at least 1, got 0"),
        (Quantity(sites=-1), "Quantity: sites must be at least 1, got -1"),
        (Dirichlet(sites=8), "each of 8 sites must get 10 images or more"),
        (Quantity(sites=50), "each of 50 sites must get 1 images or more"),
        (Dirichlet(alpha=0.0), "alpha must be positive"),
        (Quantity(beta=-1.0), "beta must be positive"),
    ],
)
def test_invalid_settings_are_an_error(partition: Partition, text: str) -> None:
    with pytest.raises(InputError, match=text):
        partition(cohort(20), 0)
