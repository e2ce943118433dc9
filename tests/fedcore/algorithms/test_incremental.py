from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.algorithms.ditto import Ditto
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.incremental import Incremental
from fedcore.algorithms.properties import chooser_of
from fedcore.algorithms.quantised import Int8Delta, Quantised, QuantisedState
from fedcore.errors import InputError
from fedcore.exchanges.base import Combined, WithExchange
from fedcore.messages.message import Empty, Weights
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.runs.communication import RoundRecord
from fedcore.server.rounds import QuorumMissed, Rounds
from fedcore.training.visit import Visit
from tests.fedcore.federating import assert_resumes, federate, run, same
from tests.fedcore.toy_exchanges import ShareTotals
from tests.fedcore.toys import Hospitals, Toy, batches, broken, central, hospitals, local, plain

VISIT = Visit(batch_size=4, max_epochs=2, accelerator="cpu")


def sites(names: str = "abc") -> Hospitals:
    return Hospitals(hospitals(names), local(VISIT, Toy(plain)))


def as_loops(order: str) -> Tensors:
    """One model that is trained on one site's images after another's."""
    module, data = Toy(plain), hospitals("abc")
    for index, name in enumerate(order):
        optimizer = module.configure_optimizers()
        for batch in batches(data[name], VISIT, Round(index, len(order), 0)):
            optimizer.zero_grad()
            module.loss(batch).backward()
            optimizer.step()
    return {k: t for k, t in module.state_dict().items() if k != "seen"}


@pytest.mark.parametrize("order", ["abc", "abcabc", "abcab"], ids=["IIL", "CIIL", "a cycle and a part"])
def test_it_equals_one_model_trained_on_one_site_after_another(order: str) -> None:
    assert same(run(Incremental(), sites(), Rounds(len(order))).tensors, as_loops(order))


def test_a_round_has_one_site_and_sends_nothing_to_the_others() -> None:
    records: list[RoundRecord] = []
    transport = sites()
    start = Incremental().start(transport.local)
    federate(Incremental(), transport, start, Rounds(4), 0, finished=lambda record, _: records.append(record))
    assert [list(record.sites) for record in records] == [["a"], ["b"], ["c"], ["a"]]


def test_one_site_equals_central_training_to_the_bit() -> None:
    found = run(Incremental(), sites("a")).tensors
    expected = central(Toy(plain), hospitals("a")["a"], VISIT, rounds=3)
    assert same(found, {k: t for k, t in expected.items() if k != "seen"})


def test_it_chooses_the_sites_also_when_wrapped() -> None:
    inner, state = Incremental(), Weights({})
    wrapped = QuantisedState(state, state, Int8Delta({}, {}, {}), ())
    assert chooser_of(Quantised(inner), wrapped) == (inner, state)
    algorithm = WithExchange(Quantised(inner), exchange=ShareTotals())
    assert chooser_of(algorithm, Combined(wrapped, Empty())) == (inner, state)
    assert chooser_of(Ditto(inner), state) == (inner, state)
    assert chooser_of(FedAvg(), state) is None
    assert chooser_of(Quantised(), wrapped) is None
    transport = sites()
    run(Quantised(inner), transport, Rounds(3))
    assert all(transport.memories.get(name) for name in "abc")


def test_a_schedule_too_short_for_all_sites_is_an_error() -> None:
    with pytest.raises(InputError, match=r"rounds.count must be at least the number of sites, 3, .* got 2"):
        run(Incremental(), sites(), Rounds(2))


def test_schedule_and_algorithm_cannot_both_choose_sites() -> None:
    with pytest.raises(InputError, match=r"rounds.per_round must be null, because Incremental chooses the sites"):
        run(Incremental(), sites(), Rounds(3, per_round=2))


def test_a_site_that_fails_in_its_turn_ends_the_run() -> None:
    transport = Hospitals(hospitals("a") | {"b": broken("b")}, local(VISIT, Toy(plain)))
    with pytest.raises(QuorumMissed, match=r"round 1: .*\n  b: the loss became nan"):
        run(Incremental(), transport, Rounds(2))


def test_a_stopped_run_resumes_to_the_bit(tmp_path: Path) -> None:
    assert_resumes(Incremental(), sites, tmp_path, Rounds(5))
