"""Deadlines, late and lost sites, and messages that are encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from fedcore.messages.answer import Answer, Contribution, Refusal
from fedcore.messages.message import Weights
from fedcore.messages.request import TRAIN, Request
from fedcore.messages.round import Round
from fedcore.messages.wire import answer_bytes, request_of
from fedcore.transport.base import Transport
from fedcore.transport.remote import Carrier, Remote, Restart

SITES = ("a", "b", "c")


@dataclass
class Timed:
    """A carrier in a time of its own: a site works on one request after another, each for its `seconds`."""

    seconds: dict[str, float]
    now: float = 0.0
    away: dict[str, str] = field(default_factory=dict)
    restart: bool = False
    sent: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    free: dict[str, float] = field(default_factory=dict)
    waiting: list[tuple[float, int, bytes | str]] = field(default_factory=list)
    answers: dict[str, bytes | str] = field(default_factory=dict)

    def names(self) -> Sequence[str]:
        return SITES

    def send(self, site: str, head: bytes, message: bytes) -> int:
        self.sent.append((site, head, message))
        self.free[site] = max(self.now, self.free.get(site, 0.0)) + self.seconds[site]
        answer = self.answers.get(site, answer_bytes(Contribution(site, Weights({"w": torch.ones(1)}), 1)))
        self.waiting.append((self.free[site], len(self.sent), answer))
        return len(self.sent)

    def receive(self, timeout: float) -> tuple[int, bytes | str] | None:
        self.waiting.sort(key=lambda of: of[:2])
        if self.waiting and self.waiting[0][0] <= self.now + timeout:
            at, number, answer = self.waiting.pop(0)
            self.now = max(self.now, at)
            return number, answer
        self.now += timeout
        return None

    def lost(self) -> Mapping[str, str]:
        if self.restart:
            raise Restart
        return self.away


def requests(sites: Sequence[str] = SITES, weights: Weights | None = None) -> Iterator[Request]:
    message = weights or Weights({"w": torch.zeros(3)})
    yield from (Request(site, TRAIN, Weights(dict(message.tensors)), Round(0, 9, 0)) for site in sites)


def ask(remote: Remote, deadline: float | None = None) -> list[Answer]:
    return list(remote.ask(requests(), deadline))


def refused(answers: Sequence[Answer]) -> dict[str, str]:
    return {answer.site: answer.reason for answer in answers if isinstance(answer, Refusal)}


def remote_of(**seconds: float) -> tuple[Remote, Timed]:
    carrier = Timed({site: seconds.get(site, 1.0) for site in SITES})
    return Remote(carrier, clock=lambda: carrier.now), carrier


def test_it_is_a_transport_over_a_carrier() -> None:
    remote, carrier = remote_of()
    assert isinstance(remote, Transport)
    assert isinstance(carrier, Carrier)
    assert list(remote.names()) == list(SITES)


def test_sites_work_at_the_same_time_and_answers_come_in_the_order_of_requests() -> None:
    remote, carrier = remote_of(a=30.0, b=1.0, c=10.0)
    assert [answer.site for answer in ask(remote)] == list(SITES)
    assert carrier.now == 30.0


def test_equal_messages_are_encoded_once_and_others_by_themselves() -> None:
    remote, carrier = remote_of()
    ask(remote)
    assert len({id(message) for _, _, message in carrier.sent}) == 1
    assert len({head for _, head, _ in carrier.sent}) == 3
    for site, head, message in carrier.sent:
        assert request_of(head + message, {"fedcore.messages.message.Weights": Weights}).site == site
    other = Weights({"w": torch.ones(3)})
    list(remote.ask(iter([*requests(["a"]), *requests(["b"], other)])))
    assert carrier.sent[-1][2] != carrier.sent[-2][2]
    assert torch.equal(request_of(b"".join(carrier.sent[-1][1:]), {"fedcore.messages.message.Weights": Weights})
                       .message.tensors["w"], torch.ones(3))  # fmt: skip


def test_a_late_site_is_left_out_once_and_counts_in_every_round_after() -> None:
    remote, carrier = remote_of(b=15.0)
    assert refused(ask(remote, 8.0)) == {"b": "it gave no answer after 8 seconds"}
    for _ in range(5):
        assert not refused(ask(remote, 8.0))
    begun = carrier.now
    assert not refused(ask(remote, 8.0))
    assert carrier.now - begun == 15.0


def test_a_site_that_stays_silent_costs_a_deadline_and_is_not_sent_more_and_more() -> None:
    remote, carrier = remote_of(b=1e9)
    reasons = [refused(ask(remote, 8.0))["b"] for _ in range(9)]
    assert reasons[0] == "it gave no answer after 8 seconds"
    assert all("still worked on an earlier request" in reason for reason in reasons[1:])
    assert reasons[-1].endswith("after 32 seconds")
    assert [site for site, *_ in carrier.sent].count("b") == 1


def test_without_a_deadline_a_site_has_all_the_time() -> None:
    remote, carrier = remote_of(b=1e3)
    assert not refused(ask(remote))
    assert carrier.now == 1e3


def test_a_lost_site_is_refused_at_once_with_the_reason_and_sent_nothing() -> None:
    remote, carrier = remote_of()
    carrier.away = {"c": "it is not connected"}
    assert refused(ask(remote)) == {"c": "it is not connected"}
    assert [site for site, *_ in carrier.sent] == ["a", "b"]


def test_a_site_lost_while_it_works_is_not_waited_for() -> None:
    remote, carrier = remote_of(c=1e9)
    answers = remote.ask(requests())
    assert next(answers).site == "a"
    carrier.away = {"c": "it is not connected"}
    assert refused(list(answers)) == {"c": "it is not connected"}


def test_a_restart_ends_the_round_which_is_repeated_with_all_sites() -> None:
    remote, carrier = remote_of(b=5.0)
    answers = remote.ask(requests())
    next(answers)
    carrier.restart = True
    with pytest.raises(Restart):
        list(answers)
    with pytest.raises(Restart):
        ask(remote)
    assert len(carrier.sent) == 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("its engine answered EXECUTION_EXCEPTION", "its engine answered EXECUTION_EXCEPTION"),
        (b"noise", "its answer cannot be read"),
        (answer_bytes(Contribution("a", Weights({}), 1)), "it names a different site"),
    ],
)
def test_an_answer_that_is_none_is_a_refusal_of_its_site(answer: bytes | str, reason: str) -> None:
    remote, carrier = remote_of()
    carrier.answers = {"b": answer}
    found = refused(ask(remote))
    assert found.keys() == {"b"}
    assert reason in found["b"]
