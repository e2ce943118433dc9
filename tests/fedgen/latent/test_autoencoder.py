from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fedcore.errors import InputError
from fedgen.generator import ImageShape
from fedgen.latent.autoencoder import Autoencoder, LatentNormalization, reparameterize


@pytest.mark.parametrize(("dims", "size"), [(2, (16, 24)), (3, (8, 12, 16))])
@pytest.mark.parametrize("attention", [False, True])
def test_latents_have_the_latent_shape_and_images_their_size(dims: int, size: tuple[int, ...], attention: bool) -> None:
    net = Autoencoder(dims, channels=2, latent_channels=3, widths=(8, 8, 16), attention=attention)
    mean, std = net(torch.randn(2, 2, *size))
    latent_shape = net.latent_shape(ImageShape(2, size))
    assert latent_shape == ImageShape(3, tuple(n // 4 for n in size))
    assert mean.shape == std.shape == (2, *latent_shape.shape)
    assert (std > 0).all()
    assert net.decode(mean).shape == (2, 2, *size)


def test_the_moments_are_the_only_buffers_and_images_do_not_depend_on_one_another() -> None:
    net, images = Autoencoder(2, 1, widths=(8, 16)), torch.randn(3, 1, 8, 8)
    assert [name for name, _ in net.named_buffers()] == ["normalization.mean", "normalization.mean_square"]
    mean, std = net(images)
    alone = net(images[1:2])
    assert torch.allclose(mean[1:2], alone[0], atol=1e-5)
    assert torch.allclose(std[1:2], alone[1], atol=1e-5)
    assert torch.allclose(net.decode(mean)[1:2], net.decode(mean[1:2]), atol=1e-5)


def test_the_moments_equal_the_hand_computed_ones() -> None:
    """Means 1 and 3 with standard deviations 1 and 0: mean 2, mean square (1 + 1 + 9) / 2, variance 3 / 2."""
    normalization = LatentNormalization()
    normalization.update(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[1.0, 0.0]]]), 1.0)
    assert (float(normalization.mean), float(normalization.mean_square)) == (2.0, 5.5)
    latents = torch.tensor([[[2.0, 5.0]]])
    assert torch.allclose(normalization.normalize(latents), torch.tensor([[[0.0, 3 / 1.5**0.5]]]))
    assert torch.allclose(normalization.denormalize(normalization.normalize(latents)), latents)


def test_initial_moments_change_nothing() -> None:
    latents = torch.randn(2, 3, 4, 4)
    assert torch.equal(LatentNormalization().normalize(latents), latents)


@pytest.mark.parametrize("counts", [(1, 1), (2, 5), (7, 1)])
def test_moments_averaged_by_images_are_those_of_all_images_together(counts: tuple[int, int]) -> None:
    """Variances would not be: the sites' means differ."""
    sites = [torch.randn(n, 2, 4, 4) + 3 * at for at, n in enumerate(counts)]
    none = [torch.zeros_like(latents) for latents in sites]
    for_safetensors, together = [LatentNormalization() for _ in sites], LatentNormalization()
    for normalization, latents, zero in zip(for_safetensors, sites, none, strict=True):
        normalization.update(latents, zero, 1.0)
    together.update(torch.cat(sites), torch.cat(none), 1.0)
    for name in ("mean", "mean_square"):
        mean = sum(
            n * getattr(normalization, name) for n, normalization in zip(counts, for_safetensors, strict=True)
        ) / sum(counts)
        assert float(mean) == pytest.approx(float(getattr(together, name)), rel=1e-12)
    normalized = together.normalize(torch.cat(sites))
    assert (float(normalized.mean()), float(normalized.var(correction=0))) == pytest.approx((0.0, 1.0), abs=1e-5)


def test_the_moments_are_those_of_sampled_latents() -> None:
    mean, std = torch.randn(50, 2, 16, 16) + 1, torch.rand(50, 2, 16, 16) * 3
    normalization = LatentNormalization()
    normalization.update(mean, std, 1.0)
    normalized: Tensor = normalization.normalize(reparameterize(mean, std))
    assert (float(normalized.mean()), float(normalized.std())) == pytest.approx((0.0, 1.0), abs=0.02)


def test_the_error_of_a_size_names_sizes_that_fit() -> None:
    net = Autoencoder(2, 1, widths=(8, 8, 8))
    net.require_size((8, 12))
    with pytest.raises(
        InputError, match=r"an autoencoder of 3 levels needs image sizes that are multiples of 4, .* 16 x 12 or 20 x 16"
    ):
        net.require_size((17, 12))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3 and latent_channels at least 1, got 1 and 4"),
        ({"latent_channels": 0}, "spatial_dims must be 2 or 3 and latent_channels at least 1, got 2 and 0"),
        ({"widths": (8, 12)}, "widths must be multiples of 8, got 12"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Autoencoder(**{"spatial_dims": 2, "channels": 1, **settings})
