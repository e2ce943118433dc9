from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.algorithms.base import FedAvg, draws_of
from fedcore.algorithms.incremental import Incremental
from fedcore.algorithms.quantised import Quantised
from fedcore.errors import InputError
from fedcore.exchanges.base import WithExchange
from fedcore.messages.message import Tensors
from fedcore.runs.communication import RoundRecord
from fedcore.server.rounds import QuorumMissed, Rounds
from fedcore.site.site import Round
from fedcore.training.visit import Visit
from tests.fedcore.exchanges.test_base import Tally
from tests.fedcore.toys import (
    Hospitals,
    Toy,
    assert_resumes,
    batches,
    broken,
    central,
    federate,
    hospitals,
    local,
    plain,
    run,
    same,
)

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
def test_equals_one_model_that_goes_from_site_to_site_to_the_bit(order: str) -> None:
    assert same(run(Incremental(), sites(), Rounds(len(order))).tensors, as_loops(order))


def test_a_round_asks_one_site_and_sends_nothing_to_the_others() -> None:
    records: list[RoundRecord] = []
    transport = sites()
    start = Incremental().start(transport.local)
    federate(Incremental(), transport, start, Rounds(4), 0, finished=lambda record, _: records.append(record))
    assert [list(record.sites) for record in records] == [["a"], ["b"], ["c"], ["a"]]


def test_one_site_equals_central_training_to_the_bit() -> None:
    found = run(Incremental(), sites("a")).tensors
    expected = central(Toy(plain), hospitals("a")["a"], VISIT, rounds=3)
    assert same(found, {k: t for k, t in expected.items() if k != "seen"})


def test_who_is_asked_is_known_through_what_wraps_it() -> None:
    inner = Incremental()
    assert draws_of(Quantised(inner)) is inner
    assert draws_of(WithExchange(Quantised(inner), Tally())) is inner
    assert draws_of(FedAvg()) is None
    assert draws_of(Quantised()) is None
    transport = sites()
    run(Quantised(inner), transport, Rounds(3))
    assert all(transport.memories.get(name) for name in "abc")


def test_a_schedule_that_leaves_sites_out_is_refused() -> None:
    with pytest.raises(InputError, match=r"rounds.count must be at least the number of sites, 3, .* got 2"):
        run(Incremental(), sites(), Rounds(2))


def test_schedule_and_algorithm_do_not_both_draw() -> None:
    with pytest.raises(InputError, match=r"rounds.per_round must be null, because Incremental says itself"):
        run(Incremental(), sites(), Rounds(3, per_round=2))


def test_a_site_that_fails_in_its_turn_ends_the_run() -> None:
    transport = Hospitals(hospitals("a") | {"b": broken("b")}, local(VISIT, Toy(plain)))
    with pytest.raises(QuorumMissed, match=r"round 1: .*\n  b: the loss became nan"):
        run(Incremental(), transport, Rounds(2))


def test_a_stopped_run_resumes_to_the_bit(tmp_path: Path) -> None:
    assert_resumes(Incremental(), sites, tmp_path, Rounds(5))
