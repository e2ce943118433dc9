from __future__ import annotations

from fedcore.models.features import evenly_spaced


def test_indices_are_spread_over_all() -> None:
    assert evenly_spaced(9, 3).tolist() == [0, 4, 8]
    assert evenly_spaced(2, 3).tolist() == [0, 1]
    assert evenly_spaced(0, 3).tolist() == []
