"""The common part of FedEMA and FedU: memory, messages, resuming, and combination with other parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fedprox import ProximalTerm
from fedcore.algorithms.local_only import LocalOnly
from fedcore.data.dataset import Images
from fedcore.errors import Refused
from fedcore.exchanges.base import Combined, WithExchange
from fedcore.messages.message import Weights, nbytes
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.runs.communication import RoundRecord
from fedcore.server.rounds import QuorumMissed, Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.site_state import personal_weights
from fedcore.training.visit import Visit
from fedssl.bank.statistics import ShareStatistics
from fedssl.federation.fedema import FedEMA
from fedssl.federation.fedu import FedU
from fedssl.federation.personalised_start import PersonalisedStart, divergence, mix
from fedssl.methods.byol import BYOL
from fedssl.methods.moco import MoCo
from tests.fedcore.federating import assert_resumes, federate, same
from tests.fedcore.toys import Hospitals, with_callbacks

Sites = Callable[[str], Hospitals]
both = pytest.mark.parametrize("algorithm", [FedEMA(), FedU(mu=0.05)], ids=["fedema", "fedu"])


@pytest.fixture
def sites(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> Sites:
    """Sites with 12 images each and one BYOL, which starts from the same weights each time."""

    def make(names: str, method: Callable[..., Any] = BYOL, **more: Any) -> Hospitals:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            module = method(toy(), hidden_dim=8, projection_dim=4, **more)
        visit = Visit(batch_size=4, accelerator="cpu", keep_optimizer=True)
        return Hospitals({name: images(name) for name in names}, LocalTrainer(module, module.share, visit))

    return make


def run(algorithm: Algorithm, sites: Hospitals, rounds: Rounds = Rounds(3)) -> tuple[Any, list[RoundRecord]]:
    records: list[RoundRecord] = []
    state = federate(
        algorithm, sites, algorithm.start(sites.local), rounds, 0, finished=lambda record, state: records.append(record)
    )
    return state, records


def test_divergence_equals_a_loop() -> None:
    a = {"encoder.conv.weight": torch.randn(3, 2, 3, 3), "encoder.fc.weight": torch.randn(4, 5)}
    b = {k: torch.randn_like(t) for k, t in a.items()}
    total = 0.0
    for name in a:
        total += (
            sum((float(x) - float(y)) ** 2 for x, y in zip(a[name].flatten(), b[name].flatten(), strict=True)) ** 0.5
        )
    others = {
        "encoder.bn.weight": torch.ones(3),
        "encoder.bn.running_var": torch.ones(3),
        "head.weight": torch.ones(2, 2),
    }
    found = divergence(a | others, b | {k: 9 * t for k, t in others.items()})
    assert found == pytest.approx(total / 2, rel=1e-6)
    assert divergence(b, a) == pytest.approx(divergence(a, b))
    assert divergence(a, a) == 0


def test_divergence_without_an_encoder_is_an_error() -> None:
    with pytest.raises(Refused, match="the name of no weight sent starts with encoder"):
        divergence({"layer.weight": torch.ones(2, 2)}, {"layer.weight": torch.ones(2, 2)})


@pytest.mark.parametrize("own_weight", [0.0, 0.3, 1.0])
def test_a_mix_by_hand(own_weight: float) -> None:
    sent, own = torch.tensor([1.0, -2.0, 1e30]), torch.tensor([3.0, 1e-30, 7.0])
    found = mix(sent, own, own_weight)
    for x, s, o in zip(found.tolist(), sent.tolist(), own.tolist(), strict=True):
        assert x == pytest.approx((1 - own_weight) * s + own_weight * o, rel=1e-6)
    assert torch.equal(found, sent) == (own_weight == 0)
    assert torch.equal(found, own) == (own_weight == 1)


def test_counters_are_not_mixed() -> None:
    assert mix(torch.tensor(7), torch.tensor(100), 0.5) == 7


def last_model(memory: Tensors) -> Tensors:
    """The model at the end of the site's last visit."""
    return {k.partition("/")[2]: t for k, t in memory.items() if k.startswith(("own/", "last/"))}


@both
def test_the_first_visit_starts_from_the_global_model_and_later_ones_from_a_mix(
    algorithm: PersonalisedStart, sites: Sites
) -> None:
    transport = sites("abc")
    state, records = run(algorithm, transport)
    assert all("divergence" not in s.metrics for s in records[0].sites.values())
    for record in records[1:]:
        for site in record.sites.values():
            assert site.metrics["divergence"] > 0
            assert 0 <= site.metrics["own_weight"] <= 1
    kept = last_model(transport.memories.get("a"))
    assert kept.keys() == state.tensors.keys()
    own = personal_weights(transport.memories.get("a"))
    assert own.keys() == {k for k in kept if not k.startswith(algorithm.always_global)}
    assert any(k.startswith("module/target_") for k in transport.memories.get("a"))


@both
def test_the_kept_model_is_the_uploaded_one(algorithm: PersonalisedStart, sites: Sites) -> None:
    transport = sites("a")
    state = Weights(transport.local.shared())
    for index in range(2):
        (answer,) = transport.ask(algorithm, [("a", state)], Round(index, 2, seed=0))
        own = last_model(transport.memories.get("a"))
        assert same(own, answer.message.tensors)  # type: ignore[union-attr]


@both
def test_traffic_equals_that_of_the_wrapped_algorithm(algorithm: PersonalisedStart, sites: Sites) -> None:
    (_, records), (_, plain) = run(algorithm, sites("ab")), run(FedAvg(), sites("ab"))
    for with_, without in zip(records, plain, strict=True):
        for name in "ab":
            assert with_.sites[name].up.weights == without.sites[name].up.weights
            assert with_.sites[name].down == without.sites[name].down


@both
def test_one_site_equals_the_wrapped_algorithm_exactly(algorithm: PersonalisedStart, sites: Sites) -> None:
    state, records = run(algorithm, sites("a"))
    assert same(state.tensors, run(FedAvg(), sites("a"))[0].tensors)
    assert [r.sites["a"].metrics.get("own_weight") for r in records] == [None, 0.0, 0.0]


@both
def test_a_resumed_run_equals_an_uninterrupted_one_exactly(
    algorithm: PersonalisedStart, sites: Sites, tmp_path: Path
) -> None:
    assert_resumes(algorithm, lambda: sites("abc"), tmp_path, Rounds(4, per_round=2))


@both
def test_a_failed_visit_does_not_change_the_memory(algorithm: PersonalisedStart, sites: Sites) -> None:
    transport = sites("a")
    state = Weights(transport.local.shared())
    list(transport.ask(algorithm, [("a", state)], Round(0, 2, seed=0)))
    before = dict(transport.memories.get("a"))
    broken = Weights({k: t * torch.nan if t.is_floating_point() else t for k, t in state.tensors.items()})
    list(transport.ask(algorithm, [("a", broken)], Round(1, 2, seed=0)))
    assert same(transport.memories.get("a"), before)


@both
def test_an_exchange_can_wrap_it(algorithm: PersonalisedStart, sites: Sites) -> None:
    banks = {"bank_size": 16, "remote_bank_size": 16}
    with_exchange = WithExchange(algorithm, exchange=ShareStatistics(remote_features=8, min_patients=4))
    transport = sites("ab", MoCo, **banks)
    state, records = run(with_exchange, transport)
    assert isinstance(state, Combined)
    assert nbytes(state.exchange) > 0
    memory = transport.memories.get("a")
    assert {"own", "module", "optimizer"} <= {k.split("/")[0] for k in memory}
    assert any(k.startswith("module/bank.") for k in memory)
    assert records[1].sites["a"].metrics["divergence"] > 0


@both
def test_callbacks_of_the_visit_act(algorithm: PersonalisedStart, sites: Sites) -> None:
    proximal = with_callbacks(sites("ab"), ProximalTerm(5.0))
    assert not same(run(algorithm, proximal)[0].tensors, run(algorithm, sites("ab"))[0].tensors)


@both
def test_wrapping_an_algorithm_that_sends_no_weights_is_an_error(algorithm: PersonalisedStart, sites: Sites) -> None:
    with pytest.raises(QuorumMissed, match=r"mixes weights, but LocalOnly sends Empty; wrap an algorithm that sends"):
        run(type(algorithm)(LocalOnly()), sites("ab"))
