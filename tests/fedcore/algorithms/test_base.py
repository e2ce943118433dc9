from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.optim import Adam

from fedcore.aggregation.mean import Median
from fedcore.algorithms.base import FedAvg, draws_of, sent_by, share_of
from fedcore.algorithms.incremental import Incremental
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.quantised import Quantised
from fedcore.exchanges.base import Combined, WithExchange
from fedcore.messages.message import Contribution, Empty, Tensors, Weights
from fedcore.server.rounds import Rounds
from fedcore.site.site import Round, Site
from fedcore.training.visit import Visit
from tests.fedcore.exchanges.test_base import Tally, Total
from tests.fedcore.toys import Factory, Hospitals, Toy, central, contribution, federate, images, local, momentum, same


def adam(parameters: object) -> Adam:
    return Adam(parameters, lr=0.01)  # type: ignore[arg-type]


def fused(parameters: object) -> Adam:
    return Adam(parameters, lr=0.01, fused=True)  # type: ignore[arg-type]


def federated(visit: Visit, optimizer: Factory, rounds: int = 3) -> tuple[Tensors, Tensors]:
    """One site, all of the rounds; the server's weights and the site's memory."""
    trainer = local(visit, Toy(optimizer))
    transport = Hospitals({"a": images()}, trainer)
    state = federate(FedAvg(), transport, FedAvg().start(trainer), Rounds(rounds), 0)
    return state.tensors, transport.memories.get("a")


@pytest.mark.parametrize("optimizer", [momentum, adam, fused])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "anew"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_one_site_equals_central_training_to_the_bit(optimizer: Factory, keep: bool, epochs: int) -> None:
    """Weights and batch norm of the server, and what stayed at the site, against a plain loop."""
    visit = Visit(batch_size=4, max_epochs=epochs, accelerator="cpu", keep_optimizer=keep)
    weights, memory = federated(visit, optimizer)
    reference = central(Toy(optimizer), images(), visit, rounds=3)
    assert same(weights, {k: v for k, v in reference.items() if k != "seen"})
    assert torch.equal(memory["module/seen"], reference["seen"])


@pytest.mark.parametrize("optimizer", [momentum, adam, fused])
def test_a_kept_optimizer_is_another_training(optimizer: Factory) -> None:
    kept, anew = (federated(Visit(4, accelerator="cpu", keep_optimizer=k), optimizer)[0] for k in (True, False))
    assert not torch.equal(kept["layer.weight"], anew["layer.weight"])


def test_two_sites_are_trained_apart_and_averaged_by_their_images() -> None:
    visit = Visit(batch_size=4, accelerator="cpu")
    train = {"a": images("a", 8), "b": images("b", 24)}
    trainer = local(visit)
    state = federate(FedAvg(), Hospitals(train, trainer), FedAvg().start(trainer), Rounds(1), 0)
    alone = {site: central(Toy(), data, visit, rounds=1) for site, data in train.items()}
    for name in ("layer.weight", "norm.running_var"):
        torch.testing.assert_close(state.tensors[name], 0.25 * alone["a"][name] + 0.75 * alone["b"][name])


def test_the_servers_rule_is_the_aggregator() -> None:
    sites = [contribution("s", w=value) for value in (1.0, 2.0, 90.0)]
    start = FedAvg().start(local())
    assert FedAvg(Median()).merge(start, iter(sites)).tensors["w"] == 2.0
    assert FedAvg().merge(start, iter(sites)).tensors["w"] == 31.0


def test_a_visit_changes_neither_the_servers_state_nor_what_was_sent() -> None:
    trainer, algorithm, turn = local(), FedAvg(), Round(0, 1, 0)
    state = algorithm.start(trainer)
    before = {k: t.clone() for k, t in state.tensors.items()}
    site = Site("a", images())
    with trainer.at(site):
        first = algorithm.visit(site, algorithm.broadcast(state, "a", turn), trainer, turn)
    sent = {k: t.clone() for k, t in first.message.tensors.items()}
    with trainer.at(Site("b", images("b"))):
        algorithm.visit(Site("b", images("b")), state, trainer, turn)
    assert same(state.tensors, before)
    assert same(first.message.tensors, sent)


def test_an_algorithm_may_narrow_what_travels() -> None:
    @dataclass(frozen=True)
    class Personal(FedAvg):
        share = ("layer.",)

    @dataclass(frozen=True)
    class Wide(FedAvg):
        def share(self, module: Toy) -> tuple[str, ...]:
            return tuple(name for name, t in module.state_dict().items() if t.numel() > 3)

    assert share_of(FedAvg(), Toy()) == ("layer.", "norm.")
    assert share_of(Wide(), Toy()) == ("layer.weight",)
    assert share_of(Personal(), Toy()) == ("layer.",)
    assert share_of(LocalOnly(), Toy()) == ()


def test_what_sites_send_is_what_a_visit_and_a_collection_say_they_return() -> None:
    assert set(sent_by(FedAvg())) == {Weights}
    assert set(sent_by(LocalOnly())) == {Empty}
    assert set(sent_by(Tally())) == {Total}
    assert set(sent_by(None)) == set()


def test_what_is_wrapped_is_sent_as_well() -> None:
    assert set(sent_by(WithExchange(FedAvg(), Tally()))) == {Combined, Weights, Total}
    assert set(sent_by(WithExchange(Quantised(LocalOnly()), Tally()))) == {Combined, Empty, Total}
    assert set(sent_by(Quantised(WithExchange(LocalOnly(), Tally())))) == {Combined, Empty, Total}


def test_who_does_not_say_what_is_sent_is_left_to_the_border() -> None:
    class Local: ...

    class Silent(FedAvg):
        def visit(self, site, down, local, turn):  # type: ignore[no-untyped-def]
            return super().visit(site, down, local, turn)

    class Unknown(FedAvg):
        def visit(self, site: Local, *_: Any) -> Contribution[Weights]:  # type: ignore[override]
            raise NotImplementedError

    assert set(sent_by(Silent())) == set(sent_by(Unknown())) == set()


def test_a_field_of_that_name_draws_no_sites() -> None:
    @dataclass(frozen=True)
    class Sampled(FedAvg):
        draw: int = 16

    assert draws_of(WithExchange(Sampled(), Tally())) is None
    assert draws_of(Quantised(Incremental())) == Incremental()
