from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.errors import Refused
from fedcore.exchanges.base import Combined, WithExchange
from fedcore.messages.message import Reveals, Weights, exposure, flatten, nbytes, unflatten
from fedcore.privacy.policy import Policy
from fedcore.runs.checkpoint import Checkpoint
from fedcore.server.rounds import Rounds, federate
from fedcore.site.site import Round
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedssl.bank.bank import UNKNOWN, site_number
from fedssl.bank.encoding import Wire
from fedssl.bank.vectors import ShareVectors, SiteVectors, VectorPool
from fedssl.methods.moco import MoCo
from tests.fedcore.toys import at

SIZES = {"a": 5, "b": 8, "c": 3}
FP32 = ShareVectors(per_site=8, draw=6, wire="fp32")


def upload(site: str, n: int, born: int = 0) -> SiteVectors:
    """Row i of site s is (number of s, i), of part i % 4 but at site b, which knows no parts."""
    rows = torch.tensor([[float("abc".index(site)), float(i)] for i in range(n)])
    part = torch.arange(n if site != "b" else 0).to(torch.int16) % 4
    return SiteVectors(rows, torch.zeros(0), torch.full((n,), born, dtype=torch.int32), part)


def pool(exchange: ShareVectors = FP32) -> VectorPool:
    return exchange.merge(exchange.start(), {site: upload(site, n) for site, n in SIZES.items()})


def drawn(down: VectorPool) -> list[tuple[str, int]]:
    """(site, row) of every feature that was given."""
    return [("abc"[int(s)], int(i)) for rows in down.features.values() for s, i in rows.tolist()]


def moco(encoder: nn.Module, remote: int = 16) -> MoCo:
    return MoCo(encoder, bank=16, remote=remote, hidden=8, dim=6)


def with_features(encoder: nn.Module, n: int) -> MoCo:
    module = moco(encoder)
    for turn in range(n):
        module.bank.push(normalize(torch.randn(1, 6), dim=1), site=0, born=turn)
    return module


@pytest.mark.parametrize("site", ["a", "b", "c", "newcomer"])
def test_a_site_is_given_what_others_own_each_at_most_once(site: str) -> None:
    for index in range(20):
        down = FP32.broadcast(pool(), site, Round(index, 20, seed=0))
        given = drawn(down)
        assert len(given) == len(set(given)) == 6
        assert site not in {owner for owner, _ in given} | down.born.keys()
        for owner in SIZES.keys() - {site}:
            assert len(down.features[owner]) == len(down.born[owner])


def test_with_fewer_than_the_draw_all_are_given() -> None:
    down = ShareVectors(draw=100, wire="fp32").broadcast(pool(), "b", Round(0, 1, seed=0))
    assert sorted(drawn(down)) == [(s, i) for s in "ac" for i in range(SIZES[s])]


def test_the_first_round_has_nothing_to_give(toy: Callable[..., nn.Module]) -> None:
    module = moco(toy())
    FP32.receive(module, FP32.broadcast(FP32.start(), "a", Round(0, 1, seed=0)), Round(0, 1, seed=0))
    assert len(module.remote) == 0


def test_the_draw_is_uniform_over_the_features_of_the_others() -> None:
    """Chi-square over 11 features, 10 degrees of freedom: below 29.6 in 99.9 % of fair draws."""
    counts = {(s, i): 0 for s in "ab" for i in range(SIZES[s])} | {("a", 0): 0}
    rounds = 600
    for index in range(rounds):
        for feature in drawn(FP32.broadcast(pool(), "c", Round(index, rounds, seed=3))):
            counts[feature] += 1
    expected = rounds * 6 / len(counts)
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 29.6


def test_seed_round_and_site_decide_the_draw() -> None:
    big = ShareVectors(draw=6, wire="fp32")
    held = big.merge(big.start(), {"a": upload("a", 100)})

    def given(site: str, index: int, seed: int) -> list[tuple[str, int]]:
        return drawn(big.broadcast(held, site, Round(index, 10, seed)))

    first = given("b", 0, 0)
    assert given("b", 0, 0) == first
    assert all(given(*other) != first for other in [("c", 0, 0), ("b", 1, 0), ("b", 0, 1)])


def test_the_pool_keeps_the_newest_of_a_site_and_no_more(toy: Callable[..., nn.Module]) -> None:
    module = with_features(toy(), 12)
    up = ShareVectors(per_site=5, wire="fp32").collect(module, at("a"), Round(11, 12, seed=0))
    assert up.born.tolist() == [7, 8, 9, 10, 11]
    torch.testing.assert_close(up.features, module.bank.newest(5)[0])


def test_a_site_that_was_away_keeps_its_old_features_with_their_old_rounds(toy: Callable[..., nn.Module]) -> None:
    held = FP32.merge(pool(), {"a": upload("a", 2, born=4)})
    assert {site: set(born.tolist()) for site, born in held.born.items()} == {"a": {4}, "b": {0}, "c": {0}}
    assert len(held.features["a"]) == 2
    module, turn = moco(toy()), Round(5, 6, seed=0)
    ups = {s: with_features(toy(), n) for s, n in SIZES.items()}
    held = FP32.merge(FP32.start(), {s: FP32.collect(m, at(s), turn) for s, m in ups.items()})
    FP32.receive(module, FP32.broadcast(held, "c", turn), turn)
    entries = {tuple(f.tolist()): (int(s), int(b)) for f, s, b in zip(*_held(module), strict=True)}
    assert len(entries) == 6
    for feature, (site, born) in entries.items():
        owner = "a" if site == site_number("a") else "b"
        place = int((ups[owner].bank.entries() - torch.tensor(feature)).norm(dim=1).argmin())
        assert born == int(ups[owner].bank.born[place])


def _held(module: MoCo) -> tuple[Tensor, Tensor, Tensor]:
    there = module.remote.born >= 0
    return module.remote.features[there], module.remote.site[there], module.remote.born[there]


@pytest.mark.parametrize("wire", ["fp32", "fp16", "int8"])
def test_what_arrives_is_what_was_sent_to_the_wires_precision(toy: Callable[..., nn.Module], wire: Wire) -> None:
    exchange, sender, receiver = ShareVectors(wire=wire), with_features(toy(), 9), moco(toy())
    receiver.remote.push(torch.ones(3, 6), site=1, born=0)  # last round's, to be replaced
    turn = Round(1, 2, seed=0)
    held = exchange.merge(exchange.start(), {"a": exchange.collect(sender, at("a"), turn)})
    exchange.receive(receiver, exchange.broadcast(held, "b", turn), turn)
    sent = sender.bank.entries()
    assert len(receiver.remote) == 9
    assert cosine_similarity(receiver.remote.newest(9)[0], sent).min() > 0.9999
    torch.testing.assert_close(receiver.remote.newest(9)[0].norm(dim=1), torch.ones(9))


def test_a_site_that_sends_long_vectors_gains_no_weight(toy: Callable[..., nn.Module]) -> None:
    module, turn = moco(toy()), Round(0, 1, seed=0)
    born, part = torch.zeros(2, dtype=torch.int32), torch.zeros(0, dtype=torch.int16)
    long = SiteVectors(torch.full((2, 6), 50.0), torch.zeros(0), born, part)
    FP32.receive(module, FP32.broadcast(FP32.merge(FP32.start(), {"a": long}), "b", turn), turn)
    torch.testing.assert_close(module.remote.entries().norm(dim=1), torch.ones(2))
    module.bank.push(torch.full((1, 6), 50.0), 0, 0)
    assert FP32.collect(module, at("b"), turn).features.norm(dim=1).max() <= 1 + 1e-6


@pytest.mark.parametrize(("wire", "expected"), [("fp32", 9 * 6 * 4), ("fp16", 9 * 6 * 2), ("int8", 9 * 6 + 9 * 4)])
def test_bytes_on_the_wire(toy: Callable[..., nn.Module], wire: Wire, expected: int) -> None:
    """d numbers a feature, 4 bytes for its scale in int8, 4 for its round, 2 for its part where one is known."""
    module, turn = with_features(toy(), 9), Round(0, 1, seed=0)
    assert nbytes(ShareVectors(wire=wire).collect(module, at("a"), turn)) == expected + 9 * 4
    module.bank.part.fill_(2)
    assert nbytes(ShareVectors(wire=wire).collect(module, at("a"), turn)) == expected + 9 * 4 + 9 * 2


def test_parts_go_with_their_features(toy: Callable[..., nn.Module]) -> None:
    """A feature of site a or c holds its number in its own row, and so says its part."""
    for index in range(5):
        down = FP32.broadcast(pool(), "b", Round(index, 5, seed=0))
        for name, rows in down.features.items():
            assert down.part[name].tolist() == [int(i) % 4 for _, i in rows.tolist()]
    assert len(FP32.broadcast(pool(), "a", Round(0, 1, seed=0)).part["b"]) == 0


def test_a_bank_knows_the_parts_another_site_sent(toy: Callable[..., nn.Module]) -> None:
    sender, receiver, turn = with_features(toy(), 9), moco(toy()), Round(1, 2, seed=0)
    sender.bank.part[:9] = torch.tensor([0, 1, 2, 3, UNKNOWN, 0, 1, 2, 3])
    ups = {"a": FP32.collect(sender, at("a"), turn), "b": FP32.collect(with_features(toy(), 2), at("b"), turn)}
    everything = ShareVectors(draw=100, wire="fp32")
    everything.receive(receiver, everything.broadcast(everything.merge(everything.start(), ups), "c", turn), turn)
    by_site = {s: receiver.remote.parts()[receiver.remote.site[:10] == site_number(s)].tolist() for s in "ab"}
    assert by_site == {"a": [1, 2, 3, UNKNOWN, 0, 1, 2, 3], "b": [UNKNOWN, UNKNOWN]}  # the newest 8 of a


def test_a_policy_of_statistics_refuses_vectors(toy: Callable[..., nn.Module]) -> None:
    up = FP32.collect(with_features(toy(), 3), at("a"), Round(0, 1, seed=0))
    assert exposure(up) == Reveals.FEATURES
    with pytest.raises(Refused, match=r"SiteVectors reveals FEATURES .* the policy allows STATISTICS"):
        Policy(Reveals.STATISTICS).check(up)
    Policy(Reveals.FEATURES).check(up)


def test_a_pool_survives_the_wire_and_the_checkpoint(tmp_path: Path) -> None:
    exchange = ShareVectors(wire="int8")
    held = exchange.merge(
        exchange.start(),
        {
            s: SiteVectors(torch.ones(n, 2).to(torch.int8), torch.rand(n), torch.arange(n).int(), upload(s, n).part)
            for s, n in SIZES.items()
        },
    )
    state = Combined(Weights({"encoder.w": torch.rand(3)}), held)
    empty = Combined(Weights({"encoder.w": torch.zeros(3)}), exchange.start())
    Checkpoint.open(tmp_path).commit(0, state)
    for again in (unflatten(empty, flatten(state)), Checkpoint.open(tmp_path).restore(empty)):
        old, new = flatten(state), flatten(again)
        assert old.keys() == new.keys()
        assert all(torch.equal(old[k], new[k]) and old[k].dtype == new[k].dtype for k in old)


def test_over_rounds_every_site_contrasts_with_the_others_alone(
    toy: Callable[..., nn.Module], images: Callable[..., Images]
) -> None:
    module = moco(toy(), remote=32)
    algorithm = WithExchange(FedAvg(), exchange=ShareVectors(per_site=8, draw=10, wire="int8"))
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    sites = InProcess({name: images(name) for name in "abc"}, local, policy=Policy(Reveals.FEATURES))
    state = federate(algorithm, sites, algorithm.start(local), Rounds(3), seed=0)
    assert {site: len(rows) for site, rows in state.exchange.features.items()} == {"a": 8, "b": 8, "c": 8}
    for name in "abc":
        memory = sites.memories.get(name)
        there = memory["module/remote.born"] >= 0
        assert int(there.sum()) == 10
        assert set(memory["module/remote.site"][there].tolist()) == {site_number(n) for n in "abc" if n != name}
        assert set(memory["module/remote.born"][there].tolist()) == {1}  # made in the round before the last


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0 and 3"):
        ShareVectors(per_site=0, draw=3)
