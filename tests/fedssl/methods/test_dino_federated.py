from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from fedcore.algorithms.fedavg import FedAvg
from fedcore.augment.views import Views
from fedcore.data.dataset import Images
from fedcore.messages.round import Round
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.methods.dino import DINO
from tests.fedcore.federating import assert_resumes, federate
from tests.fedcore.toys import Hospitals


def dino(encoder: nn.Module, **more: Any) -> DINO:
    return DINO(encoder, **{"hidden_dim": 8, "bottleneck_dim": 4, "output_dim": 6} | more)  # type: ignore[arg-type]


def views(count: int = 2, n: int = 4) -> list[Tensor]:
    return [torch.randn(n, 1, 8, 8) for _ in range(count)]


def federation(
    toy: Callable[..., nn.Module], images: Callable[..., Images], names: str, size: int = 4, **more: Any
) -> Hospitals:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = dino(toy(), **more)
    visit = Visit(batch_size=size, accelerator="cpu", keep_optimizer=True)
    return Hospitals({name: images(name) for name in names}, LocalTrainer(module, module.share, visit))


def test_prototypes_are_frozen_in_the_first_round_alone(
    toy: Callable[..., nn.Module], images: Callable[..., Images]
) -> None:
    sites, name = federation(toy, images, "ab"), "head.prototypes.weight"
    initial = FedAvg().start(sites.local)
    states = [initial.tensors]
    federate(FedAvg(), sites, initial, Rounds(2), 0, finished=lambda _, state: states.append(state.tensors))
    assert torch.equal(states[1][name], states[0][name])
    assert not torch.equal(states[2][name], states[1][name])
    assert not torch.equal(states[1]["head.layers.0.weight"], states[0]["head.layers.0.weight"])


def test_the_averaged_teacher_is_the_moving_average_of_the_averaged_student(toy: Callable[..., nn.Module]) -> None:
    """Averages over sites and over steps commute, so averaging teachers is meaningful."""
    sites = [dino(toy(norm=False), momentum=0.8) for _ in range(3)]
    mean = dino(toy(norm=False), momentum=0.8)

    def average(part: str) -> dict[str, Tensor]:
        states = [getattr(module, part).state_dict() for module in sites]
        return {k: torch.stack([state[k] for state in states]).mean(0) for k in states[0]}

    mean.teacher_encoder.load_state_dict(average("teacher_encoder"))
    for _ in range(3):
        for module in sites:
            for p in module.encoder.parameters():
                p.data.add_(torch.randn_like(p))
        mean.encoder.load_state_dict(average("encoder"))
        for module in [*sites, mean]:
            module.loss(views())
    for name, t in average("teacher_encoder").items():
        torch.testing.assert_close(mean.teacher_encoder.state_dict()[name], t)


def test_one_site_equals_central_training(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    settings: dict[str, Any] = {
        "views": FixedViews(),
        "freeze_last_layer_rounds": 0,
        "temperature_warmup_rounds": 0,
        "momentum": 1.0,
    }
    settings["optimizer"] = lambda p: SGD(p, lr=0.1, momentum=0.9)
    sites = federation(toy, images, "a", 12, **settings)
    alone = federation(toy, images, "a", 12, **settings).local.module
    state = federate(FedAvg(), sites, FedAvg().start(sites.local), Rounds(3), 0)

    optimizer, batch = alone.configure_optimizers(), images("a").batch(range(12))
    for index in range(3):
        alone.on_visit_start("a", Round(index, 3, seed=0))
        optimizer.zero_grad()
        alone.training_step(batch, 0).backward()
        optimizer.step()
    for name, t in state.tensors.items():
        torch.testing.assert_close(t, alone.state_dict()[name], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(sites.memories.get("a")["module/criterion.center"], alone.criterion.center)


class FixedViews(Views):
    """Two views without randomness: the image, and the image darker."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        return [images, images - 0.3 * images.square()]


def test_a_resumed_run_equals_an_uninterrupted_one_exactly(
    toy: Callable[..., nn.Module], images: Callable[..., Images], tmp_path: Path
) -> None:
    assert_resumes(FedAvg(), lambda: federation(toy, images, "ab"), tmp_path)
    whole = federation(toy, images, "ab")
    found = federate(FedAvg(), whole, FedAvg().start(whole.local), Rounds(3), 0)
    assert any(name.startswith("teacher_encoder.") for name in found.tensors)
    a, b = (whole.memories.get(name) for name in "ab")
    assert not torch.equal(a["module/criterion.center"], b["module/criterion.center"])
