from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from pathlib import Path

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor, nn

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.data.loader import loader
from fedcore.errors import Refused
from fedcore.messages.message import Weights
from fedcore.messages.round import Round
from fedcore.models.resnet import ResNet
from fedcore.runs.checkpoint import Checkpoint
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.methods.fedx import FedX, js_divergence, log_relations
from tests.fedcore.federating import federate
from tests.fedcore.toys import Hospitals


def fedx(encoder: nn.Module, **more: float) -> FedX:
    return FedX(encoder, hidden_dim=8, projection_dim=4, **more)  # type: ignore[arg-type]


def views(n: int = 4) -> list[Tensor]:
    return [torch.randn(n, 1, 8, 8), torch.randn(n, 1, 8, 8)]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def nt_xent(a: Tensor, b: Tensor, tau: float) -> float:
    """Chen et al. 2020 as loops: each of the 2n with its other view and all others."""
    z, n, total = [*a, *b], len(a), 0.0
    for i in range(2 * n):
        denominator = sum(exp(cosine(z[i], z[k]) / tau) for k in range(2 * n) if k != i)
        total -= log(exp(cosine(z[i], z[(i + n) % (2 * n)]) / tau) / denominator)
    return total / (2 * n)


def relation(x: Tensor, others: Tensor, i: int, tau: float) -> list[float]:
    weights = [exp(cosine(x[i], others[j]) / tau) for j in range(len(others)) if j != i]
    return [w / sum(weights) for w in weights]


def js(p: list[float], q: list[float]) -> float:
    def kl(a: list[float], b: list[float]) -> float:
        return sum(x * log(x / y) for x, y in zip(a, b, strict=True))

    mean = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    return (kl(p, mean) + kl(q, mean)) / 2


def relational(a: Tensor, b: Tensor, others: Tensor, tau: float) -> float:
    return sum(js(relation(a, others, i, tau), relation(b, others, i, tau)) for i in range(len(a))) / len(a)


@pytest.mark.parametrize(("n", "tau", "tau_r"), [(2, 0.2, 0.1), (5, 0.5, 0.3)])
def test_the_loss_equals_its_four_terms_as_loops(
    toy: Callable[..., nn.Module], n: int, tau: float, tau_r: float
) -> None:
    module, pair = fedx(toy(), temperature=tau, relation_temperature=tau_r), views(n)
    module.on_visit_start("a", Round(0, 1, seed=0))
    for p in module.parameters():  # the site has trained since the visit started
        p.data.add_(0.1 * torch.randn_like(p))
    loss = module.loss(pair)
    both = torch.cat(pair)
    with torch.no_grad():
        z = module.head(module.encoder(both))
        (z1, z2), (p1, p2) = z.double().chunk(2), module.predictor(z).double().chunk(2)
        g1, g2 = module.global_model.network(both).double().chunk(2)
    local = nt_xent(z1, z2, tau) + relational(z1, z2, z1, tau_r)
    contrast = (nt_xent(p1, g2, tau) + nt_xent(p2, g1, tau)) / 2
    relate = (relational(p1, g2, g1, tau_r) + relational(p2, g1, g2, tau_r)) / 2
    assert loss.item() == pytest.approx(local + contrast + relate, rel=1e-4)


def test_relations_are_probabilities_over_the_other_images() -> None:
    r = log_relations(torch.randn(5, 3), torch.randn(5, 3), 0.2).exp()
    assert r.shape == (5, 4)
    torch.testing.assert_close(r.sum(1), torch.ones(5))
    e = torch.eye(3)
    by_hand = log_relations(torch.stack([e[0], e[1], e[0]]), torch.stack([e[0], e[1], e[0]]), 1.0).exp()
    near, far = exp(1) / (1 + exp(1)), 1 / (1 + exp(1))
    torch.testing.assert_close(by_hand, torch.tensor([[far, near], [0.5, 0.5], [near, far]]))


def test_js_divergence_is_symmetric_bounded_and_zero_for_equals() -> None:
    a, b = torch.randn(6, 4).log_softmax(1), torch.randn(6, 4).log_softmax(1)
    torch.testing.assert_close(js_divergence(a, b), js_divergence(b, a))
    assert js_divergence(a, a).item() == pytest.approx(0, abs=1e-6)
    apart = torch.tensor([[0.0, -80.0]]), torch.tensor([[-80.0, 0.0]])
    assert js_divergence(*apart).item() == pytest.approx(log(2), rel=1e-5)


def test_the_global_terms_do_not_depend_on_the_order_of_images(toy: Callable[..., nn.Module]) -> None:
    module, (a, b), order = fedx(toy()), views(6), torch.randperm(6)
    module.on_visit_start("a", Round(0, 1, seed=0))
    torch.testing.assert_close(module.loss([a[order], b[order]]), module.loss([a, b]))


def test_the_distillation_loss_of_equal_embeddings_is_contrastive_alone(toy: Callable[..., nn.Module]) -> None:
    module, z = fedx(toy()), torch.randn(5, 4)
    torch.testing.assert_close(module.distillation_loss(z, z, z), NTXentLoss(0.2)(z, z))


def test_the_global_model_is_the_model_sent_and_does_not_change(toy: Callable[..., nn.Module]) -> None:
    module, batch = fedx(toy()), torch.randn(4, 1, 8, 8)
    for p in module.parameters():
        p.data.add_(torch.randn_like(p))
    module.on_visit_start("a", Round(0, 1, seed=0))
    sent = nn.Sequential(module.encoder, module.head).eval()(batch).detach()
    module.train()
    before = module.global_model.network(batch)
    torch.testing.assert_close(before, sent)
    optimizer = module.configure_optimizers()
    module.loss(views()).backward()
    optimizer.step()
    assert torch.equal(module.global_model.network(batch), before)
    assert not torch.equal(module.head(module.encoder(batch)), before)


def test_the_global_model_is_no_submodule(toy: Callable[..., nn.Module]) -> None:
    module = fedx(toy())
    assert {name.split(".")[0] for name in module.state_dict()} == {"encoder", "head", "predictor"}
    assert all(name.startswith(module.share) for name in module.state_dict())
    module.on_visit_start("a", Round(0, 1, seed=0))
    module.loss(views()).backward()
    assert all(p.grad is not None for p in module.parameters())
    assert not any(p.requires_grad for p in module.global_model.network.parameters())


def test_the_global_model_is_not_stored(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    module = fedx(toy())
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    sites = Hospitals({name: images(name) for name in "ab"}, local)
    state = federate(FedAvg(), sites, Weights(local.shared()), Rounds(2), seed=0)
    assert all(not sites.memories.get(name) for name in "ab")
    module.on_visit_start("c", Round(2, 3, seed=0))
    assert state.tensors.keys() == module.state_dict().keys()


def test_one_site_equals_central_training(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    """With a global model that is replaced every round."""
    module, twin, site = fedx(toy()), fedx(toy()), images()
    twin.load_state_dict(module.state_dict())
    local = LocalTrainer(module, module.share, Visit(batch_size=6, accelerator="cpu"))
    state = federate(FedAvg(), Hospitals({"a": site}, local), Weights(local.shared()), Rounds(2), seed=0)
    for index in range(2):
        turn, optimizer = Round(index, 2, seed=0), twin.configure_optimizers()
        order = torch.Generator().manual_seed(turn.seed_of("a", "order"))
        twin.on_visit_start("a", turn)
        with seeded(turn.seed_of("a")):
            for batch in loader(site, 6, True, True, generator=order):
                optimizer.zero_grad()
                twin.training_step(batch, 0).backward()
                optimizer.step()
    for name, tensor in state.tensors.items():
        torch.testing.assert_close(tensor, twin.state_dict()[name])


def test_a_resumed_run_equals_an_uninterrupted_one_exactly(
    toy: Callable[..., nn.Module], images: Callable[..., Images], tmp_path: Path
) -> None:
    module = fedx(toy())
    start = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def rounds(begin: int, end: int, state: Weights, trainer: LocalTrainer) -> Weights:
        sites = Hospitals({name: images(name) for name in "ab"}, trainer)
        return federate(FedAvg(), sites, state, Rounds(end), seed=0, begin=begin)

    def trainer() -> LocalTrainer:
        fresh = fedx(toy())
        fresh.load_state_dict(start)
        return LocalTrainer(fresh, fresh.share, Visit(batch_size=4, accelerator="cpu"))

    first = trainer()
    whole = rounds(0, 3, Weights(first.shared()), first)
    second = trainer()
    half = rounds(0, 2, Weights(second.shared()), second)
    Checkpoint.open(tmp_path).commit(1, half)
    third = trainer()
    again = rounds(2, 3, Checkpoint.open(tmp_path).restore(Weights(third.shared())), third)
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in whole.tensors.items())


@pytest.mark.parametrize("dims", [2, 3])
def test_it_trains_on_images_and_on_volumes(dims: int) -> None:
    module = fedx(ResNet(dims, 1, depth=10, stem=8))
    module.on_visit_start("a", Round(0, 1, seed=0))
    loss = module.loss([torch.rand(4, 1, *(16,) * dims) for _ in range(2)])
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("space", [(8, 8), (4, 4, 4)], ids=["2d", "3d"])
def test_bfloat16_is_finite_and_close_to_float32(toy: Callable[..., nn.Module], space: tuple[int, ...]) -> None:
    """Without convolutions: on CPUs torch 2.15 (oneDNN) gets bf16 weight gradients wrong on maps of 1 or 2 pixels."""
    module, twin = fedx(toy()), fedx(toy())
    twin.load_state_dict(module.state_dict())
    twin.on_visit_start("a", Round(0, 1, seed=0))
    module.on_visit_start("a", Round(0, 1, seed=0))
    batch = ([torch.rand(4, 1, *space) for _ in range(2)],)
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.loss(*batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(twin.loss(*batch).item(), rel=0.05)
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_one_image_or_one_view_is_rejected(toy: Callable[..., nn.Module]) -> None:
    with pytest.raises(Refused, match="at least 2 images"):
        fedx(toy()).loss(views(1))
    with pytest.raises(Refused, match="2 views"):
        fedx(toy()).loss(views()[:1])
