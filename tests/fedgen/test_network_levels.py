from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgen.network_levels import SizeError, require_halvings

SIZES = st.lists(st.integers(1, 70), min_size=2, max_size=3)


@given(SIZES, st.integers(0, 4))
def test_a_size_passes_or_the_error_names_two_that_do(size: list[int], halvings: int) -> None:
    if all(n % 2**halvings == 0 for n in size):
        require_halvings("a network", halvings, size)
        return
    with pytest.raises(SizeError) as caught:
        require_halvings("a network", halvings, size)
    advice = str(caught.value).split("set data.size to ")[1]
    fits = [[int(n) for n in re.findall(r"\d+", fit)] for fit in advice.split(" or ")[:2]]
    for fit in fits:
        require_halvings("a network", halvings, fit)
        assert all(n - 2**halvings < m <= max(n, 2**halvings) + 2**halvings for n, m in zip(size, fit, strict=True))


def test_the_error_names_the_network_and_its_halvings() -> None:
    with pytest.raises(SizeError, match="a net needs image sizes that are multiples of 4, got 6 x 8; set") as caught:
        require_halvings("a net", 2, (6, 8))
    assert (caught.value.network, caught.value.halvings) == ("a net", 2)
