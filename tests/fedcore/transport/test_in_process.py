from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedcore.errors import Refused
from fedcore.messages.answer import Contribution, Refusal
from fedcore.messages.message import Empty, Weights
from fedcore.messages.round import Round
from fedcore.privacy.policy import Policy
from tests.fedcore.privacy.test_audit_log import RICH
from tests.fedcore.toy_exchanges import Sender
from tests.fedcore.toys import Hospitals, Remembered, hospitals, images, local

TURN = Round(4, 9, 0)
HEAVY = Weights({"w": torch.zeros(3)})


def ask(transport: Hospitals, visitor: object) -> list[Contribution | Refusal]:
    return list(transport.ask(visitor, ((name, Weights({})) for name in transport.names()), TURN))


def test_answers_come_one_after_another() -> None:
    """Nothing is visited before it is asked for, so one contribution is in memory at a time."""
    visited: list[str] = []
    transport = Hospitals(hospitals("ab"), local(), on_visit=visited.append)
    answers = transport.ask(Sender(dict.fromkeys("ab", HEAVY)), ((n, Weights({})) for n in "ab"), TURN)
    assert visited == []
    assert next(answers).site == "a"
    assert visited == ["a"]


def test_an_answer_is_timed() -> None:
    (answer,) = ask(Hospitals(hospitals("a"), local()), Sender({"a": HEAVY}))
    assert isinstance(answer, Contribution)
    assert answer.seconds > 0


def test_the_policy_refuses_at_the_site_and_its_memory_stays() -> None:
    memories = Remembered({"a": {"module/seen": torch.tensor(7.0)}})
    transport = Hospitals(hospitals("ab"), local(), memories=memories, policy=Policy())
    refused, answered = ask(transport, Sender({"a": RICH, "b": HEAVY}))
    assert isinstance(refused, Refusal)
    assert "reveals FEATURES (rows)" in refused.reason
    assert isinstance(answered, Contribution)
    assert memories.get("a") == {"module/seen": torch.tensor(7.0)}


@pytest.mark.parametrize("error", [Refused("too loud"), ValueError("patient John"), MemoryError()], ids=repr)
def test_a_site_that_fails_keeps_its_memory_and_its_neighbours_go_on(error: Exception, tmp_path: Path) -> None:
    memories = Remembered({"b": {"module/seen": torch.tensor(7.0)}})
    transport = Hospitals(hospitals("abc"), local(), memories=memories, folder=tmp_path)
    a, b, c = ask(transport, Sender({"a": HEAVY, "b": error, "c": HEAVY}))
    assert isinstance(a, Contribution)
    assert isinstance(c, Contribution)
    assert isinstance(b, Refusal)
    assert "John" not in b.reason
    assert b.reason == "too loud" or b.reason.startswith(f"{type(error).__name__} during train")
    assert memories.get("b") == {"module/seen": torch.tensor(7.0)}
    assert memories.held.keys() == {"a", "b", "c"}
    assert (tmp_path / "b" / "errors.jsonl").exists() == (not isinstance(error, Refused))


def test_stopping_is_no_failure_of_a_site() -> None:
    class Stop:
        def visit(self, *_: object) -> Contribution[Empty]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(Hospitals(hospitals("a"), local()), Stop())


def test_lightnings_way_of_stopping_is_stopping() -> None:
    class Fit:
        def visit(self, *_: object) -> Contribution[Empty]:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                raise SystemExit(1)  # noqa: B904  # as Trainer.fit does

    with pytest.raises(KeyboardInterrupt):
        ask(Hospitals(hospitals("a"), local()), Fit())


def test_a_site_has_its_images_and_its_memory() -> None:
    train, test = images("a", 5), images("a", 3)
    transport = Hospitals({"a": train}, local(), {"a": test}, memories=Remembered({"a": {"x": torch.ones(1)}}))
    site = transport.site("a")
    assert (site.name, site.images, site.test) == ("a", train, test)
    assert site.memory.keys() == {"x"}
    assert Hospitals({"a": train}, local()).site("a").test is None
