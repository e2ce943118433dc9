from __future__ import annotations

from typing import Any

import pytest
import torch

from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fedprox import ProximalTerm
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.visit import Visit
from tests.fedcore.federating import same
from tests.fedcore.toys import Toy, images, local

TURN = Round(0, 1, 0)
SITE = Site("a", images())


def noise(module: Toy, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) for name, p in module.named_parameters()}


@pytest.mark.parametrize("mu", [0.0, 0.01, 2.5])
def test_it_adds_the_gradient_of_the_proximal_term(mu: float) -> None:
    """h(w) = F(w) + mu/2 |w - w_global|^2 (eq. 2 of the paper), by autograd."""
    module = Toy()
    anchor, batch = noise(module, seed=1), SITE.images.batch(range(8))
    proximal = sum((p - anchor[n]).square().sum() for n, p in module.named_parameters())
    (module.loss(batch) + mu / 2 * proximal).backward()
    expected = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}

    module.zero_grad()
    module.loss(batch).backward()
    add_term(mu, anchor, module)
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])


def test_parameters_that_are_frozen_or_stay_at_the_site_are_not_changed() -> None:
    module = Toy()
    module.layer.bias.grad = None
    module.layer.weight.grad, module.norm.weight.grad = torch.ones(3, 64), torch.ones(3)
    add_term(1.0, {"layer.weight": torch.zeros(3, 64), "layer.bias": torch.zeros(3)}, module)
    assert module.layer.bias.grad is None
    assert torch.equal(module.norm.weight.grad, torch.ones(3))
    assert torch.equal(module.layer.weight.grad, 1 + module.layer.weight.detach())


def add_term(mu: float, anchor: Tensors, module: Toy) -> None:
    callback = ProximalTerm(mu).callback(anchor, SITE, TURN)
    callback.on_before_optimizer_step(Visit(accelerator="cpu").trainer([]), module, module.configure_optimizers())


def trained(*callbacks: Any) -> Tensors:
    trainer, algorithm = local(Visit(batch_size=4, max_epochs=3, accelerator="cpu", callbacks=callbacks)), FedAvg()
    return algorithm.visit(SITE, algorithm.start(trainer), trainer, TURN).message.tensors


def test_mu_0_is_exactly_fedavg() -> None:
    assert same(trained(ProximalTerm(0.0)), trained())


def test_with_larger_mu_weights_end_nearer_to_the_global_ones() -> None:
    start = Toy().layer.weight.detach()
    drift = [float((trained(ProximalTerm(mu))["layer.weight"] - start).norm()) for mu in (0.0, 0.5, 2.0)]
    assert drift[0] > drift[1] > drift[2] > 0


def test_mu_is_not_negative() -> None:
    with pytest.raises(ValueError, match=r"mu must be >= 0, got -1\.0"):
        ProximalTerm(-1.0)
