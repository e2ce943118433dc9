from __future__ import annotations

from fedcore.suggest import suggestion


def test_a_typo_has_a_suggestion_and_nonsense_has_none() -> None:
    known = ["rounds.count", "rounds.per_round", "visit.batch_size"]
    assert suggestion("rounds.cuont", known) == " (did you mean 'rounds.count'?)"
    assert suggestion("zebra", known) == ""
    assert suggestion("zebra", []) == ""
