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
from fedcore.messages.message import Weights, exposure, flatten, nbytes, unflatten
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.privacy.policy import Policy
from fedcore.runs.checkpoint import Checkpoint
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.bank.encoding import Encoding
from fedssl.bank.feature_bank import UNKNOWN_BIN, site_id
from fedssl.bank.vectors import ShareVectors, SiteVectors, VectorPool
from fedssl.methods.moco import MoCo
from tests.fedcore.federating import federate
from tests.fedcore.toys import Hospitals, at

SIZES = {"a": 5, "b": 8, "c": 3}
FP32 = ShareVectors(upload_size=8, remote_features=6, encoding="fp32")


def upload(site: str, n: int, round_index: int = 0) -> SiteVectors:
    """Row i of site s is (index of s, i) in position bin i % 4; site b has no positions."""
    rows = torch.tensor([[float("abc".index(site)), float(i)] for i in range(n)])
    bins = torch.arange(n if site != "b" else 0).to(torch.int16) % 4
    return SiteVectors(rows, torch.zeros(0), torch.full((n,), round_index, dtype=torch.int32), bins)


def pool(exchange: ShareVectors = FP32) -> VectorPool:
    return exchange.merge(exchange.start(), {site: upload(site, n) for site, n in SIZES.items()})


def received(down: VectorPool) -> list[tuple[str, int]]:
    """(site, row) of every feature that was sent to a site."""
    return [("abc"[int(s)], int(i)) for rows in down.features.values() for s, i in rows.tolist()]


def moco(encoder: nn.Module, remote_bank_size: int = 16) -> MoCo:
    return MoCo(encoder, bank_size=16, remote_bank_size=remote_bank_size, hidden_dim=8, projection_dim=6)


def with_features(encoder: nn.Module, n: int) -> MoCo:
    module = moco(encoder)
    for turn in range(n):
        module.bank.push(normalize(torch.randn(1, 6), dim=1), site_id=0, round_index=turn)
    return module


@pytest.mark.parametrize("site", ["a", "b", "c", "newcomer"])
def test_a_site_receives_features_of_other_sites_each_at_most_once(site: str) -> None:
    for index in range(20):
        down = FP32.broadcast(pool(), site, Round(index, 20, seed=0))
        features = received(down)
        assert len(features) == len(set(features)) == 6
        assert site not in {owner for owner, _ in features} | down.round_index.keys()
        for owner in SIZES.keys() - {site}:
            assert len(down.features[owner]) == len(down.round_index[owner])


def test_all_features_are_sent_if_there_are_fewer_than_remote_features() -> None:
    down = ShareVectors(remote_features=100, encoding="fp32").broadcast(pool(), "b", Round(0, 1, seed=0))
    assert sorted(received(down)) == [(s, i) for s in "ac" for i in range(SIZES[s])]


def test_the_first_round_sends_no_features(toy: Callable[..., nn.Module]) -> None:
    module = moco(toy())
    FP32.receive(module, FP32.broadcast(FP32.start(), "a", Round(0, 1, seed=0)), Round(0, 1, seed=0))
    assert len(module.remote_bank) == 0


def test_the_sample_is_uniform_over_the_features_of_other_sites() -> None:
    """Chi-square over 11 features, 10 degrees of freedom: below 29.6 in 99.9 % of uniform samples."""
    counts = {(s, i): 0 for s in "ab" for i in range(SIZES[s])} | {("a", 0): 0}
    rounds = 600
    for index in range(rounds):
        for feature in received(FP32.broadcast(pool(), "c", Round(index, rounds, seed=3))):
            counts[feature] += 1
    expected = rounds * 6 / len(counts)
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 29.6


def test_the_sample_depends_on_seed_round_and_site() -> None:
    big = ShareVectors(remote_features=6, encoding="fp32")
    pool_state = big.merge(big.start(), {"a": upload("a", 100)})

    def sample(site: str, index: int, seed: int) -> list[tuple[str, int]]:
        return received(big.broadcast(pool_state, site, Round(index, 10, seed)))

    first = sample("b", 0, 0)
    assert sample("b", 0, 0) == first
    assert all(sample(*other) != first for other in [("c", 0, 0), ("b", 1, 0), ("b", 0, 1)])


def test_a_site_uploads_its_newest_features(toy: Callable[..., nn.Module]) -> None:
    module = with_features(toy(), 12)
    up = ShareVectors(upload_size=5, encoding="fp32").collect(module, at("a"), Round(11, 12, seed=0))
    assert up.round_index.tolist() == [7, 8, 9, 10, 11]
    torch.testing.assert_close(up.features, module.bank.newest(5)[0])


def test_the_pool_keeps_old_features_of_absent_sites_with_their_rounds(toy: Callable[..., nn.Module]) -> None:
    pool_state = FP32.merge(pool(), {"a": upload("a", 2, round_index=4)})
    assert {site: set(index.tolist()) for site, index in pool_state.round_index.items()} == {
        "a": {4},
        "b": {0},
        "c": {0},
    }
    assert len(pool_state.features["a"]) == 2
    module, turn = moco(toy()), Round(5, 6, seed=0)
    ups = {s: with_features(toy(), n) for s, n in SIZES.items()}
    pool_state = FP32.merge(FP32.start(), {s: FP32.collect(m, at(s), turn) for s, m in ups.items()})
    FP32.receive(module, FP32.broadcast(pool_state, "c", turn), turn)
    entries = {tuple(f.tolist()): (int(s), int(r)) for f, s, r in zip(*_stored(module), strict=True)}
    assert len(entries) == 6
    for feature, (site, round_index) in entries.items():
        owner = "a" if site == site_id("a") else "b"
        row = int((ups[owner].bank.entries() - torch.tensor(feature)).norm(dim=1).argmin())
        assert round_index == int(ups[owner].bank.round_index[row])


def _stored(module: MoCo) -> tuple[Tensor, Tensor, Tensor]:
    stored = module.remote_bank.round_index >= 0
    return (
        module.remote_bank.features[stored],
        module.remote_bank.site_id[stored],
        module.remote_bank.round_index[stored],
    )


@pytest.mark.parametrize("encoding", ["fp32", "fp16", "int8"])
def test_received_features_equal_the_sent_ones_to_the_encodings_precision(
    toy: Callable[..., nn.Module], encoding: Encoding
) -> None:
    exchange, sender, receiver = ShareVectors(encoding=encoding), with_features(toy(), 9), moco(toy())
    receiver.remote_bank.push(torch.ones(3, 6), site_id=1, round_index=0)  # of the last round, to be replaced
    turn = Round(1, 2, seed=0)
    pool_state = exchange.merge(exchange.start(), {"a": exchange.collect(sender, at("a"), turn)})
    exchange.receive(receiver, exchange.broadcast(pool_state, "b", turn), turn)
    sent = sender.bank.entries()
    assert len(receiver.remote_bank) == 9
    assert cosine_similarity(receiver.remote_bank.newest(9)[0], sent).min() > 0.9999
    torch.testing.assert_close(receiver.remote_bank.newest(9)[0].norm(dim=1), torch.ones(9))


def test_long_vectors_are_normalised(toy: Callable[..., nn.Module]) -> None:
    module, turn = moco(toy()), Round(0, 1, seed=0)
    round_index, bins = torch.zeros(2, dtype=torch.int32), torch.zeros(0, dtype=torch.int16)
    long = SiteVectors(torch.full((2, 6), 50.0), torch.zeros(0), round_index, bins)
    FP32.receive(module, FP32.broadcast(FP32.merge(FP32.start(), {"a": long}), "b", turn), turn)
    torch.testing.assert_close(module.remote_bank.entries().norm(dim=1), torch.ones(2))
    module.bank.push(torch.full((1, 6), 50.0), 0, 0)
    assert FP32.collect(module, at("b"), turn).features.norm(dim=1).max() <= 1 + 1e-6


@pytest.mark.parametrize(("encoding", "expected"), [("fp32", 9 * 6 * 4), ("fp16", 9 * 6 * 2), ("int8", 9 * 6 + 9 * 4)])
def test_bytes_of_an_upload(toy: Callable[..., nn.Module], encoding: Encoding, expected: int) -> None:
    """d numbers per feature, 4 bytes for its scale in int8, 4 for its round, 2 for its position bin if known."""
    module, turn = with_features(toy(), 9), Round(0, 1, seed=0)
    assert nbytes(ShareVectors(encoding=encoding).collect(module, at("a"), turn)) == expected + 9 * 4
    module.bank.position_bin.fill_(2)
    assert nbytes(ShareVectors(encoding=encoding).collect(module, at("a"), turn)) == expected + 9 * 4 + 9 * 2


def test_position_bins_are_sent_with_their_features(toy: Callable[..., nn.Module]) -> None:
    """A feature of site a or c contains its row number, which determines its bin."""
    for index in range(5):
        down = FP32.broadcast(pool(), "b", Round(index, 5, seed=0))
        for name, rows in down.features.items():
            assert down.position_bin[name].tolist() == [int(i) % 4 for _, i in rows.tolist()]
    assert len(FP32.broadcast(pool(), "a", Round(0, 1, seed=0)).position_bin["b"]) == 0


def test_the_remote_bank_stores_the_position_bins_of_other_sites(toy: Callable[..., nn.Module]) -> None:
    sender, receiver, turn = with_features(toy(), 9), moco(toy()), Round(1, 2, seed=0)
    sender.bank.position_bin[:9] = torch.tensor([0, 1, 2, 3, UNKNOWN_BIN, 0, 1, 2, 3])
    ups = {"a": FP32.collect(sender, at("a"), turn), "b": FP32.collect(with_features(toy(), 2), at("b"), turn)}
    everything = ShareVectors(remote_features=100, encoding="fp32")
    everything.receive(receiver, everything.broadcast(everything.merge(everything.start(), ups), "c", turn), turn)
    by_site = {
        s: receiver.remote_bank.entry_bins()[receiver.remote_bank.site_id[:10] == site_id(s)].tolist() for s in "ab"
    }
    assert by_site == {"a": [1, 2, 3, UNKNOWN_BIN, 0, 1, 2, 3], "b": [UNKNOWN_BIN, UNKNOWN_BIN]}  # the newest 8 of a


def test_a_policy_of_statistics_rejects_vectors(toy: Callable[..., nn.Module]) -> None:
    up = FP32.collect(with_features(toy(), 3), at("a"), Round(0, 1, seed=0))
    assert exposure(up) == Reveals.FEATURES
    with pytest.raises(Refused, match=r"SiteVectors reveals FEATURES .* the policy allows STATISTICS"):
        Policy(Reveals.STATISTICS).check(up)
    Policy(Reveals.FEATURES).check(up)


def test_a_pool_equals_its_serialised_copy_and_its_checkpoint(tmp_path: Path) -> None:
    exchange = ShareVectors(encoding="int8")
    pool_state = exchange.merge(
        exchange.start(),
        {
            s: SiteVectors(
                torch.ones(n, 2).to(torch.int8), torch.rand(n), torch.arange(n).int(), upload(s, n).position_bin
            )
            for s, n in SIZES.items()
        },
    )
    state = Combined(Weights({"encoder.w": torch.rand(3)}), pool_state)
    empty = Combined(Weights({"encoder.w": torch.zeros(3)}), exchange.start())
    Checkpoint.open(tmp_path).commit(0, state)
    for restored in (unflatten(empty, flatten(state)), Checkpoint.open(tmp_path).restore(empty)):
        old, new = flatten(state), flatten(restored)
        assert old.keys() == new.keys()
        assert all(torch.equal(old[k], new[k]) and old[k].dtype == new[k].dtype for k in old)


def test_over_rounds_remote_banks_contain_features_of_other_sites_alone(
    toy: Callable[..., nn.Module], images: Callable[..., Images]
) -> None:
    module = moco(toy(), remote_bank_size=32)
    algorithm = WithExchange(FedAvg(), exchange=ShareVectors(upload_size=8, remote_features=10, encoding="int8"))
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    sites = Hospitals({name: images(name) for name in "abc"}, local, policy=Policy(Reveals.FEATURES))
    state = federate(algorithm, sites, algorithm.start(local), Rounds(3), seed=0)
    assert {site: len(rows) for site, rows in state.exchange.features.items()} == {"a": 8, "b": 8, "c": 8}
    for name in "abc":
        memory = sites.memories.get(name)
        stored = memory["module/remote_bank.round_index"] >= 0
        assert int(stored.sum()) == 10
        assert set(memory["module/remote_bank.site_id"][stored].tolist()) == {site_id(n) for n in "abc" if n != name}
        assert set(memory["module/remote_bank.round_index"][stored].tolist()) == {
            1
        }  # made in the round before the last


def test_options_out_of_range_are_rejected() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0 and 3"):
        ShareVectors(upload_size=0, remote_features=3)
