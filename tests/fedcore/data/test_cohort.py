from __future__ import annotations

from dataclasses import replace

import torch

from fedcore.data.cohort import Cohort, with_classes
from tests.fedcore.data.test_dataset import site


def test_splits_omit_sites_without_images() -> None:
    only_test = site(3).select("test")
    cohort = Cohort({"north": site(6), "south": only_test}, ("a",))
    assert (cohort.channels, cohort.size, cohort.spatial_dims) == (1, (4, 5), 2)
    assert list(cohort.split("train")) == ["north"]
    assert len(cohort.split("test")["south"]) == 1


def test_all_images_that_are_not_trained_on_are_held_out() -> None:
    some = site(9)
    splits = some.splits.copy()
    splits[0] = "val"
    cohort = Cohort({"north": replace(some, splits=splits), "south": site(6).select("train")}, ("a",))
    held_out = cohort.held_out()
    assert list(held_out) == ["north"]
    assert held_out["north"].labels.tolist() == [0, 3, 6]


def test_labels_that_are_not_used_are_numbers_of_the_new_classes_too() -> None:
    images = replace(site(2), labels=torch.tensor([0, -1]), all_labels=torch.tensor([0, 1]))
    found = with_classes(Cohort({"north": images}, ("b", "d")), ("a", "b", "c", "d")).sites["north"]
    assert found.labels.tolist() == [1, -1]
    assert found.with_all_labels().labels.tolist() == [1, 3]
