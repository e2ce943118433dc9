from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedcore.errors import InputError
from fedgen.diffusion.sampler import noise_of
from fedgen.gan.generator_network import GANGenerator, Painter
from fedgen.generator import UNCONDITIONED, Conditions, ImageShape

KNOWN = Conditions(("cat", "dog"), ("a", "b", "c"))


def painter(size: tuple[int, ...] = (8, 12), channels: int = 1) -> Painter:
    torch.manual_seed(0)
    return Painter(ImageShape(channels, size), KNOWN, widths=(8, 16, 16), latent=4)


def places(*values: int) -> Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize(("size", "channels"), [((8, 12), 1), ((8, 12), 3), ((4, 8, 12), 1)])
def test_images_are_of_the_canvas(size: tuple[int, ...], channels: int) -> None:
    images = painter(size, channels)(torch.randn(2, 4), places(0, 1), places(2, UNCONDITIONED))
    assert images.shape == (2, channels, *size)
    assert float(images.detach().abs().max()) <= 1


def test_a_sample_is_the_same_in_any_batch() -> None:
    made = GANGenerator(painter(), KNOWN, ImageShape(1, (8, 12)))
    noise = noise_of(0, range(5), made.noise_shape)
    labels, sites = places(0, 1, 0, 1, UNCONDITIONED), places(0, 0, 1, 2, UNCONDITIONED)
    with torch.no_grad():
        whole = made.draw(noise, labels, sites)
        apart = [made.draw(noise[i : i + 2], labels[i : i + 2], sites[i : i + 2]) for i in (0, 2, 4)]
    assert torch.allclose(whole, torch.cat(apart), atol=1e-5)


def test_class_site_and_noise_are_heard() -> None:
    made, noise = painter(), torch.randn(1, 4)
    asked = [(label, site) for label in (0, 1, UNCONDITIONED) for site in (0, 1, 2, UNCONDITIONED)]
    with torch.no_grad():
        answers = [made(noise, places(label), places(site)) for label, site in asked]
        assert len({round(float(a.double().sum()), 5) for a in answers}) == 12
        assert not torch.allclose(made(noise + 1, places(0), places(0)), answers[0], atol=1e-3)


def test_no_statistics_of_a_batch_travel() -> None:
    assert not list(painter().buffers())


def test_sizes_that_cannot_be_reached_are_refused_with_those_that_can() -> None:
    told = r"a painter of 3 levels .* multiples of 4, the images are 8 x 14; set data.size to 8 x 12 or 12 x 16, or"
    with pytest.raises(InputError, match=told):
        painter((8, 14))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"widths": (12,)}, "widths must be multiples of 8, got 12"),
        ({"widths": ()}, "widths must be multiples of 8, got none"),
        ({"latent": 0}, "latent must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_built_says_why(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Painter(ImageShape(1, (8, 8)), KNOWN, **settings)  # type: ignore[arg-type]
