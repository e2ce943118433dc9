"""Positions of bars, limit and ticks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from fedcore.report.charts.axes import LEFT, RIGHT
from fedcore.report.charts.closeness_histogram import closeness_histogram

HELD_OUT, SYNTHETIC = np.linspace(0.5, 1, 50), np.linspace(0.4, 1, 400)


def test_one_copy_among_many_is_visible_and_marked() -> None:
    chart = closeness_histogram(HELD_OUT, np.append(SYNTHETIC, 0.0), 0.35)
    copies = [bar for bar in chart.bars if bar.copy]
    assert [(bar.x, bar.height, bar.held_out) for bar in copies] == [(LEFT + 0.5, 4.0, False)]
    assert copies[0].label.startswith("1 synthetic images of closeness 0.01")


def test_bars_are_fractions_of_their_images_and_back_to_back() -> None:
    chart = closeness_histogram(HELD_OUT, HELD_OUT.repeat(7), 0.3)
    ups, downs = ([bar for bar in chart.bars if bar.held_out is held_out] for held_out in (True, False))
    assert [(bar.x, bar.height) for bar in ups] == [(bar.x, bar.height) for bar in downs]
    assert {bar.y + bar.height for bar in ups} == {bar.y for bar in downs} == {chart.middle}
    assert max(bar.height for bar in ups) == 44.0
    assert not any(bar.copy for bar in chart.bars)


def test_everything_is_within_the_chart_and_ticks_do_not_overlap() -> None:
    for lowest in (0.0, 0.02, 0.3, 0.9):
        chart = closeness_histogram(HELD_OUT, np.append(SYNTHETIC, lowest), 0.8 * max(lowest, 0.3))
        assert all(bar.x >= LEFT and bar.x + bar.width <= RIGHT for bar in chart.bars)
        assert LEFT <= chart.limit.at <= RIGHT
        places = [tick.at for tick in chart.ticks]
        assert chart.ticks[0].label == "1"
        assert all(one - other >= 26 for one, other in pairwise(places))


@pytest.mark.parametrize(
    ("held_out", "synthetic", "limit"),
    [(HELD_OUT[:0], SYNTHETIC, 0.3), (HELD_OUT, np.array([np.nan]), 0.3), (HELD_OUT, SYNTHETIC, np.inf)],
)
def test_missing_or_infinite_values_raise(held_out: np.ndarray, synthetic: np.ndarray, limit: float) -> None:
    with pytest.raises(ValueError, match="missing or not finite"):
        closeness_histogram(held_out, synthetic, limit)
