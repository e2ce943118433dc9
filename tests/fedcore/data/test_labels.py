from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fedcore.data.dataset import AddedImages, Images
from fedcore.data.labels import (
    hide_labels,
    hide_masks,
    images_with_mask,
    labelled_subset,
    patient_subset,
    require_trained_classes,
)
from fedcore.errors import InputError, InputErrors
from tests.fedcore.toys import of_labels


def hospital(sizes: tuple[int, ...] = (200, 60, 3), each: int = 2) -> Images:
    """`sizes` patients of the classes with `each` images, in a mixed order."""
    labels = np.repeat(np.arange(len(sizes)), np.multiply(sizes, each))
    patients = np.repeat(np.arange(sum(sizes)), each)
    order = np.random.default_rng(0).permutation(len(labels))
    return of_labels(labels[order].tolist(), patients[order].tolist())


def patients_by_class(images: Images) -> dict[int, set[int]]:
    return {k: set(images.patients[(images.labels == k).numpy()].tolist()) for k in set(images.labels.tolist())}


@pytest.mark.parametrize(
    ("fraction", "counts"), [(0.01, [2, 1, 1]), (0.1, [20, 6, 1]), (0.5, [100, 30, 2]), (1.0, [200, 60, 3])]
)
def test_the_fraction_applies_to_the_patients_of_each_class(fraction: float, counts: list[int]) -> None:
    chosen = patients_by_class(labelled_subset(hospital(), fraction, seed=0))
    assert [len(chosen[k]) for k in range(3)] == counts


@pytest.mark.parametrize("seed", range(5))
def test_smaller_fractions_are_subsets(seed: int) -> None:
    site = hospital()
    chosen = [set(labelled_subset(site, f, seed).patients.tolist()) for f in (0.01, 0.05, 0.1, 0.5, 1.0)]
    assert all(small < large for small, large in pairwise(chosen))


def test_the_seed_decides_the_patients() -> None:
    site = hospital()
    first = labelled_subset(site, 0.1, seed=0).patients
    assert np.array_equal(labelled_subset(site, 0.1, seed=0).patients, first)
    assert set(labelled_subset(site, 0.1, seed=1).patients.tolist()) != set(first.tolist())


def test_the_order_of_the_images_does_not_matter() -> None:
    site = hospital()
    turned = site.take(list(range(len(site)))[::-1])
    assert set(labelled_subset(site, 0.1, 0).patients.tolist()) == set(
        labelled_subset(turned, 0.1, 0).patients.tolist()
    )


def test_all_images_of_a_patient_are_chosen_or_none() -> None:
    """Patients with images of several classes too."""
    rng = np.random.default_rng(1)
    site = of_labels(rng.integers(0, 3, 120).tolist(), rng.integers(0, 30, 120).tolist())
    for fraction in (0.05, 0.3, 0.7):
        chosen = labelled_subset(site, fraction, seed=0)
        for patient in set(chosen.patients.tolist()):
            assert (chosen.patients == patient).sum() == (site.patients == patient).sum()


def test_a_patient_of_several_classes_counts_for_the_most_frequent() -> None:
    """One patient a class by that rule, so the least fraction keeps both and all of their images."""
    site = of_labels([0, 0, 1, 1, 1, 0], patients=[7, 7, 7, 9, 9, 9])
    assert sorted(labelled_subset(site, 0.01, seed=0).patients.tolist()) == [7, 7, 7, 9, 9, 9]


def test_unlabelled_images_are_omitted_and_not_counted() -> None:
    site = of_labels([-1, 0, -1, 0, -1, -1], patients=[0, 0, 1, 1, 2, 3])
    assert labelled_subset(site, 0.5, seed=0).labels.tolist() == [0]  # one of the two patients with a label
    assert len(labelled_subset(site, 1.0, seed=0)) == 2
    assert len(labelled_subset(of_labels([-1, -1]), 1.0, seed=0)) == 0
    assert len(labelled_subset(of_labels([]), 0.1, seed=0)) == 0


def test_pixels_stay_with_their_labels() -> None:
    site = hospital((6, 6))
    part = labelled_subset(site, 0.5, seed=0)
    places = [
        int(np.flatnonzero((site.pixels == p.half().numpy()).all((1, 2, 3)))[0]) for p in part.batch(range(len(part)))
    ]
    assert site.labels[places].tolist() == part.labels.tolist()
    assert site.patients[places].tolist() == part.patients.tolist()


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_an_error(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"lie in \(0, 1\]"):
        labelled_subset(hospital(), fraction, seed=0)


def test_all_labels_of_added_images_are_used() -> None:
    synthetic = of_labels([0, -1, 1, 1], [0, 1, 2, 3])
    site = replace(hospital(), added=AddedImages(synthetic, 0.5))
    added = labelled_subset(site, 0.1, 0).added
    assert added is not None
    assert added.images.labels.tolist() == [0, 1, 1]
    with pytest.raises(InputError, match=r"data\.synthetic has no labels"):
        labelled_subset(replace(site, added=AddedImages(of_labels([-1, -1], [0, 1]), 0.5)), 0.1, 0)


@pytest.mark.parametrize("fraction", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("seed", [0, 3])
def test_hide_labels_keeps_those_of_labelled_subset(fraction: float, seed: int) -> None:
    rng = np.random.default_rng(1)
    site = of_labels(rng.integers(-1, 3, 120).tolist(), rng.integers(0, 40, 120).tolist())
    site = replace(site, rows=np.arange(120))
    less, chosen = hide_labels(site, fraction, seed), labelled_subset(site, fraction, seed)
    kept = np.flatnonzero((less.labels >= 0).numpy())
    assert len(less) == 120
    assert kept.tolist() == (chosen.rows if chosen.rows is not None else np.zeros(0)).tolist()
    assert less.labels[kept].tolist() == chosen.labels.tolist()
    assert np.array_equal(less.patients, site.patients)


def test_hide_labels_keeps_those_of_labelled_subset_with_findings() -> None:
    site = replace(of_labels([0, 1, 2, 3] * 10), findings=torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]] * 10).byte())
    less, chosen = hide_labels(site, 0.2, 0), labelled_subset(site, 0.2, 0)
    assert site.patients[(less.labels >= 0).numpy()].tolist() == chosen.patients.tolist()
    assert 0 < len(chosen) < 40


def test_hide_masks_keeps_those_of_patient_subset() -> None:
    """Of the images with a mask; in any order and subset."""
    masks = np.random.default_rng(0).integers(0, 3, (12, 8, 8)).astype(np.uint8)
    masks[::4] = 255
    site = replace(of_labels([0] * 12, np.repeat(range(6), 2).tolist()), masks=masks)
    less, chosen = hide_masks(site, 0.5, 1), patient_subset(images_with_mask(site), 0.5, 1)
    kept = np.isin(site.patients, chosen.patients) & (masks != 255).any((1, 2))
    assert 0 < kept.sum() < 9
    for order in (list(range(12)), [5, 1, 1, 8]):
        for found in (less.mask_batch(order), less.take(order).mask_batch(range(len(order)))):
            expected = np.where(kept[order][:, None, None], masks[order], 255)
            assert np.array_equal(found.numpy(), expected)
    assert np.array_equal(site.mask_batch(range(12)).numpy(), masks)  # what is stored is not changed
    assert len(images_with_mask(less)) == kept.sum()
    assert hide_masks(of_labels([0]), 0.5, 0).masks_used is None


def test_classes_that_only_test_images_have_are_an_error() -> None:
    train, test = of_labels([0, 1, -1], [0, 1, 2]), of_labels([0, 2, -1], [3, 4, 5])
    require_trained_classes({"A": train}, {"B": train.take([1])}, "labels", ("a", "b", "c"))
    with pytest.raises(
        InputErrors, match="site 'B': class 'c' in its test images\nThe only classes of training images: a, b"
    ):
        require_trained_classes({"A": train}, {"B": test}, "labels", ("a", "b", "c"))
    mixed = replace(train, added=AddedImages(of_labels([2], [0]), 0.5))
    require_trained_classes({"A": mixed}, {"B": test}, "labels", ("a", "b", "c"))
    require_trained_classes({"A": train, "C": of_labels([2], [0])}, {"B": test}, "labels", ("a", "b", "c"))


def test_findings_that_only_test_images_have_are_an_error() -> None:
    table = torch.tensor([[1, 0, 0], [1, 1, 0]], dtype=torch.uint8)
    train, test = (
        replace(of_labels([0, 1], [0, 1]), findings=table),
        replace(of_labels([0, 1], [2, 3]), findings=table.flip(1)),
    )
    require_trained_classes({"A": train}, {"B": train}, "findings", ("a", "b", "c"))
    with pytest.raises(InputErrors, match="class 'c' in its test images"):
        require_trained_classes({"A": train}, {"B": test}, "findings", ("a", "b", "c"))
