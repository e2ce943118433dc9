"""Where bars, limit and ticks stand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from fedcore.report.charts.charts import LEFT, RIGHT
from fedcore.report.charts.closeness import closeness_chart

HELD, DRAWN = np.linspace(0.5, 1, 50), np.linspace(0.4, 1, 400)


def test_one_copy_among_many_is_seen_and_marked() -> None:
    chart = closeness_chart(HELD, np.append(DRAWN, 0.0), 0.35)
    copies = [bar for bar in chart.bars if bar.copy]
    assert [(bar.x, bar.height, bar.held) for bar in copies] == [(LEFT + 0.5, 4.0, False)]
    assert copies[0].label.startswith("1 drawn images of closeness 0.01")


def test_bars_are_shares_of_their_part_and_back_to_back() -> None:
    chart = closeness_chart(HELD, HELD.repeat(7), 0.3)
    ups, downs = ([bar for bar in chart.bars if bar.held is held] for held in (True, False))
    assert [(bar.x, bar.height) for bar in ups] == [(bar.x, bar.height) for bar in downs]
    assert {bar.y + bar.height for bar in ups} == {bar.y for bar in downs} == {chart.middle}
    assert max(bar.height for bar in ups) == 44.0
    assert not any(bar.copy for bar in chart.bars)


def test_everything_stands_within_the_chart_and_ticks_apart() -> None:
    for lowest in (0.0, 0.02, 0.3, 0.9):
        chart = closeness_chart(HELD, np.append(DRAWN, lowest), 0.8 * max(lowest, 0.3))
        assert all(bar.x >= LEFT and bar.x + bar.width <= RIGHT for bar in chart.bars)
        assert LEFT <= chart.limit.at <= RIGHT
        places = [tick.at for tick in chart.ticks]
        assert chart.ticks[0].label == "1"
        assert all(one - other >= 26 for one, other in pairwise(places))


@pytest.mark.parametrize(
    ("held", "drawn", "limit"), [(HELD[:0], DRAWN, 0.3), (HELD, np.array([np.nan]), 0.3), (HELD, DRAWN, np.inf)]
)
def test_what_is_not_there_is_not_drawn(held: np.ndarray, drawn: np.ndarray, limit: float) -> None:
    with pytest.raises(ValueError, match="missing or not finite"):
        closeness_chart(held, drawn, limit)
