from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedcore.algorithms.base import FedAvg, share_of
from fedcore.algorithms.local_only import LocalOnly
from fedcore.exchanges.base import WithExchange
from fedcore.messages.message import STATISTICS, Message, Tensors, exposure, flatten, nbytes
from fedcore.runs.checkpoint import Checkpoint
from fedcore.server.rounds import Rounds
from fedcore.site.site import Round, Site
from tests.fedcore.toys import Hospitals, Toy, broken, federate, hospitals, local, same


@dataclass(frozen=True)
class Total(Message):
    seen: Tensor = field(metadata=STATISTICS)


@dataclass(frozen=True)
class Totals(Message):
    by_site: Tensors = field(metadata=STATISTICS)


@dataclass
class Tally:
    """Shares the sum of pixels each site has seen; notes what happens when."""

    events: list[tuple[str, Any]] = field(default_factory=list)

    def start(self) -> Totals:
        return Totals({})

    def broadcast(self, pool: Totals, site: str, turn: Round) -> Totals:
        return Totals({name: t for name, t in pool.by_site.items() if name != site})

    def receive(self, module: Toy, down: Totals, turn: Round) -> None:
        self.events.append(("receive", (sorted(down.by_site), float(module.seen))))

    def collect(self, module: Toy, site: Site, turn: Round) -> Total:
        self.events.append(("collect", float(module.seen)))
        return Total(module.seen.clone())

    def merge(self, pool: Totals, uploads: dict[str, Total]) -> Totals:
        return Totals(pool.by_site | {site: up.seen for site, up in uploads.items()})


def run(names: str, train: dict[str, Any] | None = None, rounds: int = 2) -> tuple[Any, Tally, Hospitals]:
    transport, tally = Hospitals(train or hospitals(names), local()), Tally()
    carry = WithExchange(FedAvg(), tally)
    return federate(carry, transport, carry.start(transport.local), Rounds(rounds), 0), tally, transport


def test_the_algorithm_trains_as_it_does_without_an_exchange() -> None:
    state, _, carried = run("ab")
    plain = Hospitals(hospitals("ab"), local())
    expected = federate(FedAvg(), plain, FedAvg().start(plain.local), Rounds(2), 0)
    assert same(state.algorithm.tensors, expected.tensors)
    for name in "ab":
        assert same(carried.memories.get(name), plain.memories.get(name))


def test_what_travels_is_for_the_carried_algorithm_to_say() -> None:
    assert share_of(WithExchange(FedAvg(), Tally()), Toy()) == Toy.share
    assert share_of(WithExchange(LocalOnly(), Tally()), Toy()) == ()


def test_sites_receive_before_they_train_and_give_after() -> None:
    data = hospitals("a")["a"]
    once = float(sum(data.batch(range(8)), torch.zeros(1, 8, 8)).sum())
    _, tally, _ = run("a")
    kinds, values = zip(*tally.events, strict=True)
    assert kinds == ("receive", "collect") * 2
    torch.testing.assert_close(
        [values[0][1], values[1], values[2][1], values[3]], [0.0, once, once, 2 * once], rtol=1e-4, atol=1e-4
    )


def test_the_pool_reaches_the_others_in_the_next_round() -> None:
    state, tally, transport = run("abc")
    received = [value[0] for kind, value in tally.events if kind == "receive"]
    assert received == [[], [], [], ["b", "c"], ["a", "c"], ["a", "b"]]
    for name in "abc":
        assert torch.equal(state.exchange.by_site[name], transport.memories.get(name)["module/seen"])


def test_a_site_that_is_refused_gives_nothing_to_the_pool() -> None:
    state, _, _ = run("ab", hospitals("a") | {"b": broken("b")})
    assert state.exchange.by_site.keys() == {"a"}


def test_the_message_says_all_that_it_carries() -> None:
    state, _, _ = run("ab")
    assert exposure(state) == STATISTICS["reveals"]
    assert nbytes(state) == nbytes(state.algorithm) + 2 * 4
    assert {"exchange/by_site/a", "exchange/by_site/b", "algorithm/tensors/layer.weight"} < flatten(state).keys()


def test_the_pool_is_part_of_a_checkpoint(tmp_path: Any) -> None:
    state, tally, transport = run("ab")
    Checkpoint(tmp_path).commit(0, state)
    fresh = WithExchange(FedAvg(), tally).start(transport.local)
    assert same(flatten(Checkpoint.open(tmp_path).restore(fresh)), flatten(state))
