from __future__ import annotations

import pytest
import torch
from torch.optim import Adam

from fedcore.aggregation.robust import Median
from fedcore.algorithms.fedavg import FedAvg
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.server.rounds import Rounds
from fedcore.site.site import Site
from fedcore.training.visit import Visit
from tests.fedcore.federating import federate, same
from tests.fedcore.toys import Factory, Hospitals, Toy, central, contribution, images, local, momentum


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
def test_one_site_equals_central_training_exactly(optimizer: Factory, keep: bool, epochs: int) -> None:
    """Weights and batch norm of the server, and what stayed at the site, against a plain loop."""
    visit = Visit(batch_size=4, max_epochs=epochs, accelerator="cpu", keep_optimizer=keep)
    weights, memory = federated(visit, optimizer)
    reference = central(Toy(optimizer), images(), visit, rounds=3)
    assert same(weights, {k: v for k, v in reference.items() if k != "seen"})
    assert torch.equal(memory["module/seen"], reference["seen"])


@pytest.mark.parametrize("optimizer", [momentum, adam, fused])
def test_keeping_the_optimizers_state_changes_the_training(optimizer: Factory) -> None:
    kept, anew = (federated(Visit(4, accelerator="cpu", keep_optimizer=k), optimizer)[0] for k in (True, False))
    assert not torch.equal(kept["layer.weight"], anew["layer.weight"])


def test_two_sites_train_separately_and_are_averaged_by_their_images() -> None:
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


def test_a_visit_changes_neither_the_servers_state_nor_earlier_contributions() -> None:
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
