from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedcore.aggregation.base import Aggregator
from fedcore.aggregation.mean import Mean
from fedcore.aggregation.robust import Median, TrimmedMean
from fedcore.errors import InputError
from tests.fedcore.federating import same
from tests.fedcore.toys import contribution

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
def test_one_site_is_returned_exactly(rule: Aggregator, site: Any) -> None:
    assert same(rule.combine(iter([site]), {}), site.message.tensors)


@every_rule
@given(site=SITES.map(lambda sites: sites[0]), count=st.integers(2, 9))
def test_equal_contributions_are_not_changed(rule: Aggregator, site: Any, count: int) -> None:
    combined = rule.combine(iter([site] * count), {})
    assert torch.equal(combined["steps"], site.message.tensors["steps"])
    torch.testing.assert_close(combined["w"], site.message.tensors["w"])


@every_rule
def test_dtypes_do_not_change(rule: Aggregator) -> None:
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


def test_float16_is_summed_in_float32() -> None:
    sites = [contribution("s", w=torch.tensor(60000.0, dtype=torch.float16)) for _ in range(8)]
    assert Mean().combine(sites, {})["w"] == 60000.0
    assert TrimmedMean(0.25).combine(sites, {})["w"] == 60000.0  # their sum is beyond float16


@every_rule
def test_a_tensor_is_combined_over_the_sites_that_sent_it(rule: Aggregator) -> None:
    """Sites that send parts: each tensor comes out as if the others had not been there."""
    parts = [("a", 3, {"up": 1.0, "both": 10.0}), ("b", 5, {"down": 2.0, "both": 30.0}), ("c", 2, {"down": 7.0})]
    sites = [contribution(name, count, {"knn": 0.1 * count}, **sent) for name, count, sent in parts]
    current = {name: torch.tensor(-1.0) for name in ("up", "down", "both", "unsent")}
    combined = rule.combine(iter(sites), current)
    for name in ("up", "down", "both"):
        senders = [contribution(s, n, {"knn": 0.1 * n}, w=sent[name]) for s, n, sent in parts if name in sent]
        assert torch.equal(combined[name], rule.combine(iter(senders), {})["w"])
    assert combined["unsent"] == -1.0


@every_rule
def test_no_contribution_is_an_error(rule: Aggregator) -> None:
    with pytest.raises(InputError, match="no site contributed"):
        rule.combine(iter([]), {})


@every_rule
def test_tensors_of_different_shapes_are_an_error(rule: Aggregator) -> None:
    sent = [contribution(s, 1, {"knn": 1.0}, w=w) for s, w in (("a", torch.ones(5)), ("b", torch.ones(1)))]
    with pytest.raises(InputError, match=r"site 'b' sent w of shape \(1,\), others and the server have \(5,\)"):
        rule.combine(sent, {})
