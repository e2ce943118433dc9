from __future__ import annotations

from fedcore.messages.round import Round
from fedcore.site.site import Site
from tests.fedcore.toys import images


def test_a_visits_seed_is_its_own() -> None:
    """Another site, round, run or purpose draws otherwise; the order of visits plays no part."""
    turn = Round(1, 3, 0)
    others = [
        turn.seed_of("b"),
        turn.seed_of("a", "order"),
        Round(2, 3, 0).seed_of("a"),
        Round(1, 3, 1).seed_of("a"),
    ]
    assert len({turn.seed_of("a"), *others}) == 5
    assert turn.seed_of("a") == 3133204560  # a golden value: a resumed run must find the seeds it began with


def test_a_site_counts_its_training_images() -> None:
    assert Site("a", images("a", 5), images("a", 2)).size == 5
