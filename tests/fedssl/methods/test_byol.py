from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.data.loader import loader
from fedcore.errors import Refused
from fedcore.messages.message import Weights
from fedcore.messages.round import Round
from fedcore.models.resnet import ResNet
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.methods.byol import BYOL
from tests.fedcore.federating import assert_resumes, federate, same
from tests.fedcore.toys import Hospitals

VISIT = Visit(batch_size=4, accelerator="cpu")
ONLINE, TARGET = {"encoder", "head", "predictor"}, {"target_encoder", "target_head"}


def byol(encoder: nn.Module, **more: float) -> BYOL:
    return BYOL(encoder, hidden_dim=8, projection_dim=4, **more)  # type: ignore[arg-type]


def views(n: int = 4) -> list[Tensor]:
    return [torch.randn(n, 1, 8, 8), torch.randn(n, 1, 8, 8)]


def perturbed(module: BYOL) -> BYOL:
    """The target network differs from the online network, as after some steps."""
    for p in [*module.target_encoder.parameters(), *module.target_head.parameters()]:
        p.data.add_(0.3 * torch.randn_like(p))
    return module


def equation_2(prediction: Tensor, target: Tensor) -> float:
    """Mean over the images of |q/|q| - z/|z||^2, number by number."""
    total = 0.0
    for q, z in zip(prediction.detach().double(), target.detach().double(), strict=True):
        total += sum(float(a / q.norm() - b / z.norm()) ** 2 for a, b in zip(q, z, strict=True))
    return total / len(prediction)


@pytest.mark.parametrize("n", [2, 5])
def test_the_loss_equals_the_papers_in_both_directions(toy: Callable[..., nn.Module], n: int) -> None:
    module, (a, b) = perturbed(byol(toy(), momentum=1.0)), views(n)
    expected = 0.0
    for online_view, target_view in ((a, b), (b, a)):
        prediction = module.predictor(module.head(module.encoder(online_view)))
        expected += equation_2(prediction, module.target_head(module.target_encoder(target_view)))
    assert module.loss([a, b]).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_does_not_depend_on_the_order_of_images_or_views(toy: Callable[..., nn.Module]) -> None:
    module, (a, b), order = perturbed(byol(toy(), momentum=1.0)), views(6), torch.randperm(6)
    torch.testing.assert_close(module.loss([a[order], b[order]]), module.loss([a, b]))
    torch.testing.assert_close(module.loss([b, a]), module.loss([a, b]))


def test_the_loss_of_a_perfect_prediction_is_0_and_of_its_opposite_8(toy: Callable[..., nn.Module]) -> None:
    module, image = byol(toy(norm=False), momentum=1.0), views(4)[0]
    for sign, loss in ((1.0, 0.0), (-1.0, 8.0)):
        module.predictor = nn.Linear(4, 4, bias=False)
        module.predictor.weight.data = sign * torch.eye(4)
        assert module.loss([image, image]).item() == pytest.approx(loss, abs=1e-5)


def test_the_target_is_updated_by_the_formula(toy: Callable[..., nn.Module]) -> None:
    module = perturbed(byol(toy(), momentum=0.9))
    before = {k: p.detach().clone() for k, p in module.named_parameters()}
    module.loss(views())
    for name, p in module.named_parameters():
        if not name.startswith("target_"):
            assert torch.equal(p, before[name])
            continue
        online = before[name.removeprefix("target_")]
        for new, old, new_online in zip(p.flatten().tolist(), before[name].flatten(), online.flatten(), strict=True):
            assert new == pytest.approx(0.9 * float(old) + 0.1 * float(new_online), rel=1e-5, abs=1e-6)


def test_the_target_gets_no_gradient(toy: Callable[..., nn.Module]) -> None:
    module = perturbed(byol(toy()))
    module.loss(views()).backward()
    assert {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None} == ONLINE
    optimised = {id(p) for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert optimised == {id(p) for k, p in module.named_parameters() if k.split(".")[0] in ONLINE}


def test_the_online_network_is_sent_and_the_target_stays(toy: Callable[..., nn.Module]) -> None:
    module = byol(toy())
    assert {k.split(".")[0] for k in module.state_dict() if k.startswith(module.share)} == ONLINE
    assert {k.split(".")[0] for k in module.state_dict() if not k.startswith(module.share)} == TARGET | {
        "target_initialised"
    }


def federation(toy: Callable[..., nn.Module], images: Callable[..., Images], names: str) -> Hospitals:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = byol(toy())
    return Hospitals({name: images(name) for name in names}, LocalTrainer(module, module.share, VISIT))


def test_each_site_has_its_own_target(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    sites = federation(toy, images, "ab")
    state = FedAvg().start(sites.local)
    state = federate(FedAvg(), sites, state, Rounds(2), 0)
    a, b = (sites.memories.get(name) for name in "ab")
    assert not torch.equal(a["module/target_encoder.layers.1.weight"], b["module/target_encoder.layers.1.weight"])
    assert not any("target_" in name for name in state.tensors)


def test_the_first_target_of_a_site_is_the_model_sent_to_it(
    toy: Callable[..., nn.Module], images: Callable[..., Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = federation(toy, images, "a")
    trained = Weights({k: t + 1 if t.is_floating_point() else t for k, t in sites.local.shared().items()})
    targets, loss = [], BYOL.loss

    def noted(module: Any, views: Any) -> Tensor:
        targets.append(module.target_head.layers[0].weight.clone())
        return loss(module, views)

    monkeypatch.setattr(BYOL, "loss", noted)
    for index in range(2):
        list(sites.ask(FedAvg(), [("a", trained)], Round(5 + index, 9, seed=0)))
    assert torch.equal(targets[0], trained.tensors["head.layers.0.weight"])
    assert not torch.equal(targets[3], trained.tensors["head.layers.0.weight"])  # the site's own at its second visit


def test_one_site_equals_central_training(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    sites, data = federation(toy, images, "a"), images("a")
    module, found = copy.deepcopy(sites.local.module), FedAvg().start(sites.local)
    found = federate(FedAvg(), sites, found, Rounds(3), 0)
    for index in range(3):
        turn, optimizer = Round(index, 3, seed=0), module.configure_optimizers()
        order = torch.Generator().manual_seed(turn.seed_of("a", "order"))
        with seeded(turn.seed_of("a")):
            for batch in loader(data, 4, True, True, None, order):
                optimizer.zero_grad()
                module.training_step(batch, 0).backward()
                optimizer.step()
    assert same(found.tensors, {k: t for k, t in module.state_dict().items() if k.startswith(module.share)})
    memory = {k.removeprefix("module/"): t for k, t in sites.memories.get("a").items()}
    assert all(torch.equal(t, module.state_dict()[name]) for name, t in memory.items() if name != "target_initialised")
    assert any(name.startswith("target_encoder.") for name in memory)


def test_a_resumed_run_equals_an_uninterrupted_one_exactly(
    toy: Callable[..., nn.Module], images: Callable[..., Images], tmp_path: Path
) -> None:
    assert_resumes(FedAvg(), lambda: federation(toy, images, "ab"), tmp_path)


@pytest.mark.parametrize("space", [(32, 32), (32, 32, 32)], ids=["2d", "3d"])
def test_it_trains_on_images_in_bf16_and_on_volumes(space: tuple[int, ...], half: Callable[..., Any]) -> None:
    module = BYOL(ResNet(len(space), depth=10, stem=4), hidden_dim=8, projection_dim=4)
    with half(space):
        loss = module.training_step(torch.rand(4, 1, *space) * 2 - 1, 0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert 0 <= loss.item() <= 8
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.requires_grad and p.grad is not None)


@pytest.mark.parametrize(("count", "n", "message"), [(3, 4, "2 views"), (2, 1, "at least 2 images")])
def test_wrong_numbers_of_views_or_images_are_rejected(
    toy: Callable[..., nn.Module], count: int, n: int, message: str
) -> None:
    with pytest.raises(Refused, match=message):
        byol(toy()).loss([torch.randn(n, 1, 8, 8)] * count)


def test_momentum_out_of_range_is_rejected(toy: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\], got 1\.5"):
        byol(toy(), momentum=1.5)
