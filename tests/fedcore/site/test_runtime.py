from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import Refused
from fedcore.messages.agreement import Agreement, Built, Facts
from fedcore.messages.answer import Answer, Contribution, Refusal
from fedcore.messages.encoding import kinds_of_messages
from fedcore.messages.message import Empty, Message, Weights
from fedcore.messages.request import BUILD, EVALUATE, FACTS, TRAIN, Counted, Request
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.messages.wire import answer_of, request_bytes
from fedcore.privacy.policy import Policy
from fedcore.site.facts import facts_of
from fedcore.site.memory import Memory, MemoryInRam
from fedcore.site.runtime import CANNOT_WRITE, SiteRuntime, Workplace
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from tests.fedcore.federating import same
from tests.fedcore.privacy.test_audit_log import RICH
from tests.fedcore.toys import hospitals, local

PATIENT = "Jane Doe"
TURN = Round(2, 9, 0)
AGREED = Agreement((), 1, (8, 8), ("a",))
IMAGES = hospitals("a")["a"]


@dataclass
class Says:
    """A visitor that trains nothing, and remembers the round."""

    metric_names = ("loss",)
    said: Message | BaseException
    seen: dict[str, Any] | None = None

    def visit(self, site: Site, down: Message, local: LocalTrainer, turn: Round) -> Contribution[Any]:
        self.seen = dict(site.memory)
        site.memory = {"own/round": torch.tensor(turn.index)}
        if isinstance(self.said, BaseException):
            raise self.said
        return Contribution(site.name, self.said, 3, {"loss": 0.12345678})


def settled(agreement: Agreement | None, trainer: LocalTrainer, words: Mapping[str, Any]) -> Workplace:
    if agreement is None:
        raise Refused("there is no agreement yet; request the facts first")
    return Workplace(IMAGES, None, trainer, words, "abc")


def site(
    folder: Path | None = None, memory: Memory | None = None, policy: Policy = Policy(), **words: Any
) -> SiteRuntime:
    trainer = local()
    return SiteRuntime(
        "a", lambda: facts_of(IMAGES, None, policy), lambda agreement: settled(agreement, trainer, words), policy,
        memory or MemoryInRam(), folder, "digest of the recipe",
    )  # fmt: skip


def request(word: str = TRAIN, message: Message | None = None, **more: Any) -> Request:
    return replace(Request("a", word, message or Empty(), TURN, None, AGREED, "a run"), **more)


def asked(runtime: SiteRuntime, request: Request) -> Answer:
    """Through bytes, as a server asks."""
    return answer_of(runtime.handle(request_bytes(request)), "a", kinds_of_messages())


def declined(answer: Answer) -> str:
    assert isinstance(answer, Refusal), answer
    assert PATIENT not in answer.reason
    return answer.reason


def lines(folder: Path, name: str = "audit.jsonl") -> list[dict[str, Any]]:
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_site_says_its_facts_before_anything_was_agreed_on(tmp_path: Path) -> None:
    answer = asked(site(tmp_path), request(FACTS, agreement=None))
    assert isinstance(answer, Contribution)
    assert isinstance(answer.message, Facts)
    assert (answer.message.train, answer.message.size, answer.examples) == (8, (8, 8), 0)
    *facts, scalars = lines(tmp_path)
    assert {line["message"] for line in facts} == {"Facts"}
    assert scalars["values"] == {"examples": 0.0, "seconds": 0.0}
    assert {(line["run"], line["recipe"]) for line in lines(tmp_path)} == {("a run", "digest of the recipe")}


def test_a_site_says_that_it_has_built_its_module() -> None:
    answer = asked(site(), request(BUILD))
    assert isinstance(answer, Contribution)
    assert answer.message == Built("abc")


def test_a_visit_by_bytes_equals_one_without() -> None:
    down = FedAvg().start(local())
    direct, by_bytes = site(train=FedAvg()), site(train=FedAvg())
    one, two = direct.answer(request(message=down)), asked(by_bytes, request(message=down))
    assert isinstance(one, Contribution)
    assert isinstance(two, Contribution)
    assert same(one.message.tensors, two.message.tensors)  # type: ignore[attr-defined]
    assert not same(one.message.tensors, down.tensors)  # type: ignore[attr-defined]
    assert (one.metrics, one.examples, one.keeps, one.reveals) == (two.metrics, two.examples, two.keeps, two.reveals)
    assert same(direct.memory.get(Counted(2, True)), by_bytes.memory.get(Counted(2, True)))
    assert by_bytes.memory.get(Counted(2, True)).keys() == {"module/seen"}


def test_a_word_that_the_recipe_does_not_know_is_declined(tmp_path: Path) -> None:
    reason = declined(asked(site(tmp_path, train=FedAvg()), request(f"open {PATIENT}")))
    assert reason == "the recipe has no request of this name"
    (line,) = lines(tmp_path)
    assert (line["what"], line["text"], line["round"], line["to"]) == ("refusal", reason, 2, "server")


@pytest.mark.parametrize("word", ["__class__", "settle", "handle", "", "visit"])
def test_a_word_is_never_an_attribute(word: str) -> None:
    assert declined(asked(site(), request(word))) == "the recipe has no request of this name"


def test_a_request_for_another_site_is_declined() -> None:
    answer = site(train=FedAvg()).answer(request(site="b"))
    assert isinstance(answer, Refusal)
    assert (answer.site, answer.reason) == ("a", "the request is for another site")


@pytest.mark.parametrize("word", [FACTS, BUILD, TRAIN, EVALUATE])
def test_a_server_with_another_recipe_is_declined(word: str, tmp_path: Path) -> None:
    runtime = site(tmp_path, train=FedAvg())
    reason = declined(asked(runtime, request(word, recipe="another digest")))
    assert reason == "the server runs another recipe; the digest of this site's is digest of th..."
    assert [line["text"] for line in lines(tmp_path)] == [reason]
    assert not isinstance(asked(runtime, request(FACTS, recipe="digest of the recipe")), Refusal)


@pytest.mark.parametrize("word", [BUILD, TRAIN, EVALUATE])
def test_before_the_agreement_nothing_but_facts_is_said(word: str) -> None:
    reason = declined(asked(site(train=FedAvg()), request(word, agreement=None)))
    assert reason == "there is no agreement yet; request the facts first"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Refused("too loud"), "too loud"),
        (ValueError(f"{PATIENT} has no labels"), "ValueError during train; see errors.jsonl of the site"),
        (MemoryError(PATIENT), "MemoryError during train; see errors.jsonl of the site"),
        (RecursionError(PATIENT), "RecursionError during train; see errors.jsonl of the site"),
    ],
    ids=repr,
)
def test_the_text_of_an_error_stays_at_the_site(error: Exception, reason: str, tmp_path: Path) -> None:
    assert declined(asked(site(tmp_path, train=Says(error)), request())) == reason
    (line,) = lines(tmp_path)
    assert (line["what"], line["text"]) == ("refusal", reason)
    kept = lines(tmp_path, "errors.jsonl")
    assert len(kept) == (0 if isinstance(error, Refused) else 1)
    assert all(PATIENT in line["error"] and "Traceback" in line["trace"] for line in kept)


def test_an_error_during_another_word_does_not_repeat_the_word() -> None:
    reason = declined(asked(site(**{PATIENT: Says(ValueError())}), request(PATIENT)))
    assert reason == "ValueError during a query; see errors.jsonl of the site"


def test_a_message_of_another_kind_than_the_word_takes_is_an_error_at_the_site() -> None:
    assert declined(asked(site(train=FedAvg()), request())).endswith("during train; see errors.jsonl of the site")


def test_weights_of_another_module_are_an_error_at_the_site() -> None:
    down = Weights({"layer.weight": torch.zeros(1, 1)})
    assert declined(asked(site(train=FedAvg()), request(message=down))).startswith("InputError during train")


@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"{" * 99], ids=repr)
def test_bytes_that_are_no_request_are_declined_and_audited(data: bytes, tmp_path: Path) -> None:
    reason = declined(answer_of(site(tmp_path).handle(data), "a", kinds_of_messages()))
    assert reason.startswith("the request cannot be read: it")
    (line,) = lines(tmp_path)
    assert (line["what"], line["text"], line["round"]) == ("refusal", reason, 0)


def test_the_policy_is_applied_to_what_leaves(tmp_path: Path) -> None:
    reason = declined(asked(site(tmp_path, train=Says(RICH)), request()))
    assert "reveals FEATURES (rows)" in reason
    assert [line["what"] for line in lines(tmp_path)] == ["refusal"]


def test_what_leaves_is_what_the_audit_log_says(tmp_path: Path) -> None:
    answer = asked(site(tmp_path, train=Says(Weights({"w": torch.ones(3)}))), request())
    assert isinstance(answer, Contribution)
    assert (answer.metrics, answer.reveals, answer.keeps) == ({"loss": 0.123457}, Reveals.STATISTICS, True)
    weights, scalars, metrics = lines(tmp_path)
    assert (weights["what"], weights["bytes"]) == ("weights", 12)
    assert scalars["values"] == {"examples": 3.0, "seconds": answer.seconds}
    assert metrics["values"] == answer.metrics


def test_every_line_of_the_audit_log_has_the_next_number(tmp_path: Path) -> None:
    for word in (FACTS, "unknown", TRAIN):
        asked(site(tmp_path, train=Says(Empty())), request(word))
    assert [line["seq"] for line in lines(tmp_path)] == list(range(len(lines(tmp_path))))


@pytest.mark.parametrize("word", [FACTS, TRAIN, "another"])
def test_nothing_leaves_a_site_that_cannot_write_its_audit_log(word: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file where the site's folder should be")
    runtime = site(tmp_path / "a", train=FedAvg())
    assert declined(asked(runtime, request(word))) == CANNOT_WRITE
    assert declined(answer_of(runtime.handle(b"no request"), "a", kinds_of_messages())) == CANNOT_WRITE
    assert declined(asked(site(tmp_path / "a", train=Says(ValueError(PATIENT))), request())) == CANNOT_WRITE


def test_an_error_that_cannot_be_kept_at_the_site_is_declined_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "errors.jsonl").mkdir()
    reason = declined(asked(site(tmp_path, train=Says(ValueError(PATIENT))), request()))
    assert reason == "ValueError during train; see errors.jsonl of the site"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_stopping_is_no_refusal(stop: BaseException) -> None:
    with pytest.raises(KeyboardInterrupt):
        site(train=Says(stop)).handle(request_bytes(request()))


@dataclass
class Lifted(Says):
    """Its answers may reveal samples."""

    def answer_policy(self, policy: Policy) -> Policy:
        return replace(policy, max_level=Reveals.SAMPLES)


def test_a_word_may_lift_the_policy_for_its_own_answers(tmp_path: Path) -> None:
    seen: list[Policy] = []

    class Looks(Lifted):
        def visit(self, site: Site, down: Message, local: LocalTrainer, turn: Round) -> Contribution[Any]:
            seen.append(site.policy)
            return super().visit(site, down, local, turn)

    runtime = site(tmp_path, policy=Policy(Reveals.STATISTICS), query=Looks(RICH), other=Says(RICH))
    assert isinstance(asked(runtime, request("query")), Contribution)
    assert "the policy allows STATISTICS" in declined(asked(runtime, request("other")))
    assert isinstance(asked(runtime, request("query")), Contribution)
    assert {policy.max_level for policy in seen} == {Reveals.STATISTICS}
