"""Evaluation between rounds."""

from __future__ import annotations

import pytest

from fedcore.algorithms.fedavg import FedAvg
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Empty, Weights
from fedcore.messages.round import Round
from fedcore.runs.communication import RoundRecord
from fedcore.server.rounds import PeriodicEvaluation, Rounds
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from tests.fedcore.federating import federate, same
from tests.fedcore.server.test_rounds import run
from tests.fedcore.server.toy_evaluation import Curious
from tests.fedcore.toys import Hospitals, hospitals, local


def test_an_evaluation_leaves_no_trace_in_the_run_or_the_memories() -> None:
    plain, asked = (Hospitals(hospitals("ab"), local()) for _ in range(2))
    (expected, _), (state, records) = run(plain, 3), run(asked, 3, Curious())
    assert same(state.tensors, expected.tensors)
    for name in "ab":
        assert same(asked.memories.get(name), plain.memories.get(name))
    assert records[-1].evaluation["a"] == {"weights": pytest.approx(float(state.tensors["layer.weight"].mean()))}


def test_an_evaluation_asks_the_sites_of_its_round_and_every_site_after_the_last() -> None:
    records: list[RoundRecord] = []
    federate(
        FedAvg(), transport := Hospitals(hospitals("abc"), local()), FedAvg().start(transport.local),
        Rounds(5, per_round=1), 0, evaluator=Curious(), every=2,
        finished=lambda r, _: records.append(r),
    )  # fmt: skip
    drawn = [set(Rounds(5, per_round=1).draw("abc", Round(index, 5, 0))) for index in range(5)]
    assert [set(record.evaluation) for record in records] == [set(), drawn[1], set(), drawn[3], {*"abc"}]
    assert [set(record.sites) for record in records] == [*drawn[:4], {*"abc"}]
    assert sum(map(len, drawn)) == 5


def test_an_evaluation_is_due_every_fifth_round_and_after_the_last_unless_it_says_otherwise() -> None:
    assert [index for index in range(12) if PeriodicEvaluation().due(Round(index, 12, 0))] == [4, 9, 11]


def test_an_evaluation_is_sent_the_weights_and_nothing_else() -> None:
    from fedcore.exchanges.base import WithExchange
    from tests.fedcore.toy_exchanges import ShareTotals

    heard: list[object] = []

    class Listener(Curious):
        def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Empty]:
            heard.append(type(down))
            return super().visit(site, down, local, turn)

    transport = Hospitals(hospitals("a"), local())
    carry = WithExchange(FedAvg(), exchange=ShareTotals())
    federate(carry, transport, carry.start(transport.local), Rounds(1), 0, evaluator=Listener())
    assert heard == [Weights]
