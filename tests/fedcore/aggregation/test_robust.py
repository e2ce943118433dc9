from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.aggregation.base import Aggregator
from fedcore.aggregation.robust import Median, TrimmedMean
from tests.fedcore.toys import contribution

NUMBERS = st.floats(-1e3, 1e3, width=32)


def test_trimmed_means_and_medians_by_hand() -> None:
    sites = [contribution(str(v), w=[float(v), float(-v)]) for v in (1, 100, 3, 2, -50)]
    assert Median().combine(sites, {})["w"].tolist() == [2.0, -2.0]
    assert Median().combine(sites[:4], {})["w"].tolist() == [2.5, -2.5]
    assert TrimmedMean(0.2).combine(sites, {})["w"].tolist() == [2.0, -2.0]
    assert TrimmedMean(0.0).combine(sites, {})["w"].tolist() == pytest.approx([11.2, -11.2])


@pytest.mark.parametrize("rule", [TrimmedMean(0.2), Median()], ids=repr)
@given(honest=st.lists(NUMBERS, min_size=4, max_size=4), lie=st.sampled_from([1e30, -1e30]))
def test_one_bad_site_of_five_cannot_move_the_result_out_of_the_others_range(
    rule: Aggregator, honest: list[float], lie: float
) -> None:
    sites = [contribution("s", w=value) for value in [*honest, lie]]
    combined = float(rule.combine(sites, {})["w"])
    assert min(honest) - 1e-3 <= combined <= max(honest) + 1e-3


@pytest.mark.parametrize("sites", [*range(3, 13), 25])
def test_the_default_trim_cuts_one_bad_site_for_any_number_of_sites(sites: int) -> None:
    sent = [contribution("s", w=float(at)) for at in range(sites - 1)] + [contribution("bad", w=1e6)]
    assert 0 < float(TrimmedMean().combine(sent, {})["w"]) < sites


@pytest.mark.parametrize(
    ("trim", "sites", "cut"),
    [(0.29, 100, 29), (0.07, 100, 7), (0.1, 10, 1), (0.1, 11, 2), (0.4, 3, 1), (0.2, 2, 0), (0.2, 1, 0), (0.0, 9, 0)],
)
def test_the_number_of_cut_sites(trim: float, sites: int, cut: int) -> None:
    sent = [contribution("s", w=float(at**2)) for at in range(sites)]
    kept = [float(at**2) for at in range(cut, sites - cut)]
    assert float(TrimmedMean(trim).combine(sent, {})["w"]) == pytest.approx(sum(kept) / len(kept))


@pytest.mark.parametrize("trim", [-0.1, 0.5, 1.0])
def test_trim_has_bounds(trim: float) -> None:
    with pytest.raises(ValueError, match=r"trim must lie in \[0, 0\.5\)"):
        TrimmedMean(trim)
