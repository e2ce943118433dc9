from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.properties import share_of
from fedcore.algorithms.quantised import COPY, RESIDUAL, Int8Delta, Quantised, QuantisedState, apply_delta, int8_delta
from fedcore.errors import InputError, Refused
from fedcore.exchanges.base import WithExchange
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights, nbytes, weights_of
from fedcore.messages.round import Round
from fedcore.runs.communication import RoundRecord
from fedcore.server.rounds import Rounds
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.transport.pickling import pack, unpack
from tests.fedcore.federating import federate, same
from tests.fedcore.server.test_job import job, memories, start
from tests.fedcore.toy_exchanges import ShareTotals
from tests.fedcore.toys import Hospitals, Toy, broken, hospitals, local

SHORT = 3 * 64 + 3 * 4 + 5 * 3 * 4 + 8  # levels and scales of the matrix; bias, four vectors of the norm, its counter
FULL = 4 * 3 * 64 + 5 * 3 * 4 + 8


@dataclass(frozen=True)
class MoveToGoal(FedAvg):
    """A training that can be computed by hand: a site goes `pull` of the way to its goal, or moves by its goal."""

    goals: Mapping[str, Tensor] = field(default_factory=dict)
    pull: float | None = None

    def start(self, local: LocalTrainer) -> Weights:
        return Weights({"w": torch.zeros_like(next(iter(self.goals.values()))), "count": torch.tensor(0)})

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Weights]:
        w, goal = down.tensors["w"], self.goals[site.name]
        moved = w + (goal if self.pull is None else self.pull * (goal - w))
        return Contribution(site.name, Weights({"w": moved, "count": down.tensors["count"] + 1}), site.size)


def goals(names: str, shape: tuple[int, ...] = (4, 6)) -> dict[str, Tensor]:
    return {name: torch.randn(shape, generator=torch.Generator().manual_seed(ord(name))) for name in names}


def run(
    algorithm: Any, names: str = "ab", rounds: int | Rounds = 3, train: Any = None
) -> tuple[Any, Hospitals, list[tuple[RoundRecord, QuantisedState]]]:
    transport, seen = Hospitals(train or hospitals(names), local()), []
    schedule = rounds if isinstance(rounds, Rounds) else Rounds(rounds)
    state = federate(
        algorithm, transport, algorithm.start(transport.local), schedule, 0,
        finished=lambda record, state: seen.append((record, state)),
    )  # fmt: skip
    return state, transport, seen


def mean(values: Mapping[str, Tensor]) -> Tensor:
    """By the images of `hospitals`: 8, 12, ..."""
    images = {name: 8.0 + 4 * at for at, name in enumerate(values)}
    return sum(n * values[name] for name, n in images.items()) / sum(images.values())  # type: ignore[return-value]


def as_loops(goals: Mapping[str, Tensor], pull: float, rounds: int) -> Tensor:
    """The algorithm, number by number."""

    def rounding(row: list[float]) -> list[float]:
        step = max(map(abs, row)) / 127
        return [round(x / step) * step if step else 0.0 for x in row]

    def per_row(table: Tensor) -> Tensor:
        return torch.tensor([rounding(row) for row in table.tolist()], dtype=torch.float64)

    aims = {k: t.double() for k, t in goals.items()}
    server = copy = torch.zeros_like(next(iter(aims.values())))
    lost = {k: torch.zeros_like(copy) for k in aims}
    for _ in range(rounds):
        learned = {}
        for site, goal in aims.items():
            change = pull * (goal - copy) + lost[site]
            learned[site] = per_row(change)
            lost[site] = change - learned[site]
        server = server + mean(learned)
        copy = copy + per_row(server - copy)
    return server


@pytest.mark.parametrize("shape", [(4, 6), (3, 50)])
def test_equals_the_algorithm_as_loops(shape: tuple[int, int]) -> None:
    aims = goals("ab", shape)
    state, _, _ = run(Quantised(MoveToGoal(goals=aims, pull=0.4)), rounds=5)
    torch.testing.assert_close(weights_of(state)["w"].double(), as_loops(aims, 0.4, 5), rtol=0, atol=1e-6)


def test_the_server_differs_from_exact_messages_only_by_the_errors_that_sites_store() -> None:
    aims = goals("abc")
    for rounds in (1, 7, 60):
        state, transport, _ = run(Quantised(MoveToGoal(goals=aims)), "abc", rounds)
        kept = mean({name: transport.memories.get(name)[RESIDUAL + "w"] for name in "abc"})
        torch.testing.assert_close(weights_of(state)["w"] + kept, rounds * mean(aims), rtol=1e-5, atol=1e-5)
        largest = max(t.abs().max() for t in aims.values()) * 1.01  # a change, and the error of the one before
        assert kept.abs().max() <= largest / 127 / 2


def test_changes_below_half_a_level_arrive_later_by_hand() -> None:
    """Levels of 1, changes of 0.4: the site sends 0, 1, 0, 1, 0, which is 2 in five rounds; without feedback 0."""
    algorithm = MoveToGoal(goals={"a": torch.tensor([[127.0, 0.4]])})
    _, transport, seen = run(Quantised(algorithm), "a", 5)
    levels = [float(weights_of(state)["w"][0, 1]) for _, state in seen]
    assert levels == pytest.approx([0, 1, 1, 2, 2], abs=0.02)
    assert float(transport.memories.get("a")[RESIDUAL + "w"][0, 1]) == pytest.approx(0, abs=0.02)


def test_the_error_becomes_small_with_the_changes() -> None:
    """The error of rounded weights would stay at a hundredth."""
    aim = goals("a", (3, 40))
    state, _, _ = run(Quantised(MoveToGoal(goals=aim, pull=0.5)), "a", 40)
    torch.testing.assert_close(weights_of(state)["w"], aim["a"], rtol=0, atol=1e-6)
    nothing = {"a": torch.zeros(3, 40)}
    alone = apply_delta(nothing, int8_delta(aim, nothing, {})[0])
    assert (alone["a"] - aim["a"]).abs().max() > 5e-3


def test_changes_that_int8_represents_exactly_arrive_exactly() -> None:
    algorithm = MoveToGoal(goals={"a": torch.tensor([[127.0, -64.0, 3.0], [0.0, 127.0, 1.0]]) / 128})
    exact, _, _ = run(algorithm, "a", 6)
    short, transport, _ = run(Quantised(algorithm), "a", 6)
    assert same(weights_of(short), exact.tensors)
    assert not transport.memories.get("a")[RESIDUAL + "w"].any()


def test_a_training_ends_near_that_with_exact_messages() -> None:
    exact, _, _ = run(FedAvg(), "abc", 4)
    short, _, _ = run(Quantised(), "abc", 4)
    moved = (exact.tensors["layer.weight"] - FedAvg().start(local()).tensors["layer.weight"]).abs().max()
    assert (weights_of(short)["layer.weight"] - exact.tensors["layer.weight"]).abs().max() < moved / 50
    assert weights_of(short).keys() == exact.tensors.keys()


def test_vectors_counters_and_float64_are_not_quantised() -> None:
    exact = {
        "steps": torch.tensor(2**40 + 1), "seen": torch.tensor(1 / 3, dtype=torch.float64),
        "norm.running_var": torch.tensor([1e-9, 1e9]), "wide": torch.full((2, 2), 1 / 3, dtype=torch.float64),
        "table": torch.arange(4).view(2, 2),
    }  # fmt: skip
    copy = {k: torch.zeros_like(t) for k, t in exact.items()}
    delta, left = int8_delta(exact, copy, {})
    assert (delta.levels, left) == ({}, {})
    assert same(apply_delta(copy, delta), exact)


def test_bytes_are_a_quarter_but_full_at_the_first_visit() -> None:
    _, _, seen = run(Quantised(), "ab", 3)
    for index, (record, _) in enumerate(seen):
        for site in record.sites.values():
            assert (site.up.weights, site.down.weights) == (SHORT, SHORT if index else FULL)
    large = {"kernel": torch.randn(64, 64, 3, 3), "bias": torch.randn(64)}
    delta, _ = int8_delta(large, {k: torch.zeros_like(t) for k, t in large.items()}, {})
    assert nbytes(delta) / nbytes(Weights(large)) < 0.26


def test_sites_have_the_copy_that_the_server_stores() -> None:
    transport, algorithm = Hospitals(hospitals("abc"), local()), Quantised()

    def check(record: RoundRecord, state: QuantisedState) -> None:
        assert {*state.last_sites} == record.sites.keys()
        for name in state.last_sites:
            held = {k.removeprefix(COPY): t for k, t in transport.memories.get(name).items() if k.startswith(COPY)}
            assert same(apply_delta(held, state.delta), state.copy.tensors)

    federate(algorithm, transport, algorithm.start(transport.local), Rounds(5, per_round=2), 0, finished=check)


def test_a_site_that_was_not_in_the_last_round_is_sent_the_weights_in_full() -> None:
    _, _, seen = run(Quantised(), "abc", Rounds(8, per_round=2))
    before: set[str] = set()
    for record, _ in seen:
        for name, site in record.sites.items():
            assert site.down.weights == (SHORT if name in before else FULL)
        before = set(record.sites)


def test_a_site_that_declines_is_sent_the_weights_in_full_until_it_contributes() -> None:
    _, transport, seen = run(Quantised(), train=hospitals("a") | {"b": broken("b")})
    assert [record.sites["b"].down.weights for record, _ in seen] == [FULL] * 3
    assert transport.memories.get("b") == {}


def test_differences_that_are_not_finite_are_refused() -> None:
    wrong = {"w": torch.tensor([[1.0, float("nan")]])}
    with pytest.raises(Refused, match="w is not finite and cannot be rounded"):
        int8_delta(wrong, {"w": torch.zeros(1, 2)}, {})
    with pytest.raises(Refused, match="w is not finite"):
        int8_delta({"w": torch.full((1, 2), 3e38)}, {"w": torch.full((1, 2), -3e38)}, {})


@pytest.mark.parametrize("outside", [True, False], ids=["wrapped", "wrapping"])
def test_an_exchange_is_not_quantised(outside: bool) -> None:
    algorithm: Any = (
        WithExchange(Quantised(), exchange=ShareTotals())
        if outside
        else Quantised(WithExchange(FedAvg(), exchange=ShareTotals()))
    )
    state, _, seen = run(algorithm, "abc", 3)
    plain, _, _ = run(Quantised(), "abc", 3)
    assert same(weights_of(state), weights_of(plain))
    record = seen[-1][0].sites["a"]
    assert (record.up.weights, record.up.exchange, record.down.exchange) == (SHORT, 4, 2 * 4)
    assert record.reveals == "STATISTICS"


def test_the_wrapped_algorithm_decides_what_travels() -> None:
    assert share_of(Quantised(), Toy()) == Toy.share
    assert share_of(Quantised(LocalOnly()), Toy()) == ()


def test_an_algorithm_that_sends_other_weights_to_a_site_is_an_error() -> None:
    class Personal(FedAvg):
        def broadcast(self, state: Weights, site: str, turn: Round) -> Weights:
            return Weights({k: t + 1 for k, t in state.tensors.items()})

    with pytest.raises(InputError, match="sends the server's weights to all sites, and Personal does not"):
        run(Quantised(Personal()))


@pytest.mark.parametrize("rounds", [Rounds(3), Rounds(4, per_round=2)], ids=["all", "two of three"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, rounds: Rounds) -> None:
    whole = start(tmp_path / "whole", job(Quantised(), rounds=rounds))

    class Stopping(Toy):
        def on_visit_start(self, site: str, turn: Round) -> None:
            if turn.index == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "parts", job(Quantised(), rounds=rounds), Stopping())
    assert same(start(tmp_path / "parts", job(Quantised(), rounds=rounds), resume=True), whole)
    found, expected = memories(tmp_path / "parts"), memories(tmp_path / "whole")
    assert all(same(found[site], expected[site]) for site in expected)


def test_algorithm_and_message_can_be_sent_to_a_worker() -> None:
    state, _, _ = run(Quantised(), "ab", 2)
    algorithm, down = unpack(pack((Quantised(), Quantised().broadcast(state, "a", Round(2, 3, 0)))))
    assert algorithm == Quantised()
    assert isinstance(down, Int8Delta)
    assert same(down.levels, state.delta.levels)
