from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedcore.aggregation.mean import Aggregator, Mean, Median, TrimmedMean
from fedcore.errors import InputError
from tests.fedcore.toys import contribution, same

RULES: list[Aggregator] = [Mean(), Mean("equal"), Mean("knn"), TrimmedMean(0.25), Median()]
every_rule = pytest.mark.parametrize("rule", RULES, ids=repr)

NUMBERS = st.floats(-1e3, 1e3, width=32)
SITES = st.lists(
    st.builds(
        lambda w, steps, examples, knn: contribution("s", examples, {"knn": knn}, w=w, steps=steps),
        st.lists(NUMBERS, min_size=2, max_size=2),
        st.integers(0, 2**40),
        st.integers(1, 500),
        st.floats(0.1, 1),
    ),
    min_size=1,
    max_size=6,
)


@every_rule
@given(sites=SITES, order=st.randoms(use_true_random=False))
def test_the_order_of_sites_does_not_matter(rule: Aggregator, sites: list[Any], order: Any) -> None:
    mixed = order.sample(sites, len(sites))
    a, b = rule.combine(iter(sites), {}), rule.combine(iter(mixed), {})
    torch.testing.assert_close(a["w"], b["w"], rtol=1e-4, atol=1e-3)
    assert abs(int(a["steps"] - b["steps"])) <= 1  # halves may round either way


@every_rule
@given(site=SITES.map(lambda sites: sites[0]))
def test_one_site_comes_back_to_the_bit(rule: Aggregator, site: Any) -> None:
    assert same(rule.combine(iter([site]), {}), site.message.tensors)


@every_rule
@given(site=SITES.map(lambda sites: sites[0]), count=st.integers(2, 9))
def test_sites_that_agree_are_left_alone(rule: Aggregator, site: Any, count: int) -> None:
    combined = rule.combine(iter([site] * count), {})
    assert torch.equal(combined["steps"], site.message.tensors["steps"])
    torch.testing.assert_close(combined["w"], site.message.tensors["w"])


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


def test_a_negative_weight_counts_as_none() -> None:
    sites = [contribution("a", 1, {"gain": -2.0}, w=9.0), contribution("b", 1, {"gain": 0.5}, w=1.0)]
    assert Mean("gain").combine(sites, {})["w"] == 1.0


def test_tails_are_cut_by_hand() -> None:
    sites = [contribution(str(v), w=[float(v), float(-v)]) for v in (1, 100, 3, 2, -50)]
    assert Median().combine(sites, {})["w"].tolist() == [2.0, -2.0]
    assert Median().combine(sites[:4], {})["w"].tolist() == [2.5, -2.5]
    assert TrimmedMean(0.2).combine(sites, {})["w"].tolist() == [2.0, -2.0]
    assert TrimmedMean(0.0).combine(sites, {})["w"].tolist() == pytest.approx([11.2, -11.2])


@pytest.mark.parametrize("rule", [TrimmedMean(0.2), Median()], ids=repr)
@given(honest=st.lists(NUMBERS, min_size=4, max_size=4), lie=st.sampled_from([1e30, -1e30]))
def test_one_liar_among_five_moves_nothing_beyond_the_honest(rule: Aggregator, honest: list[float], lie: float) -> None:
    sites = [contribution("s", w=value) for value in [*honest, lie]]
    combined = float(rule.combine(sites, {})["w"])
    assert min(honest) - 1e-3 <= combined <= max(honest) + 1e-3


@every_rule
def test_types_are_kept(rule: Aggregator) -> None:
    knn = {"knn": 1.0}
    half = torch.tensor([1.0, 2.0], dtype=torch.float16)
    sites = [
        contribution("a", 1, knn, half=half, steps=2**40 + 2, flag=torch.tensor(True), wide=torch.zeros(1).double()),
        contribution("b", 1, knn, half=3 * half, steps=2**40, flag=torch.tensor(True), wide=torch.ones(1).double()),
    ]
    combined = rule.combine(sites, {})
    assert {k: t.dtype for k, t in combined.items()} == {k: t.dtype for k, t in sites[0].message.tensors.items()}
    assert combined["half"].tolist() == [2.0, 4.0]
    assert combined["steps"] == 2**40 + 1
    assert combined["flag"]


def test_a_mean_of_counters_is_rounded_and_not_cut() -> None:
    assert Mean().combine([contribution("s", steps=v) for v in (1, 2, 2)], {})["steps"] == 2


def test_halves_are_summed_in_single_precision() -> None:
    sites = [contribution("s", w=torch.tensor(60000.0, dtype=torch.float16)) for _ in range(8)]
    assert Mean().combine(sites, {})["w"] == 60000.0
    assert TrimmedMean(0.25).combine(sites, {})["w"] == 60000.0  # their sum is beyond float16


@every_rule
def test_a_tensor_is_ruled_by_those_who_sent_it(rule: Aggregator) -> None:
    """Sites that send parts: each tensor comes out as if the others had not been there."""
    parts = [("a", 3, {"up": 1.0, "both": 10.0}), ("b", 5, {"down": 2.0, "both": 30.0}), ("c", 2, {"down": 7.0})]
    sites = [contribution(name, count, {"knn": 0.1 * count}, **sent) for name, count, sent in parts]
    current = {name: torch.tensor(-1.0) for name in ("up", "down", "both", "unsent")}
    combined = rule.combine(iter(sites), current)
    for name in ("up", "down", "both"):
        senders = [contribution(s, n, {"knn": 0.1 * n}, w=sent[name]) for s, n, sent in parts if name in sent]
        assert torch.equal(combined[name], rule.combine(iter(senders), {})["w"])
    assert combined["unsent"] == -1.0


def test_means_of_parts_by_hand() -> None:
    sites = [contribution("a", 30, up=2.0, both=4.0), contribution("b", 10, down=6.0, both=8.0)]
    combined = Mean().combine(sites, {"up": torch.tensor(0.0), "idle": torch.tensor(9.0)})
    assert {k: float(t) for k, t in combined.items()} == {"up": 2.0, "idle": 9.0, "both": 5.0, "down": 6.0}


def test_what_only_sites_without_weight_sent_stays_the_servers() -> None:
    sites = [contribution("a", 1, {"gain": 0.0}, up=5.0), contribution("b", 1, {"gain": 1.0}, down=3.0)]
    combined = Mean("gain").combine(sites, {"up": torch.tensor(1.0), "down": torch.tensor(1.0)})
    assert (float(combined["up"]), float(combined["down"])) == (1.0, 3.0)


@every_rule
def test_no_site_at_all(rule: Aggregator) -> None:
    with pytest.raises(InputError, match="no site contributed"):
        rule.combine(iter([]), {})


def test_a_missing_metric_names_it_and_its_site() -> None:
    with pytest.raises(InputError, match=r"weight='knn'.* site 'b', which sent \['loss'\]"):
        Mean("knn").combine([contribution("a", 1, {"knn": 1.0}, w=1.0), contribution("b", 1, {"loss": 1.0}, w=1.0)], {})


def test_weights_that_are_all_zero_are_no_mean() -> None:
    """Otherwise the last site to answer would win."""
    with pytest.raises(InputError, match="needs a weight above 0"):
        Mean("knn").combine([contribution(s, 1, {"knn": 0.0}, w=1.0) for s in "ab"], {})


@pytest.mark.parametrize("sites", [*range(3, 13), 25])
def test_the_default_trim_cuts_a_bad_site_however_few_there_are(sites: int) -> None:
    sent = [contribution("s", w=float(at)) for at in range(sites - 1)] + [contribution("bad", w=1e6)]
    assert 0 < float(TrimmedMean().combine(sent, {})["w"]) < sites


@pytest.mark.parametrize(
    ("trim", "sites", "cut"),
    [(0.29, 100, 29), (0.07, 100, 7), (0.1, 10, 1), (0.1, 11, 2), (0.4, 3, 1), (0.2, 2, 0), (0.2, 1, 0), (0.0, 9, 0)],
)
def test_as_many_are_cut_as_it_says(trim: float, sites: int, cut: int) -> None:
    sent = [contribution("s", w=float(at**2)) for at in range(sites)]
    kept = [float(at**2) for at in range(cut, sites - cut)]
    assert float(TrimmedMean(trim).combine(sent, {})["w"]) == pytest.approx(sum(kept) / len(kept))


@pytest.mark.parametrize("trim", [-0.1, 0.5, 1.0])
def test_trim_has_bounds(trim: float) -> None:
    with pytest.raises(ValueError, match=r"trim must lie in \[0, 0\.5\)"):
        TrimmedMean(trim)


@every_rule
def test_tensors_of_other_shapes_have_no_mean(rule: Aggregator) -> None:
    sent = [contribution(s, 1, {"knn": 1.0}, w=w) for s, w in (("a", torch.ones(5)), ("b", torch.ones(1)))]
    with pytest.raises(InputError, match=r"site 'b' sent w of shape \(1,\), others and the server have \(5,\)"):
        rule.combine(sent, {})
