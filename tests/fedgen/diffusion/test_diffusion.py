from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import InputError, Refused
from fedcore.server.rounds import Rounds, federate
from fedcore.site.site import Round
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedgen.diffusion.diffusion import Diffusion
from fedgen.diffusion.sampler import Sampler, noise_of
from fedgen.diffusion.schedule import Noise
from fedgen.diffusion.unet import UNet
from fedgen.generator import UNCONDITIONED, Conditions, ImageShape, dropped_conditions
from tests.fedcore.toys import images as toy_images

KNOWN = Conditions(("cat", "dog"), ("a", "b", "c"))
TURN = Round(0, 1, 0)


def diffusion(**settings: Any) -> Diffusion:
    torch.manual_seed(0)
    module = Diffusion(ImageShape(1, (8, 8)), KNOWN, partial(UNet, widths=(8, 16)), **settings)
    for parameter in module.denoiser.parameters():  # no answer is 0
        torch.nn.init.normal_(parameter, std=0.1)
    module.average.load_state_dict(module.denoiser.state_dict())
    return module


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, 8, 8, generator=generator) * 2 - 1, torch.arange(count) % 2


@pytest.mark.parametrize("predicts", ["epsilon", "v", "flow"])
def test_the_loss_equals_the_papers_algorithm(predicts: Any) -> None:
    """Algorithm 1 of Ho et al., one image after another, with the same draws."""
    module, (images, labels) = diffusion(noise=Noise(predicts), dropped=0.0), batch()
    module.on_visit_start("b", TURN)
    torch.manual_seed(3)
    loss = module.training_step((images, labels), 0)
    torch.manual_seed(3)
    times, noise = module.noise.times(len(images), images.device), torch.randn_like(images)
    total = 0.0
    for i in range(len(images)):
        a, s = (float(scale) for scale in module.noise.scales(times[i : i + 1]))
        x, e = images[i], noise[i]
        target = {"epsilon": e, "v": a * e - s * x, "flow": e - x}[predicts]
        said = module.denoiser((a * x + s * e)[None], times[i : i + 1], labels[i : i + 1], torch.tensor([1]))[0]
        total += float(module.noise.weight(times[i : i + 1])) * float(((said - target) ** 2).mean().detach())
    assert float(loss.detach()) == pytest.approx(total / len(images), rel=1e-4)


def test_class_and_site_are_heard_and_unsaid_is_a_row_of_its_own() -> None:
    module, (images, _) = diffusion(), batch(1)
    times = torch.tensor([500.0])

    def said(label: int, site: int) -> Tensor:
        return module.denoiser(images, times, torch.tensor([label]), torch.tensor([site]))

    answers = [said(label, site) for label in (0, 1, UNCONDITIONED) for site in (0, 1, 2, UNCONDITIONED)]
    assert len({float(answer.detach().sum()) for answer in answers}) == 12
    module.denoiser.asked.classes.weight.data[-1] = module.denoiser.asked.classes.weight.data[0]
    assert torch.equal(said(UNCONDITIONED, 1), said(0, 1))


def test_class_and_site_are_left_unsaid_together_and_each_alone() -> None:
    """Both where `together` or both of `alone` fall, each of 0.1: 0.1 + 0.9 * 0.01; a class alone 0.9 * 0.1 * 0.9."""
    random = torch.Generator().manual_seed(0)
    labels, sites = dropped_conditions(torch.zeros(40_000).long(), torch.ones(40_000).long(), 0.1, random)
    both = (labels == UNCONDITIONED) & (sites == UNCONDITIONED)
    shares = [
        float(of.float().mean()) for of in (both, (labels == UNCONDITIONED) & ~both, (sites == UNCONDITIONED) & ~both)
    ]
    assert shares == pytest.approx([0.109, 0.081, 0.081], abs=0.006)
    assert set(labels.tolist()) == {0, UNCONDITIONED}
    assert set(sites.tolist()) == {1, UNCONDITIONED}


def test_the_branch_that_guidance_subtracts_is_trained() -> None:
    """The rows of nothing said learn from a batch, and do not where nothing is dropped."""
    for dropped, learned in ((0.1, True), (0.0, False)):
        module, (images, labels) = diffusion(dropped=dropped), batch(64)
        torch.manual_seed(0)
        module.loss(images, labels, torch.zeros_like(labels)).backward()
        for table in (module.denoiser.asked.classes, module.denoiser.asked.sites):
            assert table.weight.grad is not None
            assert bool(table.weight.grad[-1].abs().sum() > 0) is learned
        assert module.generator.settings["dropped"] == dropped


def test_the_average_halves_a_weight_after_its_images() -> None:
    """Behind the start, by hand: with 16 images a step and 32 to the half, two steps halve the distance."""
    module = diffusion(halflife=32.0)
    module.steps.fill_(1000)
    with torch.no_grad():
        for slow, fast in zip(module.average.parameters(), module.denoiser.parameters(), strict=True):
            slow.zero_()
            fast.fill_(1.0)
    for expected in (1 - 0.5**0.5, 0.5):
        module.on_train_batch_end(None, batch(16), 0)
        assert all(torch.allclose(p, torch.full_like(p, expected)) for p in module.average.parameters())


def test_at_the_start_the_average_follows_fast_and_without_a_halflife_at_once() -> None:
    for module, left in ((diffusion(halflife=1e9), 0.1), (diffusion(halflife=0.0), 0.0)):
        with torch.no_grad():
            for slow, fast in zip(module.average.parameters(), module.denoiser.parameters(), strict=True):
                slow.zero_()
                fast.fill_(1.0)
        module.on_train_batch_end(None, batch(), 0)
        assert all(torch.allclose(p, torch.full_like(p, 1 - left)) for p in module.average.parameters())


def test_a_sample_is_the_same_in_any_batch() -> None:
    module, sampler = diffusion().eval(), Sampler(steps=4, guidance=1.5)
    noise, labels, sites = (
        noise_of(0, range(5), (1, 8, 8)),
        torch.tensor([0, 1, 0, 1, UNCONDITIONED]),
        torch.tensor([0] * 5),
    )
    with torch.no_grad():
        whole = module.generator.draw(noise, labels, sites, sampler)
        apart = [
            module.generator.draw(noise[i : i + 2], labels[i : i + 2], sites[i : i + 2], sampler) for i in (0, 2, 4)
        ]
    assert whole.abs().max() <= 1
    assert torch.allclose(whole, torch.cat(apart), atol=1e-4)


def test_guesses_end_at_what_is_drawn() -> None:
    module, sampler = diffusion().eval(), Sampler(steps=6, guidance=1.5)
    noise, labels, sites = noise_of(0, range(2), (1, 8, 8)), torch.tensor([0, 1]), torch.tensor([1, 0])
    with torch.no_grad():
        guesses = module.generator.guesses(noise, labels, sites, sampler, [0, 3, 5])
        drawn = module.generator.draw(noise, labels, sites, sampler)
    assert guesses.shape == (3, 2, 1, 8, 8)
    assert guesses.abs().max() <= 1
    assert torch.allclose(guesses[-1], drawn, atol=1e-4)
    assert not torch.allclose(guesses[0], drawn, atol=1e-2)


def test_guidance_moves_away_from_the_unsaid() -> None:
    """Eq. 6 of Ho and Salimans with w = guidance - 1, for one step, whose result is linear in what was said."""
    module, process = diffusion().eval(), Noise()
    noise, one = noise_of(0, [0], (1, 8, 8)), torch.tensor([1])
    open_ = torch.tensor([UNCONDITIONED])

    def walked(predict: Any) -> Tensor:
        return Sampler(steps=1).walk(predict, noise, process).clamp(-1, 1)

    with torch.no_grad():
        guided = module.generator.draw(noise, one, one, Sampler(steps=1, guidance=3.0))
        expected = walked(lambda x, t: 3 * module.average(x, t, one, one) - 2 * module.average(x, t, open_, open_))
        plain = module.generator.draw(noise, one, one, Sampler(steps=1))
    assert torch.allclose(guided, expected, atol=1e-5)
    assert not torch.allclose(guided, plain, atol=1e-3)


def test_sites_train_together_and_all_of_it_travels() -> None:
    module = diffusion(optimizer=lambda p: SGD(p, lr=0.01))
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    transport = InProcess({name: toy_images(name) for name in "abc"}, local)
    start = FedAvg().start(local)
    state = federate(FedAvg(), transport, start, Rounds(2), 0)
    assert set(state.tensors) == set(module.state_dict())
    assert float(state.tensors["steps"]) == 6.0  # 3 steps a visit of 12 images, and 2 rounds
    moved = [k for k, t in state.tensors.items() if k.startswith("average.") and not torch.equal(t, start.tensors[k])]
    assert moved


def test_a_site_that_is_not_known_takes_no_part() -> None:
    with pytest.raises(Refused, match="knows the sites a, b, c and was sent to another"):
        diffusion().on_visit_start("d", TURN)


def test_what_is_not_known_is_named_with_what_is() -> None:
    assert (KNOWN.label("dog"), KNOWN.site("c"), KNOWN.label(None), KNOWN.site(None)) == (
        1,
        2,
        UNCONDITIONED,
        UNCONDITIONED,
    )
    with pytest.raises(InputError, match="knows no class 'cow'; it knows cat, dog"):
        KNOWN.label("cow")
    with pytest.raises(InputError, match="knows no site 'd'; it knows a, b, c"):
        KNOWN.site("d")


@pytest.mark.parametrize("settings", [{"dropped": 1.0}, {"dropped": -0.1}, {"halflife": -1.0}])
def test_what_cannot_be_built_says_why(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"dropped must lie in \[0, 1\) and halflife be 0 or more"):
        diffusion(**settings)
