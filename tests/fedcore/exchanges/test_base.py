from __future__ import annotations

from typing import Any

import torch

from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.properties import share_of
from fedcore.exchanges.base import WithExchange
from fedcore.messages.message import exposure, flatten, nbytes
from fedcore.messages.reveals import STATISTICS
from fedcore.runs.checkpoint import Checkpoint
from fedcore.server.rounds import Rounds
from tests.fedcore.federating import federate, same
from tests.fedcore.toy_exchanges import ShareTotals
from tests.fedcore.toys import Hospitals, Toy, broken, hospitals, local


def run(names: str, train: dict[str, Any] | None = None, rounds: int = 2) -> tuple[Any, ShareTotals, Hospitals]:
    transport, exchange = Hospitals(train or hospitals(names), local()), ShareTotals()
    algorithm = WithExchange(FedAvg(), exchange=exchange)
    return federate(algorithm, transport, algorithm.start(transport.local), Rounds(rounds), 0), exchange, transport


def test_the_algorithm_trains_as_it_does_without_an_exchange() -> None:
    state, _, with_exchange = run("ab")
    plain = Hospitals(hospitals("ab"), local())
    expected = federate(FedAvg(), plain, FedAvg().start(plain.local), Rounds(2), 0)
    assert same(state.algorithm.tensors, expected.tensors)
    for name in "ab":
        assert same(with_exchange.memories.get(name), plain.memories.get(name))


def test_the_wrapped_algorithm_decides_what_travels() -> None:
    assert share_of(WithExchange(FedAvg(), exchange=ShareTotals()), Toy()) == Toy.share
    assert share_of(WithExchange(LocalOnly(), exchange=ShareTotals()), Toy()) == ()


def test_sites_receive_before_training_and_collect_after_it() -> None:
    data = hospitals("a")["a"]
    once = float(sum(data.batch(range(8)), torch.zeros(1, 8, 8)).sum())
    _, exchange, _ = run("a")
    kinds, values = zip(*exchange.events, strict=True)
    assert kinds == ("receive", "collect") * 2
    torch.testing.assert_close(
        [values[0][1], values[1], values[2][1], values[3]], [0.0, once, once, 2 * once], rtol=1e-4, atol=1e-4
    )


def test_the_pool_is_sent_to_the_other_sites_in_the_next_round() -> None:
    state, exchange, transport = run("abc")
    received = [value[0] for kind, value in exchange.events if kind == "receive"]
    assert received == [[], [], [], ["b", "c"], ["a", "c"], ["a", "b"]]
    for name in "abc":
        assert torch.equal(state.exchange.by_site[name], transport.memories.get(name)["module/seen"])


def test_a_site_that_declines_adds_nothing_to_the_pool() -> None:
    state, _, _ = run("ab", hospitals("a") | {"b": broken("b")})
    assert state.exchange.by_site.keys() == {"a"}


def test_bytes_and_level_of_a_message_include_the_exchange() -> None:
    state, _, _ = run("ab")
    assert exposure(state) == STATISTICS["reveals"]
    assert nbytes(state) == nbytes(state.algorithm) + 2 * 4
    assert {"exchange/by_site/a", "exchange/by_site/b", "algorithm/tensors/layer.weight"} < flatten(state).keys()


def test_the_pool_is_part_of_a_checkpoint(tmp_path: Any) -> None:
    state, exchange, transport = run("ab")
    Checkpoint(tmp_path).commit(0, state)
    fresh = WithExchange(FedAvg(), exchange=exchange).start(transport.local)
    assert same(flatten(Checkpoint.open(tmp_path).restore(fresh)), flatten(state))
