from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import Refused
from fedcore.messages.round import Round
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedgen.diffusion.diffusion import Diffusion
from fedgen.diffusion.schedule import NoiseSchedule
from fedgen.diffusion.unet import UNet
from fedgen.generator import Conditions, ImageShape
from tests.fedcore.federating import federate
from tests.fedcore.toys import Hospitals
from tests.fedcore.toys import images as toy_images

CONDITIONS = Conditions(("cat", "dog"), ("a", "b", "c"))
TURN = Round(0, 1, 0)


def diffusion(**settings: Any) -> Diffusion:
    torch.manual_seed(0)
    module = Diffusion(ImageShape(1, (8, 8)), CONDITIONS, partial(UNet, widths=(8, 16)), **settings)
    for parameter in module.denoiser.parameters():  # so that no prediction is 0
        torch.nn.init.normal_(parameter, std=0.1)
    module.ema.load_state_dict(module.denoiser.state_dict())
    return module


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, 8, 8, generator=generator) * 2 - 1, torch.arange(count) % 2


@pytest.mark.parametrize("prediction_type", ["epsilon", "v", "flow"])
def test_the_loss_equals_the_papers_algorithm(prediction_type: Any) -> None:
    """Algorithm 1 of Ho et al., one image after another, with the same random numbers."""
    module, (images, labels) = diffusion(schedule=NoiseSchedule(prediction_type), condition_dropout=0.0), batch()
    module.on_visit_start("b", TURN)
    torch.manual_seed(3)
    loss = module.training_step((images, labels), 0)
    torch.manual_seed(3)
    times, noise = module.schedule.sample_times(len(images), images.device), torch.randn_like(images)
    total = 0.0
    for i in range(len(images)):
        a, s = (float(scale) for scale in module.schedule.scales(times[i : i + 1]))
        x, e = images[i], noise[i]
        target = {"epsilon": e, "v": a * e - s * x, "flow": e - x}[prediction_type]
        prediction = module.denoiser((a * x + s * e)[None], times[i : i + 1], labels[i : i + 1], torch.tensor([1]))[0]
        total += float(module.schedule.loss_weight(times[i : i + 1])) * float(
            ((prediction - target) ** 2).mean().detach()
        )
    assert float(loss.detach()) == pytest.approx(total / len(images), rel=1e-4)


def test_the_unconditional_branch_of_guidance_is_trained() -> None:
    """The embeddings of UNCONDITIONED have gradients, and have none where nothing is dropped."""
    for condition_dropout, trained in ((0.1, True), (0.0, False)):
        module, (images, labels) = diffusion(condition_dropout=condition_dropout), batch(64)
        torch.manual_seed(0)
        module.loss(images, labels, torch.zeros_like(labels)).backward()
        for table in (module.denoiser.condition_embedding.classes, module.denoiser.condition_embedding.sites):
            assert table.weight.grad is not None
            assert bool(table.weight.grad[-1].abs().sum() > 0) is trained
        assert module.generator.settings["condition_dropout"] == condition_dropout


def test_the_ema_has_the_halflife_of_its_images() -> None:
    """After the start: with 16 images per step and a halflife of 32, two steps halve the distance."""
    module = diffusion(ema_halflife=32.0)
    module.ema_steps.fill_(1000)
    with torch.no_grad():
        for slow, fast in zip(module.ema.parameters(), module.denoiser.parameters(), strict=True):
            slow.zero_()
            fast.fill_(1.0)
    for expected in (1 - 0.5**0.5, 0.5):
        module.on_train_batch_end(None, batch(16), 0)
        assert all(torch.allclose(p, torch.full_like(p, expected)) for p in module.ema.parameters())


def test_the_ema_is_fast_at_the_start_and_a_copy_without_a_halflife() -> None:
    for module, left in ((diffusion(ema_halflife=1e9), 0.1), (diffusion(ema_halflife=0.0), 0.0)):
        with torch.no_grad():
            for slow, fast in zip(module.ema.parameters(), module.denoiser.parameters(), strict=True):
                slow.zero_()
                fast.fill_(1.0)
        module.on_train_batch_end(None, batch(), 0)
        assert all(torch.allclose(p, torch.full_like(p, 1 - left)) for p in module.ema.parameters())


def test_all_weights_travel() -> None:
    module = diffusion(optimizer=lambda p: SGD(p, lr=0.01))
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    transport = Hospitals({name: toy_images(name) for name in "abc"}, local)
    start = FedAvg().start(local)
    state = federate(FedAvg(), transport, start, Rounds(2), 0)
    assert set(state.tensors) == set(module.state_dict())
    assert float(state.tensors["ema_steps"]) == 6.0  # 3 steps a visit of 12 images, and 2 rounds
    perturbed = [k for k, t in state.tensors.items() if k.startswith("ema.") and not torch.equal(t, start.tensors[k])]
    assert perturbed


def test_an_unknown_site_is_refused() -> None:
    with pytest.raises(Refused, match=r"this site is not one of the generator's sites \(a, b, c\)"):
        diffusion().on_visit_start("d", TURN)


@pytest.mark.parametrize("settings", [{"condition_dropout": 1.0}, {"condition_dropout": -0.1}, {"ema_halflife": -1.0}])
def test_invalid_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"condition_dropout must lie in \[0, 1\) and ema_halflife be 0 or more"):
        diffusion(**settings)
