"""A hospital that receives requests of which bits, pieces or values are not as they were written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedcore.messages.agreement import Agreement
from fedcore.messages.answer import Contribution, Refusal
from fedcore.messages.encoding import kinds_of_messages
from fedcore.messages.message import Weights
from fedcore.messages.request import BUILD, FACTS, TRAIN, Counted
from fedcore.messages.wire import LONGEST_REASON, answer_of, request_bytes
from fedcore.site.home import SiteHome
from fedcore.site.host import SiteHost
from tests.fedcore.site.homes import NAMES, accept, asked, new_home, proposal, request, shared, two_manifests
from tests.fedcore.site.mutations import mutated

RECIPE = shared("pretrain", "--visit.max_steps", "0", "--probe", "null")
WAITING = shared("pretrain", "--seed", "1")


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    manifests = two_manifests(tmp_path / "phantoms")
    home = new_home(tmp_path / "home", NAMES[0], manifests[NAMES[0]])
    accept(home, RECIPE)
    return home


def requests(host: SiteHost) -> list[bytes]:
    facts = asked(host, request(FACTS, RECIPE.digest))
    assert isinstance(facts, Contribution)
    of = facts.message
    agreement = Agreement(of.classes, of.channels, of.size, NAMES)  # type: ignore[attr-defined]
    made = [
        request(FACTS, RECIPE.digest), request(BUILD, RECIPE.digest, agreement=agreement),
        request(BUILD, RECIPE.digest, Weights({}), agreement=agreement), proposal(WAITING),
        request(TRAIN, RECIPE.digest, Weights({}), agreement=agreement),
        request(TRAIN, RECIPE.digest, Weights({}), agreement=agreement, counted=Counted(0, False)),
    ]  # fmt: skip
    return [request_bytes(each) for each in made]


@pytest.mark.parametrize("count", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_hospital_answers_whatever_it_receives_and_writes_nowhere_else(
    home: SiteHome, tmp_path: Path, count: int
) -> None:
    host = SiteHost(home)
    originals = requests(host)
    for data in originals:
        assert isinstance(answer_of(host.handle(data), NAMES[0], kinds_of_messages()), Contribution), data[:300]
    modules, files = {*sys.modules}, {path for path in tmp_path.rglob("*") if home.path not in path.parents}
    refused = answered = 0
    for data in mutated(originals, count, seed=3):
        answer = answer_of(host.handle(data), NAMES[0], kinds_of_messages())
        if isinstance(answer, Refusal):
            refused += 1
            assert answer.reason.isprintable()
            assert len(answer.reason) <= LONGEST_REASON
            assert str(tmp_path) not in answer.reason
        else:
            answered += 1
    assert refused > count // 3
    assert answered > 0
    new = {name for name in {*sys.modules} - modules if not name.startswith(("beartype", "wadler_lindig"))}
    assert new == set()
    assert {path for path in tmp_path.rglob("*") if home.path not in path.parents} == files
    kept = {path.relative_to(home.path).parts[0] for path in home.path.rglob("*")}
    assert kept <= {"site.yaml", "cache", "proposed", "approved", "runs", "audit.jsonl", "errors.jsonl"}
    assert [path.stem for path in home.approved.iterdir()] == [RECIPE.digest]
