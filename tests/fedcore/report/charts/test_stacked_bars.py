"""Stacked bars: proportions, and a bounded number of bars."""

from __future__ import annotations

import pytest

from fedcore.report.charts.axes import BOTTOM, TOP
from fedcore.report.charts.stacked_bars import stack_chart


def test_bars_stack_without_gaps_in_proportion() -> None:
    chart = stack_chart("up", "", [(0, {"weights": 3000, "exchange": 1000})], top=4000.0)
    weights, exchange = chart.blocks
    assert weights.height == pytest.approx(3 * exchange.height, rel=0.01)
    assert weights.y + weights.height == pytest.approx(BOTTOM)
    assert exchange.y + exchange.height == pytest.approx(weights.y, abs=0.11)


def test_many_rounds_share_bars_that_show_their_mean() -> None:
    chart = stack_chart("up", "", [(at, {"weights": 100 * (at % 2)}) for at in range(960)], top=100.0)
    assert len(chart.blocks) == 48
    assert {block.height for block in chart.blocks} == {(BOTTOM - TOP) / 2}
    assert chart.blocks[0].label == "rounds 0 to 19, mean: weights 50 B"
