from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedcore.errors import InputError
from fedgen.diffusion.sampler import noise_of
from fedgen.gan.generator_network import GANGenerator, GeneratorNetwork
from fedgen.generator import UNCONDITIONED, Conditions, ImageShape

CONDITIONS = Conditions(("cat", "dog"), ("a", "b", "c"))


def generator_network(size: tuple[int, ...] = (8, 12), channels: int = 1) -> GeneratorNetwork:
    torch.manual_seed(0)
    return GeneratorNetwork(ImageShape(channels, size), CONDITIONS, widths=(8, 16, 16), latent_dim=4)


def indices(*values: int) -> Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize(("size", "channels"), [((8, 12), 1), ((8, 12), 3), ((4, 8, 12), 1)])
def test_images_have_the_image_shape(size: tuple[int, ...], channels: int) -> None:
    images = generator_network(size, channels)(torch.randn(2, 4), indices(0, 1), indices(2, UNCONDITIONED))
    assert images.shape == (2, channels, *size)
    assert float(images.detach().abs().max()) <= 1


def test_a_sample_is_the_same_in_any_batch() -> None:
    made = GANGenerator(generator_network(), CONDITIONS, ImageShape(1, (8, 12)))
    noise = noise_of(0, range(5), made.noise_shape)
    labels, sites = indices(0, 1, 0, 1, UNCONDITIONED), indices(0, 0, 1, 2, UNCONDITIONED)
    with torch.no_grad():
        whole = made.sample(noise, labels, sites)
        apart = [made.sample(noise[i : i + 2], labels[i : i + 2], sites[i : i + 2]) for i in (0, 2, 4)]
    assert torch.allclose(whole, torch.cat(apart), atol=1e-5)


def test_images_depend_on_class_site_and_noise() -> None:
    made, noise = generator_network(), torch.randn(1, 4)
    conditions = [(label, site) for label in (0, 1, UNCONDITIONED) for site in (0, 1, 2, UNCONDITIONED)]
    with torch.no_grad():
        images = [made(noise, indices(label), indices(site)) for label, site in conditions]
        assert len({round(float(a.double().sum()), 5) for a in images}) == 12
        assert not torch.allclose(made(noise + 1, indices(0), indices(0)), images[0], atol=1e-3)


def test_there_are_no_buffers_of_batch_statistics() -> None:
    assert not list(generator_network().buffers())


def test_the_error_of_a_size_names_sizes_that_fit() -> None:
    message = r"a generator network of 3 levels .* multiples of 4, got 8 x 14; set data.size to 8 x 12 or 12 x 16, or"
    with pytest.raises(InputError, match=message):
        generator_network((8, 14))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (12,)}, "widths must be multiples of 8, got 12"),
        ({"widths": ()}, "widths must be multiples of 8, got none"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneratorNetwork(ImageShape(1, (8, 8)), CONDITIONS, **settings)  # type: ignore[arg-type]
