from __future__ import annotations

from fedcore.suggest import suggestion


def test_a_slip_is_mended_and_nonsense_is_not() -> None:
    known = ["rounds.count", "rounds.per_round", "visit.batch_size"]
    assert suggestion("rounds.cuont", known) == " (did you mean 'rounds.count'?)"
    assert suggestion("zebra", known) == ""
    assert suggestion("zebra", []) == ""
