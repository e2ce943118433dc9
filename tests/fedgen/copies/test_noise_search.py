from __future__ import annotations

import pytest
import torch

from fedcore.data.phantom.phantoms import Phantoms
from fedgen.copies.noise_search import NOISE_LEVELS, NoiseSearch, noise_variance


@pytest.mark.parametrize("variance", [0.04, 0.25])
def test_noise_is_measured(variance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.linspace(-1, 1, 64)[:, None] * torch.linspace(0, 1, 64)
    noisy = smooth + variance**0.5 * torch.randn(40, 1, 64, 64, generator=generator)
    assert float(noise_variance(noisy).mean()) == pytest.approx(variance, rel=0.03)
    assert float(noise_variance(smooth[None, None])) == pytest.approx(0, abs=1e-9)
    volumes = torch.randn(8, 1, 16, 16, 16, generator=generator)
    assert float(noise_variance(volumes).mean()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_noisy_image_matches_its_original_and_its_noise_level_is_found(dims: int) -> None:
    images = next(iter(Phantoms(1, 120, dims, test_fraction=0.0).cohort(16).sites.values())).batch(range(120))
    search, generator = NoiseSearch.fit(images, torch.arange(120) // 2), torch.Generator().manual_seed(2)
    assert (search.measured_levels.diff() > 0).all()
    for level, sd in enumerate(NOISE_LEVELS):
        noisy = (images + sd * torch.randn(images.shape, generator=generator)).clamp(-1, 1)
        levels = search.level(noisy)
        assert (levels - level).abs().float().mean() < 0.5
        assert (levels - level).abs().max() <= 2
    assert (search.level(torch.randn(images.shape, generator=generator).sign()) == len(NOISE_LEVELS)).all()
    found = search((images[:8] + 0.3 * torch.randn(images[:8].shape, generator=generator)).clamp(-1, 1))
    assert found.similarity.max() <= 1
    assert found.index[:, 0].tolist() == [*range(8)]
