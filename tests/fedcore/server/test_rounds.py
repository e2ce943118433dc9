from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Empty, Weights
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.privacy.policy import Policy
from fedcore.runs.communication import RoundRecord
from fedcore.server.rounds import QuorumMissed, Rounds
from fedcore.site.site import Site
from fedcore.training.callbacks import LocalCallback
from fedcore.training.local_trainer import LocalTrainer
from tests.fedcore.federating import federate, same
from tests.fedcore.server.toy_evaluation import Curious
from tests.fedcore.toy_exchanges import Sender
from tests.fedcore.toys import Hospitals, broken, hospitals, images, local, with_callbacks


def run(
    transport: Hospitals, rounds: int = 2, evaluator: object = None, every: int = 5
) -> tuple[Weights, list[RoundRecord]]:
    records: list[RoundRecord] = []
    state = federate(
        FedAvg(), transport, FedAvg().start(transport.local), Rounds(rounds), 0, evaluator=evaluator, every=every,
        finished=lambda record, state: records.append(record),
    )  # fmt: skip
    return state, records


def test_the_draw_depends_on_seed_and_round_alone() -> None:
    names, rounds = [f"site_{i}" for i in range(20)], Rounds(50, per_round=4)
    draws = [tuple(rounds.draw(names, Round(i, 50, 0))) for i in range(50)]
    random.seed(1)
    assert [tuple(rounds.draw(names, Round(i, 50, 0))) for i in range(50)] == draws
    assert [tuple(rounds.draw(names, Round(i, 50, 1))) for i in range(50)] != draws
    assert all(len(set(draw)) == 4 for draw in draws)
    assert set().union(*draws) == set(names)  # nobody is left out for ever


@pytest.mark.parametrize("per_round", [None, 3, 9])
def test_all_sites_take_part_where_no_fewer_are_asked_for(per_round: int | None) -> None:
    assert Rounds(1, per_round).draw(["a", "b", "c"], Round(0, 1, 0)) == ["a", "b", "c"]


@pytest.mark.parametrize(("count", "per_round"), [(0, None), (3, 0), (-1, 2)])
def test_a_schedule_has_rounds_and_sites(count: int, per_round: int | None) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Rounds(count, per_round)


def test_only_chosen_sites_are_visited() -> None:
    algorithm, records = Sender({name: Empty() for name in "abcd"}), []
    transport = Hospitals(hospitals("abcd"), local())
    federate(algorithm, transport, Weights({}), Rounds(3, per_round=2), 5, finished=lambda r, _: records.append(r))
    drawn = [Rounds(3, 2).draw(list("abcd"), Round(i, 3, 5)) for i in range(3)]
    assert [list(record.sites) for record in records] == drawn
    assert algorithm.merged == [name for names in drawn for name in names]


def test_a_site_of_nan_is_refused_by_name_and_the_round_goes_on_without_it() -> None:
    sick = hospitals("abc") | {"b": broken("b")}
    transport = Hospitals(sick, local())
    state, records = run(transport)
    without, _ = run(Hospitals({name: sick[name] for name in "ac"}, local()))
    assert same(state.tensors, without.tensors)
    assert [record.refused.keys() for record in records] == [{"b"}, {"b"}]
    assert "loss became nan" in records[0].refused["b"]
    assert transport.memories.get("b") == {}


def test_no_site_left() -> None:
    transport = Hospitals({name: broken(name) for name in "ab"}, local())
    with pytest.raises(QuorumMissed, match=r"round 0: no site gave a usable answer\n  a: .*nan.*\n  b: .*nan"):
        run(transport)


def test_what_an_error_says_stays_at_its_site(tmp_path: Path) -> None:
    """A reader's error may quote a patient's name; the server learns the error's kind."""
    secret = "patient John, /clinic/john.dcm"
    algorithm = Sender({"a": Empty(), "b": RuntimeError(secret)})
    transport = Hospitals(hospitals("ab"), local(), folder=tmp_path)
    records: list[RoundRecord] = []
    federate(algorithm, transport, Weights({}), Rounds(2), 0, finished=lambda record, _: records.append(record))
    told = json.dumps([record.as_dict() for record in records])
    assert "John" not in told
    assert records[0].refused == {"b": "RuntimeError during train; see errors.jsonl of the site"}
    holders = [path for path in tmp_path.rglob("*") if path.is_file() and "John" in path.read_text()]
    assert holders == [tmp_path / "b" / "errors.jsonl"]
    first, second = map(json.loads, holders[0].read_text().splitlines())
    assert (first["round"], second["round"]) == (0, 1)
    assert first["error"] == f"RuntimeError: {secret}"
    assert "in visit" in first["trace"]


def test_the_end_of_a_run_says_no_more_but_completes_the_traceback() -> None:
    error = RuntimeError("patient John")
    with pytest.raises(QuorumMissed) as caught:
        federate(Sender({"a": error}), Hospitals(hospitals("a"), local()), Weights({}), Rounds(1), 0)
    assert "John" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_a_round_begun_later_goes_on_as_if_it_had_never_stopped() -> None:
    whole = Hospitals(hospitals("abc"), local())
    expected, _ = run(whole, 4)
    parts, states = Hospitals(hospitals("abc"), local()), []
    state = FedAvg().start(parts.local)

    def stop(record: RoundRecord, now: Weights) -> None:
        states.append(now)
        if record.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        federate(FedAvg(), parts, state, Rounds(4), 0, finished=stop)
    fresh = Hospitals(hospitals("abc"), local(), memories=parts.memories)
    resumed = federate(FedAvg(), fresh, states[-1], Rounds(4), 0, begin=2)
    assert same(resumed.tensors, expected.tensors)


def test_contributions_are_a_stream() -> None:
    """The second site is visited only after the first one's answer was merged: one model of memory."""
    events: list[str] = []

    class Watching(FedAvg):
        def merge(self, state: Weights, contributions: Iterable[Contribution[Weights]]) -> Weights:
            events.extend(f"merged {c.site}" for c in contributions)
            return state

    transport = Hospitals(hospitals("ab"), local(), on_visit=lambda site: events.append(f"at {site}"))
    federate(Watching(), transport, FedAvg().start(transport.local), Rounds(1), 0)
    assert events == ["at a", "merged a", "at b", "merged b"]


def test_the_policy_holds_for_the_loop_too() -> None:
    transport = Hospitals({"a": images()}, local(), policy=Policy(metrics=False))
    _, records = run(transport, 1)
    assert records[0].sites["a"].metrics == {}


class InPlace(FedAvg):
    """Averages into the server's own tensors, which the sites that are still to come are sent."""

    def merge(self, state: Weights, contributions: Iterable[Contribution[Weights]]) -> Weights:
        for n, c in enumerate(contributions, 1):
            for name, t in c.message.tensors.items():
                state.tensors[name] += ((t - state.tensors[name]) / n).to(t.dtype)
        return state


class Scribble(Callback):
    def __init__(self, anchor: Tensors):
        anchor["layer.weight"].mul_(2)


@dataclass(frozen=True)
class Scribbling:
    def callback(self, anchor: Tensors, site: Site, turn: Round) -> Callback:
        return Scribble(anchor)


class Measuring(Curious):
    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Empty]:
        down.tensors["layer.weight"].zero_()
        return super().visit(site, down, local, turn)


@pytest.mark.parametrize(
    ("algorithm", "callbacks", "evaluator", "names", "who"),
    [
        (InPlace(), (), None, "ab", "InPlace"),
        (FedAvg(), (Scribbling(),), None, "a", "FedAvg"),
        (FedAvg(), (), Measuring(), "a", "evaluate"),
    ],
    ids=["merge", "callback", "evaluation"],
)
def test_what_writes_into_the_servers_state_ends_the_run(
    algorithm: FedAvg, callbacks: tuple[LocalCallback, ...], evaluator: object, names: str, who: str
) -> None:
    transport = with_callbacks(Hospitals(hospitals(names), local()), *callbacks)
    seen: list[str] = []
    transport.on_visit = seen.append
    with pytest.raises(InputError, match=rf"{who} .* wrote into tensors/layer.*, a tensor of the server's state"):
        federate(algorithm, transport, algorithm.start(transport.local), Rounds(2), 0, evaluator=evaluator, every=1)
    assert seen == (["a", "a"] if evaluator else ["a"])  # nobody is sent what was not meant


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ({"w": torch.ones(1)}, r"w has shape \(1,\), and at the server it is \(5,\)"),
        ({"w": torch.ones(5), "v": torch.ones(1)}, r"v has shape \(1,\), and at the server it is missing"),
        ({"w": torch.full((5,), torch.inf)}, "tensors/w is not finite"),
    ],
    ids=["shape", "name", "infinite"],
)
def test_an_answer_that_cannot_be_used_is_rejected_and_booked(sent: Tensors, why: str) -> None:
    class Averaging(Sender):
        def start(self, local: LocalTrainer) -> Weights:
            return Weights({"w": torch.zeros(5)})

        def merge(self, state: Weights, contributions: Iterable[Contribution[Weights]]) -> Weights:
            return FedAvg().merge(state, contributions)

    algorithm, records = Averaging({"a": Weights({"w": torch.full((5,), 3.0)}), "b": Weights(sent)}), []
    transport = Hospitals(hospitals("ab"), local())
    state = federate(
        algorithm, transport, algorithm.start(transport.local), Rounds(1), 0, finished=lambda r, _: records.append(r)
    )
    assert torch.equal(state.tensors["w"], torch.full((5,), 3.0))
    assert re.search(f"its answer was rejected: {why}", records[0].refused["b"])
    assert records[0].sites["b"].up.weights == sum(4 * t.numel() for t in sent.values())
    with pytest.raises(QuorumMissed, match=why):
        federate(algorithm, Hospitals(hospitals("b"), local()), Weights({"w": torch.zeros(5)}), Rounds(1), 0)
