from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedgen.diffusion.sampler import Sampler, noise_of
from fedgen.diffusion.schedule import NoiseSchedule
from fedgen.generator import UNCONDITIONED
from tests.fedgen.diffusion.test_diffusion import batch, diffusion


def test_each_class_and_site_has_its_own_embedding_and_so_has_unconditioned() -> None:
    module, (images, _) = diffusion(), batch(1)
    times = torch.tensor([500.0])

    def predict(label: int, site: int) -> Tensor:
        return module.denoiser(images, times, torch.tensor([label]), torch.tensor([site]))

    predictions = [predict(label, site) for label in (0, 1, UNCONDITIONED) for site in (0, 1, 2, UNCONDITIONED)]
    assert len({float(prediction.detach().sum()) for prediction in predictions}) == 12
    module.denoiser.condition_embedding.classes.weight.data[-1] = (
        module.denoiser.condition_embedding.classes.weight.data[0]
    )
    assert torch.equal(predict(UNCONDITIONED, 1), predict(0, 1))


def test_a_sample_is_the_same_in_any_batch() -> None:
    module, sampler = diffusion().eval(), Sampler(steps=4, guidance=1.5)
    noise, labels, sites = (
        noise_of(0, range(5), (1, 8, 8)),
        torch.tensor([0, 1, 0, 1, UNCONDITIONED]),
        torch.tensor([0] * 5),
    )
    with torch.no_grad():
        whole = module.generator.sample(noise, labels, sites, sampler)
        apart = [
            module.generator.sample(noise[i : i + 2], labels[i : i + 2], sites[i : i + 2], sampler) for i in (0, 2, 4)
        ]
    assert whole.abs().max() <= 1
    assert torch.allclose(whole, torch.cat(apart), atol=1e-4)


def test_the_last_denoised_images_are_the_samples() -> None:
    module, sampler = diffusion().eval(), Sampler(steps=6, guidance=1.5)
    noise, labels, sites = noise_of(0, range(2), (1, 8, 8)), torch.tensor([0, 1]), torch.tensor([1, 0])
    with torch.no_grad():
        images = module.generator.denoised(noise, labels, sites, sampler, [0, 3, 5])
        samples = module.generator.sample(noise, labels, sites, sampler)
    assert images.shape == (3, 2, 1, 8, 8)
    assert images.abs().max() <= 1
    assert torch.allclose(images[-1], samples, atol=1e-4)
    assert not torch.allclose(images[0], samples, atol=1e-2)


def test_guidance_is_the_papers() -> None:
    """Eq. 6 of Ho and Salimans with w = guidance - 1, for one step, whose result is linear in the prediction."""
    module, schedule = diffusion().eval(), NoiseSchedule()
    noise, one = noise_of(0, [0], (1, 8, 8)), torch.tensor([1])
    open_ = torch.tensor([UNCONDITIONED])

    def sampled(predict: Any) -> Tensor:
        return Sampler(steps=1).sample(predict, noise, schedule).clamp(-1, 1)

    with torch.no_grad():
        guided = module.generator.sample(noise, one, one, Sampler(steps=1, guidance=3.0))
        expected = sampled(lambda x, t: 3 * module.ema(x, t, one, one) - 2 * module.ema(x, t, open_, open_))
        plain = module.generator.sample(noise, one, one, Sampler(steps=1))
    assert torch.allclose(guided, expected, atol=1e-5)
    assert not torch.allclose(guided, plain, atol=1e-3)
