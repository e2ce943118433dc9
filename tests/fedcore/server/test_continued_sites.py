"""The sites of a run that continues: some are away, some are new, and none may have changed."""

from __future__ import annotations

from typing import Any

import pytest

from fedcore.errors import InputErrors
from fedcore.messages.agreement import Agreement, Built, Facts
from fedcore.messages.answer import Refusal
from fedcore.messages.request import BUILD, FACTS
from fedcore.server.agreement import agree
from fedcore.server.sites import Sites
from tests.fedcore.server.test_agreement import facts
from tests.fedcore.server.test_sites import Answers

EARLIER = {"a": facts(data="of a"), "b": facts(data="of b")}
AGREEMENT = agree(EARLIER)
AWAY = Refusal("", "it is not connected")


def again(names: str = "ab", agreement: Agreement = AGREEMENT, **now: Any) -> Sites:
    table = {(site, FACTS): now.get(site, EARLIER.get(site)) for site in names}
    return Sites.again(
        Answers(table | {BUILD: Built("abc")}, sites=tuple(names)), EARLIER, agreement, "a run", "a digest"
    )


def errors(names: str = "ab", agreement: Agreement = AGREEMENT, **now: Any) -> tuple[str, ...]:
    with pytest.raises(InputErrors) as caught:
        again(names, agreement, **now)
    return caught.value.errors


def test_a_site_that_is_away_keeps_its_facts_and_may_answer_later() -> None:
    found = again(b=AWAY)
    assert found.facts == EARLIER
    assert found.agreement == AGREEMENT
    assert found.absent == {"b"}
    assert found.training == ["a", "b"]


def test_a_site_that_is_away_is_not_asked_to_build_the_module() -> None:
    found = again(b=AWAY)
    assert isinstance(found.transport, Answers)
    found.transport.requests.clear()
    found.require_same_module("abc", ())
    assert [request.site for request in found.transport.requests] == ["a"]


def test_changed_images_are_named_with_their_site() -> None:
    (error,) = errors(b=facts(data="others"))
    assert error.startswith("b: its images have changed since the run was started")
    (error,) = errors(b=facts(data="of b", train=10))
    assert error.startswith("b: it reports its images differently")


def test_a_new_site_joins_if_it_fits_the_agreement() -> None:
    found = again("abc", c=facts(classes=("dog",), data="of c"))
    assert found.names() == ["a", "b", "c"]
    assert found.agreement == AGREEMENT


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"size": (8, 9)}, "its images have (8, 9) pixels, the run has (8, 8)"),
        ({"channels": 3}, "its images have 3 channels, the run has 1"),
        ({"classes": ("cat", "eel", "fox")}, "2 of its classes are not among the run's 2"),
        ({"mask_classes": 3}, "its masks have 3 classes, the run has 0"),
    ],
)
def test_a_new_site_that_does_not_fit_is_named(said: dict[str, Any], text: str) -> None:
    assert errors("abc", c=facts(**said)) == (f"c: {text}",)


def test_a_new_site_must_give_facts() -> None:
    assert errors("abc", c=AWAY) == ("c: it is not connected",)


def test_other_versions_are_an_error_also_later() -> None:
    of_b = EARLIER["b"]
    newer = Facts(**{**vars(of_b), "versions": ("fedpretrain 0.2.0", "torch 2.11.0")})
    assert errors(b=newer)[1] == "b has fedpretrain 0.2"
    patched = Facts(**{**vars(of_b), "versions": ("fedpretrain 0.1.7", "torch 2.11.0")})
    assert again(b=patched).facts["b"] == patched
