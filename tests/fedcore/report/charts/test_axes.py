"""Ticks span the data in even steps."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fedcore.report.charts.axes import ticks

reals = st.floats(-1e9, 1e9).map(lambda value: round(value, 4))


@given(reals, reals)
def test_ticks_span_the_values_in_even_steps(one: float, other: float) -> None:
    low, high = sorted((one, other))
    marks = ticks(low, high)
    steps = [after - before for before, after in pairwise(marks)]
    slack = 1e-6 * max(abs(low), abs(high), 1)
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    assert max(steps) - min(steps) <= slack
    assert 2 <= len(marks) <= 6


def test_golden_ticks() -> None:
    assert ticks(0.0, 8.4) == [0, 5, 10]
    assert ticks(2.3, 5.6) == [2, 3, 4, 5, 6]
    assert ticks(3.0, 3.0) == [3.0, 4.0]
