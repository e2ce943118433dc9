from __future__ import annotations

from fedcore.data.cohort import Cohort
from tests.fedcore.data.test_dataset import site


def test_splits_omit_sites_without_images() -> None:
    only_test = site(3).select("test")
    cohort = Cohort({"north": site(6), "south": only_test}, ("a",))
    assert (cohort.channels, cohort.size, cohort.spatial_dims) == (1, (4, 5), 2)
    assert list(cohort.split("train")) == ["north"]
    assert len(cohort.split("test")["south"]) == 1
