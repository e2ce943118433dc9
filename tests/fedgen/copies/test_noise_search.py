from __future__ import annotations

import pytest
import torch

from fedcore.data.phantom.phantoms import Phantoms
from fedgen.copies.noise_search import NOISES, Noisy, noise


@pytest.mark.parametrize("variance", [0.04, 0.25])
def test_noise_is_measured(variance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.linspace(-1, 1, 64)[:, None] * torch.linspace(0, 1, 64)
    noisy = smooth + variance**0.5 * torch.randn(40, 1, 64, 64, generator=generator)
    assert float(noise(noisy).mean()) == pytest.approx(variance, rel=0.03)
    assert float(noise(smooth[None, None])) == pytest.approx(0, abs=1e-9)
    assert float(noise(torch.randn(8, 1, 16, 16, 16, generator=generator)).mean()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_noisy_image_is_like_its_original_and_its_noise_is_told(dims: int) -> None:
    images = next(iter(Phantoms(1, 120, dims, test_fraction=0.0).cohort(16).sites.values())).batch(range(120))
    noisy, generator = Noisy.of(images, torch.arange(120) // 2), torch.Generator().manual_seed(2)
    assert (noisy.levels.diff() > 0).all()
    for level, sd in enumerate(NOISES):
        found = (images + sd * torch.randn(images.shape, generator=generator)).clamp(-1, 1)
        told = noisy.level(found)
        assert (told - level).abs().float().mean() < 0.5
        assert (told - level).abs().max() <= 2
    assert (noisy.level(torch.randn(images.shape, generator=generator).sign()) == len(NOISES)).all()
    seen = noisy((images[:8] + 0.3 * torch.randn(images[:8].shape, generator=generator)).clamp(-1, 1))
    assert seen.similarity.max() <= 1
    assert seen.at[:, 0].tolist() == [*range(8)]
