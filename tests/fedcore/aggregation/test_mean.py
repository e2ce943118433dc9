from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedcore.aggregation.mean import Mean
from fedcore.errors import InputError
from tests.fedcore.toys import contribution

NUMBERS = st.floats(-1e3, 1e3, width=32)


@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=20), min_size=1, max_size=6))
def test_the_mean_of_sites_equals_the_mean_of_pooled_images(sites: list[list[float]]) -> None:
    sent = [contribution("s", len(rows), w=torch.tensor(rows).mean()) for rows in sites]
    pooled = torch.tensor([value for rows in sites for value in rows], dtype=torch.float64).mean()
    torch.testing.assert_close(Mean().combine(iter(sent), {})["w"].double(), pooled, rtol=1e-5, atol=1e-3)


def test_means_by_hand() -> None:
    sites = [
        contribution("a", 30, {"knn": 0.2}, w=[1.0, 0.0]),
        contribution("b", 10, {"knn": 0.6}, w=[5.0, 4.0]),
    ]
    assert Mean().combine(sites, {})["w"].tolist() == pytest.approx([2.0, 1.0])
    assert Mean("equal").combine(sites, {})["w"].tolist() == pytest.approx([3.0, 2.0])
    assert Mean("knn").combine(sites, {})["w"].tolist() == pytest.approx([4.0, 3.0])


def test_a_negative_weight_counts_as_zero() -> None:
    sites = [contribution("a", 1, {"gain": -2.0}, w=9.0), contribution("b", 1, {"gain": 0.5}, w=1.0)]
    assert Mean("gain").combine(sites, {})["w"] == 1.0


def test_a_mean_of_counters_is_rounded_and_not_cut() -> None:
    assert Mean().combine([contribution("s", steps=v) for v in (1, 2, 2)], {})["steps"] == 2


def test_means_of_parts_by_hand() -> None:
    sites = [contribution("a", 30, up=2.0, both=4.0), contribution("b", 10, down=6.0, both=8.0)]
    combined = Mean().combine(sites, {"up": torch.tensor(0.0), "idle": torch.tensor(9.0)})
    assert {k: float(t) for k, t in combined.items()} == {"up": 2.0, "idle": 9.0, "both": 5.0, "down": 6.0}


def test_a_tensor_that_only_sites_of_weight_0_sent_does_not_change() -> None:
    sites = [contribution("a", 1, {"gain": 0.0}, up=5.0), contribution("b", 1, {"gain": 1.0}, down=3.0)]
    combined = Mean("gain").combine(sites, {"up": torch.tensor(1.0), "down": torch.tensor(1.0)})
    assert (float(combined["up"]), float(combined["down"])) == (1.0, 3.0)


def test_a_missing_metric_is_an_error_that_names_the_site() -> None:
    with pytest.raises(InputError, match=r"weight='knn'.* site 'b', which sent \['loss'\]"):
        Mean("knn").combine([contribution("a", 1, {"knn": 1.0}, w=1.0), contribution("b", 1, {"loss": 1.0}, w=1.0)], {})


def test_weights_that_are_all_zero_are_an_error() -> None:
    """Otherwise the last contribution would be the result."""
    with pytest.raises(InputError, match="needs a weight above 0"):
        Mean("knn").combine([contribution(s, 1, {"knn": 0.0}, w=1.0) for s in "ab"], {})
