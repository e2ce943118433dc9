from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fedcore.errors import InputError
from fedgen.generator import ImageShape
from fedgen.latent.autoencoder import Autoencoder, Scale, drawn


@pytest.mark.parametrize(("dims", "size"), [(2, (16, 24)), (3, (8, 12, 16))])
@pytest.mark.parametrize("attention", [False, True])
def test_codes_are_as_small_as_their_canvas_and_images_come_back_in_size(
    dims: int, size: tuple[int, ...], attention: bool
) -> None:
    net = Autoencoder(dims, channels=2, latents=3, widths=(8, 8, 16), attention=attention)
    mean, deviation = net(torch.randn(2, 2, *size))
    canvas = net.codes(ImageShape(2, size))
    assert canvas == ImageShape(3, tuple(n // 4 for n in size))
    assert mean.shape == deviation.shape == (2, *canvas.shape)
    assert (deviation > 0).all()
    assert net.decode(mean).shape == (2, 2, *size)


def test_the_moments_are_the_only_buffers_and_no_image_hears_another() -> None:
    net, images = Autoencoder(2, 1, widths=(8, 16)), torch.randn(3, 1, 8, 8)
    assert [name for name, _ in net.named_buffers()] == ["scale.mean", "scale.square"]
    mean, deviation = net(images)
    alone = net(images[1:2])
    assert torch.allclose(mean[1:2], alone[0], atol=1e-5)
    assert torch.allclose(deviation[1:2], alone[1], atol=1e-5)
    assert torch.allclose(net.decode(mean)[1:2], net.decode(mean[1:2]), atol=1e-5)


def test_a_scale_by_hand() -> None:
    """Numbers 1 and 3, of which the first has a spread of 1: mean 2, mean square (1 + 1 + 9) / 2, variance 3 / 2."""
    scale = Scale()
    scale.note(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[1.0, 0.0]]]), 1.0)
    assert (float(scale.mean), float(scale.square)) == (2.0, 5.5)
    codes = torch.tensor([[[2.0, 5.0]]])
    assert torch.allclose(scale.shrink(codes), torch.tensor([[[0.0, 3 / 1.5**0.5]]]))
    assert torch.allclose(scale.stretch(scale.shrink(codes)), codes)


def test_a_scale_that_noted_nothing_changes_nothing() -> None:
    codes = torch.randn(2, 3, 4, 4)
    assert torch.equal(Scale().shrink(codes), codes)


@pytest.mark.parametrize("counts", [(1, 1), (2, 5), (7, 1)])
def test_moments_averaged_by_images_are_those_of_all_images_together(counts: tuple[int, int]) -> None:
    """Not so variances: the sites' means differ."""
    sites = [torch.randn(n, 2, 4, 4) + 3 * at for at, n in enumerate(counts)]
    none = [torch.zeros_like(codes) for codes in sites]
    apart, together = [Scale() for _ in sites], Scale()
    for scale, codes, zero in zip(apart, sites, none, strict=True):
        scale.note(codes, zero, 1.0)
    together.note(torch.cat(sites), torch.cat(none), 1.0)
    for name in ("mean", "square"):
        mean = sum(n * getattr(scale, name) for n, scale in zip(counts, apart, strict=True)) / sum(counts)
        assert float(mean) == pytest.approx(float(getattr(together, name)), rel=1e-12)
    scaled = together.shrink(torch.cat(sites))
    assert (float(scaled.mean()), float(scaled.var(correction=0))) == pytest.approx((0.0, 1.0), abs=1e-5)


def test_the_moments_of_drawn_codes_are_known_without_a_draw() -> None:
    mean, deviation = torch.randn(50, 2, 16, 16) + 1, torch.rand(50, 2, 16, 16) * 3
    scale = Scale()
    scale.note(mean, deviation, 1.0)
    scaled: Tensor = scale.shrink(drawn(mean, deviation))
    assert (float(scaled.mean()), float(scaled.std())) == pytest.approx((0.0, 1.0), abs=0.02)


def test_sizes_that_cannot_be_halved_are_refused_with_those_that_can() -> None:
    net = Autoencoder(2, 1, widths=(8, 8, 8))
    net.require_size((8, 12))
    with pytest.raises(
        InputError, match=r"an autoencoder of 3 levels takes sizes that are multiples of 4, .* 16 x 12 or 20 x 16"
    ):
        net.require_size((17, 12))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3 and latents at least 1, got 1 and 4"),
        ({"latents": 0}, "spatial_dims must be 2 or 3 and latents at least 1, got 2 and 0"),
        ({"widths": (8, 12)}, "widths must be multiples of 8, got 12"),
    ],
)
def test_what_cannot_be_built_says_why(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Autoencoder(**{"spatial_dims": 2, "channels": 1, **settings})
